//! Checks of the server: it answers, is ready, and accepts this machine's token.

use reqwest::{Method, Url};

use super::check::Check;
use crate::api::{ApiClient, probe, server_of};
use crate::settings::ServerSettings;

/// Response of the server's address to `/healthz`.
pub(super) struct ServerProbe {
    server: String,
    /// The server was named with `--server`, so it has to be running.
    must_run: bool,
    /// Status and `Date` header.
    healthz: Result<(u16, Option<String>), String>,
}

/// Sends a request to the named server, or to the one at `listen`.
pub(super) async fn contact(settings: &ServerSettings, named: Option<&Url>) -> ServerProbe {
    let server = server_of(named, settings);
    let healthz = probe(&format!("{server}/healthz"))
        .await
        .map_err(|error| format!("{error:#}"));
    ServerProbe {
        server,
        must_run: named.is_some(),
        healthz,
    }
}

impl ServerProbe {
    /// Returns the server's time, as an HTTP date.
    pub(super) fn date(&self) -> Option<&str> {
        self.healthz.as_ref().ok()?.1.as_deref()
    }

    /// Returns true if the response looks like a Postrider's.
    pub(super) fn is_postrider(&self) -> bool {
        matches!(self.healthz, Ok((200, _)))
    }

    pub(super) async fn check(&self, settings: &ServerSettings) -> Check {
        let server = &self.server;
        match &self.healthz {
            Err(error) if self.must_run => {
                let remedy = "start it with `postrider serve`, or point to another with --server";
                return Check::wrong(
                    "server",
                    format!("no server answers at {server}: {error}"),
                    remedy,
                );
            }
            Err(_) => return Check::note("server", format!("no server is running at {server}")),
            Ok((200, _)) => {}
            Ok((status, _)) => {
                let found =
                    format!("{server} answers {status} to /healthz, so it is not a Postrider");
                return Check::wrong(
                    "server",
                    found,
                    "set --server or `listen` to the address of a Postrider server",
                );
            }
        }
        if !matches!(probe(&format!("{server}/readyz")).await, Ok((200, _))) {
            let remedy = "see its log for the reason; usually the database is full, read-only or unreachable";
            return Check::wrong(
                "server",
                format!("{server} is running but not ready"),
                remedy,
            );
        }
        let response = match ApiClient::of(server, settings) {
            Ok(api) => api.call(Method::GET, "/events?limit=1", None).await,
            Err(error) => Err(error),
        };
        match response {
            Ok(_) => Check::ok("server", format!("{server} is ready and accepts the token")),
            Err(error) => Check::wrong(
                "server",
                format!("{server} is ready, but: {error}"),
                "set POSTRIDER_API_TOKEN to one of the server's tokens, or run this next to its database",
            ),
        }
    }
}
