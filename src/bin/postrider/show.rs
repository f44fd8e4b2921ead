//! The parts that the viewing commands share: pages of a list, time ranges, and `--watch`.

use std::time::Duration;

use console::Term;
use reqwest::Method;
use serde_json::Value;

use crate::api::{ApiClient, ClientArgs, Parameter, query};
use crate::input;
use crate::output::{CommandError, emit, print, rows, table};
use crate::progress::progress;
use crate::serve::stop_signal;

const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// Number of entries of a page without `limit`.
const DEFAULT_LIMIT: usize = 50;

/// Shows a resource once, or until Ctrl-C.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct View {
    /// Refresh every two seconds until Ctrl-C (with --json: one line per refresh)
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Shows a page of a list.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    /// Maximum number of results (up to 250) [default: 50]
    #[arg(long)]
    limit: Option<u32>,
    /// Cursor printed by the previous page
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    view: View,
}

/// Limits a list to resources created in a time range.
#[derive(Debug, clap::Args)]
pub(crate) struct TimeRange {
    /// Created at or after this time, or within this duration (2h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Created before this time, or longer ago than this duration (2h)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl TimeRange {
    pub(crate) fn parameters(&self) -> [Parameter; 2] {
        [
            ("since", self.since.as_deref().map(input::time)),
            ("until", self.until.as_deref().map(input::time)),
        ]
    }
}

impl Listing {
    /// Shows the given columns of the list at `path`, restricted by the filters that are set.
    pub(crate) async fn show(
        self,
        path: &str,
        filters: &[Parameter],
        columns: &[(&str, &str)],
    ) -> Result<(), CommandError> {
        let page = [
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor),
        ];
        let path = query(path, filters.iter().chain(&page));
        self.view.show(&path, |answer| table(answer, columns)).await
    }
}

impl View {
    /// Shows the resource at `path` once, or with `--watch` until Ctrl-C.
    pub(crate) async fn show(
        &self,
        path: &str,
        human: impl Fn(&Value) -> String,
    ) -> Result<(), CommandError> {
        let client = &self.client;
        if !self.watch {
            let answer = read(&client.connect()?, path).await?;
            print(&answer, client.json, human);
            return Ok(());
        }
        let api = client.connect()?;
        let stop = stop_signal();
        tokio::pin!(stop);
        let mut was_reached = false;
        loop {
            let text = match read(&api, path).await {
                Ok(answer) if client.json => answer.to_string(),
                Ok(answer) => human(&answer),
                // A server that answered before is probably restarting: keep refreshing.
                Err(CommandError::Unreachable(why)) if was_reached && !client.json => why,
                Err(CommandError::Unreachable(_)) if was_reached => String::new(),
                Err(error) => return Err(error),
            };
            was_reached = true;
            draw(&text, client.json)?;
            tokio::select! {
                stopped = &mut stop => return stopped.map(|_| ()).map_err(CommandError::Other),
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            }
        }
    }
}

/// Reads a resource. A page of a list that the server has ended before it was full is continued.
async fn read(api: &ApiClient, path: &str) -> Result<Value, CommandError> {
    let mut answer = api.call(Method::GET, path, None).await?;
    let limit = parameter(path, "limit").and_then(|limit| limit.parse().ok());
    let limit: usize = limit.unwrap_or(DEFAULT_LIMIT);
    let search = progress(None, "searching");
    while let Some(back) = answer["searched_back_to"].as_str()
        && let Some(cursor) = answer["next_cursor"].as_str()
        && let missing = limit.saturating_sub(rows(&answer).len())
        && missing > 0
    {
        search.set_message(format!("searched back to {back}"));
        let next = with_parameters(path, &[("limit", &missing.to_string()), ("cursor", cursor)]);
        let mut next = api.call(Method::GET, &next, None).await?;
        let mut all = rows(&answer).to_vec();
        all.extend_from_slice(rows(&next));
        next["data"] = all.into();
        answer = next;
    }
    search.finish_and_clear();
    Ok(answer)
}

/// Returns a query parameter of a path.
fn parameter(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut all = url::form_urlencoded::parse(query.as_bytes());
    all.find(|(one, _)| one == name)
        .map(|(_, value)| value.into_owned())
}

/// Returns a path with other values of query parameters.
fn with_parameters(path: &str, changed: &[(&str, &str)]) -> String {
    let (base, query) = path.split_once('?').unwrap_or((path, ""));
    let kept = url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| changed.iter().all(|(other, _)| name != other));
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(kept).extend_pairs(changed);
    format!("{base}?{}", query.finish())
}

/// Replaces the previous output on a terminal; appends to it elsewhere.
fn draw(text: &str, json: bool) -> Result<(), CommandError> {
    let term = Term::buffered_stdout();
    let size = term.size_checked();
    let (true, false, Some((height, _))) = (term.is_term(), json, size) else {
        match (json, text.is_empty()) {
            (_, true) => {}
            (true, false) => emit(text),
            (false, false) => emit(&format!("{}\n ", text.trim_end())),
        }
        return Ok(());
    };
    redraw(&term, text, usize::from(height)).map_err(|error| CommandError::Other(error.into()))
}

/// Clears the terminal and writes as many lines as fit.
fn redraw(term: &Term, text: &str, height: usize) -> std::io::Result<()> {
    term.clear_screen()?;
    let room = height.saturating_sub(2);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    for line in lines.iter().take(room) {
        term.write_line(line)?;
    }
    if lines.len() > room {
        term.write_line(&format!("… {} more", lines.len() - room))?;
    }
    term.flush()
}
