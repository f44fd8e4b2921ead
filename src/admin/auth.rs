//! Who may call: a bearer token (RFC 6750), compared in constant time.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::Next;
use actix_web::{Error, web};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::{Kind, Problem};

/// The fewest characters of a token: what can be guessed is no token.
pub const MIN_TOKEN_CHARS: usize = 16;

/// The token that the API asks for. Kept as its hash; never shown.
#[derive(Clone)]
pub struct ApiToken {
    hash: [u8; 32],
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
    /// When it is shorter than [`MIN_TOKEN_CHARS`], or could not be sent in a header.
    pub fn new(token: &str) -> Result<Self, String> {
        let sendable = token.bytes().all(|b| (0x21..0x7f).contains(&b));
        if token.len() < MIN_TOKEN_CHARS || !sendable {
            return Err(format!(
                "must be at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces"
            ));
        }
        Ok(Self { hash: Sha256::digest(token).into() })
    }

    /// A fresh token of 32 random bytes.
    #[must_use]
    pub fn generate() -> String {
        format!("pr_{}", BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
    }

    /// Equal length on both sides, so that not even that is told by the time it takes.
    fn is(&self, token: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        hash.ct_eq(&self.hash).into()
    }
}

/// Lets a request through that bears the token.
pub(super) async fn require_token(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let token = request.app_data::<web::Data<ApiToken>>().cloned();
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = header.and_then(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
    });
    let detail = match (token, given) {
        (Some(token), Some(given)) if token.is(given) => return next.call(request).await,
        (_, Some(_)) => "the token is not valid",
        (_, None) => "send it as `Authorization: Bearer TOKEN`",
    };
    Err(Problem::new(Kind::Unauthorized, detail).into())
}
