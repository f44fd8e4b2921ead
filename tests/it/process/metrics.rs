//! `/metrics` of the real server, as Prometheus reads it; and the dashboard and the alerts that are
//! made of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::api::{Answer, Api};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(file)
}

/// A server that has done a little of everything.
fn server(folder: &Path) -> Server {
    let server = Server::start(folder, &[]);
    let api = server.api();
    let receiver = Receiver::start();
    api.endpoint(&receiver.url("/ok/hook"), "{}");
    for id in ["e1", "e1", "e2"] {
        api.post(
            "/events",
            &format!(r#"{{"type":"a.b","data":1,"id":"{id}"}}"#),
        );
    }
    server
}

fn scrape(api: &Api, accept: &str) -> Answer {
    let bearer = format!("Bearer {}", api.token);
    let headers = [("authorization", bearer.as_str()), ("accept", accept)];
    let answer = api.try_request("GET", "/metrics", &headers, None).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// `promtool`, which reads as strictly as Prometheus does. `None` where it is not installed, which
/// is loud, and a failure under CI.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "promtool is needed (package prometheus): {error}"
            );
            eprintln!("SKIPPED: no promtool is installed (package prometheus)");
            return None;
        }
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Some((output.status.success(), told.concat()))
}

#[test]
fn prometheus_reads_the_metrics_in_the_format_that_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let api = server.api();
    let text = scrape(&api, "*/*");
    assert_eq!(
        text.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = text.body.as_str().unwrap();
    assert!(
        text.contains("# TYPE postrider_events_total counter\npostrider_events_total 2\n"),
        "{text}"
    );
    if let Some((well, told)) = promtool(&["check", "metrics"], text) {
        assert!(well && told.trim().is_empty(), "{told}\nof\n{text}");
        let (well, _) = promtool(&["check", "metrics"], "postrider_events_total{ 2\n").unwrap();
        assert!(!well, "it would have told");
    }

    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let open = scrape(&api, prometheus);
    let is = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.headers["content-type"], is);
    let open = open.body.as_str().unwrap();
    assert!(
        open.contains("# TYPE postrider_events counter\npostrider_events_total 2\n"),
        "{open}"
    );
    assert!(
        open.ends_with("# EOF\n") && open.matches("# EOF").count() == 1,
        "{open}"
    );
    let names = |text: &str| -> BTreeSet<String> { samples(text).map(str::to_owned).collect() };
    assert_eq!(names(text), names(open), "one has what the other has");
}

/// The names of all samples.
fn samples(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap())
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text
        .split(|c| !word(c))
        .filter(|word| word.starts_with("postrider_"));
    words.map(str::to_owned).collect()
}

/// The expressions of every panel and variable.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone())
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|one| expressions(one, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_the_alerts_and_their_page_name_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let text = scrape(&server.api(), "*/*")
        .body
        .as_str()
        .unwrap()
        .to_owned();
    let there: BTreeSet<String> = samples(&text).map(str::to_owned).collect();
    let read = |file: &str| std::fs::read_to_string(docs(file)).unwrap();

    let grafana: Value = serde_json::from_str(&read("monitoring/grafana.json")).unwrap();
    let mut panels = Vec::new();
    expressions(&grafana, &mut panels);
    assert!(
        panels.len() > 20,
        "only {} expressions were found",
        panels.len()
    );
    let alerts = read("monitoring/alerts.yml");
    for (file, text) in [
        ("grafana.json", panels.join("\n")),
        ("alerts.yml", alerts.clone()),
    ] {
        let names = named(&text);
        assert!(names.len() > 10, "{file} names {names:?}");
        let missing: Vec<_> = names.difference(&there).collect();
        assert!(
            missing.is_empty(),
            "{file} names what does not exist: {missing:?}\n{text}"
        );
    }

    // The page lists each, under the name that a query uses; a histogram under its family's.
    let page = named(&read("monitoring.md"));
    let parts = ["_bucket", "_sum", "_count"];
    let family = |name: &str| {
        parts
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name)
            .to_owned()
    };
    let families: BTreeSet<String> = there.iter().map(|name| family(name)).collect();
    let unlisted: Vec<_> = families.difference(&page).collect();
    assert!(
        unlisted.is_empty(),
        "docs/monitoring.md does not list {unlisted:?}"
    );
    let unknown: Vec<_> = page
        .iter()
        .filter(|name| !families.contains(&family(name)))
        .collect();
    assert!(
        unknown.is_empty(),
        "docs/monitoring.md lists what does not exist: {unknown:?}"
    );

    let rules = docs("monitoring/alerts.yml");
    if let Some((well, told)) = promtool(&["check", "rules", rules.to_str().unwrap()], "") {
        assert!(well, "{told}");
    }
}

#[test]
fn a_trace_of_a_request_goes_on_to_the_receiver_and_one_that_is_none_hinders_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let receiver = Receiver::start();
    api.endpoint(&receiver.url("/ok/hook"), r#"{"rate_limit":"unlimited"}"#);
    let bearer = format!("Bearer {}", api.token);
    let trace = |n: u8| format!("00-4bf92f3577b34da6a3ce929d0e0e47{n:02}-00f067aa0ba902b7-01");
    let publish = |path: &str, parent: &str, body: &str| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("traceparent", parent),
        ];
        let answer = api
            .try_request(
                "POST",
                &format!("/api/v1{path}"),
                &headers,
                Some(body.into()),
            )
            .unwrap();
        assert_eq!(answer.status, 202, "{}", answer.body);
    };
    publish(
        "/events",
        &trace(1),
        r#"{"type":"a.b","data":1,"id":"single"}"#,
    );
    publish(
        "/events/batch",
        &trace(2),
        r#"{"events":[{"type":"a.b","data":1,"id":"batch"}]}"#,
    );
    publish(
        "/events",
        "00-zz",
        r#"{"type":"a.b","data":1,"id":"broken"}"#,
    );
    until("all three arrive", Duration::from_secs(10), || {
        receiver.got().len() == 3
    });
    let got = receiver.got().clone();
    let parent_of = |id: &str| {
        let one = got
            .iter()
            .find(|one| one.header("webhook-id") == Some(id))
            .unwrap();
        one.header("traceparent")
            .map(|parent| parent[..35].to_owned())
    };
    assert_eq!(parent_of("single").unwrap(), trace(1)[..35]);
    assert_eq!(parent_of("batch").unwrap(), trace(2)[..35]);
    assert_eq!(parent_of("broken"), None);
}
