//! Certificate verification with the system's trust store.
//!
//! The store's files are read again when they change. Three things are accepted in addition to
//! rustls' rules, because other clients on the same machine accept them: a certificate in the store
//! itself for its own name, CA or not; the common name if there are no alternative names; and
//! signatures on the curve P-521.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName,
    SignatureVerificationAlgorithm, UnixTime, alg_id,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::time::Instant;

/// Minimum time between two checks of the trust store's files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// rustls' ring provider with P-521 added.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.signature_verification_algorithms = algorithms(&provider);
    Arc::new(provider)
});

/// Returns the provider used for connections to receivers.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Returns the provider's algorithms with P-521 added. Called once per process, so the leak is
/// bounded.
///
/// TLS 1.3 ties the curve to a hash. TLS 1.2 and certificates combine any curve with any hash, so
/// there P-521 comes after the curves of ring.
fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    const SHA256: &dyn SignatureVerificationAlgorithm = &EcdsaP521 { hash: Hash::Sha256 };
    const SHA384: &dyn SignatureVerificationAlgorithm = &EcdsaP521 { hash: Hash::Sha384 };
    const SHA512: &dyn SignatureVerificationAlgorithm = &EcdsaP521 { hash: Hash::Sha512 };
    let known = provider.signature_verification_algorithms;
    let more = |scheme: SignatureScheme| match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => Some(SHA256),
        SignatureScheme::ECDSA_NISTP384_SHA384 => Some(SHA384),
        _ => None,
    };
    let mut mapping = known.mapping.to_vec();
    for (scheme, algorithms) in &mut mapping {
        if let Some(more) = more(*scheme) {
            *algorithms = Vec::leak([*algorithms, &[more]].concat());
        }
    }
    mapping.push((
        SignatureScheme::ECDSA_NISTP521_SHA512,
        Vec::leak(vec![SHA512]),
    ));
    let all = [known.all, &[SHA256, SHA384, SHA512]].concat();
    WebPkiSupportedAlgorithms {
        all: Vec::leak(all),
        mapping: Vec::leak(mapping),
    }
}

/// ECDSA on P-521 (FIPS 186-5) with one of the hashes used with it.
#[derive(Debug)]
struct EcdsaP521 {
    hash: Hash,
}

#[derive(Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// Size of a number modulo the curve's order in bytes.
const P521_BYTES: usize = 66;

impl Hash {
    /// Returns the message's hash as such a number, zero-padded: every hash is shorter.
    fn number_of(&self, message: &[u8]) -> [u8; P521_BYTES] {
        fn padded(hash: &[u8]) -> [u8; P521_BYTES] {
            let mut number = [0; P521_BYTES];
            number[P521_BYTES - hash.len()..].copy_from_slice(hash);
            number
        }
        match self {
            Self::Sha256 => padded(&Sha256::digest(message)),
            Self::Sha384 => padded(&Sha384::digest(message)),
            Self::Sha512 => padded(&Sha512::digest(message)),
        }
    }
}

