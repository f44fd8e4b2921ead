//! The addresses that webhooks may be sent to: one policy, applied when an endpoint is created or
//! changed and again on every send.
//!
//! Sources: the IANA special-purpose address registries (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{PoisonError, RwLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::nat64::Nat64Prefix;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// Non-public networks of IPv4; all others are public.
const DENIED_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // A cloud's metadata service at a public-looking address.
    v4(168, 63, 129, 16, 32),
];

/// The public part of IPv6, except [`DENIED_V6`].
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);
const DENIED_V6: &[Ipv6Net] = &[
    v6(0x2001, 0, 23),
    v6(0x2001, 0xdb8, 32),
    v6(0x2002, 0, 16),
    v6(0x3fff, 0, 20),
];

/// Link-local and metadata networks, which only a CIDR inside them can allow.
const CLOSED_V4: &[Ipv4Net] = &[
    v4(169, 254, 0, 0, 16),
    v4(168, 63, 129, 16, 32),
    v4(100, 100, 100, 200, 32),
    v4(192, 0, 0, 192, 32),
];
const CLOSED_V6: &[Ipv6Net] = &[
    v6(0xfe80, 0, 10),
    v6(0xfd00, 0xec2, 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
];

/// A reason why a request was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Blocked {
    /// The address is neither public nor in an allowed network. It is not shown, because it would
    /// reveal to a tenant the internal address of a name.
    #[error("the address is not public")]
    Address {
        /// The address, for the operator's log.
        address: IpAddr,
    },
    /// The name refers to this machine or this network.
    #[error("the name refers to this machine or network")]
    LocalName,
    /// The URL begins with `http://`, but only `https://` is allowed.
    #[error("only https:// URLs are allowed")]
    NotHttps,
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
}

impl Blocked {
    /// Returns the error together with the operator's remedy.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Address { address } if address.is_loopback() => {
                let net = if address.is_ipv4() {
                    "127.0.0.0/8"
                } else {
                    "::1/128"
                };
                format!("{self}: for local use, start the server with --allow-network {net}")
            }
            Self::Address { .. } => {
                format!("{self}: the operator can allow a network with --allow-network CIDR")
            }
            Self::LocalName => {
                format!(
                    "{self}: for local use, start the server with --allow-network 127.0.0.0/8,::1/128"
                )
            }
            Self::NotHttps | Self::NoHost => self.to_string(),
        }
    }
}

/// The rules, with the networks that an operator allowed or denied.
#[derive(Debug, Default)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    https_only: bool,
    /// Prefixes with which this network reaches IPv4 addresses over IPv6, as far as known.
    nat64: RwLock<Vec<Nat64Prefix>>,
}

impl AddressPolicy {
    /// Creates a policy that allows `allowed` besides the public networks.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, https_only: bool) -> Self {
        Self {
            allowed,
            https_only,
            ..Self::default()
        }
    }

    /// Adds networks that are denied even if they are public or allowed.
    #[must_use]
    pub fn denying(self, denied: Vec<IpNet>) -> Self {
        Self { denied, ..self }
    }

    /// Checks one address.
    ///
    /// # Errors
    /// Returns an error if webhooks may not be sent to it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Blocked> {
        // The packet goes to the IPv4 address that an IPv4-mapped one contains.
        let address = address.to_canonical();
        let public = |address| is_public(address) && !self.is_denied(address);
        let open = |address| self.is_opened(address) || public(address);
        let allowed = match address {
            IpAddr::V4(_) => open(address),
            IpAddr::V6(v6) => match (self.behind_nat64(v6), embedded_v4(v6)) {
                // The packet goes to the embedded IPv4 address.
                (Some(inside), _) => !self.is_denied(address) && open(inside.into()),
                // The well-known prefix is for global addresses only (RFC 6052, section 3.1).
                (None, Some(inside)) => {
                    let translated = is_well_known_nat64(v6)
                        && !self.is_denied(address)
                        && public(inside.into());
                    translated || (open(address) && open(inside.into()))
                }
                (None, None) => open(address),
            },
        };
        if allowed {
            Ok(())
        } else {
            Err(Blocked::Address { address })
        }
    }

    /// Sets the prefixes with which this network reaches IPv4 addresses over IPv6.
    pub fn learn_nat64(&self, prefixes: Vec<Nat64Prefix>) {
        let known = self.nat64.read().unwrap_or_else(PoisonError::into_inner);
        if *known != prefixes {
            drop(known);
            *self.nat64.write().unwrap_or_else(PoisonError::into_inner) = prefixes;
        }
    }

    fn behind_nat64(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let known = self.nat64.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .find_map(|prefix| prefix.embedded(address))
            // The well-known prefix has its own rule in `check_address`.
            .filter(|_| !is_well_known_nat64(address))
    }

    /// Checks a URL without resolving it: its scheme, and its host if that is an address, which the
    /// resolver never sees.
    ///
    /// # Errors
    /// Returns an error if webhooks may not be sent to it.
    pub fn check_literal(&self, url: &Url) -> Result<(), Blocked> {
        if self.https_only && url.scheme() != "https" {
            return Err(Blocked::NotHttps);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Blocked::NoHost),
        }
    }

    /// Checks all addresses that a name resolved to. One forbidden address blocks the name.
    ///
    /// # Errors
    /// Returns an error if webhooks may not be sent to the name or to one of its addresses.
    pub fn check_resolved(&self, name: &str, addresses: &[IpAddr]) -> Result<(), Blocked> {
        if is_local_name(name) {
            // Public addresses do not count: a local name must resolve to allowed networks only.
            let opened = |address: &IpAddr| self.is_opened(address.to_canonical());
            let all = !addresses.is_empty() && addresses.iter().all(opened);
            return if all { Ok(()) } else { Err(Blocked::LocalName) };
        }
        addresses
            .iter()
            .try_for_each(|address| self.check_address(*address))
    }

    fn is_opened(&self, address: IpAddr) -> bool {
        let closed = |net: &IpNet| match (address, net) {
            (IpAddr::V4(address), IpNet::V4(net)) => CLOSED_V4
                .iter()
                .any(|closed| closed.contains(&address) && !closed.contains(net)),
            (IpAddr::V6(address), IpNet::V6(net)) => CLOSED_V6
                .iter()
                .any(|closed| closed.contains(&address) && !closed.contains(net)),
            _ => false,
        };
        !self.is_denied(address)
            && self
                .allowed
                .iter()
                .any(|net| net.contains(&address) && !closed(net))
    }

    fn is_denied(&self, address: IpAddr) -> bool {
        self.denied.iter().any(|net| net.contains(&address))
    }
}

