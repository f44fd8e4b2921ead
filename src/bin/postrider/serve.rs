//! `postrider serve`: settings in, a server out.

use std::net::TcpListener;

use actix_web::{App, HttpServer};
use anyhow::{Context, bail};
use postrider::Postrider;
use postrider::admin::ApiToken;
use postrider::config::DatabaseUrl;

use crate::log::{self, Logging};
use crate::settings::{Settings, SettingsFile};
use crate::token;

/// How long open HTTP requests get when the server stops, in seconds.
const HTTP_SHUTDOWN_S: u64 = 5;

/// Run the server: the HTTP API and the engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    file: SettingsFile,
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // From the first moment on: a SIGHUP that comes early must not end the process.
        let mut hangups = Hangups::new()?;
        let settings = self.settings.over_file(self.file.path.as_deref())?;
        let logging = log::start(&settings)?;
        raise_file_limit();
        let (database, address) = (settings.database()?, settings.address()?);
        let (keep_alive, origins) = (settings.keep_alive()?, settings.cors_origins()?);
        let config = settings.engine()?;
        let given = settings.token()?;
        // The port first: a second server must not touch the first one's database.
        let listener = TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}: if another program holds the port, choose another by --listen"
            )
        })?;
        let address = listener.local_addr()?;

        let postrider = Postrider::builder()
            .database(database.clone())
            .config(config)
            .start()
            .await?;
        // After the database: a token without one is what a database that was moved away leaves
        // behind.
        let token = match given {
            Some(token) => ApiToken::new(&token).map_err(anyhow::Error::msg)?,
            None => kept_token(&database)?,
        };
        let (handle, api_token) = (postrider.clone(), token.clone());
        let app = move || App::new().configure(handle.admin_with_cors(api_token.clone(), &origins));
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
                    Ok(()) => tracing::info!("SIGHUP: tokens, the trust store and the log level were read again"),
                    Err(error) => tracing::error!("SIGHUP: not everything could be read again: {error:#}"),
                },
            }
        };
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

    /// Reads again what may change while the server runs. What is wrong is reported, and leaves the
    /// rest as it was.
    async fn reload(
        &self,
        postrider: &Postrider,
        token: &ApiToken,
        logging: &Logging,
    ) -> anyhow::Result<()> {
        let of_engine = postrider.reload().await.map_err(anyhow::Error::from);
        of_engine.and(self.reload_settings(token, logging))
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

/// The signals that ask to read settings again.
struct Hangups {
    #[cfg(unix)]
    signals: tokio::signal::unix::Signal,
}

impl Hangups {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signals: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        #[cfg(unix)]
        if self.signals.recv().await.is_some() {
            return;
        }
        std::future::pending().await
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

/// The token kept beside a local database.
fn kept_token(database: &DatabaseUrl) -> anyhow::Result<ApiToken> {
    let path = token::path_of(database).context("there is no file to keep a token beside")?;
    let token = token::read_or_make(&path)?;
    tracing::info!("the API's token is in {}", path.display());
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
