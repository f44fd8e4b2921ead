//! The client of the server's HTTP API. The one place outside `sender/` that names reqwest: it
//! calls our own API, not a stranger's receiver.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::output::Failure;
use crate::settings::{DEFAULT_LISTEN, Hidden, Settings, SettingsFile};
use crate::token;

/// Where the server is, and how to show what it answers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Client {
    /// The server [default: http://127.0.0.1:8400, or `listen` of the settings file]
    #[arg(long, env = "POSTRIDER_SERVER", value_name = "URL", global = true)]
    server: Option<Url>,

    /// The server's database, beside which its token is kept [default: sqlite:postrider.db]
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true, value_name = "URL", global = true)]
    database_url: Option<Hidden>,

    #[command(flatten)]
    file: SettingsFile,

    /// Print the API's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Which part of a list to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Page {
    /// At most so many (250)
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

impl Page {
    /// The path of this page of a list, with those filters that are given.
    pub(crate) fn of(self, list: &str, filters: &[(&str, Option<String>)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let page = [("limit", self.limit.map(|limit| limit.to_string())), ("cursor", self.cursor)];
        for (name, value) in filters.iter().chain(&page) {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("{list}?{}", query.finish())
    }
}

/// An id as one segment of a path.
pub(crate) fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

impl Client {
    /// Makes one call and returns its answer, `null` where it has none.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Value, Failure> {
        let listen = std::env::var("POSTRIDER_LISTEN").ok().and_then(|address| address.parse().ok());
        let own = Settings { database_url: self.database_url.clone(), listen, ..Settings::default() };
        let settings = own.over_file(self.file.path.as_deref())?;
        let server = match (&self.server, settings.listen) {
            (Some(url), _) => url.to_string(),
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => format!("http://{DEFAULT_LISTEN}"),
        };
        let url = format!("{}/api/v1{path}", server.trim_end_matches('/'));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        let mut request =
            client.context("cannot set up HTTP")?.request(method, &url).bearer_auth(find_token(&settings)?);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
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
        if status.is_success() { Ok(value) } else { Err(Failure::Refused(problem(status.as_u16(), &value))) }
    }
}

/// The token from the environment, the settings file, or beside the local database.
fn find_token(settings: &Settings) -> Result<String, Failure> {
    if let Ok(token) = std::env::var("POSTRIDER_API_TOKEN") {
        return Ok(token);
    }
    if let Some(token) = &settings.api_token {
        return Ok(token.0.clone());
    }
    let path = token::path_of(&settings.database()?);
    let kept = path.as_deref().map(token::read).transpose()?.flatten();
    kept.ok_or_else(|| {
        let looked = path.map_or(String::new(), |path| format!(" ({} is not there)", path.display()));
        Failure::Other(anyhow::anyhow!(
            "no token{looked}: set POSTRIDER_API_TOKEN, or name the server's database by --database-url"
        ))
    })
}

/// A problem (RFC 9457) in words.
fn problem(status: u16, value: &Value) -> String {
    let detail = value["detail"].as_str().or(value["title"].as_str()).unwrap_or("no reason given");
    format!("the server refused ({status}): {detail}")
}
