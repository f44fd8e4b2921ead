//! Certificates that curl takes with the same trust store are taken:
//! docs/receivers-and-networks.md.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Server, serve};
use crate::support::until;

/// An HTTPS server that answers each POST with 200. (rustls signs with no P-521 key; OpenSSL does.)
const SERVER: &str = r#"
import http.server, ssl, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])
if len(sys.argv) > 3: c.maximum_version = ssl.TLSVersion.TLSv1_2
s.socket = c.wrap_socket(s.socket, server_side=True)
print(s.server_address[1], flush=True); s.serve_forever()
"#;

struct Https {
    process: Child,
    url: String,
}

impl Https {
    fn start(folder: &Path, name: &str, more: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command
            .args(["-c", SERVER, &format!("{name}.crt"), &format!("{name}.key")])
            .args(more);
        let mut process = command
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            process,
            url: format!("https://127.0.0.1:{}/", line.trim()),
        }
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A self-signed certificate, as the command makes it; `more` are its further arguments.
fn self_signed(folder: &Path, name: &str, key: &str, more: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey {key} -nodes -keyout {name}.key -out {name}.crt -days 9 {more}"
        ),
    );
}

const ADDRESS: &str = "-subj /CN=test -addext subjectAltName=IP:127.0.0.1";

fn is_there() -> bool {
    let found =
        ["openssl", "python3"].map(|program| Command::new(program).arg("version").output().is_ok());
    let found = found.iter().all(|found| *found);
    assert!(
        found || std::env::var_os("CI").is_none(),
        "openssl and python3 are needed"
    );
    if !found {
        eprintln!("SKIPPED: openssl and python3 are needed for certificates of every kind");
    }
    found
}

/// Sends one event to a receiver, and returns its attempt.
fn attempt(server: &Server, url: &str) -> Value {
    let api = server.api();
    let settings = json!({"rate_limit": "unlimited", "retry_delays_s": [], "breaker_after": 0});
    let endpoint = api.endpoint(url, &settings.to_string());
    let answer = api.post("/events", r#"{"type": "a.b", "data": 1}"#);
    let id = answer.body["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut shown = Value::Null;
    until("it has ended", Duration::from_secs(30), || {
        shown = api.get(&format!("/deliveries/{id}")).body;
        shown["status"] == "delivered" || shown["status"] == "failed"
    });
    api.delete(&format!("/endpoints/{endpoint}"));
    shown["attempts"][0].clone()
}

/// Serves with one file as its whole trust store.
fn server_trusting(folder: &Path, file: &str) -> Server {
    let mut command = serve(folder, &["--allow-network", "127.0.0.0/8"]);
    command
        .env("SSL_CERT_FILE", folder.join(file))
        .env_remove("SSL_CERT_DIR");
    Server::spawn(folder, command)
}

#[test]
fn what_the_trust_store_vouches_for_is_accepted() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let p521 = "ec -pkeyopt ec_paramgen_curve:secp521r1";
    self_signed(folder, "ca_true", "rsa:2048", ADDRESS);
    self_signed(
        folder,
        "ca_false",
        "rsa:2048",
        &format!("{ADDRESS} -addext basicConstraints=CA:FALSE"),
    );
    self_signed(folder, "p521", p521, ADDRESS);
    self_signed(folder, "p521_sha512", p521, &format!("{ADDRESS} -sha512"));
    self_signed(folder, "common_name", "rsa:2048", "-subj /CN=127.0.0.1");
    self_signed(folder, "other_name", "rsa:2048", "-subj /CN=127.0.0.2");
    self_signed(
        folder,
        "wrong_address",
        "rsa:2048",
        "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.9",
    );
    // A leaf of a private authority on P-521, and a leaf that is trusted without its authority.
    for (name, key) in [("authority", p521), ("unknown", "rsa:2048")] {
        self_signed(folder, name, key, &format!("-subj /CN={name}"));
        openssl(
            folder,
            &format!(
                "req -new -newkey rsa:2048 -nodes -keyout of_{name}.key -out {name}.csr -subj /CN=leaf"
            ),
        );
        std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA {name}.crt -CAkey {name}.key -out of_{name}.crt -days 9 -extfile names"
            ),
        );
    }
    let trusted = [
        "ca_true",
        "ca_false",
        "p521",
        "p521_sha512",
        "common_name",
        "other_name",
        "wrong_address",
        "authority",
        "of_unknown",
    ];
    let text =
        trusted.map(|name| std::fs::read_to_string(folder.join(format!("{name}.crt"))).unwrap());
    std::fs::write(folder.join("trusted.pem"), text.concat()).unwrap();

    let server = server_trusting(folder, "trusted.pem");
    let outcome = |name: &str, more: &[&str]| {
        let https = Https::start(folder, name, more);
        let attempt = attempt(&server, &https.url);
        (
            attempt["outcome"].as_str().unwrap().to_owned(),
            attempt["error"].to_string(),
        )
    };
    for name in [
        "ca_true",
        "ca_false",
        "p521",
        "p521_sha512",
        "common_name",
        "of_authority",
        "of_unknown",
    ] {
        assert_eq!(
            outcome(name, &[]).0,
            "delivered",
            "{name}: {}",
            outcome(name, &[]).1
        );
    }
    // There the curve must be one for key exchange as well (RFC 8422, section 5.1), and ring has
    // none.
    assert_eq!(outcome("p521", &["by TLS 1.2"]).0, "tls_error");
    for name in ["other_name", "wrong_address", "unknown"] {
        assert_eq!(outcome(name, &[]).0, "tls_error", "{name}");
    }
}

#[test]
fn a_trust_store_that_changes_is_read_again() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    self_signed(folder, "old", "rsa:2048", ADDRESS);
    self_signed(folder, "new", "rsa:2048", ADDRESS);
    std::fs::copy(folder.join("old.crt"), folder.join("trusted.pem")).unwrap();
    let server = server_trusting(folder, "trusted.pem");
    let (old, new) = (
        Https::start(folder, "old", &[]),
        Https::start(folder, "new", &[]),
    );
    assert_eq!(attempt(&server, &old.url)["outcome"], "delivered");
    assert_eq!(attempt(&server, &new.url)["outcome"], "tls_error");
    std::fs::copy(folder.join("new.crt"), folder.join("trusted.pem")).unwrap();
    // At once, by a signal; by itself it is seen within seconds.
    let status = Command::new("kill")
        .args(["-HUP", &server.pid().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    server.logs("the trust store was read again");
    assert_eq!(attempt(&server, &new.url)["outcome"], "delivered");
    let old_again = Https::start(folder, "old", &[]);
    assert_eq!(attempt(&server, &old_again.url)["outcome"], "tls_error");
    std::fs::copy(folder.join("old.crt"), folder.join("trusted.pem")).unwrap();
    until(
        "the file's change is noticed",
        Duration::from_secs(30),
        || attempt(&server, &old_again.url)["outcome"] == "delivered",
    );
}
