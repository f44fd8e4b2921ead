//! IPv4 addresses embedded in IPv6 addresses by NAT64 (RFC 6052), and discovery of a network's
//! prefix with a well-known name (RFC 7050).

use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses of `ipv4only.arpa` (RFC 7050, section 8.2).
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// Permitted prefix lengths in bits (RFC 6052, section 2.2).
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// A prefix with which a network reaches IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat64Prefix {
    prefix: Ipv6Addr,
    length: u8,
}

impl Nat64Prefix {
    /// `64:ff9b::/96`, for global IPv4 addresses only (RFC 6052, section 2.1).
    pub(super) const WELL_KNOWN: Self = Self {
        prefix: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0),
        length: 96,
    };

    /// Returns the IPv4 address embedded in `address`, if `address` has this prefix.
    pub(super) fn embedded(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let mask = u128::MAX << (128 - u32::from(self.length));
        let below = address.to_bits() & mask == self.prefix.to_bits() & mask;
        below.then(|| embedded_at(address, self.length))
    }
}

/// Returns the IPv4 address after a prefix of that length, skipping bits 64 to 71 (RFC 6052,
/// section 2.2).
fn embedded_at(address: Ipv6Addr, length: u8) -> Ipv4Addr {
    let octets = address.octets();
    let mut at = usize::from(length / 8);
    let mut found = [0; 4];
    for octet in &mut found {
        if at == 8 {
            at += 1;
        }
        *octet = octets[at];
        at += 1;
    }
    Ipv4Addr::from(found)
}

/// Returns the prefixes that a network's answer for `ipv4only.arpa` reveals.
pub(super) fn prefixes_in(answer: &[Ipv6Addr]) -> Vec<Nat64Prefix> {
    let mut found: Vec<Nat64Prefix> = Vec::new();
    for address in answer {
        for length in LENGTHS {
            let prefix = Nat64Prefix {
                prefix: *address,
                length,
            };
            let is_new = || found.iter().all(|known| known.embedded(*address).is_none());
            if KNOWN.contains(&embedded_at(*address, length)) && is_new() {
                found.push(prefix);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6052, section 2.4.
    #[test]
    fn addresses_are_found_behind_prefixes_of_each_length() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (length, address) in [
            (32, "2001:db8:c000:221::"),
            (40, "2001:db8:1c0:2:21::"),
            (48, "2001:db8:122:c000:2:2100::"),
            (56, "2001:db8:122:3c0:0:221::"),
            (64, "2001:db8:122:344:c0:2:2100::"),
            (96, "2001:db8:122:344::192.0.2.33"),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            assert_eq!(embedded_at(address, length), v4, "/{length}");
            assert_eq!(
                Nat64Prefix {
                    prefix: address,
                    length
                }
                .embedded(address),
                Some(v4)
            );
        }
        assert_eq!(
            Nat64Prefix::WELL_KNOWN.embedded("64:ff9b::808:404".parse().unwrap()),
            Some(Ipv4Addr::new(8, 8, 4, 4))
        );
        assert_eq!(
            Nat64Prefix::WELL_KNOWN.embedded("64:ff9b:1::808:404".parse().unwrap()),
            None
        );
    }

    #[test]
    fn a_networks_prefix_is_found_by_the_known_name() {
        let answer = ["2001:db8:64::192.0.0.170", "2001:db8:64::192.0.0.171"]
            .map(|one| one.parse().unwrap());
        let [prefix] = prefixes_in(&answer)[..] else {
            panic!("one prefix")
        };
        assert_eq!(prefix.length, 96);
        let inner: Ipv6Addr = "2001:db8:64::10.0.0.1".parse().unwrap();
        assert_eq!(prefix.embedded(inner), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(
            prefix.embedded("2001:db8:65::10.0.0.1".parse().unwrap()),
            None
        );
        assert!(prefixes_in(&["2606:4700::1".parse().unwrap()]).is_empty());
    }
}
