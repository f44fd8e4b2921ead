//! Signing secrets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Timestamp;
use crate::http::native::body::whole;

/// A signing secret.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
pub(crate) struct SecretBody {
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(crate) secret: String,
}

/// The current signing secret, and the older keys that also sign.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointSecrets)]
pub(crate) struct SecretsBody {
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(crate) secret: String,
    /// Newest first.
    pub(crate) older: Vec<OlderKeyBody>,
}

/// A rotated key that still signs.
#[derive(Serialize, ToSchema)]
#[schema(as = OlderKey)]
pub(crate) struct OlderKeyBody {
    #[schema(example = "key_64fb1a2b3c4d5")]
    pub(crate) id: String,
    pub(crate) signs_until: Timestamp,
}

/// The new secret; generated if absent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSecret, example = json!({"grace_s": 86400}))]
pub(crate) struct RotateRequest {
    #[schema(value_type = Option<NewSecretText>)]
    pub(crate) secret: Option<String>,
    /// Grace period in seconds, in which both secrets sign. Default: one day.
    #[schema(minimum = 0, maximum = 604800)]
    #[serde(default, deserialize_with = "whole")]
    pub(crate) grace_s: Option<u64>,
}

/// `whsec_` and 24 to 75 bytes in base64, or `whsk_` and an Ed25519 key; generated if absent.
#[derive(ToSchema, Deserialize)]
#[schema(as = SecretText, pattern = "^(whsec_([A-Za-z0-9+/]{4}){8,24}([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?|whsk_[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$", example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
pub(crate) struct NewSecretText(#[expect(dead_code, reason = "only described")] String);
