//! `postrider serve`: starting, reloading and stopping the server.

use std::net::TcpListener;

use actix_web::{App, HttpServer};
use anyhow::{Context, bail};
use postrider::Postrider;
use postrider::config::DatabaseUrl;
use postrider::http::ApiToken;

use crate::log::{self, Logging};
use crate::settings::{ServerSettings, SettingsFile};
use crate::token;

/// Time that open HTTP requests get to finish when the server stops, in seconds.
const HTTP_SHUTDOWN_S: u64 = 5;

/// Run the server: the HTTP API and the delivery engine.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: ServerSettings,

    #[command(flatten)]
    file: SettingsFile,
}

impl ServeArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // First of all: an early SIGHUP must not end the process.
        let mut hangups = HangupSignals::new()?;
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        let logging = log::start(&settings)?;
        raise_file_limit();
        let database = settings.database()?;
        let address = settings.address()?;
        let keep_alive = settings.keep_alive()?;
        let origins = settings.cors_origins()?;
        let config = settings.engine()?;
        let configured_token = settings.token()?;
        // The port before the database: a second server must not touch the first one's.
        let listener = TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}: if another program is using the port, choose another with --listen"
            )
        })?;
        let address = listener.local_addr()?;

        let postrider = Postrider::builder()
            .database(database.clone())
            .config(config)
            .start()
            .await?;
        // The token after the database: a token file without a database counts as a moved database,
        // and the next start would be refused.
        let token = match configured_token {
            Some(token) => ApiToken::new(&token).map_err(anyhow::Error::msg)?,
            None => stored_token(&database)?,
        };
        let handle = postrider.clone();
        let api_token = token.clone();
        let app = move || App::new().configure(handle.api_with_cors(api_token.clone(), &origins));
        let server = HttpServer::new(app)
            .disable_signals()
            .keep_alive(keep_alive)
            .shutdown_timeout(HTTP_SHUTDOWN_S)
            .listen(listener)
            .with_context(|| format!("cannot serve on {address}"))?
            .run();
        let http = server.handle();
        actix_web::rt::spawn(server);
        tracing::info!(
            "Postrider {} listens on http://{address}",
            env!("CARGO_PKG_VERSION")
        );

        let mut stop = std::pin::pin!(stop_signal());
        let signal = loop {
            tokio::select! {
                signal = &mut stop => break signal?,
                () = hangups.next() => match self.reload(&postrider, &token, &logging).await {
                    Ok(()) => tracing::info!("SIGHUP: reloaded tokens, trust store and log filter"),
                    Err(error) => tracing::error!("SIGHUP: could not reload everything: {error:#}"),
                },
                error = postrider.failed() => {
                    http.stop(false).await;
                    postrider.drain().await;
                    return Err(error.into());
                }
            }
        };
        tracing::info!("{signal}: finishing in-flight requests; send it again to stop immediately");
        let finish = async {
            http.stop(true).await;
            postrider.drain().await;
        };
        tokio::select! {
            () = finish => tracing::info!("stopped"),
            signal = stop_signal() => bail!("{}: stopped before all in-flight deliveries finished; they are sent again after the next start", signal?),
        }
        Ok(())
    }

    /// Reloads tokens, the trust store and the log filter. An invalid value leaves the previous
    /// one in use and does not keep the others from being reloaded.
    async fn reload(
        &self,
        postrider: &Postrider,
        token: &ApiToken,
        logging: &Logging,
    ) -> anyhow::Result<()> {
        let engine = postrider.reload().await.map_err(anyhow::Error::from);
        let settings = self.reload_settings(token, logging);
        engine.and(settings)
    }

    fn reload_settings(&self, token: &ApiToken, logging: &Logging) -> anyhow::Result<()> {
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        logging.refilter(settings.log_filter()?)?;
        let path = token::path_of(&settings.database()?);
        let text = match (settings.token()?, path) {
            (Some(text), _) => Some(text),
            (None, Some(path)) => token::read(&path)?,
            (None, None) => None,
        };
        if let Some(text) = text {
            token.replace(&text).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

/// SIGHUP, the signal to reload; never received where it does not exist.
struct HangupSignals {
    #[cfg(unix)]
    signals: tokio::signal::unix::Signal,
}

impl HangupSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signals: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    async fn next(&mut self) {
        #[cfg(unix)]
        if self.signals.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// Raises the soft file limit to the hard limit: every connection uses a file descriptor.
pub(crate) fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "cannot raise the file limit");
        }
    }
}

/// Returns the token stored next to a local database; generated on first start.
fn stored_token(database: &DatabaseUrl) -> anyhow::Result<ApiToken> {
    let path = token::path_of(database)
        .context("no API token: a database server needs POSTRIDER_API_TOKEN")?;
    let token = token::read_or_create(&path)?;
    tracing::info!("the API token is in {}", path.display());
    ApiToken::new(&token).map_err(|detail| anyhow::anyhow!("{}: {detail}", path.display()))
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn stop_signal() -> anyhow::Result<&'static str> {
    #[cfg(unix)]
    {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
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
