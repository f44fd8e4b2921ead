//! Hostile input in endpoints, events and responses is shown as text.

use serde_json::{Value, json};
use url::Url;

use super::corpus::CORPUS;
use super::until_all;
use crate::support::api::Api;
use crate::support::browser::Browser;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

/// Number of endpoints shown on the overview of a tenant.
const SHOWN: usize = 20;

/// Tenants named like built-in properties of JavaScript objects.
const TENANTS: [&str; 2] = ["__proto__", "constructor"];

/// Header names as hostile as HTTP allows.
const NAMES: [&str; 4] = ["__proto__", "constructor", "x-'+alert`1`+'", "x-&lt"];

/// Finds texts that became an element, an event listener or a link that runs a script.
const MARKUP: &str = r"
const wrong = [...document.querySelectorAll('iframe, object, embed, base, style, math, body script, body link, meta[http-equiv], form[action], [style], [srcdoc], [formaction]')];
for (const element of document.querySelectorAll('*')) {
  if ([...element.attributes].some(({ name }) => name.startsWith('on'))) wrong.push(element);
  if (element.localName === 'a' && element.hasAttribute('href') && !['http:', 'https:'].includes(element.protocol)) wrong.push(element);
}
if (Object.prototype.innerHTML !== undefined || Object.prototype.pwned !== undefined) wrong.push(document.documentElement);
const foreign = performance.getEntriesByType('resource').filter(({ name }) => !name.startsWith(location.origin + '/'));
return [...wrong.map((element) => element.outerHTML), ...foreign.map(({ name }) => name), ...(window.here ? [] : ['it is another document'])];
";

/// The text without anything but printable ASCII.
fn printable(text: &str) -> String {
    text.chars().filter(|c| (' '..='~').contains(c)).collect()
}

/// The text with control characters replaced, as stored in an attempt's log.
fn displayed(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// The text without white space, which headers and indentation change.
fn dense(text: &str) -> String {
    text.split_whitespace().collect()
}

struct Hostile {
    text: &'static str,
    url: String,
    endpoint: String,
    delivery: String,
}

impl Hostile {
    /// Creates an endpoint with this text in its URL, description and headers, and an event with it
    /// as payload, to a receiver that sends it back.
    fn new(api: &Api, receiver: &Receiver, number: usize) -> Self {
        let (text, tenant) = (CORPUS[number], TENANTS[number / SHOWN]);
        let mut url = Url::parse(&receiver.url("/mirror")).unwrap();
        url.path_segments_mut().unwrap().push(text);
        url.set_query(Some(text));
        let event_type = format!("alert_{number}.constructor.__proto__");
        let headers: serde_json::Map<String, Value> = NAMES
            .iter()
            .map(|name| ((*name).to_owned(), printable(text).into()))
            .collect();
        let settings = json!({
            "tenant": tenant, "description": text, "event_types": [event_type], "headers": headers,
            "rate_limit": "unlimited", "retry_delays_s": [], "breaker_after": 1,
        });
        let endpoint = api.endpoint(url.as_str(), &settings.to_string());
        let url = api.get(&format!("/endpoints/{endpoint}")).text("url");
        let content_type = format!("text/html;x={}", printable(text));
        let event = json!({
            "id": format!("alert-{number}"), "tenant": tenant, "type": event_type, "ordering_key": text,
            "payload": text, "content_type": content_type.trim_end(),
        });
        let answer = api.post("/events", &event.to_string());
        assert_eq!(answer.status, 202, "{text:?}: {}", answer.body);
        let delivery = answer.body["deliveries"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            text,
            url,
            endpoint,
            delivery,
        }
    }
}

/// Asserts that no script ran, no window was opened and the page was not left.
fn nothing_ran(browser: &Browser, address: &str, about: &str) {
    assert_eq!(browser.told(), Vec::<String>::new(), "{about}");
    assert!(!browser.has_opened_something(), "{about}");
    assert_eq!(browser.address(), address, "{about}");
    let markup = browser.run(MARKUP);
    assert_eq!(markup, json!([]), "{about}");
}

/// Waits until one of these elements contains the whole text, as text.
fn shows(browser: &Browser, css: &str, text: &str) {
    let script = format!(
        "return [...document.querySelectorAll({})].filter((one) => one.checkVisibility()).map((one) => one.value ?? one.textContent)",
        json!(css)
    );
    browser.waits_for(&format!("{css} shows {text:?}"), || {
        let texts: Vec<String> = serde_json::from_value(browser.run(&script)).unwrap();
        texts.iter().any(|one| dense(one).contains(&dense(text)))
    });
}

#[test]
fn hostile_endpoints_events_and_responses_are_shown_as_text() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let all: Vec<_> = (0..CORPUS.len())
        .map(|number| Hostile::new(&api, &receiver, number))
        .collect();
    let deliveries: Vec<_> = all.iter().map(|one| one.delivery.clone()).collect();
    until_all(&api, &deliveries, "failed");

    browser.sign_in(&server.base, &api.token);
    let go = |fragment: &str| {
        browser.go(fragment);
        browser.address()
    };
    let address = go("/endpoints");
    for one in &all {
        shows(
            &browser,
            &format!("[data-endpoint-id={}] .main-cell", one.endpoint),
            &format!("{}{}", one.url, one.text),
        );
    }
    nothing_ran(&browser, &address, "the endpoints");
    let address = go("/deliveries");
    for one in &all {
        shows(
            &browser,
            &format!("[data-delivery-id={}]", one.delivery),
            ".constructor.__proto__",
        );
    }
    nothing_ran(&browser, &address, "the deliveries");

    for one in &all {
        let address = go(&format!("/endpoints/{}", one.endpoint));
        shows(&browser, "h1", &one.url);
        shows(&browser, "h1 + p", one.text);
        shows(&browser, "[name=description]", one.text);
        for name in NAMES {
            shows(&browser, "[name=headers]", &format!("{name}: ***"));
        }
        nothing_ran(&browser, &address, one.text);

        let address = go(&format!("/deliveries/{}", one.delivery));
        shows(&browser, "section > .payload", one.text);
        shows(
            &browser,
            "section > .muted",
            &format!("ordering key {}", one.text),
        );
        browser.click("[data-testid=attempt-row] summary");
        shows(&browser, "[data-testid=attempt-row] pre", one.text);
        shows(
            &browser,
            "[data-testid=attempt-row] pre",
            &format!("content-type: text/html;x={}", printable(one.text)),
        );
        shows(
            &browser,
            "[data-testid=attempt-row] pre",
            &format!("x-mirror: {}", displayed(&Receiver::as_header(one.text))),
        );
        for name in NAMES {
            shows(
                &browser,
                "[data-testid=attempt-row] pre",
                &format!("{name}: ***"),
            );
        }
        nothing_ran(&browser, &address, one.text);
    }

    for (number, tenant) in TENANTS.into_iter().enumerate() {
        browser.click("[data-testid=sign-out]");
        browser.sees("h1", "Sign in");
        browser.open(
            &api.post(&format!("/tenants/{tenant}/portal-link"), "{}")
                .text("url"),
        );
        browser.sees(".brand", &format!("Webhooks of {tenant}"));
        for one in &all[number * SHOWN..][..SHOWN] {
            shows(
                &browser,
                &format!("[data-endpoint-id={}] .trouble-head", one.endpoint),
                &format!("{}{}", one.url, one.text),
            );
        }
        nothing_ran(&browser, &format!("{}/#/", server.base), tenant);
    }
}

