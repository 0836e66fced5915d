//! TLS: with a certificate of our own making, or one that is brought.
//!
//! Ours is signed by an authority that is made on demand and stays in the state directory, so that clients need to be
//! told once whom to trust. The certificate itself is only in memory, and is made anew long before it ends. One that
//! is brought is read again when its file changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use super::{ServeError, replace};

/// Where the authority is, in the state directory.
const AUTHORITY: &str = "tls/ca.pem";
const AUTHORITY_KEY: &str = "tls/ca.key";
/// How long our certificates hold, and when they are made anew.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
const RENEWAL: SignedDuration = SignedDuration::from_hours(60 * 24);
/// The authority outlives every state directory.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(20 * 365 * 24);
/// Clocks may differ by so much.
const SKEW: SignedDuration = SignedDuration::from_hours(24);

/// How the API is protected on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// By a certificate of our own making, for these names and addresses.
    Own {
        /// The names and addresses.
        names: Vec<String>,
    },
    /// By one that is brought, in PEM.
    Brought {
        /// The certificate, with those between it and its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

impl Tls {
    /// What accepts connections, and the file with the authority that clients are to trust, if it is ours.
    pub(super) fn acceptor(&self, state: &Path) -> Result<(TlsAcceptor, Option<PathBuf>), ServeError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (resolver, authority): (Arc<dyn ResolvesServerCert>, _) = match self {
            Self::Own { names } => {
                let authority = Authority::of(state)?;
                let own = Own {
                    authority,
                    names: names.clone(),
                    provider: Arc::clone(&provider),
                    current: Mutex::default(),
                };
                own.key(Timestamp::now())?;
                (Arc::new(own), Some(PathBuf::from(AUTHORITY)))
            }
            Self::Brought { certificate, key } => {
                let brought = Brought {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    provider: Arc::clone(&provider),
                    current: Mutex::default(),
                };
                brought.read()?;
                (Arc::new(brought), None)
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ServeError::Tls(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok((TlsAcceptor::from(Arc::new(config)), authority))
    }
}

/// Whoever signs our certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of a state directory, made if there is none.
    fn of(state: &Path) -> Result<Self, ServeError> {
        let failed = |error: rcgen::Error| {
            ServeError::Tls(format!("{}: {error}", state.join(AUTHORITY_KEY).display()))
        };
        let (certificate, key) = (state.join(AUTHORITY), state.join(AUTHORITY_KEY));
        let directory = key.parent().unwrap_or(state);
        fs::create_dir_all(directory)
            .map_err(|source| ServeError::Io { path: directory.to_owned(), source })?;
        let pair = match fs::read_to_string(&key) {
            Ok(text) => KeyPair::from_pem(&text).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pair = KeyPair::generate().map_err(failed)?;
                replace(&key, &pair.serialize_pem())?;
                // It belonged to another key.
                let _ = fs::remove_file(&certificate);
                pair
            }
            Err(source) => return Err(ServeError::Io { path: key, source }),
        };
        let params = Self::params(Timestamp::now());
        if !certificate.exists() {
            let signed = params.self_signed(&pair).map_err(failed)?;
            replace(&certificate, &signed.pem())?;
        }
        Ok(Self { issuer: Issuer::new(params, pair) })
    }

    /// What the authority says of itself. Only times differ from one call to the next.
    fn params(now: Timestamp) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Rayconcile authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, AUTHORITY_LIFE);
        params
    }

    /// A certificate for some names and addresses, with its key.
    fn sign(
        &self,
        names: &[String],
        now: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, ServeError> {
        let failed = |error: rcgen::Error| {
            ServeError::Tls(format!("no certificate can be made for {}: {error}", names.join(", ")))
        };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = named("Rayconcile controller");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, now, LIFE);
        let pair = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&pair, &self.issuer).map_err(failed)?;
        let key = PrivateKeyDer::try_from(pair.serialize_der())
            .map_err(|error| ServeError::Tls(error.to_owned()))?;
        CertifiedKey::from_der(vec![certificate.der().clone()], key, provider)
            .map_err(|error| ServeError::Tls(error.to_string()))
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From a day before now, for clocks differ, for so long.
fn validity(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) {
    let day = |moment: Timestamp| {
        let date = moment.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(now - SKEW), day(now + life));
}

