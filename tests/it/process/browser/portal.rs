//! A tenant's portal link shows the tenant's own data and nothing of other tenants.

use serde_json::json;

use super::{ONCE, publish, until_all};
use crate::support::api::Api;
use crate::support::browser::Browser;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

/// An endpoint of a tenant, and a delivery to it.
struct Theirs {
    endpoint: String,
    delivery: String,
}

impl Theirs {
    fn of(api: &Api, receiver: &Receiver, tenant: &str) -> Self {
        let mut settings: serde_json::Value = serde_json::from_str(ONCE).unwrap();
        settings["tenant"] = tenant.into();
        settings["description"] = format!("endpoint of {tenant}").into();
        let endpoint = api.endpoint(
            &receiver.url(&format!("/ok/{tenant}")),
            &settings.to_string(),
        );
        let delivery = publish(
            api,
            tenant,
            &format!("{tenant}.happened"),
            &json!({"of": tenant}),
        );
        until_all(api, std::slice::from_ref(&delivery), "delivered");
        Self { endpoint, delivery }
    }
}

#[test]
fn a_portal_link_shows_only_the_data_of_its_tenant() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let (mine, theirs) = (
        Theirs::of(&api, &receiver, "anton"),
        Theirs::of(&api, &receiver, "berta"),
    );
    let link = api
        .post("/tenants/anton/portal-link", r#"{"expires_s":600}"#)
        .text("url");
    browser.open(&link);
    browser.sees("[data-testid=live-state]", "Live");
    browser.sees(".brand", "Webhooks of anton");
    assert_eq!(
        browser.address(),
        format!("{}/#/", server.base),
        "the credential is removed from the URL"
    );

    let foreign = [theirs.endpoint.as_str(), theirs.delivery.as_str(), "berta"];
    let nothing_foreign = |page: &str| {
        let source = browser.run("return document.documentElement.outerHTML");
        let source = source.as_str().unwrap();
        for word in foreign {
            assert!(!source.contains(word), "{word} is on {page}");
        }
    };
    browser.sees(".tile:last-child", "1 active, 0 paused");
    nothing_foreign("the overview");
    browser.click("[data-testid=nav-endpoints]");
    browser.sees(
        &format!("[data-endpoint-id={}]", mine.endpoint),
        "endpoint of anton",
    );
    assert_eq!(browser.count("[data-testid=endpoint-row]"), 1);
    nothing_foreign("its endpoints");
    browser.click("[data-testid=nav-deliveries]");
    browser.sees(
        &format!("[data-delivery-id={}]", mine.delivery),
        "anton.happened",
    );
    assert_eq!(browser.count("[data-testid=delivery-row]"), 1);
    nothing_foreign("its deliveries");
    browser.go(&format!("/deliveries/{}", mine.delivery));
    browser.sees("[data-testid=delivery-state]", "Delivered");
    nothing_foreign("its delivery");

    // With the other tenant's ids: in the dashboard, and directly in the API.
    for page in [
        format!("/endpoints/{}", theirs.endpoint),
        format!("/deliveries/{}", theirs.delivery),
    ] {
        browser.go(&page);
        browser.sees(".notice.bad", "It may have been deleted");
        nothing_foreign(&page);
    }
    for page in [
        format!("/deliveries?endpoint_id={}", theirs.endpoint),
        "/deliveries?tenant=berta".to_owned(),
        "/endpoints?tenant=berta".to_owned(),
    ] {
        browser.go(&page);
        browser.waits_for("the list is loaded", || {
            browser.count(".listing .skeleton") == 0 && browser.count(".listing") == 1
        });
        let rows = browser.text(".listing");
        assert!(
            foreign.iter().all(|word| !rows.contains(word)),
            "{page}: {rows}"
        );
    }
    for path in [
        format!("endpoints/{}", theirs.endpoint),
        format!("endpoints/{}/secret", theirs.endpoint),
        format!("endpoints/{}/stats", theirs.endpoint),
        format!("deliveries/{}", theirs.delivery),
        "deliveries?tenant=berta".to_owned(),
        "endpoints?tenant=berta".to_owned(),
        "overview?tenant=berta".to_owned(),
        "tokens".to_owned(),
        "nodes".to_owned(),
    ] {
        browser.open(&format!("{}/api/v1/{path}", server.base));
        let answer = browser.text("body");
        assert!(
            answer.contains("urn:postrider:problem:"),
            "{path}: {answer}"
        );
        assert!(
            !answer.contains("berta.happened") && !answer.contains("endpoint of berta"),
            "{path}: {answer}"
        );
    }

    // The tenant manages its own endpoint. After signing out the session is gone.
    browser.open(&format!("{}/#/endpoints/{}", server.base, mine.endpoint));
    browser.click("[data-testid=endpoint-pause]");
    browser.sees("[data-testid=endpoint-state]", "Paused");
    assert_eq!(
        api.get(&format!("/endpoints/{}", mine.endpoint)).body["pause_reason"],
        "operator"
    );
    browser.click("[data-testid=sign-out]");
    browser.sees("h1", "Sign in");
    browser.reload();
    browser.sees("h1", "Sign in");
    assert!(
        !browser.text("body").contains("anton"),
        "{}",
        browser.text("body")
    );
}

#[test]
fn an_invalid_portal_link_shows_an_error_and_no_data() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    browser.open(&format!("{}/#portal=made-up", server.base));
    browser.sees("#main", "This link has expired");
    assert_eq!(browser.count("nav, [data-testid=live-state]"), 0);
}
