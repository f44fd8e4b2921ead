//! What the commands that show something have in common: which page of a list, and `--watch`.

use std::time::Duration;

use console::Term;
use reqwest::Method;
use serde_json::Value;

use crate::api::{Client, Parameter, query};
use crate::input;
use crate::output::{Failure, emit, print, table};
use crate::serve::stop_signal;

const EVERY: Duration = Duration::from_secs(2);

/// To look once, or until told to stop.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Look {
    /// Look again every two seconds, until Ctrl-C (with --json: a line each time)
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

/// To look at a page of a list.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    /// At most so many (250)
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    look: Look,
}

/// Of a list, what was made within a span of time.
#[derive(Debug, clap::Args)]
pub(crate) struct Span {
    /// Made from this time on, or so long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Made before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Span {
    pub(crate) fn parameters(&self) -> [Parameter; 2] {
        [
            ("since", self.since.as_deref().map(input::time)),
            ("until", self.until.as_deref().map(input::time)),
        ]
    }
}

impl Listing {
    /// Shows some fields of what is listed at `list`, by those filters that are given.
    pub(crate) async fn show(
        self,
        list: &str,
        filters: &[Parameter],
        columns: &[(&str, &str)],
    ) -> Result<(), Failure> {
        let page = [
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor),
        ];
        let path = query(list, filters.iter().chain(&page));
        self.look.show(&path, |answer| table(answer, columns)).await
    }
}

impl Look {
    /// Shows what is at `path`: once, or again and again.
    pub(crate) async fn show(
        &self,
        path: &str,
        human: impl Fn(&Value) -> String,
    ) -> Result<(), Failure> {
        let client = &self.client;
        if !self.watch {
            let answer = client.call(Method::GET, path, None).await?;
            print(&answer, client.json, human);
            return Ok(());
        }
        let connection = client.connect()?;
        let stop = stop_signal();
        tokio::pin!(stop);
        let mut seen = false;
        loop {
            let text = match connection.call(Method::GET, path, None).await {
                Ok(answer) if client.json => answer.to_string(),
                Ok(answer) => human(&answer),
                // A server that was there is likely to come back.
                Err(Failure::Unreachable(why)) if seen && !client.json => why,
                Err(Failure::Unreachable(_)) if seen => String::new(),
                Err(failure) => return Err(failure),
            };
            seen = true;
            draw(&text, client.json)?;
            tokio::select! {
                stopped = &mut stop => return stopped.map(|_| ()).map_err(Failure::Other),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}

/// On a terminal in the place of what was there before; elsewhere below it.
fn draw(text: &str, json: bool) -> Result<(), Failure> {
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
    let draw = || -> std::io::Result<()> {
        term.clear_screen()?;
        let room = usize::from(height).saturating_sub(2);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        for line in lines.iter().take(room) {
            term.write_line(line)?;
        }
        if lines.len() > room {
            term.write_line(&format!("… {} more", lines.len() - room))?;
        }
        term.flush()
    };
    draw().map_err(|error| Failure::Other(error.into()))
}