impl SignatureVerificationAlgorithm for EcdsaP521 {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature =
            p521::ecdsa::DerSignature::try_from(signature).map_err(|_| InvalidSignature)?;
        key.verify_prehash(&self.hash.number_of(message), &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.hash {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

/// The system's trust store.
#[derive(Debug)]
pub(super) struct SystemTrust {
    roots: RwLock<Arc<Roots>>,
    looked: Mutex<Looked>,
}

/// State of the store's files at the last check.
#[derive(Debug)]
struct Looked {
    at: Instant,
    files: Vec<Seen>,
}

type Seen = (PathBuf, Option<(SystemTime, u64, u64)>);

/// Content of the trust store as last read.
#[derive(Debug)]
struct Roots {
    /// `None` if there are no root certificates.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    certificates: HashSet<Vec<u8>>,
}

impl SystemTrust {
    /// Reads the trust store.
    pub(super) fn load() -> Self {
        let looked = Looked {
            at: Instant::now(),
            files: look(),
        };
        Self {
            roots: RwLock::new(Arc::new(Roots::load())),
            looked: Mutex::new(looked),
        }
    }

    /// Reads the trust store again.
    pub(super) fn reload(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        *looked = Looked {
            at: Instant::now(),
            files: look(),
        };
        let roots = Arc::new(Roots::load());
        tracing::info!(
            certificates = roots.certificates.len(),
            "the trust store was read again"
        );
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = roots;
    }

    /// Returns the trust store, read again if its files have changed.
    fn current(&self) -> Arc<Roots> {
        let changed = {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            looked.at.elapsed() >= LOOK_EVERY && {
                looked.at = Instant::now();
                looked.files != look()
            }
        };
        if changed {
            self.reload();
        }
        Arc::clone(&self.roots.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the trust store's files with their state; for a folder, each of its files as well.
fn look() -> Vec<Seen> {
    let set = |name: &str| std::env::var_os(name);
    let (file, folders) = (set("SSL_CERT_FILE"), set("SSL_CERT_DIR"));
    // As in rustls-native-certs: if a variable is set, the default locations are not used.
    let paths: Vec<PathBuf> = if file.is_none() && folders.is_none() {
        let found = openssl_probe::probe();
        found.cert_file.into_iter().chain(found.cert_dir).collect()
    } else {
        let folders = folders
            .iter()
            .flat_map(|folders| std::env::split_paths(folders));
        file.map(PathBuf::from).into_iter().chain(folders).collect()
    };
    let mut seen = Vec::new();
    for path in paths {
        let entries = std::fs::read_dir(&path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        seen.extend(entries.map(stamped));
        seen.push(stamped(path));
    }
    seen.sort();
    seen
}

fn stamped(path: PathBuf) -> Seen {
    let state = std::fs::metadata(&path).and_then(|found| {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        #[cfg(not(unix))]
        let inode = 0;
        Ok((found.modified()?, found.len(), inode))
    });
    (path, state.ok())
}

impl Roots {
    fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a part of the trust store could not be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs.iter().cloned());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        if let Err(error) = &verifier {
            tracing::warn!(%error, "no root certificates: every https endpoint fails until they are installed (package ca-certificates)");
        }
        let certificates = found
            .certs
            .iter()
            .map(|one| one.as_ref().to_vec())
            .collect();
        Self {
            verifier: verifier.ok(),
            certificates,
        }
    }

    /// Decides on a certificate after rustls: some that it refuses are trusted here.
    fn judge(
        &self,
        verified: Result<ServerCertVerified, Error>,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match verified {
            // The certificate itself is in the store: it is a CA's, or its issuer is not in there.
            // Its validity period has been checked already; its name is checked here.
            Err(error)
                if is_of_the_chain(&error) && self.certificates.contains(end_entity.as_ref()) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
            }
            verified => verified.map(|_| ()),
        };
        match verified {
            Err(error) if !(is_of_the_name(&error) && has_common_name(end_entity, name)) => {
                Err(error)
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }
}

/// Returns whether a certificate was refused as a CA's, or because its issuer is unknown.
fn is_of_the_chain(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            matches!(
                other.0.downcast_ref(),
                Some(webpki::Error::CaUsedAsEndEntity)
            )
        }
        _ => false,
    }
}

/// Returns whether a certificate was refused only for its name, which is checked last.
fn is_of_the_name(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

/// Returns whether a certificate without alternative names has `name` as its common name, as
/// self-signed ones do (RFC 2818, section 3.1). Wildcards are not supported.
fn has_common_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let without_names = matches!(certificate.subject_alternative_name(), Ok(None));
    let wanted = name.to_str();
    let mut names = certificate
        .subject()
        .iter_common_name()
        .filter_map(|one| one.as_str().ok());
    without_names && names.any(|one| one.eq_ignore_ascii_case(&wanted))
}

impl ServerCertVerifier for SystemTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.current();
        let Some(verifier) = &roots.verifier else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified = verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        roots.judge(verified, end_entity, name)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}
