//! Many endpoints that become due together, after an outage, at a database that is some milliseconds
//! away: the round trips decide, and they must not grow with the number of endpoints.

use std::time::Duration;

use diesel::{Connection as _, PgConnection};
use postrider::domain::event::{Content, EventType, NewEvent};
use postrider::host::Outbox;
use serde_json::json;

use super::cluster::{TOKEN, metric, node};
use crate::support::api::Api;
use crate::support::database;
use crate::support::postgres::Cluster;
use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::support::until;

const ENDPOINTS: usize = 800;

#[test]
fn many_due_endpoints_cost_few_round_trips_and_no_lease() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let database = cluster.database();
    let direct = cluster.text(&database);
    let server = node(folder.path(), "before", &direct);
    let api = Api::new(&server.base, TOKEN);
    for _ in 0..ENDPOINTS {
        api.endpoint(&receiver.url("/ok"), &json!({}).to_string());
    }
    server.terminate();
    // Published while no node runs: an outage ends with all of them due.
    let mut conn = PgConnection::establish(&direct).unwrap();
    let data = serde_json::value::RawValue::from_string("1".into()).unwrap();
    let event = NewEvent::new(EventType::parse("a.b").unwrap(), Content::Data(data));
    let receipt = Outbox::new().publish_in(&mut conn, &event).unwrap();
    assert_eq!(receipt.deliveries.len(), ENDPOINTS);

    let proxy = Proxy::to(cluster.port());
    proxy.delay(Duration::from_millis(2));
    let proxied = direct.replace(&cluster.port().to_string(), &proxy.port().to_string());
    let server = node(folder.path(), "after", &proxied);
    let before = proxy.requests();
    until("all are delivered", Duration::from_secs(60), || {
        let delivered = "SELECT count(*) AS n FROM webhook_deliveries WHERE status = 'delivered'";
        database::number(&database, delivered) == i64::try_from(ENDPOINTS).unwrap()
    });
    let round_trips = proxy.requests() - before;
    assert!(round_trips < ENDPOINTS, "{round_trips} round trips");
    assert_eq!(receiver.got().len(), ENDPOINTS, "none is sent twice");
    let api = Api::new(&server.base, TOKEN);
    assert_eq!(
        metric(&api, "postrider_lease_changes_total{change=\"lost\"}"),
        0.0
    );
}
