//! The dashboard's files, and the parts of the API made for them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

#[test]
fn files_are_served_with_a_strict_policy_and_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        (
            "/assets/views/overview.js",
            "text/javascript; charset=utf-8",
        ),
        ("/assets/style.css", "text/css; charset=utf-8"),
    ] {
        let answer = api.try_request("GET", path, &[], None).unwrap();
        assert_eq!(
            (answer.status, answer.header("content-type").as_str()),
            (200, media_type),
            "{path}"
        );
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        let etag = answer.header("etag");
        let again = api
            .try_request("GET", path, &[("if-none-match", &etag)], None)
            .unwrap();
        assert_eq!(again.status, 304, "{path}");
    }
    for path in [
        "/assets/none.js",
        "/assets/../mod.rs",
        "/assets/%2e%2e/mod.rs",
    ] {
        assert_eq!(
            api.try_request("GET", path, &[], None).unwrap().status,
            404,
            "{path}"
        );
    }
}

#[test]
fn overview_and_statistics_count_attempts_and_list_troubled_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let good = api.endpoint(
        &receiver.url("/ok"),
        r#"{"event_types":["a.good"],"rate_limit":"unlimited"}"#,
    );
    let bad = r#"{"event_types":["a.bad"],"rate_limit":"unlimited","concurrency":1,"retry_delays_s":[],"breaker_after":2}"#;
    let bad = api.endpoint("http://127.0.0.1:9/", bad);
    for kind in ["good", "good", "good", "bad", "bad", "bad"] {
        api.post(
            "/events",
            &json!({"type": format!("a.{kind}"), "data": 1}).to_string(),
        );
    }
    let stats = |id: &str| api.get(&format!("/endpoints/{id}/stats?window=1h")).body;
    until("all three arrive", Duration::from_secs(20), || {
        stats(&good)["deliveries"]["delivered"] == 3
    });
    until("two fail", Duration::from_secs(20), || {
        stats(&bad)["deliveries"]["failed"] == 2
    });
    let (well, ill) = (stats(&good), stats(&bad));
    assert_eq!(
        (&well["success_rate"], &well["attempts"]),
        (&json!(1.0), &json!(3)),
        "{well}"
    );
    assert!(well["duration_ms"]["p50"].as_f64().unwrap() > 0.0, "{well}");
    let series = well["series"].as_array().unwrap();
    let sum: u64 = series
        .iter()
        .map(|bucket| bucket["delivered"].as_u64().unwrap())
        .sum();
    assert_eq!((series.len(), sum), (30, 3), "{well}");
    assert_eq!(
        (&ill["success_rate"], &ill["outcomes"]["connect_error"]),
        (&json!(0.0), &json!(2)),
        "{ill}"
    );

    let overview = api.get("/overview?tenant=default").body;
    assert_eq!(
        overview["endpoints"],
        json!({"total": 2, "active": 1, "paused": 0, "failing": 1}),
        "{overview}"
    );
    assert_eq!(
        overview["attempts"],
        json!({"total": 5, "delivered": 3, "failed": 2}),
        "{overview}"
    );
    assert_eq!(overview["troubled"][0]["id"], json!(bad), "{overview}");
    assert_eq!(overview["waiting"], 1, "{overview}");
    assert_eq!(api.get("/overview").body["attempts"]["total"], 5);
    assert_eq!(
        api.get("/overview?tenant=other").body["endpoints"]["total"],
        0
    );
    assert_eq!(
        api.get(&format!("/endpoints/{good}/stats?window=2y"))
            .fields(),
        ["window"]
    );

    let found = |text: &str| {
        let listed = api.get(&format!("/endpoints?search={text}"));
        listed.body["data"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(
        (
            found("127.0.0.1:9%2F"),
            found("HTTP"),
            found("%25"),
            found("_")
        ),
        (1, 2, 0, 0)
    );

    let span = json!({"since": "2026-01-01T00:00:00Z", "include": "all"}).to_string();
    let preview = api.post(&format!("/endpoints/{bad}/recover/preview"), &span);
    // The endpoint is not subscribed to the other events.
    assert_eq!(
        (preview.status, &preview.body),
        (200, &json!({"failed": 2, "missing": 0, "capped": false}))
    );
}

#[test]
fn a_failing_endpoint_is_listed_first_even_before_its_breaker_opens() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    for n in 0..25 {
        let late =
            json!({"tenant": "other", "rate_limit": "1/h", "event_types": [format!("late.n{n}")]});
        api.endpoint(&receiver.url("/ok"), &late.to_string());
        let one = json!({"type": format!("late.n{n}"), "data": 1, "tenant": "other"});
        api.post("/events/batch", &json!({"events": [one, one]}).to_string());
    }
    let fails = r#"{"tenant":"shop","breaker_after":0,"retry_delays_s":[]}"#;
    let bad = api.endpoint("http://127.0.0.1:9/", fails);
    api.post("/events", r#"{"type":"a.b","data":1,"tenant":"shop"}"#);
    until("its failure is listed", Duration::from_secs(20), || {
        let overview = api.get("/overview?tenant=shop").body;
        overview["attempts"]["failed"] == 1 && overview["troubled"][0]["id"] == json!(bad)
    });
    until("it is listed first", Duration::from_secs(20), || {
        api.get("/overview").body["troubled"][0]["id"] == json!(bad)
    });
}

#[test]
fn a_stream_ends_when_its_token_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let made = api.post("/tokens", r#"{"name":"t","scope":"read","tenant":"mine"}"#);
    let (id, token) = (made.text("id"), made.text("token"));
    let mut stream = TcpStream::connect(api.base.trim_start_matches("http://")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET /api/v1/stream HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line == "event: overview")
    );
    assert_eq!(api.delete(&format!("/tokens/{id}")).status, 204);
    let broken = lines.find_map(Result::err);
    assert!(broken.is_none(), "the stream did not end: {broken:?}");
}

#[test]
fn a_tenants_stream_contains_only_its_own_deliveries_and_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let mine = json!({"tenant": "mine", "rate_limit": "unlimited"}).to_string();
    let endpoint = api.endpoint(&receiver.url("/ok"), &mine);
    let other = api.endpoint(
        &receiver.url("/ok"),
        r#"{"tenant":"other","rate_limit":"unlimited"}"#,
    );
    let token = api
        .post("/tokens", r#"{"name":"t","scope":"read","tenant":"mine"}"#)
        .text("token");
    let address = api.base.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET /api/v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().contains("200"));
    assert!(
        lines.any(|line| line == "event: overview"),
        "the stream starts with an overview"
    );
    for tenant in ["other", "mine"] {
        api.post(
            "/events",
            &json!({"type": "a.b", "data": 1, "tenant": tenant}).to_string(),
        );
    }
    assert!(lines.any(|line| line == "event: delivery"));
    let data = lines.next().unwrap();
    let listed = api.get("/deliveries?tenant=mine");
    let id = listed.body["data"][0]["id"].as_str().unwrap();
    assert!(
        data.contains(id) && data.contains("delivered"),
        "{data} is not about {id}"
    );

    for paused in [&other, &endpoint] {
        api.post(&format!("/endpoints/{paused}/pause"), "");
    }
    assert!(lines.any(|line| line == "event: endpoint"));
    let changed: Value =
        serde_json::from_str(lines.next().unwrap().trim_start_matches("data: ")).unwrap();
    let outline = json!({"id": endpoint, "status": "paused", "pause_reason": "operator", "breaker": "closed"});
    assert_eq!(changed, outline);
}
