//! The client of the server's HTTP API. It calls only Postrider's own API, so it needs none of the
//! sender's guards.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::environment::trimmed;
use crate::output::CommandError;
use crate::settings::{DEFAULT_LISTEN, Hidden, ListenAddress, ServerSettings, SettingsFile};
use crate::token;

/// Options of every command that calls the server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientArgs {
    /// URL of the server [default: http://127.0.0.1:8400, or `listen` of the settings file]
    #[arg(long, env = "POSTRIDER_SERVER", value_name = "URL", global = true, value_parser = trimmed::<Url>)]
    server: Option<Url>,

    /// The server's database, to find the token file next to it [default: sqlite:postrider.db]
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

    /// Print the API's JSON response
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// An optional query parameter.
pub(crate) type Parameter = (&'static str, Option<String>);

/// Appends the parameters that are set to a path.
pub(crate) fn query<'a>(path: &str, parameters: impl IntoIterator<Item = &'a Parameter>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("{path}?{}", query.finish())
}

/// Encodes an id as a path segment.
pub(crate) fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

/// A server's URL, and the token to call it with.
pub(crate) struct ApiClient {
    server: String,
    token: BearerToken,
    http: reqwest::Client,
}

struct BearerToken {
    text: String,
    /// Source of the token, for error messages.
    source: String,
}

impl ClientArgs {
    /// Finds the server and the token.
    pub(crate) fn connect(&self) -> Result<ApiClient, CommandError> {
        let listen = std::env::var("POSTRIDER_LISTEN")
            .ok()
            .and_then(|address| address.parse().ok());
        let listen: Option<ListenAddress> = listen;
        let own = ServerSettings {
            database_url: self.database_url.clone(),
            listen,
            ..ServerSettings::default()
        };
        let settings = own.over_file(self.file.path.as_deref())?;
        ApiClient::new(
            &server_of(self.server.as_ref(), &settings),
            find_token(&settings)?,
        )
    }

    /// Sends one request and returns the JSON response; `null` if it has no body.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, CommandError> {
        self.connect()?.call(method, path, body).await
    }
}

/// Returns the URL of the named server, or of the address that these settings listen on.
pub(crate) fn server_of(named: Option<&Url>, settings: &ServerSettings) -> String {
    match (named, settings.listen) {
        (Some(url), _) => url.to_string().trim_end_matches('/').to_owned(),
        (None, Some(ListenAddress(address))) => format!("http://{address}"),
        (None, None) => format!("http://{DEFAULT_LISTEN}"),
    }
}

/// Sends a GET without a token; returns the status and the `Date` header.
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

impl ApiClient {
    /// Creates a client with the token that these settings lead to.
    pub(crate) fn of(server: &str, settings: &ServerSettings) -> Result<Self, CommandError> {
        Self::new(server, find_token(settings)?)
    }

    fn new(server: &str, token: BearerToken) -> Result<Self, CommandError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build();
        let http = http.context("cannot set up the HTTP client")?;
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            token,
            http,
        })
    }

    /// Creates a client with a known token.
    pub(crate) fn with_token(server: &str, token: &str) -> Result<Self, CommandError> {
        Self::new(
            server,
            BearerToken {
                text: token.to_owned(),
                source: "this command".to_owned(),
            },
        )
    }

    /// Sends one request and returns the JSON response; `null` if it has no body.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, CommandError> {
        let server = &self.server;
        let url = format!("{server}/api/v1{path}");
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
            CommandError::Unreachable(format!(
                "cannot reach the server at {server}: {error:#}; start it with `postrider serve`, or point to another with --server"
            ))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).with_context(|| {
                format!("{url} did not answer with JSON; check that --server is a Postrider")
            })?
        };
        if status.is_success() {
            Ok(value)
        } else {
            Err(self.refused(status.as_u16(), &value))
        }
    }

    /// Converts a problem document (RFC 9457) to an error with a remedy.
    fn refused(&self, status: u16, value: &Value) -> CommandError {
        let detail = value["detail"]
            .as_str()
            .or(value["title"].as_str())
            .unwrap_or("no reason given");
        let remedy = match status {
            401 => format!(
                "; the token comes from {}: check that it belongs to this server",
                self.token.source
            ),
            403 => format!(
                "; the token comes from {}: use one whose scope allows this",
                self.token.source
            ),
            _ => String::new(),
        };
        CommandError::Refused {
            status,
            text: format!("the server refused the request ({status}): {detail}{remedy}"),
        }
    }
}

/// Finds the token in the environment, the settings file, or next to the local database.
fn find_token(settings: &ServerSettings) -> Result<BearerToken, CommandError> {
    let set = std::env::var("POSTRIDER_API_TOKEN")
        .ok()
        .map(|text| text.trim().to_owned());
    if let Some(text) = set.filter(|text| !text.is_empty()) {
        return Ok(BearerToken {
            text,
            source: "POSTRIDER_API_TOKEN".into(),
        });
    }
    if let Some(token) = &settings.api_token {
        return Ok(BearerToken {
            text: token.0.clone(),
            source: "`api_token` in the settings file".into(),
        });
    }
    let path = token::path_of(&settings.database()?);
    if let Some(path) = &path
        && let Some(text) = token::read(path)?
    {
        return Ok(BearerToken {
            text,
            source: path.display().to_string(),
        });
    }
    let missing = path.map_or(String::new(), |path| {
        format!(" ({} does not exist)", path.display())
    });
    Err(CommandError::Other(anyhow::anyhow!(
        "no API token{missing}: set POSTRIDER_API_TOKEN, or pass the server's database with --database-url"
    )))
}
