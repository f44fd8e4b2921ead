//! Who may call: a bearer token (RFC 6750) and what it is good for.
//!
//! A handler gets at the engine by [`Access`] alone, which says what its token must be good for;
//! ids and tenants that come from outside pass through it, too. So no route can forget to ask.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage as _, HttpRequest, web};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use subtle::ConstantTimeEq;

use super::problem::{Kind, Problem};
use super::session::{COOKIE, CSRF_HEADER};
use crate::domain::access::{Grant, Scope, TokenHash, check_token};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{DeliveryId, EndpointId, Tenant, could_be_id};
use crate::domain::rate_limit::{Period, RateLimit, SlidingWindow};
use crate::domain::session::Holder;
use crate::engine::{OpenSession, Postrider};

/// How many wrong tokens an address may send in a minute before it is told to wait.
const FAILURES: u32 = 100;

/// The most addresses that failures are remembered of.
const MAX_ADDRESSES: usize = 4096;

/// The operator's own token, which may do everything. Kept as its hash; never shown.
#[derive(Clone)]
pub struct ApiToken {
    hash: Arc<RwLock<TokenHash>>,
    failures: Arc<Failures>,
}

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(***)")
    }
}

impl ApiToken {
    /// The token as a caller will send it.
    ///
    /// # Errors
    /// When it is shorter than [`crate::domain::access::MIN_TOKEN_CHARS`], or could not be sent in
    /// a header.
    pub fn new(token: &str) -> Result<Self, String> {
        check_token(token)?;
        Ok(Self {
            hash: Arc::new(RwLock::new(TokenHash::of(token))),
            failures: Arc::default(),
        })
    }

    /// Replaces the token wherever this one, or a clone of it, is mounted.
    ///
    /// # Errors
    /// As [`new`](Self::new); the present token stays then.
    pub fn replace(&self, token: &str) -> Result<(), String> {
        check_token(token)?;
        *self.hash.write().unwrap_or_else(PoisonError::into_inner) = TokenHash::of(token);
        Ok(())
    }

    /// Hashes are compared, in constant time: not even the length is told by the time it takes.
    fn is(&self, hash: &TokenHash) -> bool {
        let own = self.hash.read().unwrap_or_else(PoisonError::into_inner);
        own.bytes().ct_eq(hash.bytes()).into()
    }
}

/// Whom the API is mounted for.
pub(super) enum Callers {
    /// Those who have a token: this one, or one that was made with it.
    Bearers(ApiToken),
    /// Everyone who gets that far: the host has asked who they are.
    Trusted,
}

impl Callers {
    fn own(&self) -> Option<&ApiToken> {
        match self {
            Self::Bearers(own) => Some(own),
            Self::Trusted => None,
        }
    }

    /// What the holder of a session, or a token's bearer, may do now.
    fn grant_of(&self, postrider: &Postrider, holder: &Holder) -> Option<Grant> {
        match holder {
            Holder::Token(hash) if self.own().is_some_and(|own| own.is(hash)) => Some(Grant::ALL),
            holder => postrider.grant_of_holder(holder),
        }
    }
}

/// Wrong tokens by the address that they came from. A right one always passes: whoever floods a
/// proxy with wrong ones locks nobody out, and 32 random bytes are not guessed at any rate.
#[derive(Debug)]
struct Failures {
    origin: Instant,
    by_address: Mutex<HashMap<IpAddr, SlidingWindow>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            by_address: Mutex::default(),
        }
    }
}

impl Failures {
    fn has_room(&self, address: IpAddr) -> bool {
        let now = self.origin.elapsed();
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        by_address
            .get_mut(&network(address))
            .is_none_or(|window| window.available(now) > 0)
    }

    /// Counts one more, or says how long to wait.
    fn count(&self, address: IpAddr) -> Result<(), Duration> {
        let now = self.origin.elapsed();
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if by_address.len() >= MAX_ADDRESSES {
            by_address.retain(|_, window| window.available(now) < FAILURES);
            if by_address.len() >= MAX_ADDRESSES {
                by_address.clear();
            }
        }
        let limit = RateLimit::Sliding {
            starts: FAILURES,
            period: Period::Minute,
        };
        let window = by_address
            .entry(network(address))
            .or_insert_with(|| SlidingWindow::seeded(limit, []));
        match window.wait(now) {
            Some(wait) => Err(wait),
            None => {
                window.start(now);
                if window.available(now) == 0 {
                    tracing::warn!(%address, "{FAILURES} wrong tokens came from {address} within a minute");
                }
                Ok(())
            }
        }
    }
}

/// Who has one address of an IPv6 network has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// What a caller was let in with.
#[derive(Debug, Clone)]
struct Admission {
    grant: Grant,
    /// By what, and until when. `None`: the host has asked who calls.
    by: Option<(Holder, Option<Timestamp>)>,
}

