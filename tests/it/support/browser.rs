//! A headless Chromium per test: its driver on a free port, its profile in a temporary folder, and
//! access only to this host.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use url::Url;

use super::until;

/// Time limit for anything that a page is expected to show.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the driver until its input ends, at the latest when this process exits; then kills its
/// process group.
const WATCH: &str = r#""$0" "$@" & cat; kill -KILL 0"#;

/// Runs before the scripts of each page and records scripts that should not have run.
const SENTINEL: &str = r"
window.told = [];
window.here = true;
performance.setResourceTimingBufferSize(100000);
for (const name of ['alert', 'confirm', 'prompt', 'open', 'print']) window[name] = (...given) => { told.push(`${name}: ${given}`); };
let pwned;
Object.defineProperty(window, 'pwned', { get: () => pwned, set: (value) => { pwned = value; told.push(`pwned: ${value}`); } });
addEventListener('securitypolicyviolation', (event) => told.push(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
addEventListener('error', (event) => told.push(`error: ${event.message}`), true);
addEventListener('unhandledrejection', (event) => told.push(`rejection: ${event.reason}`));
";

pub struct Browser {
    runtime: tokio::runtime::Runtime,
    client: Option<Client>,
    driver: Child,
    _profile: tempfile::TempDir,
}

/// A command of the browser's own protocol, forwarded by the driver.
#[derive(Debug)]
struct Native(&'static str, Value);

impl WebDriverCompatibleCommand for Native {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &Url) -> (reqwest::Method, Option<String>) {
        (
            reqwest::Method::POST,
            Some(json!({"cmd": self.0, "params": self.1}).to_string()),
        )
    }
}

/// The path of the first of these programs that is installed.
fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<_> = std::env::split_paths(&path).collect();
    names
        .iter()
        .flat_map(|name| all.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

fn capabilities(chromium: &Path, profile: &Path) -> Capabilities {
    let arguments = json!([
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        // A test opens hundreds of pages within seconds; the browser would ignore some of them.
        "--disable-ipc-flooding-protection",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--lang=en-GB",
        // The browser exits with its driver, however that exits.
        "--remote-debugging-pipe",
        format!("--user-data-dir={}", profile.display()),
    ]);
    let options = json!({"binary": chromium, "args": arguments});
    let all = json!({"browserName": "chrome", "unhandledPromptBehavior": "ignore", "goog:chromeOptions": options});
    all.as_object().cloned().unwrap_or_default()
}

impl Browser {
    /// Starts a browser without a session. Returns `None` with a message if none is installed;
    /// under CI this is a failure.
    pub fn start() -> Option<Self> {
        let programs = (
            program(&["chromium", "chromium-browser", "google-chrome"]),
            program(&["chromedriver"]),
        );
        let (Some(chromium), Some(driver)) = programs else {
            assert!(
                std::env::var_os("CI").is_none(),
                "a browser is needed (packages chromium, chromium-driver)"
            );
            eprintln!("SKIPPED: no browser is installed (packages chromium, chromium-driver)");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut watch = Command::new("sh");
        watch
            .args(["-c", WATCH])
            .arg(driver)
            .args(["--port=0", "--allowed-ips=127.0.0.1"]);
        watch
            .process_group(0)
            .current_dir(profile.path())
            .env("HOME", profile.path());
        let mut driver = watch
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let port = said.find_map(|line| {
            line.split_once("successfully on port ")?
                .1
                .trim_end_matches('.')
                .parse::<u16>()
                .ok()
        });
        let address = format!(
            "http://127.0.0.1:{}",
            port.expect("the driver reports its port")
        );
        std::thread::spawn(move || said.for_each(drop));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut browser = Self {
            runtime,
            client: None,
            driver,
            _profile: profile,
        };
        let capabilities = capabilities(&chromium, browser._profile.path());
        let mut builder =
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        let client = browser
            .runtime
            .block_on(builder.capabilities(capabilities).connect(&address));
        browser.client = Some(client.expect("a browser starts"));
        browser.native(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({"source": SENTINEL}),
        );
        browser.window(1280, 900);
        Some(browser)
    }

    fn client(&self) -> &Client {
        self.client
            .as_ref()
            .expect("the browser runs until dropped")
    }

    fn native(&self, name: &'static str, parameters: Value) -> Value {
        self.runtime
            .block_on(self.client().issue_cmd(Native(name, parameters)))
            .unwrap()
    }

    /// Sets the size of the viewport. Below a width of 720 it emulates a phone.
    pub fn window(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 720});
        self.native("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets the system's preferred theme: `light` or `dark`.
    pub fn prefers(&self, theme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}]);
        self.native("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Writes a screenshot of the whole page.
    pub fn picture(&self, file: &Path) {
        let screenshot = self.native(
            "Page.captureScreenshot",
            json!({"captureBeyondViewport": true}),
        );
        let png = BASE64_STANDARD
            .decode(screenshot["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(file, png).unwrap();
    }

    pub fn open(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).unwrap();
    }

    pub fn reload(&self) {
        self.runtime.block_on(self.client().refresh()).unwrap();
    }

    pub fn back(&self) {
        self.runtime.block_on(self.client().back()).unwrap();
    }

    pub fn address(&self) -> String {
        self.runtime
            .block_on(self.client().current_url())
            .unwrap()
            .into()
    }

    /// Runs the body of a function and returns its result.
    pub fn run(&self, script: &str) -> Value {
        self.runtime
            .block_on(self.client().execute(script, Vec::new()))
            .unwrap()
    }

    /// Recorded scripts that ran, violations of the policy, and errors.
    pub fn told(&self) -> Vec<String> {
        let told = self.run("return window.told");
        serde_json::from_value(told).expect("the sentinel is installed")
    }

    /// Whether a browser dialog or another window is open.
    pub fn has_opened_something(&self) -> bool {
        let client = self.client();
        let windows = self.runtime.block_on(client.windows()).unwrap().len();
        windows > 1 || self.runtime.block_on(client.get_alert_text()).is_ok()
    }

    /// The text of the first matching element; empty if there is none.
    pub fn text(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.textContent ?? ''";
        let text = self
            .runtime
            .block_on(self.client().execute(script, vec![css.into()]))
            .unwrap();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The number of matching elements.
    pub fn count(&self, css: &str) -> u64 {
        let script = "return document.querySelectorAll(arguments[0]).length";
        self.runtime
            .block_on(self.client().execute(script, vec![css.into()]))
            .unwrap()
            .as_u64()
            .unwrap()
    }

    /// Waits until the element's text contains `part`.
    pub fn sees(&self, css: &str, part: &str) {
        self.waits_for(&format!("{css} says “{part}”"), || {
            self.text(css).contains(part)
        });
    }

    pub fn waits_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = std::time::Instant::now();
        until(what, PATIENCE + Duration::from_secs(5), || {
            let late = started.elapsed() > PATIENCE;
            assert!(
                !late || done(),
                "{what}: not on {}:\n{}",
                self.address(),
                self.text("body")
            );
            late || done()
        });
    }

    /// Clicks the element as soon as it can be clicked.
    pub fn click(&self, css: &str) {
        self.waits_for(&format!("{css} can be clicked"), || {
            let clicked = async { self.client().find(Locator::Css(css)).await?.click().await };
            self.runtime.block_on(clicked).is_ok()
        });
    }

    /// Replaces the content of a field.
    pub fn fill(&self, css: &str, text: &str) {
        self.waits_for(&format!("{css} can be written to"), || {
            let typed = async {
                let field = self.client().find(Locator::Css(css)).await?;
                field.clear().await?;
                field.send_keys(text).await
            };
            self.runtime.block_on(typed).is_ok()
        });
    }

    /// Signs in to the dashboard of a server.
    pub fn sign_in(&self, base: &str, token: &str) {
        self.open(&format!("{base}/"));
        self.fill("[data-testid=token-input]", token);
        self.click("[data-testid=sign-in]");
        self.sees("[data-testid=live-state]", "Live");
    }

    /// Navigates to a fragment within the document.
    pub fn go(&self, fragment: &str) {
        let script = "location.hash = arguments[0]";
        self.runtime
            .block_on(self.client().execute(script, vec![fragment.into()]))
            .unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // If this fails, the process group is killed below anyway.
            let close =
                async { tokio::time::timeout(Duration::from_secs(10), client.close()).await };
            let _ = self.runtime.block_on(close);
        }
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
    }
}
