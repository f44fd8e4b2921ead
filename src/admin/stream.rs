//! `/stream`: what happens, as it happens, for who looks at it (server-sent events, HTML Living
//! Standard 9.2).
//!
//! Nothing waits for a reader: one that is too slow, or an engine that is too busy for eyes, is
//! told that it has missed something (`lagged`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Interval, MissedTickBehavior, interval};
use utoipa::OpenApi;

use super::auth::{Access, Read};
use super::endpoints::EndpointBody;
use super::insight::{FRESH, OverviewBody};
use super::problem::Problem;
use super::request::NoParams;
use crate::domain::ids::{EndpointId, Tenant};
use crate::domain::lifecycle::Status;
use crate::engine::Happening;

/// How often it is looked whether there is something to tell.
const BEAT: Duration = Duration::from_secs(1);
/// The most deliveries that one beat tells of: nobody reads more.
const MOST_TOLD: usize = 100;
/// Of how many endpoints a reader remembers whose they are.
const MOST_TENANTS: usize = 10_000;
/// After how many beats an overview is told although nothing happened.
const OVERVIEW_BEATS: u32 = 10;

#[derive(OpenApi)]
#[openapi(paths(open))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::resource("/stream")
            .get(open)
            .default_service(super::only("GET")),
    );
}

/// One reader.
struct Reader {
    access: Access<Read>,
    tenant: Option<Tenant>,
    happenings: Receiver<Happening>,
    /// Whose the endpoints are that were heard of.
    tenants: HashMap<EndpointId, Tenant>,
    beat: Interval,
    beats: u32,
}

/// What happens, as it happens
///
/// `overview` has what `GET /overview` answers: at most once a second, and every ten. `delivery`,
/// when one has ended: `id`, `event_id`, `endpoint_id`, `status`, `failure_reason`. `endpoint`,
/// when one was changed or paused: `id`, `status` (null: deleted), `pause_reason`, `breaker`.
/// `lagged`, with nothing in it, when some were missed: read anew what is shown. It tells of what
/// the node that is asked sends, and ends with the token or session.
#[utoipa::path(
    get,
    path = "/stream",
    operation_id = "stream",
    tag = "Operating",
    responses(
        (status = 200, description = "Server-sent events: `overview`, `delivery`, `endpoint`, `lagged`.", body = String, content_type = "text/event-stream", example = "event: delivery\ndata: {}\n\n"),
    )
)]
async fn open(access: Access<Read>, _: NoParams) -> Result<HttpResponse, Problem> {
    let tenant = access.tenant_filter(None)?;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reader = Reader {
        happenings: access.postrider().subscribe(),
        access,
        tenant,
        tenants: HashMap::new(),
        beat,
        beats: 0,
    };
    let told = stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), reader))
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        // A proxy that collects it would tell nothing in time.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(told))
}

impl Reader {
    /// What there is to tell at the next beat; a comment, where that is nothing, keeps the
    /// connection open. `None`: what let the reader in has ended.
    async fn next(&mut self) -> Option<String> {
        self.beat.tick().await;
        if !self.access.still_holds() {
            return None;
        }
        let (mut text, mut told, mut lagged) = (String::new(), 0, false);
        loop {
            match self.happenings.try_recv() {
                Ok(happening) if told < MOST_TOLD => {
                    if let Some(event) = self.event(&happening).await {
                        told += 1;
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
        let due = told > 0 || lagged || self.beats.is_multiple_of(OVERVIEW_BEATS);
        if due
            && let Ok(overview) = self
                .access
                .postrider()
                .recent_overview(&self.tenant, FRESH)
                .await
        {
            text.push_str(&written("overview", &OverviewBody::new(&overview)));
        }
        self.beats = self.beats.wrapping_add(1);
        Some(if text.is_empty() {
            ":\n\n".into()
        } else {
            text
        })
    }

    async fn event(&mut self, happening: &Happening) -> Option<String> {
        let endpoint = match happening {
            Happening::Delivered { endpoint, .. }
            | Happening::Failed { endpoint, .. }
            | Happening::Changed { endpoint }
            | Happening::Paused { endpoint, .. } => endpoint.clone(),
        };
        if self.tenant.is_some() && self.tenant_of(&endpoint).await != self.tenant {
            return None;
        }
        Some(match happening {
            Happening::Delivered {
                event,
                delivery,
                endpoint,
            } => {
                let body = json!({"id": delivery, "event_id": event, "endpoint_id": endpoint,
                                  "status": Status::Delivered, "failure_reason": null});
                written("delivery", &body)
            }
            Happening::Failed {
                event,
                delivery,
                endpoint,
                reason,
            } => {
                let body = json!({"id": delivery, "event_id": event, "endpoint_id": endpoint,
                                  "status": Status::Failed, "failure_reason": reason});
                written("delivery", &body)
            }
            Happening::Changed { endpoint } | Happening::Paused { endpoint, .. } => {
                match self.access.postrider().endpoint(endpoint).await {
                    Ok(view) => written("endpoint", &EndpointBody::new(view).outline()),
                    Err(_) => written("endpoint", &json!({"id": endpoint, "status": null})),
                }
            }
        })
    }

    async fn tenant_of(&mut self, endpoint: &EndpointId) -> Option<Tenant> {
        if let Some(known) = self.tenants.get(endpoint) {
            return Some(known.clone());
        }
        let tenant = self
            .access
            .postrider()
            .tenant_of_endpoint(endpoint)
            .await
            .ok()?;
        if self.tenants.len() >= MOST_TENANTS {
            self.tenants.clear();
        }
        self.tenants.insert(endpoint.clone(), tenant.clone());
        Some(tenant)
    }
}

/// One event. JSON has no line breaks of its own.
fn written(name: &str, body: &impl serde::Serialize) -> String {
    format!(
        "event: {name}\ndata: {}\n\n",
        serde_json::to_string(body).unwrap_or_default()
    )
}
