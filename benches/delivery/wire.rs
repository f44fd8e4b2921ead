//! A receiver and a load generator that cost little: HTTP/1.1 on tokio's sockets, heads read by
//! httparse, and nothing else. What they use of the machine is missing to the server that is
//! measured.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Runs a future on a thread of its own.
pub fn on_a_thread<F: Future<Output = ()>>(name: &str, run: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, run());
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .expect("a thread");
}

/// What has arrived: how much, and of events whose arrival is watched for, when.
#[derive(Default)]
pub struct Arrivals {
    count: AtomicU64,
    watched: Mutex<HashMap<String, Instant>>,
}

/// Events whose ids begin so have their arrival's time noted.
pub const WATCHED: &str = "watched-";

impl Arrivals {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When the first byte of the first request of an event came, and forgets all of them.
    pub fn take_watched(&self) -> HashMap<String, Instant> {
        std::mem::take(&mut self.watched.lock().expect("nothing panics in here"))
    }

    fn note(&self, id: &str, at: Instant) {
        if id.starts_with(WATCHED) {
            self.watched
                .lock()
                .expect("nothing panics in here")
                .entry(id.to_owned())
                .or_insert(at);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A receiver that answers 200 to everything; its address.
pub fn receiver() -> (SocketAddr, Arc<Arrivals>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let arrivals = Arc::new(Arrivals::default());
    let noted = Arc::clone(&arrivals);
    on_a_thread("receiver", move || async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(receive(stream, Arc::clone(&noted)));
        }
    });
    (address, arrivals)
}

/// A receiver that sends interim responses without end; its address.
pub fn flooding_receiver() -> SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let heads = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(500);
                while stream.write_all(heads.as_bytes()).is_ok() {}
            });
        }
    });
    address
}

async fn receive(mut stream: TcpStream, arrivals: Arc<Arrivals>) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::with_capacity(16 * 1024);
    loop {
        let came = read.is_empty();
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return;
        }
        let at = came.then(Instant::now);
        while let Some(head) = Head::of_request(&read) {
            if read.len() < head.length {
                break;
            }
            arrivals.note(&head.event_id, at.unwrap_or_else(Instant::now));
            read.drain(..head.length);
            if stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// What is asked of a message's head.
struct Head {
    status: u16,
    event_id: String,
    /// Of head and body.
    length: usize,
}

impl Head {
    fn of_request(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(end) = request.parse(bytes).expect("HTTP") else {
            return None;
        };
        Some(Self::read(0, end, request.headers))
    }

    fn of_response(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) = response.parse(bytes).expect("HTTP") else {
            return None;
        };
        Some(Self::read(
            response.code.unwrap_or(0),
            end,
            response.headers,
        ))
    }

    fn read(status: u16, end: usize, headers: &[httparse::Header<'_>]) -> Self {
        let value = |name: &str| {
            let found = headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name));
            found
                .and_then(|header| std::str::from_utf8(header.value).ok())
                .unwrap_or_default()
        };
        let body: usize = value("content-length").parse().unwrap_or(0);
        Self {
            status,
            event_id: value("webhook-id").to_owned(),
            length: end + body,
        }
    }
}

/// One connection that is kept for many requests.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            read: Vec::with_capacity(16 * 1024),
        }
    }

    /// Sends a request that [`post`] or its like has written; the answer's status and body.
    pub async fn exchange(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.stream
            .write_all(request)
            .await
            .expect("the server reads");
        loop {
            let came = self
                .stream
                .read_buf(&mut self.read)
                .await
                .expect("the server answers");
            assert!(came > 0, "the server closed the connection");
            let Some(head) = Head::of_response(&self.read) else {
                continue;
            };
            if self.read.len() >= head.length {
                let message: Vec<u8> = self.read.drain(..head.length).collect();
                let body = message
                    .windows(4)
                    .position(|end| end == b"\r\n\r\n")
                    .map_or(0, |at| at + 4);
                return (head.status, message[body..].to_vec());
            }
        }
    }
}

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends `count` requests over so many connections, as fast as they are answered; how long that
/// took, in seconds.
pub async fn flood(
    address: SocketAddr,
    connections: usize,
    count: u64,
    write: impl Fn(u64) -> Vec<u8> + Clone + 'static,
    mut answered: impl FnMut(u64),
) -> f64 {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let senders: Vec<_> = (0..connections)
        .map(|_| {
            let (next, write) = (Arc::clone(&next), write.clone());
            tokio::task::spawn_local(async move {
                let mut connection = Connection::open(address).await;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    let (status, body) = connection.exchange(&write(i)).await;
                    assert!(
                        (200..300).contains(&status),
                        "{status}: {}",
                        String::from_utf8_lossy(&body)
                    );
                }
            })
        })
        .collect();
    for sender in senders {
        while !sender.is_finished() {
            answered(next.load(Ordering::Relaxed).min(count));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        sender.await.expect("a sender ends well");
    }
    started.elapsed().as_secs_f64()
}
