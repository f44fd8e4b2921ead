//! Which certificates are trusted: those that the system's trust store vouches for, as it stands
//! now.
//!
//! The store's files are read again when they change. Beside what rustls accepts by itself, a
//! certificate that stands in the store is accepted for its own name, CA or not; a name may be the
//! common name where there is no other; and signatures on the curve P-521 are verified: other
//! clients on the same machine accept all of that.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

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
///
/// TLS 1.3 ties the curve to a hash; TLS 1.2 and certificates take each curve with each hash, so
/// there P-521 stands behind those that ring knows.
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

/// ECDSA on P-521 (FIPS 186-5) with one of the hashes that are used with it.
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

/// The bytes of a number modulo the curve's order.
const P521_BYTES: usize = 66;

impl Hash {
    /// The message's hash as such a number: a hash that is shorter than the order is taken whole.
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

/// What of the store's files was seen last.
#[derive(Debug)]
struct Looked {
    at: Instant,
    files: Vec<Seen>,
}

type Seen = (PathBuf, Option<(SystemTime, u64, u64)>);

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

/// The files that the trust store is read from, and how they stand. Of a folder, each of its files.
fn look() -> Vec<Seen> {
    let set = |name: &str| std::env::var_os(name);
    let (file, folders) = (set("SSL_CERT_FILE"), set("SSL_CERT_DIR"));
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

    /// Judges a certificate that rustls has verified: what it refuses may still be trusted here.
    fn judge(
        &self,
        verified: Result<ServerCertVerified, Error>,
        end_entity: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match verified {
            // A certificate that stands in the store itself, a CA's or one whose issuer does not
            // stand there. Its time of validity was checked before that; its name is checked here.
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

/// Whether a certificate was refused because it is a CA's, or nobody's in the store.
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

/// Whether a certificate was refused for its name alone, which is what is checked last.
fn is_of_the_name(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

/// Whether a certificate without alternative names has this one as its common name, as self-made
/// ones do (RFC 2818, section 3.1). Patterns are not read.
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