#[test]
fn hostile_urls_and_form_input_are_shown_as_text() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let api = server.api();
    let encoded =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    for text in [CORPUS[0], CORPUS[2]] {
        browser.open(&format!("{}/#portal={}", server.base, encoded(text)));
        browser.sees("#main", "This link has expired");
        nothing_ran(&browser, &format!("{}/#/", server.base), text);
        browser.open("about:blank");
    }
    browser.sign_in(&server.base, &api.token);
    for text in CORPUS {
        for (fragment, css) in [
            (
                format!("/endpoints?search={}", encoded(text)),
                "[name=search]",
            ),
            (
                format!("/deliveries?event_id={}&tenant=__proto__", encoded(text)),
                "[name=event_id]",
            ),
        ] {
            browser.go(&fragment);
            let address = browser.address();
            let shown: String = text.chars().filter(|c| !"\r\n".contains(*c)).collect();
            shows(&browser, css, &shown);
            browser.waits_for("the list is loaded", || {
                browser.count(".listing .notice") == 1
            });
            nothing_ran(&browser, &address, text);
        }
        for fragment in [
            format!("/{}", encoded(text)),
            format!("/endpoints/{}", encoded(text)),
            format!("/deliveries/{0}?{0}={0}", encoded(text)),
        ] {
            browser.go(&fragment);
            let address = browser.address();
            browser.waits_for("a notice is shown", || browser.count(".notice") == 1);
            nothing_ran(&browser, &address, text);
        }
    }
    // Validation errors of the server can contain the input.
    browser.go("/endpoints");
    browser.click("[data-testid=endpoint-add]");
    for text in CORPUS.iter().map(|text| printable(text)) {
        browser.fill("dialog [name=url]", &text);
        browser.fill("dialog [name=rate_limit]", &text);
        browser.fill("dialog [name=event_types]", &text);
        browser.click("[data-testid=endpoint-create]");
        browser.sees("dialog [data-field=url] .field-error", ".");
        nothing_ran(&browser, &format!("{}/#/endpoints", server.base), &text);
    }
}

#[test]
fn the_content_security_policy_blocks_mistakes_in_the_dashboard() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    browser.open(&format!("{}/", server.base));
    browser.sees("h1", "Sign in");
    for (mistake, stopped) in [
        (
            "main.innerHTML = '<img src=x onerror=alert(1)>'",
            "require-trusted-types-for",
        ),
        (
            "document.write('<script>alert(1)<\\/script>')",
            "require-trusted-types-for",
        ),
        ("main.setAttribute('onclick', 'alert(1)')", "policy"),
        ("setTimeout('alert(1)')", "policy"),
        (
            "main.append(Object.assign(document.createElement('img'), {src: 'https://elsewhere.example/'}))",
            "img-src",
        ),
        (
            "main.append(Object.assign(document.createElement('iframe'), {src: 'data:text/html,x'}))",
            "frame-src",
        ),
        (
            "const style = document.createElement('style'); style.textContent = '*{}'; main.append(style)",
            "style-src",
        ),
        (
            "await fetch('http://127.0.0.1:1/').catch(() => {})",
            "connect-src",
        ),
    ] {
        let run = format!(
            "told.length = 0; const main = document.getElementById('main'); return (async () => {{ {mistake} }})().catch(() => {{}})"
        );
        browser.run(&run);
        browser.waits_for(mistake, || {
            browser.told().iter().any(|told| told.contains(stopped))
        });
        assert!(
            browser.told().iter().all(|told| !told.starts_with("alert")),
            "{mistake}: {:?}",
            browser.told()
        );
    }
    // The sentinel detects scripts that do run.
    browser.run("told.length = 0; alert(1); window.pwned = 1;");
    assert_eq!(browser.told(), ["alert: 1", "pwned: 1"]);
}
