//! The HTTP contract, call by call and error by error.

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

fn server() -> (tempfile::TempDir, Server, Api) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    (folder, server, api)
}

#[test]
fn every_error_of_publishing_is_a_problem_that_names_what_is_wrong() {
    let (_folder, _server, api) = server();
    let too_big = format!(r#"{{"type":"a.b","data":"{}"}}"#, "x".repeat(256 * 1024));
    let cases: &[(&str, u16, &str, &[&str])] = &[
        (r#"{"type":"a.b","data":1"#, 400, "malformed-json", &[]),
        (r#"{"type":"a.b","data":1} x"#, 400, "malformed-json", &[]),
        (r#"[1]"#, 422, "invalid", &[""]),
        (r#"{"data":1}"#, 422, "invalid", &["type"]),
        (r#"{"type":"a b","data":1}"#, 422, "invalid", &["type"]),
        (r#"{"type":"a..b","data":1}"#, 422, "invalid", &["type"]),
        (r#"{"type":7,"data":1}"#, 422, "invalid", &["type"]),
        (r#"{"type":"a.b"}"#, 422, "invalid", &["data"]),
        (
            r#"{"type":"a.b","data":1,"payload":"x","content_type":"a/b"}"#,
            422,
            "invalid",
            &["payload"],
        ),
        (
            r#"{"type":"a.b","payload":"x"}"#,
            422,
            "invalid",
            &["content_type"],
        ),
        (
            r#"{"type":"a.b","payload":"x","content_type":"a\r\nb/c"}"#,
            422,
            "invalid",
            &["content_type"],
        ),
        (
            r#"{"type":"a.b","data":1,"id":"a b"}"#,
            422,
            "invalid",
            &["id"],
        ),
        (
            r#"{"type":"a.b","data":1,"tenant":""}"#,
            422,
            "invalid",
            &["tenant"],
        ),
        (
            r#"{"type":"a.b","data":1,"tenant":"_postrider"}"#,
            422,
            "invalid",
            &["tenant"],
        ),
        (
            r#"{"type":"a.b","data":1,"ordering_key":""}"#,
            422,
            "invalid",
            &["ordering_key"],
        ),
        (
            r#"{"type":"a.b","data":1,"extra":1}"#,
            422,
            "invalid",
            &["extra"],
        ),
        (
            r#"{"type":"a.b","data":1,"data":2}"#,
            422,
            "invalid",
            &["data"],
        ),
        (
            r#"{"type":"a b","data":1,"id":"ü"}"#,
            422,
            "invalid",
            &["type", "id"],
        ),
        (&too_big, 413, "too-large", &[]),
    ];
    for (body, status, name, fields) in cases {
        let shown = &body[..body.len().min(80)];
        let answer = api.post("/events", body);
        assert_eq!(
            (answer.status, answer.problem()),
            (*status, *name),
            "{shown}: {}",
            answer.body
        );
        assert_eq!(answer.fields(), *fields, "{shown}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["status"], *status);
        assert!(answer.body["title"].is_string() && answer.body["detail"].is_string());
    }
    assert_eq!(
        api.get("/events").body["data"],
        json!([]),
        "nothing of it was stored"
    );
}

#[test]
fn every_error_of_a_batch_names_its_event() {
    let (_folder, _server, api) = server();
    assert_eq!(
        api.post("/events", r#"{"type":"a.b","data":1,"id":"taken"}"#)
            .status,
        202
    );
    let huge = format!(
        r#"{{"events":[{{"type":"a.b","data":"{}"}}]}}"#,
        "x".repeat(17 * 1024 * 1024)
    );
    let many = json!({"events": vec![json!({"type": "a.b", "data": 1}); 1001]}).to_string();
    let cases: &[(&str, u16, &str, &[&str])] = &[
        (r#"{"events":[]}"#, 422, "invalid", &["events"]),
        (r#"{}"#, 422, "invalid", &["events"]),
        (
            r#"{"events":[{"type":"a.b","data":1},{"type":"a b","data":1}]}"#,
            422,
            "invalid",
            &["events[1].type"],
        ),
        (
            r#"{"events":[{"type":"a.b","data":1},{"type":"a.b","data":1,"x":1}]}"#,
            422,
            "invalid",
            &["events[1].x"],
        ),
        (r#"{"events":[["a.b",1]]}"#, 422, "invalid", &["events[0]"]),
        (
            r#"{"events":[{"type":"a.b","data":1},{"data":1}]}"#,
            422,
            "invalid",
            &["events[1].type"],
        ),
        (
            r#"{"events":[{"type":"a.b","data":1},{"type":"a.b","data":2,"id":"taken"}]}"#,
            409,
            "event-id-conflict",
            &["events[1].id"],
        ),
        (&many, 422, "invalid", &["events"]),
        (&huge, 413, "too-large", &[]),
    ];
    for (body, status, name, fields) in cases {
        let shown = &body[..body.len().min(80)];
        let answer = api.post("/events/batch", body);
        assert_eq!(
            (answer.status, answer.problem()),
            (*status, *name),
            "{shown}: {}",
            answer.body
        );
        assert_eq!(answer.fields(), *fields, "{shown}: {}", answer.body);
    }
    assert_eq!(
        api.get("/events").body["data"].as_array().unwrap().len(),
        1,
        "all or none"
    );
    let good = r#"{"events":[{"type":"a.b","data":null},{"type":"a.b","data":1,"id":"taken"}]}"#;
    let answer = api.post("/events/batch", good);
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["data"][0]["duplicate"], false, "null is data");
    assert_eq!(answer.body["data"][1]["duplicate"], true);
}

#[test]
fn publishing_answers_as_promised_and_sends_the_bytes_as_they_came() {
    let (_folder, _server, api) = server();
    let receiver = Receiver::start();
    let endpoint = api.endpoint(&receiver.url("/ok"), "{}");
    let body = r#"{"type":"invoice.paid","data":{ "amount":1.20,"z":1,"a":2 },"id":"inv-1"}"#;
    let first = api.post("/events", body);
    assert_eq!(first.status, 202);
    assert_eq!(first.body["id"], "inv-1");
    assert_eq!(
        (&first.body["tenant"], &first.body["duplicate"]),
        (&json!("default"), &json!(false))
    );
    assert_eq!(first.body["deliveries"][0]["endpoint_id"], endpoint);
    let again = api.post("/events", body);
    assert_eq!(
        (again.status, &again.body["duplicate"]),
        (200, &json!(true))
    );
    assert_eq!(again.body["deliveries"], first.body["deliveries"]);
    let other = api.post(
        "/events",
        r#"{"type":"invoice.paid","data":{},"id":"inv-1"}"#,
    );
    assert_eq!(
        (other.status, other.problem(), other.fields()),
        (409, "event-id-conflict", vec!["id"])
    );

    let payload = r#"{"type":"raw","payload":"<a>\u00e9</a>","content_type":"application/xml"}"#;
    assert_eq!(api.post("/events", payload).status, 202);
    crate::support::until("both arrive", std::time::Duration::from_secs(10), || {
        receiver.got().len() == 2
    });
    let got = receiver.got();
    let sent = format!(
        r#"{{"type":"invoice.paid","timestamp":"{}","data":{{ "amount":1.20,"z":1,"a":2 }},"id":"inv-1"}}"#,
        first.text("created_at")
    );
    assert_eq!(got[0].body, sent);
    assert_eq!(
        (got[1].body.as_str(), got[1].header("content-type")),
        ("<a>é</a>", Some("application/xml"))
    );
    drop(got);

    let event = api.get("/events/inv-1");
    assert_eq!((event.status, event.text("body")), (200, sent));
    assert_eq!(event.body["deliveries"][0]["endpoint_id"], endpoint);
    assert_eq!(api.get("/events/inv-1?tenant=other").status, 404);
    assert_eq!(api.get("/events/nope").problem(), "not-found");
}

#[test]
fn every_error_of_an_endpoint_names_its_field() {
    let (_folder, _server, api) = server();
    let cases: &[(&str, u16, &[&str])] = &[
        ("{}", 422, &["url"]),
        (
            r#"{"concurrency":0,"rate_limit":"fast","headers":{"Webhook-Id":"x"}}"#,
            422,
            &["rate_limit", "url", "headers.Webhook-Id", "concurrency"],
        ),
        (r#"{"url":"not a url"}"#, 422, &["url"]),
        (r#"{"url":"ftp://a.example/"}"#, 422, &["url"]),
        (r#"{"url":"http://10.0.0.1/"}"#, 422, &["url"]),
        (r#"{"url":"http://169.254.169.254/latest"}"#, 422, &["url"]),
        (r#"{"url":"http://[::1]/"}"#, 422, &["url"]),
        (r#"{"url":"http://printer.local/"}"#, 422, &["url"]),
        (
            r#"{"url":"http://127.0.0.1/","ratelimit":1}"#,
            422,
            &["ratelimit"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","rate_limit":"10 per minute"}"#,
            422,
            &["rate_limit"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","concurrency":-1}"#,
            422,
            &["concurrency"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","headers":{"Host":"x"}}"#,
            422,
            &["headers.Host"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","secret":"short"}"#,
            422,
            &["secret"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","tenant":"a b"}"#,
            422,
            &["tenant"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","event_types":["a",7]}"#,
            422,
            &["event_types[1]"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","concurrency":1,"concurrency":2}"#,
            422,
            &["concurrency"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","headers":{"x-a":"1","x-a":"2"}}"#,
            422,
            &["headers.x-a"],
        ),
        (
            r#"{"url":"http://127.0.0.1/","timeout_ms":"soon"}"#,
            422,
            &["timeout_ms"],
        ),
        (r#"["http://127.0.0.1/"]"#, 422, &[""]),
        (r#"{"url"}"#, 400, &[]),
    ];
    for (body, status, fields) in cases {
        let answer = api.post("/endpoints", body);
        assert_eq!(answer.status, *status, "{body}: {}", answer.body);
        assert_eq!(answer.fields(), *fields, "{body}: {}", answer.body);
    }
    let blocked = api.post("/endpoints", r#"{"url":"http://10.0.0.1/"}"#);
    assert!(
        blocked.text("detail").contains("--allow-network"),
        "the 422 names the flag: {}",
        blocked.body
    );
    assert_eq!(api.get("/endpoints").body["data"], json!([]));
}

#[test]
fn an_endpoint_is_created_shown_changed_paused_rotated_and_deleted() {
    let (_folder, _server, api) = server();
    let full = json!({
        "url": "http://127.0.0.1:9/hook", "tenant": "default", "description": "d", "event_types": ["invoice.*"],
        "headers": {"X-Team": "billing"}, "rate_limit": "10/min", "concurrency": 3, "timeout_ms": 15000,
        "retry_delays_s": [10, 20, 40, 80], "max_age_s": 2_592_000, "breaker_after": 10,
        "ordering": "none", "on_failed": "block", "signing": ["v1"],
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    });
    let created = api.post("/endpoints", &full.to_string());
    assert_eq!(created.status, 201, "{}", created.body);
    assert_eq!(created.body["secret"], full["secret"]);
    let path = format!("/endpoints/{}", created.text("id"));
    let shown = api.get(&path);
    assert!(
        shown.body.get("secret").is_none(),
        "the creating answer alone shows it"
    );
    for (field, value) in full.as_object().unwrap() {
        match field.as_str() {
            "secret" => {}
            "headers" => assert_eq!(shown.body["headers"], json!({"x-team": "***"})),
            _ => assert_eq!(&shown.body[field], value, "{field}"),
        }
    }
    assert_eq!(
        (&shown.body["status"], &shown.body["pause_reason"]),
        (&json!("active"), &Value::Null)
    );
    for field in [
        "breaker",
        "consecutive_failures",
        "hold_until",
        "next_slot_at",
        "pending",
        "sending",
        "held",
        "oldest_pending_at",
        "estimated_drain_s",
    ] {
        assert!(shown.body["health"].get(field).is_some(), "health.{field}");
    }

    let changed = api.patch(&path, r#"{"concurrency":7,"rate_limit":"unlimited","description":null,"headers":{"x-team":"***","x-b":"2"}}"#);
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(
        (&changed.body["concurrency"], &changed.body["rate_limit"]),
        (&json!(7), &json!("unlimited"))
    );
    assert_eq!(
        changed.body["headers"],
        json!({"x-b": "***", "x-team": "***"})
    );
    assert_eq!(
        changed.body["event_types"],
        json!(["invoice.*"]),
        "absent: unchanged"
    );
    assert_eq!(
        api.patch(&path, r#"{"concurrency":null,"breaker_after":null}"#)
            .body["concurrency"],
        3
    );
    for (body, field) in [
        (r#"{"url":null}"#, "url"),
        (r#"{"secret":"x"}"#, "secret"),
        (r#"{"tenant":"x"}"#, "tenant"),
        (r#"{"nope":1}"#, "nope"),
        (r#"{"url":"http://10.0.0.1/"}"#, "url"),
    ] {
        let refused = api.patch(&path, body);
        assert_eq!(
            (refused.status, refused.fields()),
            (422, vec![field]),
            "{body}: {}",
            refused.body
        );
    }

    assert_eq!(changed.body["public_key"], Value::Null);
    let asymmetric = api.patch(&path, r#"{"signing":["v1a"]}"#);
    assert!(
        asymmetric.text("public_key").starts_with("whpk_"),
        "{}",
        asymmetric.body
    );
    assert_eq!(api.patch(&path, r#"{"signing":[]}"#).fields(), ["signing"]);

    for _ in 0..2 {
        let paused = api.post(&format!("{path}/pause"), "");
        assert_eq!(
            (
                paused.status,
                paused.text("status"),
                paused.text("pause_reason")
            ),
            (200, "paused".into(), "operator".into())
        );
    }
    assert_eq!(
        api.get("/endpoints?status=paused").body["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(api.get("/endpoints?status=active").body["data"], json!([]));
    assert_eq!(
        api.post(&format!("{path}/resume"), "").text("status"),
        "active"
    );

    let secret = |api: &Api| api.get(&format!("{path}/secret")).text("secret");
    assert_eq!(secret(&api), full["secret"]);
    let rotated = api.post(&format!("{path}/secret/rotate"), r#"{"grace_s":60}"#);
    assert_eq!(
        (rotated.status, rotated.text("secret")),
        (200, secret(&api))
    );
    assert_ne!(secret(&api), full["secret"]);
    assert_eq!(
        api.post(&format!("{path}/secret/rotate"), r#"{"grace_s":604801}"#)
            .fields(),
        ["grace_s"]
    );
    assert_eq!(
        api.post(&format!("{path}/secret/rotate"), r#"{"secret":"x"}"#)
            .fields(),
        ["secret"]
    );

    assert_eq!(api.post(&format!("{path}/test"), "").status, 202);
    assert_eq!(api.delete(&path).status, 204);
    assert_eq!(api.get(&path).status, 404);
    assert_eq!(api.delete(&path).status, 404);
    for action in ["pause", "resume", "test", "secret/rotate"] {
        assert_eq!(
            api.post(&format!("{path}/{action}"), "").status,
            404,
            "{action}"
        );
    }
}

#[test]
fn deliveries_are_shown_listed_retried_cancelled_and_refused() {
    let (_folder, _server, api) = server();
    // One each: a connection that another endpoint has made would be used again, and its time is
    // nobody's.
    let (receiver, broken) = (Receiver::start(), Receiver::start());
    let good = api.endpoint(
        &receiver.url("/ok"),
        r#"{"event_types":["good"],"headers":{"x-key":"s3cret"}}"#,
    );
    let bad = api.endpoint(
        &broken.url("/status/500"),
        r#"{"event_types":["bad"],"retry_delays_s":[]}"#,
    );
    let paused = api.endpoint(&receiver.url("/ok"), r#"{"event_types":["waits"]}"#);
    api.post(&format!("/endpoints/{paused}/pause"), "");
    let publish = |name: &str| {
        let answer = api.post("/events", &json!({"type": name, "data": 1}).to_string());
        answer.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (delivered, failed, waiting) = (publish("good"), publish("bad"), publish("waits"));
    let status = |id: &str| api.get(&format!("/deliveries/{id}")).text("status");
    crate::support::until("they end", std::time::Duration::from_secs(10), || {
        status(&delivered) == "delivered" && status(&failed) == "failed"
    });

    let shown = api.get(&format!("/deliveries/{delivered}")).body;
    let attempt = &shown["attempts"][0];
    for field in [
        "id",
        "number",
        "started_at",
        "duration_ms",
        "outcome",
        "status_code",
        "error",
        "response_body",
        "response_headers",
        "request_headers",
        "remote_address",
        "timings_ms",
    ] {
        assert!(attempt.get(field).is_some(), "attempts[0].{field}");
    }
    assert_eq!(
        attempt["request_headers"]["x-key"], "***",
        "no secret is shown"
    );
    assert_eq!(
        receiver.at("/ok")[0].header("x-key"),
        Some("s3cret"),
        "and it is sent"
    );
    let timings = &attempt["timings_ms"];
    assert_eq!(
        timings["dns"],
        Value::Null,
        "an address needs no name server"
    );
    let (connect, first_byte) = (
        timings["connect"].as_f64().unwrap(),
        timings["first_byte"].as_f64().unwrap(),
    );
    assert!(
        0.0 < connect
            && connect <= first_byte
            && first_byte <= attempt["duration_ms"].as_f64().unwrap()
    );
    let shown = api.get(&format!("/deliveries/{failed}")).body;
    assert_eq!(
        (
            &shown["failure_reason"],
            &shown["attempts"][0]["response_body"]
        ),
        (&json!("retries_exhausted"), &json!("as you wish"))
    );
    assert_eq!(
        api.get(&format!("/deliveries/{waiting}"))
            .text("waiting_for"),
        "paused"
    );

    let listed = |query: &str| -> Vec<String> {
        let answer = api.get(&format!("/deliveries?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let ids = answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(
        listed(""),
        [waiting.clone(), failed.clone(), delivered.clone()],
        "newest first"
    );
    assert_eq!(listed(&format!("endpoint_id={bad}")), vec![failed.clone()]);
    assert_eq!(listed("status=pending"), vec![waiting.clone()]);
    assert_eq!(
        listed(&format!("endpoint_id={good}&status=failed")),
        Vec::<String>::new()
    );
    assert_eq!(
        listed("since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z"),
        Vec::<String>::new()
    );
    assert_eq!(listed("tenant=other"), Vec::<String>::new());
    let page = api.get("/deliveries?limit=2");
    let cursor = page.text("next_cursor");
    assert_eq!(
        listed(&format!("limit=2&cursor={cursor}")),
        vec![delivered.clone()]
    );

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=251", "limit"),
        ("cursor=zzz", "cursor"),
        ("status=lost", "status"),
        ("since=yesterday", "since"),
        ("sort=asc", "sort"),
        ("limit=1&limit=2", "limit"),
    ] {
        let answer = api.get(&format!("/deliveries?{query}"));
        assert_eq!(
            (answer.status, answer.fields()),
            (422, vec![field]),
            "{query}"
        );
    }

    for path in ["/endpoints/x", "/deliveries/x"] {
        assert_eq!(
            api.get(&format!("{path}?verbose=1")).fields(),
            ["verbose"],
            "{path}"
        );
    }
    assert_eq!(
        api.post("/events?dry_run=1", r#"{"type":"a.b","data":1}"#)
            .fields(),
        ["dry_run"]
    );

    assert_eq!(
        api.get(&format!("/events?cursor={cursor}")).fields(),
        ["cursor"],
        "another list's"
    );
    assert_eq!(
        api.get("/events?cursor=MTpldmVudHM6YWJj").fields(),
        ["cursor"],
        "its key is no number"
    );
    let paused_by = api.post(
        &format!("/endpoints/{good}/pause"),
        r#"{"until":"2030-01-01T00:00:00Z"}"#,
    );
    assert_eq!((paused_by.status, paused_by.fields()), (422, vec!["until"]));
    assert_eq!(
        api.post(&format!("/endpoints/{good}/resume"), "{}").status,
        200
    );

    let post = |id: &str, action: &str| api.post(&format!("/deliveries/{id}/{action}"), "");
    assert_eq!(post(&waiting, "retry").status, 409);
    assert_eq!(post(&delivered, "cancel").problem(), "state-conflict");
    assert_eq!(post(&delivered, "release").status, 409);
    let cancelled = post(&waiting, "cancel");
    assert_eq!(
        (cancelled.status, cancelled.text("failure_reason")),
        (200, "cancelled".into())
    );
    assert_eq!(post(&delivered, "retry").status, 202, "a resend");
    crate::support::until(
        "it is sent again",
        std::time::Duration::from_secs(10),
        || receiver.at("/ok").len() == 2,
    );
    for action in ["retry", "cancel", "release"] {
        assert_eq!(post("dlv_nope", action).status, 404);
    }
    api.delete(&format!("/endpoints/{bad}"));
    assert_eq!(post(&failed, "retry").status, 409, "nothing would send it");
}

#[test]
fn the_token_is_always_asked_for_and_other_things_are_told_apart() {
    let (_folder, _server, api) = server();
    let token = format!("Bearer {}", api.token);
    let json = ("content-type", "application/json");
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>| {
        api.try_request(method, path, headers, body.map(str::to_owned))
            .unwrap()
    };
    for path in [
        "/api/v1/events",
        "/api/v1/endpoints",
        "/api/v1/deliveries/x",
        "/api/v1/nope",
        "/metrics",
    ] {
        for wrong in [
            None,
            Some("Bearer nope"),
            Some("Bearer "),
            Some("Basic abc"),
            Some(&*api.token),
        ] {
            let headers: Vec<_> = wrong
                .iter()
                .map(|value| ("authorization", *value))
                .collect();
            let answer = ask("GET", path, &headers, None);
            assert_eq!(
                (answer.status, answer.problem()),
                (401, "unauthorized"),
                "{path} {wrong:?}"
            );
        }
    }
    assert_eq!(ask("GET", "/healthz", &[], None).status, 200);
    assert_eq!(ask("GET", "/readyz", &[], None).status, 200);
    assert_eq!(ask("HEAD", "/healthz", &[], None).status, 200);
    assert_eq!(ask("HEAD", "/readyz", &[], None).status, 200);
    assert_eq!(
        ask("POST", "/healthz", &[], None).problem(),
        "method-not-allowed"
    );
    assert_eq!(
        ask("POST", "/metrics", &[("authorization", &token)], None).problem(),
        "method-not-allowed"
    );
    assert_eq!(
        ask("GET", "/metrics", &[("authorization", &token)], None).status,
        200
    );
    assert_eq!(ask("GET", "/nope", &[], None).problem(), "not-found");
    let auth = ("authorization", token.as_str());
    assert_eq!(
        ask("GET", "/api/v1/nope", &[auth], None).problem(),
        "not-found"
    );
    let refused = ask("DELETE", "/api/v1/events", &[auth], None);
    assert_eq!(
        (refused.problem(), &refused.headers["allow"]),
        ("method-not-allowed", &"POST, GET, HEAD".parse().unwrap())
    );
    let event = Some(r#"{"type":"a.b","data":1}"#);
    assert_eq!(
        ask("POST", "/api/v1/events", &[auth], event).problem(),
        "unsupported-media-type"
    );
    assert_eq!(
        ask(
            "POST",
            "/api/v1/events",
            &[auth, ("content-type", "text/plain")],
            event
        )
        .status,
        415
    );
    assert_eq!(
        ask(
            "POST",
            "/api/v1/events",
            &[auth, ("content-type", "application/json; charset=utf-8")],
            event
        )
        .status,
        202
    );
    assert_eq!(
        ask("POST", "/api/v1/events", &[auth, json], Some("")).status,
        422
    );
}

#[test]
fn an_operators_settings_bind_what_endpoints_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(
        folder.path(),
        &["--https-only", "--event-id-header", "X-Acme-Event-Id"],
    );
    let api = server.api();
    assert_eq!(
        api.post("/endpoints", r#"{"url":"http://127.0.0.1:9/"}"#)
            .fields(),
        ["url"]
    );
    let body = r#"{"url":"https://127.0.0.1:9/","headers":{"x-acme-EVENT-id":"mine"}}"#;
    let refused = api.post("/endpoints", body);
    assert_eq!(
        (refused.status, refused.fields()),
        (422, vec!["headers.x-acme-event-id"]),
        "{}",
        refused.body
    );
    let endpoint = api.endpoint("https://127.0.0.1:9/", r#"{"headers":{"x-other":"1"}}"#);
    let path = format!("/endpoints/{endpoint}");
    assert_eq!(
        api.patch(&path, r#"{"headers":{"X-Acme-Event-Id":"1"}}"#)
            .status,
        422
    );
    assert_eq!(
        api.patch(&path, r#"{"url":"http://127.0.0.1:9/"}"#)
            .fields(),
        ["url"]
    );
    assert_eq!(
        api.patch(&path, r#"{"headers":{"x-other":"***"}}"#).status,
        200
    );
}
