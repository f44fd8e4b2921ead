//! Calls of the handle that no other case of this suite makes.

use std::path::Path;

use futures_util::FutureExt as _;
use postrider::Error;
use postrider::domain::access::{Grant, Scope};
use postrider::domain::idempotency;
use postrider::domain::ids::Tenant;
use postrider::domain::lifecycle::Status;
use postrider::domain::query::{Page, TokenQuery};
use postrider::domain::recovery::Include;
use postrider::testing::{Reply, START, on_virtual_time, pass};

use crate::support::engine::{Database, TestEngine, event, secs};

fn tokens_are_listed_and_revoked_by_tenant(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let postrider = engine.postrider();
        let acme = Tenant::parse("acme").unwrap();
        let bound = Grant {
            scope: Scope::Publish,
            tenant: Some(acme.clone()),
        };
        let (token, text) = postrider.create_token("ci", bound.clone()).await.unwrap();
        pass(secs(1)).await;
        postrider.create_token("ops", Grant::ALL).await.unwrap();
        assert_eq!(postrider.grant_of(&text), Some(bound));
        let first = postrider
            .tokens(TokenQuery::default(), Page::first(1))
            .await
            .unwrap();
        assert_eq!(first.entries[0].name, "ops", "newest first");
        let rest = Page {
            after: first.next,
            limit: 9,
        };
        assert_eq!(
            postrider
                .tokens(TokenQuery::default(), rest)
                .await
                .unwrap()
                .entries
                .len(),
            1
        );
        let of_acme = postrider
            .tokens(
                TokenQuery {
                    tenant: Some(acme.clone()),
                },
                Page::first(9),
            )
            .await;
        assert_eq!(of_acme.unwrap().entries[0].id, token.id);
        let other = Tenant::parse("other").unwrap();
        let refused = postrider.revoke_token(&token.id, Some(&other)).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
        postrider
            .revoke_token(&token.id, Some(&acme))
            .await
            .unwrap();
        postrider.reload().await.unwrap();
        assert_eq!(postrider.grant_of(&text), None);
    });
}

fn older_keys_are_listed_and_ended(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let endpoint = engine.endpoint(1, "{}").await;
        let postrider = engine.postrider();
        let (before, older) = postrider.endpoint_secrets(&endpoint).await.unwrap();
        assert!(older.is_empty());
        postrider
            .rotate_secret(&endpoint, None, secs(3600))
            .await
            .unwrap();
        let (now, older) = postrider.endpoint_secrets(&endpoint).await.unwrap();
        assert_ne!(now.reveal(), before.reveal());
        assert_eq!(older.len(), 1);
        postrider.end_key(&endpoint, &older[0].id).await.unwrap();
        let (_, older) = postrider.endpoint_secrets(&endpoint).await.unwrap();
        assert!(older.is_empty());
    });
}

fn owners_and_previews_are_read(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let postrider = engine.postrider();
        assert!(postrider.ready().await.unwrap().has_leases);
        assert!(postrider.failed().now_or_never().is_none());
        let settings = r#"{"retry_delays_s": []}"#;
        let acme = Tenant::parse("acme").unwrap();
        let endpoint = engine.endpoint_of(acme.clone(), 1, settings).await;
        engine.replies(1, [Reply::status(500)]);
        let receipt = postrider.publish(event("a.b", "1").of_tenant(acme.clone()));
        let delivery = receipt.await.unwrap().deliveries.remove(0).0;
        engine.until(&delivery, Status::Failed, secs(60)).await;
        let owners = (
            postrider.tenant_of_endpoint(&endpoint).await.unwrap(),
            postrider.tenant_of_delivery(&delivery).await.unwrap(),
        );
        assert_eq!(owners, (acme.clone(), acme.clone()));
        let preview = postrider.preview_recovery(&endpoint, Include::Failed, START, None);
        assert_eq!(preview.await.unwrap().failed, 1);
        let link = postrider.portal_link(acme, secs(3600)).unwrap();
        assert_eq!(link.expires_at, postrider.now() + secs(3600));
    });
}

fn a_repeated_publish_returns_the_first_event(database: Database) {
    on_virtual_time(async {
        let engine = TestEngine::on(database);
        let postrider = engine.postrider();
        let request = idempotency::Request {
            caller: "ci",
            path: "/events",
            query: "",
            key: "order-1",
        };
        let mut first = event("a.b", "1");
        first.id = postrider.idempotent_event_id(&request);
        let mut other = event("a.b", "2");
        other.id = first.id.clone();
        assert!(
            !postrider
                .publish_once(first.clone())
                .await
                .unwrap()
                .duplicate
        );
        assert!(
            postrider
                .publish_once(other.clone())
                .await
                .unwrap()
                .duplicate
        );
        let conflict = postrider.publish(other).await;
        assert!(matches!(conflict, Err(Error::EventIdConflict { .. })));
        let stored = postrider.event(&first.tenant, &first.id).await.unwrap();
        assert!(String::from_utf8_lossy(&stored.event.body).contains("\"data\":1"));
    });
}

conformance! {
    tokens_are_listed_and_revoked_by_tenant,
    older_keys_are_listed_and_ended,
    owners_and_previews_are_read,
    a_repeated_publish_returns_the_first_event,
}

/// The sources below a folder, without unit tests.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(text.split("#[cfg(test)]").next().unwrap().to_owned());
            }
        }
    }
    found
}

/// The functions with this beginning in the `impl` blocks of a type.
fn functions(of: &str, beginning: &str, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for text in sources(folder) {
        for block in text.split(&format!("\nimpl {of} {{\n")).skip(1) {
            for line in block.split("\n}\n").next().unwrap().lines() {
                let Some(name) = line.trim_start().strip_prefix(beginning) else {
                    continue;
                };
                let name = name.strip_prefix("async ").unwrap_or(name);
                if let Some(name) = name.strip_prefix("fn ") {
                    found.push(name.split(['(', '<']).next().unwrap().to_owned());
                }
            }
        }
    }
    assert!(found.len() > 15, "only {found:?} were found");
    found
}

/// Every intent of the store is called by the engine or the store itself, and every call of the
/// handle by a case that runs on both databases (`engine::` runs on Postgres by
/// `TEST_DATABASE=postgres`).
#[test]
fn every_intent_is_reached_on_both_databases() {
    let called = |texts: &[String], name: &str| {
        let call = [format!(".{name}("), format!("::{name}(")];
        let is_called = |text: &String| call.iter().any(|call| text.contains(call));
        texts.iter().any(is_called)
    };
    let inside = [sources("src/engine"), sources("src/store")].concat();
    for name in [
        functions("Store", "pub(crate) ", "src/store"),
        functions("Tx<'_>", "pub(crate) ", "src/store"),
    ]
    .concat()
    {
        assert!(called(&inside, &name), "nothing calls the intent {name}");
    }
    let both = [
        sources("tests/it/store"),
        sources("tests/it/engine"),
        sources("tests/it/support"),
    ]
    .concat();
    for name in functions("Postrider", "pub ", "src/engine/handle") {
        assert!(
            called(&both, &name),
            "no case that runs on both databases calls {name}"
        );
    }
}
