//! A TLS server that hands everything on to another server of this machine, in plain: what makes an `rtsps://` camera of
//! an `rtsp://` one.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// The server, until it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens: a free port of the loopback.
    pub address: SocketAddr,
    /// Its certificate, as PEM.
    pub certificate: String,
    /// That of the authority that signed it, as PEM: one of its own.
    pub authority: String,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Starts it before the server at `behind`, with a certificate for these names and addresses.
    pub async fn start(behind: SocketAddr, names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key_pair = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key_pair, &authority).unwrap();
        let key = PrivatePkcs8KeyDer::from(key_pair.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(hand_on(acceptor.clone(), client, behind));
            }
        });
        Self { address, certificate: cert.pem(), authority: authority.pem(), serving }
    }
}

/// Clients come and go, and some do not like the certificate: that is theirs to tell.
async fn hand_on(acceptor: TlsAcceptor, client: TcpStream, behind: SocketAddr) {
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let Ok(mut server) = TcpStream::connect(behind).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