/// Finds out what a request may do, and lets it through with that.
pub(super) async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match admission(&request).await {
        Ok(admission) => {
            request.extensions_mut().insert(admission);
            next.call(request).await
        }
        Err(problem) => Err(problem.into()),
    }
}

async fn admission(request: &ServiceRequest) -> Result<Admission, Problem> {
    let callers = request.app_data::<web::Data<Callers>>();
    let postrider = request.app_data::<web::Data<Postrider>>();
    let (Some(callers), Some(postrider)) = (callers, postrider) else {
        return Err(Problem::new(
            Kind::Unauthorized,
            "nobody can be asked who calls",
        ));
    };
    if let Callers::Trusted = ***callers {
        // Browsers say which page a call comes from; the host's cookie may come along with it
        // (Fetch Metadata).
        let site = request
            .headers()
            .get("sec-fetch-site")
            .and_then(|value| value.to_str().ok());
        if !request.method().is_safe()
            && site.is_some_and(|site| !["same-origin", "none"].contains(&site))
        {
            return Err(Problem::new(
                Kind::Csrf,
                "a call that changes something must come from this page",
            ));
        }
        return Ok(Admission {
            grant: Grant::ALL,
            by: None,
        });
    }
    let caller = Caller::new(request.request(), callers, postrider);
    if let Some(token) = caller.bearer() {
        let holder = Holder::Token(TokenHash::of(&token));
        let grant = caller
            .grant_of(&holder)
            .await
            .ok_or_else(|| caller.wrong("the token is not valid"))?;
        return Ok(Admission {
            grant,
            by: Some((holder, None)),
        });
    }
    let Some(open) = caller.session() else {
        return Err(Problem::new(
            Kind::Unauthorized,
            "send it as `Authorization: Bearer TOKEN`",
        ));
    };
    let given = request
        .headers()
        .get(CSRF_HEADER)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !request.method().is_safe() && !postrider.is_csrf_of(&open.credential, given) {
        let detail =
            format!("a call by cookie that changes something needs the header {CSRF_HEADER}");
        return Err(Problem::new(Kind::Csrf, detail));
    }
    let ended = || Problem::new(Kind::Unauthorized, "the session has ended: sign in again");
    let grant = caller
        .grant_of(&open.session.holder)
        .await
        .ok_or_else(ended)?;
    Ok(Admission {
        grant,
        by: Some((open.session.holder, Some(open.session.expires_at))),
    })
}

/// Who makes a request, as far as it says.
pub(super) struct Caller<'r> {
    request: &'r HttpRequest,
    callers: &'r Callers,
    postrider: &'r Postrider,
}

impl<'r> Caller<'r> {
    pub(super) fn new(
        request: &'r HttpRequest,
        callers: &'r Callers,
        postrider: &'r Postrider,
    ) -> Self {
        Self {
            request,
            callers,
            postrider,
        }
    }

    /// The token in the header.
    pub(super) fn bearer(&self) -> Option<String> {
        let value = self.request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, given) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| given.trim().to_owned())
    }

    /// The session that the cookie holds.
    pub(super) fn session(&self) -> Option<OpenSession> {
        self.postrider.session(self.request.cookie(COOKIE)?.value())
    }

    /// What the holder of a session, or a token's bearer, may do now.
    pub(super) async fn grant_of(&self, holder: &Holder) -> Option<Grant> {
        match (self.callers.grant_of(self.postrider, holder), holder) {
            (Some(grant), _) => Some(grant),
            // Another node may have made it a moment ago. An address that has sent too many wrong
            // ones waits until this node has heard of it.
            (None, Holder::Token(hash)) if self.may_guess() => {
                self.postrider.grant_of_new(hash).await
            }
            (None, _) => None,
        }
    }

    /// Returns true while the address is below the limit of wrong credentials.
    fn may_guess(&self) -> bool {
        let failures = self
            .callers
            .own()
            .map(|own| &own.failures)
            .zip(self.request.peer_addr());
        failures.is_none_or(|(failures, peer)| failures.has_room(peer.ip()))
    }

    /// The answer to a wrong credential, which is counted.
    pub(super) fn wrong(&self, detail: &str) -> Problem {
        let failures = self
            .callers
            .own()
            .map(|own| &own.failures)
            .zip(self.request.peer_addr());
        match failures.map(|(failures, peer)| failures.count(peer.ip())) {
            Some(Err(wait)) => {
                Problem::too_many("too many wrong tokens came from this address", wait)
            }
            _ => Problem::new(Kind::Unauthorized, detail),
        }
    }
}

/// What a call needs of its token.
pub(super) trait Needs {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident)+) => { $(
        #[derive(Debug)]
        pub(super) struct $name;
        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+ };
}
needs! { Read Publish Portal Admin }

