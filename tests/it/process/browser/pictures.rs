//! Every page in both themes, at desktop and phone width: no text is cut off or lacks contrast.
//! With `POSTRIDER_SCREENSHOTS` set, screenshots are written to that folder.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{publish, until_all};
use crate::support::api::Api;
use crate::support::browser::Browser;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::until;

/// Finds content wider than the window, and text with too little contrast (WCAG 2.2, 1.4.3: 4.5 to
/// 1, or 3 to 1 for large text).
const UNREADABLE: &str = r"
const wrong = [];
if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
const channels = (color) => { const all = color.match(/[\d.]+/g).map(Number); return all.length === 4 ? all : [...all, 1]; };
const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255, c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color[3] === 1) return color;
  }
  return [255, 255, 255, 1];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || !element.checkVisibility() || element.closest(':disabled, .skip-link, .visually-hidden, noscript')) continue;
  const style = getComputedStyle(element);
  const [one, other] = [light(channels(style.color)), light(behind(element))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  if (ratio < least) wrong.push(`${ratio.toFixed(2)} to 1: ${text}`);
  const box = element.getBoundingClientRect();
  if (box.right > innerWidth + 1 && !element.closest('nav')) wrong.push(`ends at ${Math.round(box.right)}: ${text}`);
}
return wrong;
";

const THEMES: [&str; 2] = ["light", "dark"];
const WIDTHS: [u32; 2] = [1280, 390];

struct Gallery {
    browser: Browser,
    folder: Option<PathBuf>,
    wrong: Vec<String>,
}

impl Gallery {
    /// Checks the current page in each theme and width, once `seen` has text.
    fn take(&mut self, name: &str, seen: &str) {
        for theme in THEMES {
            self.browser.prefers(theme);
            for width in WIDTHS {
                self.browser
                    .window(width, if width < 720 { 844 } else { 900 });
                self.browser.waits_for(&format!("{name} is shown"), || {
                    let script = format!("return document.documentElement.dataset.theme === '{theme}' && !document.querySelector('.skeleton')");
                    !self.browser.text(seen).is_empty() && self.browser.run(&script) == true
                });
                let found: Vec<String> =
                    serde_json::from_value(self.browser.run(UNREADABLE)).unwrap();
                let page = format!("{name}-{theme}-{width}");
                if let Some(folder) = &self.folder {
                    self.browser.picture(&folder.join(format!("{page}.png")));
                }
                self.wrong
                    .extend(found.into_iter().map(|what| format!("{page}: {what}")));
            }
        }
        self.browser.window(1280, 900);
    }
}

/// Endpoints of a few customers in most of the possible states, with their deliveries.
struct Scene {
    endpoint: String,
    delivery: String,
}

impl Scene {
    fn of(api: &Api, receiver: &Receiver) -> Self {
        let make = |tenant: &str, path: &str, more: Value| {
            let mut settings = json!({"tenant": tenant, "rate_limit": "unlimited"});
            settings
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            api.endpoint(&receiver.url(path), &settings.to_string())
        };
        let send = |tenant: &str, number: usize| {
            let kinds = [
                "invoice.paid",
                "invoice.overdue",
                "customer.updated",
                "subscription.renewed",
            ];
            let data = json!({
                "invoice": format!("INV-2026-{:05}", 4711 + number), "amount": 129_900 + 100 * number, "currency": "EUR",
                "customer": {"name": "Müller & Söhne GmbH", "address": "Lange Straße 17, 70173 Stuttgart"},
                "lines": [{"sku": "PLAN-TEAM-YEAR", "quantity": 12}, {"sku": "SUPPORT", "quantity": 1}],
            });
            publish(api, tenant, kinds[number % kinds.len()], &data)
        };
        let long = "/status/integrations/warehouse-synchronisation/eu-central-1/inbound/503?account=4f0c2b7e9d";
        let more = json!({"description": "Warehouse in Stuttgart", "retry_delays_s": [1, 2], "breaker_after": 6, "headers": {"x-team": "logistics"}});
        let endpoint = make("shop", long, more);
        let delivery = send("shop", 0);
        until_all(api, std::slice::from_ref(&delivery), "failed");
        let billing = json!({"description": "Billing: posts invoices to the ledger", "event_types": ["invoice.*"]});
        make("shop", "/ok/webhooks/billing", billing);
        make(
            "shop",
            "/slow/crm/v2/inbound-events/180",
            json!({"description": "CRM"}),
        );
        let paused = make(
            "shop",
            "/ok/staging",
            json!({"description": "Staging, until the migration is over"}),
        );
        api.post(&format!("/endpoints/{paused}/pause"), "");
        make(
            "nordwind",
            "/ok/hooks",
            json!({"description": "Nordwind's partner portal", "rate_limit": "5/min"}),
        );
        make(
            "nordwind",
            "/status/old/410",
            json!({"description": "Their old system"}),
        );
        for number in 1..14 {
            send("shop", number);
            send("nordwind", number);
        }
        until("its breaker is open", Duration::from_secs(30), || {
            api.get(&format!("/endpoints/{endpoint}")).body["health"]["breaker"] == "open"
        });
        Self { endpoint, delivery }
    }
}

#[test]
fn every_page_is_readable_in_each_theme_and_width() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let wanted = std::env::var_os("POSTRIDER_SCREENSHOTS").map(PathBuf::from);
    if let Some(folder) = &wanted {
        std::fs::create_dir_all(folder).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[]);
    let (api, receiver) = (server.api(), Receiver::start());
    let mut gallery = Gallery {
        browser,
        folder: wanted,
        wrong: Vec::new(),
    };
    gallery.browser.open(&format!("{}/", server.base));
    gallery.take("sign-in", "h1");
    gallery.browser.sign_in(&server.base, &api.token);
    gallery.take("overview-empty", ".notice");
    let scene = Scene::of(&api, &receiver);
    gallery.take("overview", ".trouble-row");
    for (name, address, seen) in [
        (
            "endpoints",
            "/endpoints".to_owned(),
            "[data-testid=endpoint-row]",
        ),
        (
            "endpoint",
            format!("/endpoints/{}", scene.endpoint),
            "[data-testid=delivery-row]",
        ),
        (
            "deliveries",
            "/deliveries".to_owned(),
            "[data-testid=delivery-row]",
        ),
        (
            "deliveries-none",
            "/deliveries?event_id=none".to_owned(),
            ".listing .notice",
        ),
        (
            "reference",
            "/reference".to_owned(),
            "#main .notice, #main .card",
        ),
        ("not-found", "/nowhere".to_owned(), ".notice"),
    ] {
        gallery.browser.go(&address);
        gallery.take(name, seen);
    }
    gallery.browser.go("/endpoints");
    gallery.browser.click("[data-testid=endpoint-add]");
    gallery.take("endpoint-add", "dialog h2");
    gallery
        .browser
        .go(&format!("/deliveries/{}", scene.delivery));
    gallery.browser.click("[data-testid=attempt-row] summary");
    gallery.take("delivery", "[data-testid=attempt-row] pre");
    gallery.browser.click("[data-testid=sign-out]");
    gallery.browser.sees("h1", "Sign in");
    gallery
        .browser
        .open(&api.post("/tenants/nordwind/portal-link", "{}").text("url"));
    gallery.take("tenant", ".trouble-row");
    assert!(gallery.wrong.is_empty(), "{}", gallery.wrong.join("\n"));
}
