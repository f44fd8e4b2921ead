//! The client of the server's HTTP API. The one place outside `sender/` that names reqwest: it
//! calls our own API, not a stranger's receiver.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::environment::trimmed;
use crate::output::Failure;
use crate::settings::{DEFAULT_LISTEN, Hidden, ListenAddress, Settings, SettingsFile};
use crate::token;

/// Where the server is, and how to show what it answers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Client {
    /// The server [default: http://127.0.0.1:8400, or `listen` of the settings file]
    #[arg(long, env = "POSTRIDER_SERVER", value_name = "URL", global = true, value_parser = trimmed::<Url>)]
    server: Option<Url>,

    /// The server's database, beside which its token is kept [default: sqlite:postrider.db]
    #[arg(
        long,
        env = "POSTRIDER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    database_url: Option<Hidden>,

    #[command(flatten)]
    file: SettingsFile,

    /// Print the API's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A parameter of a query, if it is given.
pub(crate) type Parameter = (&'static str, Option<String>);

/// A path with those parameters that are given.
pub(crate) fn query<'a>(path: &str, parameters: impl IntoIterator<Item = &'a Parameter>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("{path}?{}", query.finish())
}

/// An id as one segment of a path.
pub(crate) fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

/// A server, and the right to call it.
pub(crate) struct Connection {
    server: String,
    token: Token,
    http: reqwest::Client,
}

struct Token {
    text: String,
    /// Where it is from, for who has to mend it.
    from: String,
}

impl Client {
    /// Finds the server and the token.
    pub(crate) fn connect(&self) -> Result<Connection, Failure> {
        let listen = std::env::var("POSTRIDER_LISTEN")
            .ok()
            .and_then(|address| address.parse().ok());
        let listen: Option<ListenAddress> = listen;
        let own = Settings {
            database_url: self.database_url.clone(),
            listen,
            ..Settings::default()
        };
        let settings = own.over_file(self.file.path.as_deref())?;
        Connection::new(
            &server_of(self.server.as_ref(), &settings),
            find_token(&settings)?,
        )
    }

    /// Makes one call and returns its answer, `null` where it has none.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, Failure> {
        self.connect()?.call(method, path, body).await
    }
}

/// Where the server is: as it was named, or where these settings have it listen.
pub(crate) fn server_of(named: Option<&Url>, settings: &Settings) -> String {
    match (named, settings.listen) {
        (Some(url), _) => url.to_string().trim_end_matches('/').to_owned(),
        (None, Some(ListenAddress(address))) => format!("http://{address}"),
        (None, None) => format!("http://{DEFAULT_LISTEN}"),
    }
}

/// Whether anything answers there, without a token: the status, and the server's time.
pub(crate) async fn probe(url: &str) -> Result<(u16, Option<String>), reqwest::Error> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(PROBE_TIMEOUT)
        .build()?;
    let answer = http.get(url).send().await?;
    let date = answer
        .headers()
        .get("date")
        .and_then(|date| date.to_str().ok())
        .map(str::to_owned);
    Ok((answer.status().as_u16(), date))
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// To the server that runs by these settings.
    pub(crate) fn of(server: &str, settings: &Settings) -> Result<Self, Failure> {
        Self::new(server, find_token(settings)?)
    }

    fn new(server: &str, token: Token) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build();
        let http = http.context("cannot set up HTTP")?;
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            token,
            http,
        })
    }

    /// To a server whose token is known.
    pub(crate) fn with_token(server: &str, token: &str) -> Result<Self, Failure> {
        Self::new(
            server,
            Token {
                text: token.to_owned(),
                from: "this command".to_owned(),
            },
        )
    }

    /// Makes one call and returns its answer, `null` where it has none.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, Failure> {
        let (server, url) = (&self.server, format!("{}/api/v1{path}", self.server));
        let mut request = self
            .http
            .request(method, &url)
            .bearer_auth(&self.token.text);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let unreachable = |error: reqwest::Error| {
            Failure::Unreachable(format!(
                "cannot reach the server at {server}: {error:#}; start it with `postrider serve`, or name it by --server"
            ))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .with_context(|| format!("{url} answered no JSON; is it a Postrider?"))?
        };
        if status.is_success() {
            Ok(value)
        } else {
            Err(self.refused(status.as_u16(), &value))
        }
    }

    /// A problem (RFC 9457) in words, with what helps.
    fn refused(&self, status: u16, value: &Value) -> Failure {
        let detail = value["detail"]
            .as_str()
            .or(value["title"].as_str())
            .unwrap_or("no reason given");
        let remedy = match status {
            401 => format!(
                "; the token is from {}: is it this server's?",
                self.token.from
            ),
            403 => format!(
                "; the token is from {}: use one whose scope allows this",
                self.token.from
            ),
            _ => String::new(),
        };
        Failure::Refused {
            status,
            text: format!("the server refused ({status}): {detail}{remedy}"),
        }
    }
}

/// The token from the environment, the settings file, or beside the local database.
fn find_token(settings: &Settings) -> Result<Token, Failure> {
    let set = std::env::var("POSTRIDER_API_TOKEN")
        .ok()
        .map(|text| text.trim().to_owned());
    if let Some(text) = set.filter(|text| !text.is_empty()) {
        return Ok(Token {
            text,
            from: "POSTRIDER_API_TOKEN".into(),
        });
    }
    if let Some(token) = &settings.api_token {
        return Ok(Token {
            text: token.0.clone(),
            from: "`api_token` of the settings file".into(),
        });
    }
    let path = token::path_of(&settings.database()?);
    let kept = path.as_deref().map(token::read).transpose()?.flatten();
    let shown = path.map(|path| path.display().to_string());
    match (kept, shown) {
        (Some(text), shown) => Ok(Token {
            text,
            from: shown.unwrap_or_default(),
        }),
        (None, shown) => {
            let looked = shown.map_or(String::new(), |path| format!(" ({path} is not there)"));
            Err(Failure::Other(anyhow::anyhow!(
                "no token{looked}: set POSTRIDER_API_TOKEN, or name the server's database by --database-url"
            )))
        }
    }
}
