//! `postrider serve`: settings in, a server out.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::{App, HttpServer};
use anyhow::{Context, bail};
use postrider::Postrider;
use postrider::admin::ApiToken;
use postrider::config::DatabaseUrl;

use crate::log::Log;
use crate::settings::{Settings, SettingsFile};
use crate::token;

/// How long open HTTP requests get when the server stops, in seconds.
const HTTP_SHUTDOWN_S: u64 = 5;

/// Longer than the minute for which common proxies and clients keep an idle connection: the side
/// that sends requests should be the one to close it.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Run the server: the HTTP API and the engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    file: SettingsFile,

    #[command(flatten)]
    log: Log,
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let _logging = self.log.start()?;
        raise_file_limit();
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        let (database, address) = (settings.database()?, settings.address()?);
        let config = settings.engine()?;
        // The port first: a second server must not touch the first one's database.
        let listener = TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}: if another program holds the port, choose another by --listen"
            )
        })?;
        let address = listener.local_addr()?;
        let token = api_token(&settings, &database)?;

        let postrider = Postrider::builder().database(database).config(config).start().await?;
        let (handle, api_token) = (postrider.clone(), token.clone());
        let app = move || App::new().configure(handle.admin_with_tokens(api_token.clone()));
        let server = HttpServer::new(app)
            .disable_signals()
            .keep_alive(KEEP_ALIVE)
            .shutdown_timeout(HTTP_SHUTDOWN_S)
            .listen(listener)
            .with_context(|| format!("cannot serve on {address}"))?
            .run();
        let http = server.handle();
        actix_web::rt::spawn(server);
        tracing::info!("Postrider {} listens on http://{address}", env!("CARGO_PKG_VERSION"));

        let signal = stop_signal().await?;
        tracing::info!("{signal}: finishing what is in flight; a second one ends at once");
        let finish = async {
            http.stop(true).await;
            postrider.drain().await;
        };
        tokio::select! {
            () = finish => tracing::info!("stopped"),
            signal = stop_signal() => bail!("{}: ended before everything in flight had; it is sent again after the next start", signal?),
        }
        Ok(())
    }
}

/// Each connection is a file: as many as this user may have.
pub(crate) fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the file limit stays as it is");
        }
    }
}

/// The token that was set, or the one kept beside a local database.
fn api_token(settings: &Settings, database: &DatabaseUrl) -> anyhow::Result<ApiToken> {
    if let Some(token) = settings.token()? {
        return Ok(token);
    }
    let path = token::path_of(database).context("there is no file to keep a token beside")?;
    let token = token::read_or_make(&path)?;
    tracing::info!("the API's token is in {}", path.display());
    ApiToken::new(&token).map_err(|detail| anyhow::anyhow!("{}: {detail}", path.display()))
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn stop_signal() -> anyhow::Result<&'static str> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok("SIGTERM"),
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT").map_err(Into::into),
        }
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await?;
        Ok("Ctrl-C")
    }
}