/// A certificate of our own making, and when it was made.
struct Own {
    authority: Authority,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: Mutex<Option<(Arc<CertifiedKey>, Timestamp)>>,
}

impl Own {
    /// The certificate to be shown at a moment.
    fn key(&self, now: Timestamp) -> Result<Arc<CertifiedKey>, ServeError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, made)) = &*current
            && now < *made + RENEWAL
        {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(self.authority.sign(&self.names, now, &self.provider)?);
        *current = Some((Arc::clone(&key), now));
        Ok(key)
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key(Timestamp::now())
            .inspect_err(|error| tracing::error!(%error, "the certificate of the API cannot be renewed"))
            .ok()
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A certificate that is brought, and when its files were changed last.
#[derive(Debug)]
struct Brought {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<Option<(Arc<CertifiedKey>, [SystemTime; 2])>>,
}

impl Brought {
    /// The certificate, as it is in its files.
    fn read(&self) -> Result<Arc<CertifiedKey>, ServeError> {
        let modified = |path: &Path| {
            let time = fs::metadata(path).and_then(|metadata| metadata.modified());
            time.map_err(|source| ServeError::Unreadable { path: path.to_owned(), source })
        };
        let times = [modified(&self.certificate)?, modified(&self.key)?];
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, read)) = &*current
            && *read == times
        {
            return Ok(Arc::clone(key));
        }
        let bad = |path: &Path, error: String| ServeError::Tls(format!("{}: {error}", path.display()));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| bad(&self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(bad(&self.certificate, "there is no certificate in it".to_owned()));
        }
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad(&self.key, error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error: rustls::Error| bad(&self.key, error.to_string()))?;
        let key = Arc::new(key);
        *current = Some((Arc::clone(&key), times));
        Ok(key)
    }
}

impl ResolvesServerCert for Brought {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.read()
            .inspect_err(
                |error| tracing::warn!(%error, "the certificate is not read; the one before goes on"),
            )
            .ok()
            .or_else(|| {
                let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                current.as_ref().map(|(key, _)| Arc::clone(key))
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_certificate_is_made_anew_long_before_it_ends() {
        let state = tempfile::tempdir().unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let own = || Own {
            authority: Authority::of(state.path()).unwrap(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            provider: Arc::clone(&provider),
            current: Mutex::default(),
        };
        let (first, now) = (own(), Timestamp::now());
        let key = first.key(now).unwrap();
        assert!(Arc::ptr_eq(&key, &first.key(now + SignedDuration::from_hours(59 * 24)).unwrap()));
        assert!(!Arc::ptr_eq(&key, &first.key(now + SignedDuration::from_hours(61 * 24)).unwrap()));
        let authority = || fs::read_to_string(state.path().join(AUTHORITY)).unwrap();
        let before = authority();
        drop(own());
        assert_eq!(authority(), before, "whom clients trust stays");
    }

    #[test]
    fn a_certificate_that_is_brought_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        let bring = || {
            let pair = KeyPair::generate().unwrap();
            let signed = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&pair).unwrap();
            fs::write(&certificate, signed.pem()).unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let brought = Brought {
            certificate: certificate.clone(),
            key: key.clone(),
            provider,
            current: Mutex::default(),
        };
        assert!(matches!(brought.read(), Err(ServeError::Unreadable { .. })));
        bring();
        let first = brought.read().unwrap();
        assert!(Arc::ptr_eq(&first, &brought.read().unwrap()));
        bring();
        assert!(!Arc::ptr_eq(&first, &brought.read().unwrap()));
        fs::write(&key, "no key").unwrap();
        assert!(matches!(brought.read(), Err(ServeError::Tls(_))));
    }
}
