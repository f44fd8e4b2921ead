//! Hints through Postgres' `NOTIFY` and `LISTEN`, on a separate connection outside of all other
//! transactions: no publisher waits for them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::domain::ids::EndpointId;
use crate::store::connection::AnyConnection;
use crate::store::error::StoreError;
use crate::store::hint::Hint;
use crate::store::source::{HeldConnection, Source};

/// Maximum number of queued hints; the poll is faster than a longer queue.
const QUEUE: usize = 1024;

const CHANNEL: &str = "postrider";

/// Maximum payload of Postgres in bytes.
const MAX_PAYLOAD: usize = 7900;

/// Polling interval for notifications: libpq offers nothing to wait on.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Time in which hints are gathered once some were exchanged: under load one message names many
/// endpoints, and these are read together.
const GATHERING: Duration = Duration::from_millis(15);

/// Pause after a failed connection.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Starts sending and listening.
pub(in crate::store) fn start(
    source: Source,
    on_hint: impl Fn(Hint) + Send + 'static,
) -> Result<SyncSender<Hint>, StoreError> {
    let (queue, hints) = sync_channel(QUEUE);
    std::thread::Builder::new()
        .name("postrider-hints".into())
        .spawn(move || run(&source, &hints, &on_hint))
        .map_err(|error| StoreError::Setup(format!("cannot start a thread: {error}")))?;
    Ok(queue)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, that only waits for the server"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs until the last sender is gone.
fn run(source: &Source, hints: &Receiver<Hint>, on_hint: &dyn Fn(Hint)) {
    let mut conn = None;
    loop {
        let mut waiting = Vec::new();
        match hints.recv_timeout(CHECK_INTERVAL) {
            Ok(hint) => waiting.push(hint),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                // The connection may be a host's, which uses it for something else afterwards.
                if let Some(mut conn) = conn {
                    let _ = on_postgres(&mut conn, |conn| Ok(conn.batch_execute("UNLISTEN *")?));
                }
                return;
            }
        }
        waiting.extend(hints.try_iter());
        let exchanged = match conn.take() {
            Some(conn) => Ok(conn),
            None => listen(source),
        }
        .and_then(|mut conn| {
            let mut is_busy = !waiting.is_empty();
            on_postgres(&mut conn, |conn| {
                is_busy |= exchange(conn, waiting, on_hint)?;
                Ok(())
            })?;
            Ok((conn, is_busy))
        });
        match exchanged {
            Ok((open, is_busy)) => {
                conn = Some(open);
                if is_busy {
                    pause(GATHERING);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no hints for now; the poll finds what is due");
                pause(BACK_OFF);
            }
        }
    }
}

fn listen(source: &Source) -> Result<HeldConnection, StoreError> {
    let mut conn = source.acquire()?;
    on_postgres(&mut conn, |conn| {
        Ok(conn.batch_execute(&format!("LISTEN {CHANNEL}"))?)
    })?;
    Ok(conn)
}

fn on_postgres(
    conn: &mut HeldConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    conn.with(|conn| match conn {
        AnyConnection::Postgres(conn) => work(conn),
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(()),
    })
}

/// Sends queued hints, and passes on received ones. Returns true if there were any of these.
fn exchange(
    conn: &mut PgConnection,
    waiting: Vec<Hint>,
    on_hint: &dyn Fn(Hint),
) -> Result<bool, StoreError> {
    send(conn, waiting)?;
    let mut received = false;
    for notification in conn.notifications_iter() {
        received = true;
        if let Some(hint) = parse(&notification?.payload) {
            on_hint(hint);
        }
    }
    Ok(received)
}

/// Sends hints in as few messages as possible: at once, or when the open transaction commits.
pub(super) fn send(conn: &mut PgConnection, hints: Vec<Hint>) -> Result<(), StoreError> {
    for payload in payloads(hints) {
        diesel::sql_query(format!("SELECT pg_notify('{CHANNEL}', $1)"))
            .bind::<Text, _>(payload)
            .execute(conn)?;
    }
    Ok(())
}

/// Encodes hints as messages.
fn payloads(hints: Vec<Hint>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    let mut due: Vec<EndpointId> = Vec::new();
    for hint in hints {
        let plain = match hint {
            Hint::Due(endpoints) => {
                due.extend(endpoints);
                continue;
            }
            Hint::Changed => "changed",
            Hint::Leases => "leases",
        };
        if !payloads.iter().any(|one| one == plain) {
            payloads.push(plain.to_owned());
        }
    }
    due.sort();
    due.dedup();
    let mut room = 0;
    for endpoint in due {
        let id = endpoint.as_str();
        match payloads.last_mut() {
            Some(last) if room > id.len() => {
                last.push(' ');
                last.push_str(id);
                room -= id.len() + 1;
            }
            _ => {
                payloads.push(format!("due {id}"));
                room = MAX_PAYLOAD - "due ".len() - id.len();
            }
        }
    }
    payloads
}

/// Decodes a message; `None` for one of a newer release.
fn parse(payload: &str) -> Option<Hint> {
    let mut words = payload.split(' ');
    match words.next()? {
        "due" => Some(Hint::Due(words.map(EndpointId::from_text).collect())),
        "changed" => Some(Hint::Changed),
        "leases" => Some(Hint::Leases),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_told_in_few_short_messages_and_understood() {
        let id = |n: usize| EndpointId::from_text(format!("ep_{n:032}"));
        let hints = vec![
            Hint::Changed,
            Hint::Due((0..300).map(id).collect()),
            Hint::Leases,
            Hint::Changed,
            Hint::Due((200..500).map(id).collect()),
        ];
        let payloads = payloads(hints);
        assert!(
            payloads.iter().all(|payload| payload.len() <= 8000),
            "Postgres' limit"
        );
        let told: Vec<Hint> = payloads
            .iter()
            .map(|payload| parse(payload).unwrap())
            .collect();
        assert_eq!(told[..2], [Hint::Changed, Hint::Leases]);
        let due: Vec<EndpointId> = told[2..]
            .iter()
            .flat_map(|hint| match hint {
                Hint::Due(endpoints) => endpoints.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(due, (0..500).map(id).collect::<Vec<_>>());
        assert_eq!(told.len(), 2 + 3, "500 ids of 36 bytes");
        assert_eq!(parse("something new"), None);
    }
}
