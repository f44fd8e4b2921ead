//! Holds answers of the API against what its own description says of them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

/// The description.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&postrider::http::openapi()).expect("JSON"));

type Validators = HashMap<String, Arc<Validator>>;

static VALIDATORS: LazyLock<Mutex<Validators>> = LazyLock::new(Mutex::default);

/// What checks a schema of the document.
pub fn validator(schema: &Value) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().unwrap();
    let made = validators.entry(schema.to_string()).or_insert_with(|| {
        let whole = json!({"components": DOCUMENT["components"], "allOf": [schema]});
        Arc::new(
            jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{schema}: {error}")),
        )
    });
    Arc::clone(made)
}

/// What is wrong with `value`, by its schema.
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let validator = validator(schema);
    validator
        .iter_errors(value)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect()
}

/// The operation at a path as it is asked for, if the document has one.
fn operation<'d>(method: &str, path: &str) -> Option<&'d Value> {
    let matches = |template: &str| {
        let (theirs, ours): (Vec<_>, Vec<_>) =
            (path.split('/').collect(), template.split('/').collect());
        let same = |(theirs, ours): (&&str, &&str)| theirs == ours || ours.starts_with('{');
        theirs.len() == ours.len() && theirs.iter().zip(&ours).all(same)
    };
    let paths = DOCUMENT["paths"].as_object()?;
    // What is written out goes before what is a place for anything.
    let found = paths.get(path).or_else(|| {
        let mut all = paths.iter().filter(|(template, _)| matches(template));
        all.next().map(|(_, item)| item)
    });
    found?.get(method.to_lowercase())
}

/// An answer of the document, looked up where it is kept.
pub fn resolved(answer: &Value) -> &Value {
    match answer["$ref"].as_str() {
        Some(place) => DOCUMENT
            .pointer(place.trim_start_matches('#'))
            .expect("it is there"),
        None => answer,
    }
}

/// # Panics
/// Where the document says something else of such an answer.
pub fn hold(method: &str, path: &str, status: u16, content_type: &str, body: &Value) {
    let path = path.split('?').next().unwrap_or_default();
    let Some(operation) = operation(method, path) else {
        return;
    };
    let answer = resolved(&operation["responses"][status.to_string()]);
    assert!(
        answer.is_object(),
        "{method} {path} answers {status}, of which the document knows nothing: {body}"
    );
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let Some(content) = answer["content"].get(media) else {
        assert!(
            answer.get("content").is_none() || media == "application/openmetrics-text",
            "{method} {path} {status} is {media}"
        );
        return;
    };
    if media.ends_with("json") {
        let faults = faults(&content["schema"], body);
        assert!(
            faults.is_empty(),
            "{method} {path} {status} is not as described: {faults:?}\n{body:#}"
        );
    }
}
