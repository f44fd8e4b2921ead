//! The work of an operator: signs in, finds failing endpoints and the reason, pauses, resumes,
//! retries and recovers.

use serde_json::json;

use super::{publish, until_all};
use crate::support::browser::Browser;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

#[test]
fn an_operator_finds_failing_endpoints_and_sees_the_recovery_without_a_reload() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let settings = json!({"description": "the shop's orders", "rate_limit": "unlimited", "retry_delays_s": [], "breaker_after": 3});
    let endpoint = api.endpoint(&receiver.url("/recovers/3"), &settings.to_string());
    let failed: Vec<_> = ["order.paid", "order.sent", "order.closed"]
        .map(|kind| publish(&api, "default", kind, &json!({"n": 1})))
        .into();
    until_all(&api, &failed, "failed");

    browser.open(&format!("{}/", server.base));
    browser.fill("[data-testid=token-input]", "prt_this_is_not_it");
    browser.click("[data-testid=sign-in]");
    browser.sees("[data-field=token] .field-error", "Invalid token");
    assert_eq!(
        browser.count("[data-testid=live-state]"),
        0,
        "shown without a session"
    );
    browser.sign_in(&server.base, &api.token);
    assert!(!browser.address().contains(&api.token) && browser.run("return document.cookie") == "");
    assert_eq!(
        browser
            .run("return JSON.stringify([Object.keys(localStorage), Object.keys(sessionStorage)])"),
        "[[],[]]"
    );

    // The overview shows the endpoint, the reason and the remedy.
    let row = format!("[data-testid=trouble-row][data-endpoint-id={endpoint}]");
    browser.sees(&row, "Breaker open");
    for part in [
        "/recovers/3",
        "the shop's orders",
        "Opened after 3 consecutive failures",
        "fix the receiver",
    ] {
        browser.sees(&row, part);
    }
    browser.sees(".tile:first-child", "3 of 3 attempts failed");

    // On the endpoint's page: pause and resume, which closes the breaker.
    browser.click(&format!("{row} .trouble-head a"));
    browser.sees("[data-testid=endpoint-state]", "Breaker open");
    browser.click("[data-testid=endpoint-pause]");
    browser.sees("[data-testid=endpoint-state]", "Paused");
    browser.sees(".state-words .why", "Paused by an operator");
    assert_eq!(
        api.get(&format!("/endpoints/{endpoint}")).body["status"],
        "paused"
    );
    browser.click("[data-testid=endpoint-resume]");
    browser.sees("[data-testid=endpoint-state]", "Active");
    assert_eq!(
        api.get(&format!("/endpoints/{endpoint}")).body["health"]["breaker"],
        "closed"
    );

    // A failed delivery, its attempt, and the receiver's response.
    browser.click("[data-testid=nav-deliveries]");
    browser.click(&format!("[data-delivery-id={}] a", failed[0]));
    browser.sees("h1", "order.paid");
    browser.sees("[data-testid=delivery-state]", "Failed");
    browser.sees(".state-words .why", "All retries failed");
    browser.sees("[data-testid=attempt-row]", "HTTP 500");
    browser.click("[data-testid=attempt-row] summary");
    browser.sees("[data-testid=attempt-row] pre", "webhook-id");
    browser.sees("section > .payload", "order.paid");

    // The receiver has recovered: the page updates automatically.
    browser.click("[data-testid=delivery-retry]");
    browser.sees("[data-testid=delivery-state]", "Delivered");
    browser.sees("[data-testid=attempt-row]:nth-child(2)", "HTTP 200");
    assert_eq!(
        browser.count("[data-testid=attempt-row] details[open]"),
        1,
        "an open attempt stays open"
    );

    // The other two are recovered.
    browser.go(&format!("/endpoints/{endpoint}"));
    browser.click("[data-testid=recover-preview]");
    browser.sees("[data-testid=recover-preview-count]", "2");
    browser.click("[data-testid=recover-start]");
    browser.sees(
        "[data-testid=recover-progress]",
        "Done: 2 deliveries found, 2 queued",
    );
    until_all(&api, &failed, "delivered");
    for id in &failed {
        browser.sees(&format!("[data-delivery-id={id}] .badge"), "Delivered");
    }
    browser.go("/");
    browser.sees(".all-well", "No endpoints need attention");
    // All of this happened in one document, without errors.
    assert_eq!(browser.told(), Vec::<String>::new());
    assert_eq!(
        browser.run("return performance.getEntriesByType('navigation')[0].type"),
        "navigate"
    );

    // After signing out nothing is shown: not via the URL, a reload or the back button.
    browser.go("/deliveries");
    browser.sees("[data-testid=delivery-row]", "order");
    browser.click("[data-testid=sign-out]");
    let nothing = || {
        browser.sees("h1", "Sign in");
        assert_eq!(
            browser.count(
                "[data-testid=delivery-row], [data-testid=nav-overview], [data-testid=live-state]"
            ),
            0
        );
        assert!(
            !browser.text("body").contains("order."),
            "{}",
            browser.text("body")
        );
    };
    nothing();
    browser.go(&format!("/endpoints/{endpoint}"));
    nothing();
    browser.reload();
    nothing();
    browser.back();
    nothing();
    browser.open(&format!("{}/api/v1/endpoints", server.base));
    assert!(
        browser.text("body").contains("unauthorized"),
        "{}",
        browser.text("body")
    );
}

#[test]
fn a_read_only_token_sees_no_actions() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let endpoint = api.endpoint(&receiver.url("/ok"), "{}");
    let delivery = publish(&api, "default", "order.paid", &json!(1));
    until_all(&api, std::slice::from_ref(&delivery), "delivered");
    let token = api
        .post("/tokens", r#"{"name":"reader","scope":"read"}"#)
        .text("token");
    browser.sign_in(&server.base, &token);
    browser.sees(".bar-end", "read-only");
    browser.go(&format!("/endpoints/{endpoint}"));
    browser.sees("[data-testid=endpoint-state]", "Active");
    browser.sees("[data-testid=delivery-row]", "order.paid");
    let actions =
        "[data-testid^=endpoint-]:is(button), [data-testid^=secret-], [data-testid^=recover-]";
    assert_eq!(browser.count(actions), 0);
    assert_eq!(
        browser.count("form.settings :is(input, select, textarea):not(:disabled)"),
        0
    );
    browser.go(&format!("/deliveries/{delivery}"));
    browser.sees("[data-testid=delivery-state]", "Delivered");
    assert_eq!(
        browser.count("[data-testid=delivery-retry], [data-testid=delivery-cancel]"),
        0
    );
    assert_eq!(browser.told(), Vec::<String>::new());
}
