//! A blocking client of the HTTP API, for tests.

use std::sync::Once;
use std::time::Duration;

use serde_json::Value;

use super::document;

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The stable name of a problem (RFC 9457).
    pub fn problem(&self) -> &str {
        let name = self.body["type"].as_str().unwrap_or_default();
        name.strip_prefix("urn:postrider:problem:").unwrap_or(name)
    }

    /// The fields that a problem names.
    pub fn fields(&self) -> Vec<&str> {
        let errors = self.body["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        errors
            .iter()
            .filter_map(|error| error["field"].as_str())
            .collect()
    }

    /// One of its headers; empty where it has none of that name.
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    }

    pub fn text(&self, field: &str) -> String {
        self.body[field]
            .as_str()
            .unwrap_or_else(|| panic!("no text `{field}` in {}", self.body))
            .to_owned()
    }
}

pub struct Api {
    pub base: String,
    pub token: String,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Api {
    pub fn new(base: &str, token: &str) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self {
            base: base.to_owned(),
            token: token.to_owned(),
            runtime,
            client,
        }
    }

    /// Sends what it is told; `Err` when nothing came back.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, reqwest::Error> {
        self.runtime.block_on(async {
            let verb: reqwest::Method = method.parse().unwrap();
            let mut request = self.client.request(verb, format!("{}{path}", self.base));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = body {
                request = request.body(body);
            }
            let answer = request.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let bytes = answer.bytes().await?;
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            let answer = Answer {
                status,
                headers,
                body,
            };
            document::hold(
                method,
                path,
                status,
                &answer.header("content-type"),
                &answer.body,
            );
            Ok(answer)
        })
    }

    fn json(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, reqwest::Error> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        self.try_request(method, &format!("/api/v1{path}"), &headers, body)
    }

    pub fn try_post(&self, path: &str, body: &str) -> Result<Answer, reqwest::Error> {
        self.json("POST", path, Some(body.to_owned()))
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.try_post(path, body).unwrap()
    }

    pub fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.json("GET", path, None)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap()
    }

    pub fn patch(&self, path: &str, body: &str) -> Answer {
        self.json("PATCH", path, Some(body.to_owned())).unwrap()
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.json("DELETE", path, None).unwrap()
    }

    /// Creates an endpoint and returns its id.
    pub fn endpoint(&self, url: &str, settings: &str) -> String {
        let mut fields: Value = serde_json::from_str(settings).unwrap();
        fields["url"] = url.into();
        let answer = self.post("/endpoints", &fields.to_string());
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.text("id")
    }
}
