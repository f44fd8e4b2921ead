//! Which certificates are trusted: those that the system's trust store vouches for, as it stands now.
//!
//! The store's files are read again when they change. Beside what rustls accepts by itself, a self-signed
//! certificate that stands in the store is accepted for its own name, CA or not, and so are signatures on the
//! curve P-521: other clients on the same machine accept both.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm,
    UnixTime, alg_id,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// How often the trust store's files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// rustls' ring provider, and P-521 beside it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.signature_verification_algorithms = algorithms(&provider);
    Arc::new(provider)
});

/// The provider that connections to receivers use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// The provider's algorithms with P-521. Made once a process, so what is leaked stays bounded.
fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    const P521: &[&dyn SignatureVerificationAlgorithm] = &[&EcdsaP521Sha512];
    let known = provider.signature_verification_algorithms;
    let mut mapping = known.mapping.to_vec();
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, P521));
    WebPkiSupportedAlgorithms { all: Vec::leak([known.all, P521].concat()), mapping: Vec::leak(mapping) }
}

/// ECDSA on P-521 with SHA-512 (FIPS 186-5).
#[derive(Debug)]
struct EcdsaP521Sha512;

impl SignatureVerificationAlgorithm for EcdsaP521Sha512 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        use p521::ecdsa::signature::Verifier as _;
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = p521::ecdsa::DerSignature::try_from(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA512
    }
}

/// The system's trust store.
#[derive(Debug)]
pub(super) struct SystemTrust {
    roots: RwLock<Arc<Roots>>,
    looked: Mutex<Looked>,
}

/// What of the store's files was seen last.
#[derive(Debug)]
struct Looked {
    at: Instant,
    files: Vec<Seen>,
}

type Seen = (PathBuf, Option<(SystemTime, u64)>);

/// The trust store as it was read.
#[derive(Debug)]
struct Roots {
    /// `None` where there is no root certificate at all.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    certificates: HashSet<Vec<u8>>,
}

impl SystemTrust {
    /// Reads the trust store.
    pub(super) fn load() -> Self {
        let looked = Looked { at: Instant::now(), files: look() };
        Self { roots: RwLock::new(Arc::new(Roots::load())), looked: Mutex::new(looked) }
    }

    /// Reads the trust store again.
    pub(super) fn reload(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        *looked = Looked { at: Instant::now(), files: look() };
        let roots = Arc::new(Roots::load());
        tracing::info!(certificates = roots.certificates.len(), "the trust store was read again");
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = roots;
    }

    /// The trust store as its files are now.
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

/// The files and folders that the trust store is read from, and how they stand.
fn look() -> Vec<Seen> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (file, folder) = (set("SSL_CERT_FILE"), set("SSL_CERT_DIR"));
    let paths: Vec<PathBuf> = if file.is_none() && folder.is_none() {
        let found = openssl_probe::probe();
        found.cert_file.into_iter().chain(found.cert_dir).collect()
    } else {
        file.into_iter().chain(folder).collect()
    };
    let seen = |path: PathBuf| {
        let state = std::fs::metadata(&path).and_then(|found| Ok((found.modified()?, found.len()))).ok();
        (path, state)
    };
    paths.into_iter().map(seen).collect()
}

impl Roots {
    fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a part of the trust store could not be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        if let Err(error) = &verifier {
            tracing::warn!(%error, "no root certificates: every https endpoint fails until they are installed (package ca-certificates)");
        }
        let certificates = found.certs.iter().map(|one| one.as_ref().to_vec()).collect();
        Self { verifier: verifier.ok(), certificates }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.verifier else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // A certificate of a CA that stands in the store itself. What comes before that check (its time
            // of validity) has passed; what comes after it (its name) is checked here.
            Err(error) if is_ca(&error) && self.certificates.contains(end_entity.as_ref()) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
}

/// Whether a certificate was refused only because it is a CA's.
fn is_ca(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    let cause = other.0.downcast_ref::<webpki::Error>();
    matches!(cause, Some(webpki::Error::CaUsedAsEndEntity))
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
        self.current().verify(end_entity, intermediates, name, ocsp, now)
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
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
