//! An engine on virtual time against scripted receivers, over a real SQLite file.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use postrider::config::{DatabaseUrl, EngineConfig};
use postrider::domain::clock::Timestamp;
use postrider::domain::event::{Content, EventType, NewEvent};
use postrider::domain::ids::{DeliveryId, EndpointId, Tenant};
use postrider::domain::lease::Terms;
use postrider::domain::lifecycle::Status;
pub use postrider::testing::START;
use postrider::testing::{Received, Reply, ScriptedReceivers, TestBed, endpoint_change, pass};
use postrider::{DeliveryView, MetricsFormat, Receipt};
use serde_json::value::RawValue;

use super::postgres::Cluster;

/// The databases that the conformance suite knows.
#[derive(Debug, Clone, Copy)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// What the tests run on that are not about databases: a file, unless the environment asks for
    /// another run of them on Postgres.
    fn usual() -> Self {
        match std::env::var("TEST_DATABASE").as_deref() {
            Ok("postgres") => Self::Postgres,
            Ok("sqlite") | Err(_) => Self::Sqlite,
            Ok(other) => panic!("TEST_DATABASE is sqlite or postgres, not {other}"),
        }
    }

    /// A fresh one; its file, where it is one, in `folder`. `None` where there is no server.
    pub fn fresh(self, folder: &Path) -> Option<DatabaseUrl> {
        match self {
            Self::Sqlite => Some(DatabaseUrl::Sqlite(folder.join("test.db"))),
            Self::Postgres => Cluster::shared().map(Cluster::database),
        }
    }

    /// Whether there is one to be had.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Sqlite) || Cluster::shared().is_some()
    }
}

/// A test bed on either database, with numbered receivers.
pub struct TestEngine {
    bed: TestBed,
    _folder: Option<tempfile::TempDir>,
}

impl Deref for TestEngine {
    type Target = TestBed;

    fn deref(&self) -> &TestBed {
        &self.bed
    }
}

impl TestEngine {
    /// An engine with the defaults.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// An engine with the defaults on that database.
    pub fn on(database: Database) -> Self {
        Self::on_with(database, |_| {})
    }

    pub fn with(configure: impl FnOnce(&mut EngineConfig)) -> Self {
        Self::on_with(Database::usual(), configure)
    }

    pub fn on_with(database: Database, configure: impl FnOnce(&mut EngineConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database.fresh(folder.path()).expect("there is one");
        let mut config = local_config();
        configure(&mut config);
        Self {
            bed: TestBed::at(database, config, ScriptedReceivers::default(), START),
            _folder: Some(folder),
        }
    }

    /// One more on a database that was there before.
    pub fn again(database: &DatabaseUrl, receivers: &ScriptedReceivers, now: Timestamp) -> Self {
        Self {
            bed: TestBed::at(database.clone(), local_config(), receivers.clone(), now),
            _folder: None,
        }
    }

    /// Stops the engine and starts another one on the same database.
    pub async fn restart(self) -> Self {
        Self {
            bed: self.bed.restart().await,
            ..self
        }
    }

    pub async fn stop(self) -> Self {
        self.postrider().drain().await;
        self
    }

    pub fn start_again(self) -> Self {
        Self {
            bed: self.bed.start_again(),
            ..self
        }
    }

    pub fn database(&self) -> DatabaseUrl {
        self.bed.database().clone()
    }

    /// The requests that receiver `n` got.
    pub fn received(&self, n: u8) -> Vec<Received> {
        self.receivers().received(&host(n))
    }

    /// Scripts the next replies of receiver `n`.
    pub fn replies(&self, n: u8, replies: impl IntoIterator<Item = Reply>) {
        self.receivers().next(&host(n), replies);
    }

    /// The reply of receiver `n` to all requests without a scripted one.
    pub fn always(&self, n: u8, reply: Reply) {
        self.receivers().otherwise(&host(n), reply);
    }

    /// An endpoint at `http://127.0.0.{n}/`, which the receivers know as `host(n)`.
    pub async fn endpoint(&self, n: u8, settings: &str) -> EndpointId {
        self.endpoint_of(Tenant::default(), n, settings).await
    }

    pub async fn endpoint_of(&self, tenant: Tenant, n: u8, settings: &str) -> EndpointId {
        let mut fields: serde_json::Value = serde_json::from_str(settings).unwrap();
        fields["url"] = format!("http://{}/hook", host(n)).into();
        let change = endpoint_change(&fields.to_string()).unwrap();
        let view = self
            .postrider()
            .create_endpoint(tenant, change, None)
            .await
            .unwrap();
        view.endpoint.id
    }

    pub async fn publish(&self, event_type: &str) -> Receipt {
        self.postrider()
            .publish(event(event_type, "1"))
            .await
            .unwrap()
    }

    /// Publishes one event that goes to one endpoint.
    pub async fn publish_one(&self, event_type: &str) -> DeliveryId {
        let receipt = self.publish(event_type).await;
        assert_eq!(
            receipt.deliveries.len(),
            1,
            "one endpoint wants {event_type}"
        );
        receipt.deliveries[0].0.clone()
    }

    pub async fn delivery(&self, id: &DeliveryId) -> DeliveryView {
        self.postrider().delivery(id).await.unwrap()
    }

    /// Lets time pass until a delivery is in `status`.
    pub async fn until(&self, id: &DeliveryId, status: Status, patience: Duration) -> DeliveryView {
        let deadline = self.postrider().now() + patience;
        loop {
            let view = self.delivery(id).await;
            if view.delivery.life.state.status() == status {
                return view;
            }
            assert!(
                self.postrider().now() < deadline,
                "{id} is not {status} within {patience:?}: {:?}",
                view.delivery
            );
            pass(Duration::from_millis(50)).await;
        }
    }

    /// The value of one metric's line.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.postrider().metrics(MetricsFormat::Text).await;
        let found = text
            .lines()
            .find_map(|one| one.strip_prefix(line)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no metric {line} in\n{text}"))
            .parse()
            .unwrap()
    }
}

/// For days of virtual time: looks for due work, and renews leases, as rarely as it may.
pub fn rarely(config: &mut EngineConfig, poll_interval: Duration) {
    config.poll_interval = poll_interval;
    config.lease = Terms {
        ttl: secs(600),
        renewal: secs(290),
        margin: secs(10),
    };
}

pub fn local_config() -> EngineConfig {
    let mut config = EngineConfig::default();
    config.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

pub fn host(n: u8) -> String {
    format!("127.0.0.{n}")
}

pub fn event(event_type: &str, data: &str) -> NewEvent {
    let data = RawValue::from_string(data.to_owned()).unwrap();
    NewEvent::new(EventType::parse(event_type).unwrap(), Content::Data(data))
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
