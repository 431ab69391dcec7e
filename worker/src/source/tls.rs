//! Cameras that speak RTSP within TLS (`rtsps://`, RFC 7826, section 4.2): whom to believe, and the way in.
//!
//! What goes over the connection goes through a [tunnel](super::tunnel). Invariants: nothing is let in before the camera has
//! proven who it is; nothing goes to the camera but through TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwatch_events::hash::Sha256;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where RTSP within TLS is served unless the address says otherwise (IANA: `rtsps`).
pub const PORT: u16 = 322;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no list of certificates.
    #[error(
        "cannot use the certificates in {}: {detail}; expected one or more of `-----BEGIN CERTIFICATE-----`", .path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Which certificates of cameras are believed. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    connector: TlsConnector,
    verifies: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("verifies", &self.verifies).finish_non_exhaustive()
    }
}

impl Trust {
    /// Those that this system believes (its store of authorities), and those in the PEM file `more`: authorities, or the
    /// certificates of cameras themselves, which are then believed of any camera, whatever name and time stand in them. Blocks.
    ///
    /// # Errors
    ///
    /// If `more` cannot be read, or holds no certificate.
    pub fn of_system(more: Option<&Path>) -> Result<Self, Error> {
        let mut roots = system_roots();
        let pinned = more.map(read).transpose()?.unwrap_or_default();
        let (_, not_authorities) = roots.add_parsable_certificates(pinned.iter().cloned());
        if not_authorities > 0 {
            tracing::info!(
                not_authorities,
                "of the certificates for cameras some are believed only as they are"
            );
        }
        Ok(Self::with(Some(roots), pinned))
    }

    /// Those of the authorities that this system believes. Blocks.
    pub fn of_authorities() -> Self {
        Self::with(Some(system_roots()), Vec::new())
    }

    /// All of them: who only listens hears nothing, but who stands in the way can take the camera's place, and listen.
    pub fn in_anybody() -> Self {
        Self::with(None, Vec::new())
    }

    fn with(roots: Option<RootCertStore>, pinned: Vec<CertificateDer<'static>>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifies = roots.is_some();
        let authorities = roots.filter(|roots| !roots.is_empty()).map(|roots| {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            builder.build().expect("invariant: there is a root, and no revocation list to be wrong")
        });
        let verifier = Verifier { authorities, pinned, verifies, provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("invariant: the provider has suites for the versions that are built in")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Self { connector: Arc::new(config).into(), verifies }
    }

    /// Whether it tells a camera from whoever takes its place.
    pub const fn verifies(&self) -> bool {
        self.verifies
    }

    /// Connects to `address` and has it prove that it is `name`. Takes as long as the camera does: the caller sets the
    /// bound.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, speaks no TLS, or is not believed; the text then says what would be right.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: ServerName<'static>,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let stream = TcpStream::connect(address).await?;
        self.connector.connect(name, stream).await.map_err(Refusal::of)
    }
}

/// Why there is no connection within TLS.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The camera is not believed.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// It cannot be reached, or speaks no TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Refusal {
    fn of(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = inner
            && let Some(distrust) = other.0.downcast_ref::<Distrust>()
        {
            return Self::Distrust(distrust.clone());
        }
        Self::Io(error)
    }
}

/// What is wrong with the system's own store is the system's; a store of its own is what a file is for.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |detail: String| Error::File { path: path.into(), detail };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    let certificates: Vec<_> = found.collect::<Result<_, _>>().map_err(|e| failed(e.to_string()))?;
    if certificates.is_empty() { Err(failed("it holds none".to_owned())) } else { Ok(certificates) }
}

/// Believes the certificates it knows, those of authorities it knows, or all.
#[derive(Debug)]
struct Verifier {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    verifies: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.verifies || self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = match &self.authorities {
            Some(known) => {
                known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verified.map_err(|error| distrust(&error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a camera is not believed, for a person who can do something about it. The reason comes last: it may be long.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "certificate not trusted; SHA-256 {sha256}: if that is the camera's, put the certificate into the file of --rtsps-ca (or \
     start with --rtsps-allow-unverified): {why}"
)]
pub struct Distrust {
    why: String,
    sha256: Sha256,
}

fn distrust(error: &rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
    let distrust = Distrust { why: error.to_string(), sha256: Sha256::of(certificate) };
    CertificateError::Other(rustls::OtherError(Arc::new(distrust))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"]
        {
            std::fs::write(file.path(), text).unwrap();
            let error = Trust::of_system(Some(file.path())).unwrap_err().to_string();
            let name = file.path().to_str().unwrap();
            assert!(error.contains(name) && error.contains("BEGIN CERTIFICATE"), "{error}");
        }
        let error = Trust::of_system(Some(Path::new("/nonexistent.pem"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent.pem"), "{error}");
    }

    #[test]
    fn only_who_trusts_everybody_does_not_verify() {
        assert!(Trust::of_system(None).unwrap().verifies());
        assert!(!Trust::in_anybody().verifies());
    }
}