/// Returns whether a name refers to this machine or this network, regardless of its addresses.
#[must_use]
pub fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || [".localhost", ".local", ".internal"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}

fn is_well_known_nat64(address: Ipv6Addr) -> bool {
    Nat64Prefix::WELL_KNOWN.embedded(address).is_some()
}

/// Returns the IPv4 address embedded in an IPv6 address, in any of the standard forms. Allowing the
/// IPv6 network does not allow the IPv4 address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // IPv4-compatible (RFC 4291, section 2.5.5.1), but not `::` and `::1`.
        [0, 0, 0, 0, 0, 0] if g > 0 => Some(v4(g, h)),
        // IPv4-translated (RFC 2765, section 2.1).
        [0, 0, 0, 0, 0xffff, 0] => Some(v4(g, h)),
        // NAT64, well-known and local (RFC 6052, section 2.1; RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0] | [0x64, 0xff9b, 1, ..] => Some(v4(g, h)),
        // 6to4 (RFC 3056, section 2).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // Teredo (RFC 4380, section 4): the client's address with all bits inverted.
        [0x2001, 0, ..] => Some(v4(!g, !h)),
        // ISATAP (RFC 5214, section 6.1), below any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe] => Some(v4(g, h)),
        _ => None,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !DENIED_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            PUBLIC_V6.contains(&address) && !DENIED_V6.iter().any(|net| net.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(policy: &AddressPolicy, address: &str) -> bool {
        policy.check_address(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn the_ends_of_each_range_are_denied_and_their_neighbours_are_not() {
        let policy = AddressPolicy::default();
        for net in DENIED_V4 {
            assert!(!allows(&policy, &net.network().to_string()), "{net}");
            assert!(!allows(&policy, &net.broadcast().to_string()), "{net}");
        }
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "168.63.129.15",
            "168.63.129.17",
            "2606:4700::1111",
            "2001:200::1",
            "2003::1",
            "3ffe::1",
        ] {
            assert!(allows(&policy, public), "{public}");
        }
    }

    #[test]
    fn ipv6_is_denied_unless_public_and_ipv4_inside_it_is_judged_as_ipv4() {
        let policy = AddressPolicy::default();
        for denied in [
            "::",
            "::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "2001::1",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "4000::1",
        ] {
            assert!(!allows(&policy, denied), "{denied}");
        }
    }

    /// Every way to write an IPv4 address inside an IPv6 one.
    fn embeddings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let bits = u128::from(v4.to_bits());
        let below = |prefix: &str| {
            Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().unwrap().to_bits() | bits)
        };
        vec![
            v4.to_ipv6_mapped(),
            v4.to_ipv6_compatible(),
            below("::ffff:0:0:0"),
            below("64:ff9b::"),
            below("64:ff9b:1::"),
            below("64:ff9b:1:abcd::"),
            Ipv6Addr::from_bits((0x2002 << 112) | (bits << 80)),
            Ipv6Addr::from_bits((0x2001 << 112) | (0xffff_ffff ^ bits)),
            below("2606:4700:0:0:0:5efe::"),
            below("2606:4700:0:0:200:5efe::"),
            below("fe80::5efe:0:0"),
        ]
    }

    fn denied_v4() -> impl Strategy<Value = Ipv4Addr> {
        let of_net = |net: &Ipv4Net| {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            (first..=last).prop_map(Ipv4Addr::from_bits).boxed()
        };
        proptest::strategy::Union::new(DENIED_V4.iter().map(of_net))
    }

    proptest! {
        #[test]
        fn a_denied_ipv4_address_is_denied_in_every_spelling(v4 in denied_v4()) {
            let closed = AddressPolicy::default();
            // Allowing all of IPv6 must not allow any IPv4 address.
            let open = AddressPolicy::new(vec!["::/0".parse().unwrap()], false);
            prop_assert!(closed.check_address(v4.into()).is_err());
            for v6 in embeddings(v4) {
                // `::` and `::1` are IPv6's own.
                let own = v6.is_unspecified() || v6.is_loopback() || v6.to_bits() >> 16 == 0;
                prop_assert!(closed.check_address(v6.into()).is_err(), "{v6}");
                prop_assert!(own || open.check_address(v6.into()).is_err(), "{v6}, with ::/0 opened");
                let url = Url::parse(&format!("http://[{v6}]/")).unwrap();
                prop_assert!(closed.check_literal(&url).is_err(), "{url}");
            }
            let bits = v4.to_bits();
            for host in [format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}"), format!("{v4}.")] {
                let url = Url::parse(&format!("http://{host}/")).unwrap();
                prop_assert!(closed.check_literal(&url).is_err(), "{host}");
            }
        }

        #[test]
        fn a_public_ipv4_address_is_allowed_and_no_url_panics(bits: u32, text in "\\PC{0,40}") {
            let v4 = Ipv4Addr::from_bits(bits);
            let denied = DENIED_V4.iter().any(|net| net.contains(&v4));
            prop_assert_eq!(AddressPolicy::default().check_address(v4.into()).is_err(), denied);
            if let Ok(url) = Url::parse(&format!("http://{text}/")) {
                let _ = AddressPolicy::default().check_literal(&url);
            }
        }
    }

    #[test]
    fn a_cidr_opens_what_it_names_but_link_local_only_by_name() {
        let policy = AddressPolicy::new(
            vec!["127.0.0.0/8".parse().unwrap(), "0.0.0.0/1".parse().unwrap()],
            false,
        );
        assert!(
            allows(&policy, "127.0.0.1")
                && allows(&policy, "::ffff:127.0.0.1")
                && allows(&policy, "10.1.2.3")
        );
        assert!(!allows(&policy, "192.168.0.1"));
        let wide = AddressPolicy::new(vec!["0.0.0.0/0".parse().unwrap()], false);
        assert!(allows(&wide, "192.168.0.1"));
        assert!(!allows(&wide, "169.254.169.254") && !allows(&wide, "168.63.129.16"));
        assert!(!allows(&wide, "100.100.100.200") && !allows(&wide, "192.0.0.192"));
        let own = AddressPolicy::new(vec!["fc00::/7".parse().unwrap()], false);
        assert!(allows(&own, "fd12::1"));
        assert!(!allows(&own, "fd00:ec2::23") && !allows(&own, "fd20:ce::254"));
        let denying = AddressPolicy::new(vec!["10.0.0.0/8".parse().unwrap()], false).denying(vec![
            "10.1.0.0/16".parse().unwrap(),
            "2600:1f18::/32".parse().unwrap(),
        ]);
        assert!(allows(&denying, "10.2.0.1") && allows(&denying, "2600:1f19::1"));
        assert!(!allows(&denying, "10.1.0.1") && !allows(&denying, "2600:1f18::1"));
        assert!(
            !allows(&denying, "::ffff:10.1.0.1"),
            "however it is written"
        );
        let exact = AddressPolicy::new(vec!["169.254.169.254/32".parse().unwrap()], false);
        assert!(allows(&exact, "169.254.169.254") && !allows(&exact, "169.254.169.253"));
    }

    #[test]
    fn names_for_this_machine_yield_only_to_opened_networks() {
        let closed = AddressPolicy::default();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let public: IpAddr = "1.1.1.1".parse().unwrap();
        for name in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "printer.local",
            "db.internal",
        ] {
            assert_eq!(
                closed.check_resolved(name, &[loopback]),
                Err(Blocked::LocalName),
                "{name}"
            );
            assert_eq!(
                closed.check_resolved(name, &[public]),
                Err(Blocked::LocalName),
                "{name}"
            );
        }
        let open = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], false);
        assert_eq!(open.check_resolved("localhost", &[loopback]), Ok(()));
        assert!(
            open.check_resolved("localhost", &[loopback, "::1".parse().unwrap()])
                .is_err()
        );
        assert!(open.check_resolved("localhost", &[]).is_err());
        assert!(
            closed
                .check_resolved("example.com", &[public, loopback])
                .is_err(),
            "all are judged"
        );
    }

    #[test]
    fn other_spellings_of_loopback_are_seen_through() {
        let policy = AddressPolicy::default();
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://１２７.０.０.１/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(policy.check_literal(&url).is_err(), "{url}");
        }
        assert!(
            policy
                .check_literal(&Url::parse("https://1.1.1.1/").unwrap())
                .is_ok()
        );
        let strict = AddressPolicy::new(vec![], true);
        assert_eq!(
            strict.check_literal(&Url::parse("http://1.1.1.1/").unwrap()),
            Err(Blocked::NotHttps)
        );
    }
}
