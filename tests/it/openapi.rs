//! The API's description: it is the one in `docs`, it describes each call, and its examples are
//! right.

use serde_json::Value;

use crate::support::document::{DOCUMENT, faults, resolved};

const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

fn operations() -> impl Iterator<Item = (String, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| {
            (format!("{} {path}", method.to_uppercase()), operation)
        })
    })
}

#[test]
fn what_is_in_docs_is_what_the_code_says() {
    let (written, kept) = (
        postrider::http::openapi(),
        std::fs::read_to_string(PLACE).unwrap_or_default(),
    );
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(PLACE, written).unwrap();
        return;
    }
    assert!(
        written == kept,
        "the API has changed: `UPDATE_OPENAPI=1 cargo test --test it openapi` writes docs/openapi.json; read what it changes"
    );
}

#[test]
fn each_call_is_described_with_examples_that_hold() {
    for (what, operation) in operations() {
        for field in ["summary", "operationId"] {
            assert!(operation[field].is_string(), "{what} has no {field}");
        }
        let answers = operation["responses"].as_object().unwrap();
        assert!(
            answers.keys().any(|status| status.starts_with('2')),
            "{what} never succeeds"
        );
        let contents = answers
            .iter()
            .map(|(status, answer)| (status.as_str(), &resolved(answer)["content"]));
        for (place, content) in contents.chain([("request", &operation["requestBody"]["content"])])
        {
            let Some(content) = content.as_object() else {
                continue;
            };
            for (media, held) in content {
                let example = held.get("example");
                let example =
                    example.unwrap_or_else(|| panic!("{what}: {place} has no example of {media}"));
                let faults = faults(&held["schema"], example);
                assert!(
                    faults.is_empty(),
                    "{what}: the example of {place} is not valid: {faults:?}\n{example:#}"
                );
            }
        }
    }
}

#[test]
fn names_are_told_apart() {
    let mut names: Vec<&str> = operations()
        .filter_map(|(_, one)| one["operationId"].as_str())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