/// The id that a path names. What could be none is not there, and no database is asked for it.
pub(super) fn id_of(path: web::Path<String>, what: &'static str) -> Result<String, Problem> {
    let id = path.into_inner();
    if could_be_id(&id) {
        Ok(id)
    } else {
        Err(crate::engine::Error::NotFound(what).into())
    }
}

/// The engine, for a call whose token is good for what it does.
pub(super) struct Access<N> {
    postrider: web::Data<Postrider>,
    callers: web::Data<Callers>,
    admission: Admission,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequest for Access<N> {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let admission = request.extensions().get::<Admission>().cloned();
        let callers = request.app_data::<web::Data<Callers>>().cloned();
        let postrider = request.app_data::<web::Data<Postrider>>().cloned();
        let (Some(admission), Some(callers), Some(postrider)) = (admission, callers, postrider)
        else {
            let detail = "send it as `Authorization: Bearer TOKEN`";
            return std::future::ready(Err(Problem::new(Kind::Unauthorized, detail)));
        };
        let scope = admission.grant.scope;
        std::future::ready(if scope.allows(N::SCOPE) {
            Ok(Self {
                postrider,
                callers,
                admission,
                needs: PhantomData,
            })
        } else {
            let detail = format!(
                "this token has the scope `{scope}`; the call needs `{}`",
                N::SCOPE
            );
            Err(Problem::new(Kind::Forbidden, detail))
        })
    }
}

impl<N> Access<N> {
    /// The engine. Ids that it is asked for come out of [`endpoint`](Self::endpoint) and
    /// [`delivery`](Self::delivery), tenants out of the two below.
    pub(super) fn postrider(&self) -> &Postrider {
        &self.postrider
    }

    /// What the token is good for.
    pub(super) fn grant(&self) -> &Grant {
        &self.admission.grant
    }

    /// Who calls, as a text that is the same for each call with the same credential.
    pub(super) fn caller(&self) -> String {
        match &self.admission.by {
            Some((Holder::Token(hash), _)) => {
                format!("token:{}", BASE64_STANDARD.encode(hash.bytes()))
            }
            Some((Holder::Portal(tenant), _)) => format!("portal:{tenant}"),
            None => "host".to_owned(),
        }
    }

    /// Whether the caller would still be let in with that: for an answer that goes on.
    pub(super) fn still_holds(&self) -> bool {
        let Some((holder, until)) = &self.admission.by else {
            return true;
        };
        until.is_none_or(|until| self.postrider.now() < until)
            && self.callers.grant_of(&self.postrider, holder).as_ref() == Some(self.grant())
    }

    /// The endpoint that a path names, if it is there for this token.
    pub(super) async fn endpoint(&self, path: web::Path<String>) -> Result<EndpointId, Problem> {
        let id = EndpointId::from_text(id_of(path, "endpoint")?);
        if self.grant().tenant.is_some() {
            let tenant = self.postrider.tenant_of_endpoint(&id).await?;
            self.require(&tenant, "endpoint")?;
        }
        Ok(id)
    }

    /// The delivery that a path names, if it is there for this token.
    pub(super) async fn delivery(&self, path: web::Path<String>) -> Result<DeliveryId, Problem> {
        let id = DeliveryId::from_text(id_of(path, "delivery")?);
        if self.grant().tenant.is_some() {
            let tenant = self.postrider.tenant_of_delivery(&id).await?;
            self.require(&tenant, "delivery")?;
        }
        Ok(id)
    }

    /// That a thing is there for this token.
    pub(super) fn require(&self, tenant: &Tenant, what: &'static str) -> Result<(), Problem> {
        if self.grant().covers(tenant) {
            Ok(())
        } else {
            Err(crate::engine::Error::NotFound(what).into())
        }
    }

    /// Whose things a list shows: those that were asked for, within what the token is good for.
    pub(super) fn tenant_filter(&self, asked: Option<Tenant>) -> Result<Option<Tenant>, Problem> {
        match asked {
            Some(tenant) => self.tenant(Some(tenant)).map(Some),
            None => Ok(self.grant().tenant.clone()),
        }
    }

    /// Whose thing is meant: that tenant's, or the token's own, or the default.
    pub(super) fn tenant(&self, named: Option<Tenant>) -> Result<Tenant, Problem> {
        let tenant = named
            .or_else(|| self.grant().tenant.clone())
            .unwrap_or_default();
        if self.grant().covers(&tenant) {
            return Ok(tenant);
        }
        Err(Problem::new(
            Kind::Forbidden,
            format!("this token is not good for the tenant `{tenant}`"),
        ))
    }

    /// Refuses a token that is good for one tenant alone.
    pub(super) fn for_all_tenants(&self) -> Result<(), Problem> {
        match &self.grant().tenant {
            None => Ok(()),
            Some(tenant) => {
                let detail = format!(
                    "this token is good for the tenant `{tenant}` alone; the call tells of all of them"
                );
                Err(Problem::new(Kind::Forbidden, detail))
            }
        }
    }
}
