//! A TCP proxy between a node and its database, which can fail as networks do.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::until;

#[derive(Default)]
struct State {
    /// Nothing is passed on, and nobody is told: as when a cable is pulled.
    silent: AtomicBool,
    /// Microseconds that everything takes on its way, in each direction.
    delay: AtomicU64,
    /// Number of messages from clients.
    requests: AtomicUsize,
    /// Connections are refused, and those that there are end.
    cut: AtomicBool,
    /// So many commits of transactions that hold `marker` are passed on, and their answers are not.
    lose: AtomicUsize,
    /// Commits of transactions that hold `marker` wait.
    hold: AtomicBool,
    held: AtomicUsize,
    marker: Mutex<String>,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State::default());
        let own = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)));
                let Ok(server) = server else { continue };
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                shared.open.lock().unwrap().extend(both);
                let losing = Arc::new(AtomicBool::new(false));
                let (state, lose) = (Arc::clone(&shared), Arc::clone(&losing));
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass_on(&state, from, to, &lose, true));
                let state = Arc::clone(&shared);
                std::thread::spawn(move || pass_on(&state, server, client, &losing, false));
            }
        });
        Self { port: own, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Passes nothing on until it is told to again.
    pub fn silence(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// From now on everything takes so long on its way, in each direction.
    pub fn delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap();
        self.state.delay.store(micros, Ordering::SeqCst);
    }

    /// Number of messages from clients: the round trips, if each client waits for its answer.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Ends all connections and takes no new ones until it is told to again.
    pub fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::SeqCst);
        if cut {
            for stream in self.state.open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Of the next transactions that hold `marker` the commits arrive, and their answers do not.
    pub fn lose_answers_of(&self, marker: &str, count: usize) {
        *self.state.marker.lock().unwrap() = marker.to_owned();
        self.state.lose.store(count, Ordering::SeqCst);
    }

    /// How many answers are still to be lost.
    pub fn to_lose(&self) -> usize {
        self.state.lose.load(Ordering::SeqCst)
    }

    /// The commits of transactions that hold `marker` wait until they are let go.
    pub fn hold_commits_of(&self, marker: &str) {
        *self.state.marker.lock().unwrap() = marker.to_owned();
        self.state.hold.store(true, Ordering::SeqCst);
    }

    /// How many commits wait.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    pub fn let_commits_go(&self) {
        self.state.hold.store(false, Ordering::SeqCst);
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    !text.is_empty()
        && bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
}

/// Whether the client runs a statement with that text, of which it may have told the server before:
/// then it names it.
fn runs(bytes: &[u8], marker: &str, statements: &mut HashMap<Vec<u8>, Vec<u8>>) -> bool {
    const NAME: &[u8] = b"__diesel_stmt_";
    let word = |from: usize| -> &[u8] {
        bytes[from..]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    };
    let mut named = false;
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(NAME) {
            let name = word(at);
            let text = bytes
                .get(at + name.len() + 1..)
                .map_or(&[][..], |_| word(at + name.len() + 1));
            if text.len() > 6 {
                statements.insert(name.to_vec(), text.to_vec());
            }
            named |= statements.get(name).is_some_and(|text| holds(text, marker));
        }
    }
    named || holds(bytes, marker)
}

fn pass_on(
    state: &State,
    mut from: TcpStream,
    mut to: TcpStream,
    losing: &AtomicBool,
    to_server: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut marked = false;
    let mut statements = HashMap::new();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        while state.silent.load(Ordering::SeqCst) && !state.cut.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        match state.delay.load(Ordering::SeqCst) {
            0 => {}
            micros => std::thread::sleep(Duration::from_micros(micros)),
        }
        if to_server {
            state.requests.fetch_add(1, Ordering::SeqCst);
            marked |= runs(bytes, &state.marker.lock().unwrap(), &mut statements);
            if holds(bytes, "COMMIT") && std::mem::take(&mut marked) {
                if state.hold.load(Ordering::SeqCst) {
                    state.held.fetch_add(1, Ordering::SeqCst);
                    until("commits are let go", Duration::from_secs(60), || {
                        !state.hold.load(Ordering::SeqCst)
                    });
                }
                let lose = |left: usize| left.checked_sub(1);
                if state
                    .lose
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose)
                    .is_ok()
                {
                    losing.store(true, Ordering::SeqCst);
                }
            }
        } else if losing.load(Ordering::SeqCst) {
            break;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
