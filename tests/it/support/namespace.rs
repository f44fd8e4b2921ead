//! A network namespace of a test's own: addresses that really listen, a name server, and the
//! system's files.
//!
//! The test runs itself once more inside, by the name of a test that is ignored otherwise.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Set inside the namespace.
const INSIDE: &str = "POSTRIDER_TEST_NAMESPACE";

/// Whether this process is inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the ignored test `test` in a namespace that has `addresses` and whose resolv.conf and hosts
/// are the files of those names in a folder of its own, which is the working folder. False, loudly,
/// where there are no namespaces; under CI that is a failure.
pub fn run_inside(test: &str, addresses: &[IpAddr], resolv_conf: &str, hosts: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("resolv.conf"), resolv_conf).unwrap();
    std::fs::write(folder.path().join("hosts"), hosts).unwrap();
    let mut script = "ip link set lo up".to_owned();
    for address in addresses {
        script += &format!(" && ip addr add {address} dev lo");
    }
    script += " && mount --bind resolv.conf /etc/resolv.conf && mount --bind hosts /etc/hosts";
    let in_namespace = |then: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["-rmn", "sh", "-ec", &format!("{script} && {then}")])
            .current_dir(folder.path());
        command
    };
    if !in_namespace("true")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        assert!(
            std::env::var_os("CI").is_none(),
            "network namespaces are needed (unshare -rmn, ip)"
        );
        eprintln!("SKIPPED: a network of the test's own needs namespaces (unshare -rmn, ip)");
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let run = format!(
        "exec {} --exact {test} --ignored --nocapture",
        program.display()
    );
    let output = in_namespace(&run).env(INSIDE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    true
}

/// Writes one of the system's files anew, from inside: in its place, as what is mounted is the file
/// itself.
pub fn rewrite(path: &Path, text: &str) {
    // A second's resolution would hide a change that leaves the length as it is.
    std::fs::write(path, text).unwrap();
}

/// What a name server does with a question.
#[derive(Debug, Clone)]
pub enum Says {
    /// These addresses, those of the family that is asked for.
    Addresses(Vec<IpAddr>),
    /// The name does not exist.
    NoSuchName,
    /// Nothing.
    Nothing,
    /// The same, so much later.
    Late(Duration, Box<Self>),
}

/// The question's types (RFC 1035, section 3.2.2; RFC 3596).
pub const A: u16 = 1;
pub const AAAA: u16 = 28;

/// A name server on loopback. Returns what it was asked.
pub fn name_server(
    address: SocketAddr,
    says: impl Fn(&str, u16) -> Says + Send + 'static,
) -> Arc<Mutex<Vec<(String, u16)>>> {
    let socket = Arc::new(UdpSocket::bind(address).unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = buffer[..length].to_vec();
            let (name, end) = question(&query);
            let kind = u16::from_be_bytes([query[end], query[end + 1]]);
            note.lock().unwrap().push((name.clone(), kind));
            let mut said = says(&name, kind);
            let mut delay = Duration::ZERO;
            while let Says::Late(later, then) = said {
                (delay, said) = (delay + later, *then);
            }
            let (code, addresses) = match said {
                Says::Addresses(addresses) => (0, addresses),
                Says::NoSuchName => (3, Vec::new()),
                _ => continue,
            };
            let is_asked_for = |address: &IpAddr| address.is_ipv4() == (kind == A);
            let addresses: Vec<IpAddr> = addresses.into_iter().filter(is_asked_for).collect();
            let reply = reply(&query, end + 4, code, &addresses);
            let socket = Arc::clone(&socket);
            let answer = move || {
                std::thread::sleep(delay);
                let _ = socket.send_to(&reply, from);
            };
            if delay.is_zero() {
                answer();
            } else {
                std::thread::spawn(answer);
            }
        }
    });
    asked
}

/// The name that a query asks for, and where it ends (RFC 1035, section 4.1.2).
fn question(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 1)
}

/// An answer that nobody may keep: its time to live is zero.
fn reply(query: &[u8], question_end: usize, code: u8, answers: &[IpAddr]) -> Vec<u8> {
    let mut bytes = query[..2].to_vec();
    bytes.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(answers.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    bytes.extend(&query[12..question_end]);
    for answer in answers {
        let (kind, data) = match answer {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (28, v6.octets().to_vec()),
        };
        bytes.extend([
            0xc0,
            12,
            0,
            kind,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        bytes.extend(data);
    }
    bytes
}
