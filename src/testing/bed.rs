//! The test bed: the whole engine, without a network, a port or sleeping.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Received, Reply, ScriptedReceivers, TokioClock, pass};
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::WaitingFor;
use crate::domain::ids::{EndpointId, EventId, Tenant};
use crate::domain::lease::Terms;
use crate::domain::lifecycle::{State, Wait};
use crate::domain::rate_limit::RateLimit;
use crate::domain::settings::{Change, EndpointChange};
use crate::{DeliveryView, Error, Postrider, StartError};

/// Start time of a test bed: 2026-01-01, midnight UTC.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// An engine on virtual time, with scripted receivers instead of a network.
///
/// Its database is a temporary file that is removed with it, or a host's own test database. Must be
/// used within [`on_virtual_time`](super::on_virtual_time).
///
/// ```
/// use postrider::domain::event::{Event, NewEvent};
/// use postrider::testing::{Reply, TestBed, on_virtual_time};
///
/// #[derive(serde::Serialize)]
/// struct InvoicePaid { amount: u32 }
/// impl Event for InvoicePaid { const TYPE: &'static str = "invoice.paid"; }
///
/// on_virtual_time(async {
///     let bed = TestBed::start();
///     let shop = bed.receiver("shop").await;
///     shop.replies([Reply::status(500), Reply::time_out(), Reply::status(200)]);
///
///     // What is tested: whatever code of yours publishes on `bed.postrider()`.
///     let event = NewEvent::data(|_| InvoicePaid { amount: 1200 }).unwrap();
///     bed.postrider().publish(event).await.unwrap();
///
///     assert!(bed.drain().await.is_empty(), "everything has ended");
///     let got = shop.received();
///     assert_eq!(got.len(), 3);
///     assert_eq!(got[2].json()["data"]["amount"], 1200);
///     assert_eq!(got[0].event_id(), got[2].event_id(), "a retry is told from a duplicate");
///     assert!(got[1].at - got[0].at >= std::time::Duration::from_secs(10));
/// });
/// ```
#[derive(Debug)]
pub struct TestBed {
    postrider: Postrider,
    receivers: ScriptedReceivers,
    database: DatabaseUrl,
    config: EngineConfig,
    _folder: Option<Arc<tempfile::TempDir>>,
}

