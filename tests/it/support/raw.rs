//! Receivers on bare sockets, for what no HTTP library sends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A response that says all is well and keeps its connection.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Serves every connection on a thread of its own. `behave` gets its number, from 0.
pub fn listen(behave: impl Fn(Connection, usize) + Send + Sync + 'static) -> SocketAddr {
    listen_at("127.0.0.1:0".parse().unwrap(), behave)
}

/// As [`listen`], at an address.
pub fn listen_at(
    address: SocketAddr,
    behave: impl Fn(Connection, usize) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let (behave, count) = (Arc::new(behave), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (behave, number) = (Arc::clone(&behave), count.fetch_add(1, Ordering::SeqCst));
            let run = move || behave(Connection::new(stream), number);
            std::thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn(run)
                .unwrap();
        }
    });
    address
}

/// A connection, as a receiver has it.
pub struct Connection {
    pub stream: TcpStream,
    input: BufReader<TcpStream>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let input = BufReader::new(stream.try_clone().unwrap());
        Self { stream, input }
    }

    /// The next request's head, its body read; `None` at the connection's end.
    pub fn request(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.input.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = header(&head, "content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        self.input.read_exact(&mut vec![0; length]).ok()?;
        Some(head)
    }

    pub fn send(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// Ends it by a reset, as a crashed host's peer or a firewall does.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// One header of a request's head.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Waits so long before the next thing is sent.
pub fn wait(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}
