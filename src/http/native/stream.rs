//! `/stream`: notifications as server-sent events (HTML Living Standard 9.2).
//!
//! Nothing waits for a reader: one that is too slow is notified that it has missed something
//! (`lagged`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::bodies::endpoint::EndpointBody;
use super::bodies::stats::OverviewBody;
use super::params::NoQuery;
use super::problem::Problem;
use super::stats::OVERVIEW_MAX_AGE;
use crate::domain::ids::EndpointId;
use crate::domain::lifecycle::Status;
use crate::engine::Notification;
use crate::engine::scoped::Read;
use crate::http::caller::access::Access;
use crate::http::route::routes;

/// The interval at which notifications are sent.
const STREAM_TICK: Duration = Duration::from_secs(1);
/// Maximum number of deliveries per interval.
const MAX_DELIVERIES: usize = 100;
/// Maximum number of endpoints whose ownership a reader remembers.
const MAX_REMEMBERED: usize = 10_000;
/// Intervals after which an overview is sent even without notifications.
const OVERVIEW_TICKS: u32 = 10;

routes!(open);

/// One reader.
struct Reader {
    access: Access<Read>,
    notifications: Receiver<Notification>,
    /// Endpoints that notifications were about, and whether they are the caller's.
    owned: HashMap<EndpointId, bool>,
    ticker: Interval,
    ticks: u32,
}

/// Stream notifications
///
/// `overview` has the body of `GET /overview`: at most once a second, at least every ten seconds.
/// `delivery`, when a delivery has finished: `id`, `event_id`, `endpoint_id`, `status`,
/// `failure_reason`. `endpoint`, when an endpoint was changed or paused: `id`, `status` (null:
/// deleted), `pause_reason`, `breaker`. `lagged`, with an empty body, when notifications were
/// missed: reload the data. The stream covers what this node sends, and ends with the token or
/// session.
#[utoipa::path(
    get,
    path = "/stream",
    operation_id = "stream",
    tag = "Operating",
    responses(
        (status = 200, description = "Server-sent events: `overview`, `delivery`, `endpoint`, `lagged`.", body = String, content_type = "text/event-stream", example = "event: delivery\ndata: {}\n\n"),
    )
)]
async fn open(access: Access<Read>, _: NoQuery) -> Result<HttpResponse, Problem> {
    let mut ticker = interval(STREAM_TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reader = Reader {
        notifications: access.subscribe(),
        access,
        owned: HashMap::new(),
        ticker,
        ticks: 0,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), reader))
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        // A proxy must not buffer the stream.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events))
}

impl Reader {
    /// Returns the text of the next interval: a comment without notifications, to keep the
    /// connection open; `None` once the credential is no longer valid.
    async fn next(&mut self) -> Option<String> {
        self.ticker.tick().await;
        if !self.access.still_holds() {
            return None;
        }
        let (mut text, mut sent, mut lagged) = (String::new(), 0, false);
        loop {
            match self.notifications.try_recv() {
                Ok(notification) if sent < MAX_DELIVERIES => {
                    if let Some(event) = self.event(&notification).await {
                        sent += 1;
                        text.push_str(&event);
                    }
                }
                Ok(_) | Err(TryRecvError::Lagged(_)) => lagged = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if lagged {
            text.push_str(&written("lagged", &json!({})));
        }
        let due = sent > 0 || lagged || self.ticks.is_multiple_of(OVERVIEW_TICKS);
        if due && let Ok(overview) = self.access.overview(None, OVERVIEW_MAX_AGE).await {
            text.push_str(&written("overview", &OverviewBody::new(&overview)));
        }
        self.ticks = self.ticks.wrapping_add(1);
        Some(if text.is_empty() {
            ":\n\n".into()
        } else {
            text
        })
    }

    async fn event(&mut self, notification: &Notification) -> Option<String> {
        let endpoint = match notification {
            Notification::Delivered { endpoint, .. }
            | Notification::Failed { endpoint, .. }
            | Notification::Changed { endpoint }
            | Notification::Paused { endpoint, .. } => endpoint.clone(),
        };
        if !self.owns(&endpoint).await {
            return None;
        }
        Some(match notification {
            Notification::Delivered {
                event,
                delivery,
                endpoint,
            } => {
                let body = json!({"id": delivery, "event_id": event, "endpoint_id": endpoint,
                                  "status": Status::Delivered, "failure_reason": null});
                written("delivery", &body)
            }
            Notification::Failed {
                event,
                delivery,
                endpoint,
                reason,
            } => {
                let body = json!({"id": delivery, "event_id": event, "endpoint_id": endpoint,
                                  "status": Status::Failed, "failure_reason": reason});
                written("delivery", &body)
            }
            Notification::Changed { endpoint } | Notification::Paused { endpoint, .. } => {
                match self.access.endpoint(endpoint).await {
                    Ok(view) => written("endpoint", &EndpointBody::new(view).outline()),
                    Err(_) => written("endpoint", &json!({"id": endpoint, "status": null})),
                }
            }
        })
    }

    async fn owns(&mut self, endpoint: &EndpointId) -> bool {
        if self.access.grant().tenant.is_none() {
            return true;
        }
        if let Some(owned) = self.owned.get(endpoint) {
            return *owned;
        }
        let Ok(owned) = self.access.owns_endpoint(endpoint).await else {
            return false;
        };
        if self.owned.len() >= MAX_REMEMBERED {
            self.owned.clear();
        }
        self.owned.insert(endpoint.clone(), owned);
        owned
    }
}

/// Formats one event. JSON text contains no line breaks.
fn written(name: &str, body: &impl serde::Serialize) -> String {
    format!(
        "event: {name}\ndata: {}\n\n",
        serde_json::to_string(body).unwrap_or_default()
    )
}
