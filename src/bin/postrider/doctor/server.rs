//! Whether a server answers, is ready, and takes this machine's token.

use reqwest::{Method, Url};

use super::Check;
use crate::api::{Connection, probe, server_of};
use crate::settings::Settings;

/// What is where the server should be.
pub(super) struct Answer {
    server: String,
    /// Somebody named it: it has to be there.
    wanted: bool,
    healthz: Result<(u16, Option<String>), String>,
}

/// Looks whether a server is there.
pub(super) async fn look(settings: &Settings, named: Option<&Url>) -> Answer {
    let server = server_of(named, settings);
    let healthz = probe(&format!("{server}/healthz"))
        .await
        .map_err(|error| format!("{error:#}"));
    Answer {
        server,
        wanted: named.is_some(),
        healthz,
    }
}

impl Answer {
    /// The server's time.
    pub(super) fn date(&self) -> Option<&str> {
        self.healthz.as_ref().ok()?.1.as_deref()
    }

    /// Whether it looks like one of ours.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.healthz, Ok((200, _)))
    }

    pub(super) async fn check(&self, settings: &Settings) -> Check {
        let server = &self.server;
        match &self.healthz {
            Err(error) if self.wanted => {
                let remedy = "start it with `postrider serve`, or name another by --server";
                return Check::wrong(
                    "server",
                    format!("nothing answers at {server}: {error}"),
                    remedy,
                );
            }
            Err(_) => return Check::note("server", format!("none runs at {server}")),
            Ok((200, _)) => {}
            Ok((status, _)) => {
                let found = format!("{server} answers {status}, which no Postrider does");
                return Check::wrong(
                    "server",
                    found,
                    "name the server's own address by --server or `listen`",
                );
            }
        }
        if !matches!(probe(&format!("{server}/readyz")).await, Ok((200, _))) {
            let remedy = "its log says why; most often its database is full, read-only or gone";
            return Check::wrong("server", format!("{server} runs and is not ready"), remedy);
        }
        let called = match Connection::of(server, settings) {
            Ok(connection) => connection.call(Method::GET, "/events?limit=1", None).await,
            Err(failure) => Err(failure),
        };
        match called {
            Ok(_) => Check::ok("server", format!("{server} is ready, and takes the token")),
            Err(failure) => Check::wrong(
                "server",
                format!("{server} is ready, but: {failure}"),
                "set POSTRIDER_API_TOKEN to one of its tokens, or run this where its database is",
            ),
        }
    }
}