impl TestBed {
    /// Starts a test bed with the defaults, on a temporary file.
    ///
    /// # Panics
    /// Panics if there is no temporary folder.
    #[must_use]
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// Starts a test bed with other settings, on a temporary file.
    ///
    /// # Panics
    /// Panics if there is no temporary folder or a setting is invalid.
    #[must_use]
    pub fn with(configure: impl FnOnce(&mut EngineConfig)) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let database = DatabaseUrl::Sqlite(folder.path().join("postrider.db"));
        Self {
            _folder: Some(folder),
            ..Self::on(database, configure)
        }
    }

    /// Starts one on a host's own test database, for events published in the host's transactions.
    ///
    /// # Panics
    /// Panics if the database cannot be used or a setting is invalid.
    #[must_use]
    pub fn on(database: DatabaseUrl, configure: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = Self::config();
        configure(&mut config);
        Self::at(database, config, ScriptedReceivers::default(), START)
    }

    /// Starts one with all of its parts given, such as a second one on the same database.
    ///
    /// # Panics
    /// Panics if the database cannot be used or a setting is invalid.
    #[must_use]
    pub fn at(
        database: DatabaseUrl,
        config: EngineConfig,
        receivers: ScriptedReceivers,
        now: Timestamp,
    ) -> Self {
        let postrider = launch(&database, config.clone(), receivers.clone(), now);
        Self {
            postrider: postrider.expect("an engine on the test database"),
            receivers,
            database,
            config,
            _folder: None,
        }
    }

    /// Hours pass in moments here, so polling, which only finds missed notifications, is rare.
    fn config() -> EngineConfig {
        let secs = Duration::from_secs;
        EngineConfig {
            poll_interval: secs(600),
            idle_timeout: secs(30 * 86400),
            maintenance_interval: secs(3600),
            lease: Terms {
                ttl: secs(600),
                renewal: secs(290),
                margin: secs(10),
            },
            ..EngineConfig::default()
        }
    }

    /// Returns the engine.
    #[must_use]
    pub fn postrider(&self) -> &Postrider {
        &self.postrider
    }

    /// Returns its receivers.
    #[must_use]
    pub fn receivers(&self) -> &ScriptedReceivers {
        &self.receivers
    }

    /// Returns the location of its database.
    #[must_use]
    pub fn database(&self) -> &DatabaseUrl {
        &self.database
    }

    /// Creates a receiver at `https://{name}.example/`, with an endpoint that receives all events
    /// without a rate limit.
    ///
    /// # Panics
    /// Panics if `name` is not valid in a host name.
    pub async fn receiver(&self, name: &str) -> TestReceiver {
        let url = format!("https://{name}.example/");
        let change = EndpointChange {
            rate_limit: Change::Set(RateLimit::Unlimited),
            ..EndpointChange::to(url.parse().expect("a name of a host"))
        };
        self.receiver_with(Tenant::default(), change)
            .await
            .expect("an endpoint")
    }

    /// Creates a receiver with an endpoint as given by `change`.
    ///
    /// # Errors
    /// See [`Postrider::create_endpoint`].
    pub async fn receiver_with(
        &self,
        tenant: Tenant,
        change: EndpointChange,
    ) -> Result<TestReceiver, Error> {
        let endpoint = self
            .postrider
            .create_endpoint(tenant, change, None)
            .await?
            .endpoint;
        let host = endpoint
            .settings
            .url
            .host_str()
            .unwrap_or_default()
            .to_owned();
        Ok(TestReceiver {
            receivers: self.receivers.clone(),
            host,
            endpoint: Some(endpoint.id),
        })
    }

    /// Returns the receiver at `host`, for an endpoint that the code under test creates.
    #[must_use]
    pub fn receiver_at(&self, host: &str) -> TestReceiver {
        TestReceiver {
            receivers: self.receivers.clone(),
            host: host.to_owned(),
            endpoint: None,
        }
    }

    /// Lets time pass until only deliveries are left that time does not move, and returns them:
    /// those of paused endpoints, those on hold, and those blocked by a failed one.
    ///
    /// # Panics
    /// Panics if the database cannot be read.
    pub async fn drain(&self) -> Vec<DeliveryView> {
        const LONGEST: Duration = Duration::from_secs(600);
        let mut pause = Duration::from_millis(50);
        loop {
            let (mut waiting, mut moving) = (Vec::new(), false);
            let mut due: Option<Timestamp> = None;
            for id in self
                .postrider
                .live_deliveries()
                .await
                .expect("a database that answers")
            {
                let view = self
                    .postrider
                    .delivery(&id)
                    .await
                    .expect("what was there a moment ago");
                match (view.delivery.life.state, view.waiting_for) {
                    (
                        State::Pending(_),
                        Some(WaitingFor::Paused | WaitingFor::Held | WaitingFor::Order),
                    ) => waiting.push(view),
                    (State::Pending(Wait::Until(at)), _) => {
                        moving = true;
                        due = Some(due.map_or(at, |due| due.min(at)));
                    }
                    _ => moving = true,
                }
            }
            if !moving {
                return waiting;
            }
            let until_due = due
                .map(|due| due.since(self.postrider.now()))
                .unwrap_or_default();
            // Deliveries held up by a rate limit or a breaker are due, but still take time.
            pass(until_due.max(pause)).await;
            // Longer each time, so that hours of waiting take few reads.
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Stops the engine as a deployment does, and starts another one on the same database.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn restart(self) -> Self {
        self.postrider.drain().await;
        self.start_again()
    }

    /// Starts another engine on the same database, after this one was stopped.
    ///
    /// # Panics
    /// Panics if it does not start.
    #[must_use]
    pub fn start_again(self) -> Self {
        let now = self.postrider.now();
        let again = Self::at(self.database, self.config, self.receivers, now);
        Self {
            _folder: self._folder,
            ..again
        }
    }
}

/// Starts an engine in the current actix `System`, on tokio's clock, that sends to `receivers`.
///
/// # Errors
/// See [`Builder::start`](crate::Builder::start).
pub fn launch(
    database: &DatabaseUrl,
    config: EngineConfig,
    receivers: ScriptedReceivers,
    now: Timestamp,
) -> Result<Postrider, StartError> {
    let clock = Arc::new(TokioClock::starting_at(now));
    let builder = Postrider::builder()
        .database(database.clone())
        .config(config);
    builder
        .clock(clock)
        .transport(Arc::new(receivers))
        .start_here()
}

/// A receiver of a test bed.
#[derive(Debug, Clone)]
pub struct TestReceiver {
    receivers: ScriptedReceivers,
    host: String,
    endpoint: Option<EndpointId>,
}

impl TestReceiver {
    /// Scripts the replies to its next requests, one each; after them it replies 200.
    pub fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.receivers.next(&self.host, replies);
    }

    /// Sets the reply to all requests without a scripted one.
    pub fn always(&self, reply: Reply) {
        self.receivers.otherwise(&self.host, reply);
    }

    /// Returns the id of its endpoint.
    ///
    /// # Panics
    /// Panics if the code under test created the endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &EndpointId {
        self.endpoint
            .as_ref()
            .expect("an endpoint that the test bed has made")
    }

    /// Returns the requests that it received, oldest first.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.receivers.received(&self.host)
    }

    /// Asserts that exactly these event types arrived, in this order.
    ///
    /// # Panics
    /// Panics otherwise, with the types that arrived instead.
    #[track_caller]
    pub fn assert_received(&self, event_types: &[&str]) {
        let got: Vec<String> = self.received().iter().map(Received::event_type).collect();
        assert_eq!(got, event_types, "what arrived at {}", self.host);
    }

    /// Returns the maximum number of requests that it had open at once.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.receivers.most_at_once(&self.host)
    }
}

impl Received {
    /// Returns `webhook-id`, the event's id.
    ///
    /// # Panics
    /// Panics if there is none.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        EventId::from_text(
            self.header("webhook-id")
                .expect("every webhook has its event's id"),
        )
    }

    /// Returns its body.
    ///
    /// # Panics
    /// Panics if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.request.body).expect("a body in JSON")
    }

    /// Returns `type` of its body; empty if the body has none.
    #[must_use]
    pub fn event_type(&self) -> String {
        let body: Option<Value> = serde_json::from_slice(&self.request.body).ok();
        body.and_then(|body| Some(body.get("type")?.as_str()?.to_owned()))
            .unwrap_or_default()
    }
}
