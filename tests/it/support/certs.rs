//! Certificates for tests of TLS, and a client.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// A connection with TLS.
pub type Secured = StreamOwned<ClientConnection, TcpStream>;

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        // One of the same name as those that it signs would be taken for its own issuer.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root"))
    }

    /// Its own certificate, in PEM.
    pub fn root(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name or an address.
    pub fn issue(&self, name: &str) -> Pair {
        self.issue_with(name, |_| {})
    }

    /// One that has ended.
    pub fn expired(&self, name: &str) -> Pair {
        self.issue_with(name, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 3));
        })
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
        change(&mut params);
        Pair { cert: params.signed_by(&key, &self.0).expect("a certificate").pem(), key: key.serialize_pem() }
    }

    /// Puts what a port needs into a folder, and says so as a setting: `tls = { … }`.
    pub fn setting(&self, dir: &Path, clients: Option<&Authority>) -> String {
        let pair = self.issue("127.0.0.1");
        let cert = put(dir, "server.pem", &pair.cert);
        let key = put(dir, "server.key", &pair.key);
        let clients = clients
            .map_or(String::new(), |clients| format!(", client_ca = {:?}", put(dir, "clients.pem", &clients.root())));
        format!("tls = {{ cert = {cert:?}, key = {key:?}{clients} }}")
    }

    /// A client that trusts this authority, with a certificate of its own if it has one.
    pub fn client(&self, own: Option<&Pair>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let cert = CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![cert], key).expect("they fit")
            }
        })
    }
}

/// A configuration with the files of TLS that documents name, in a folder where [`Authority::setting`] has put them.
pub fn readable(config: &str, dir: &Path) -> String {
    let name = |name: &str| format!("\"{}", dir.join(name).display());
    let names = [("\"/etc/systole/server.", name("server.")), ("\"/etc/systole/clients.", name("clients."))];
    names.into_iter().fold(config.to_string(), |config, (named, there)| config.replace(named, &there))
}

/// Writes a file as a whole, as one that replaces another should be.
pub fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, next) = (dir.join(name), dir.join(format!("{name}.new")));
    std::fs::write(&next, text).expect("written");
    std::fs::rename(&next, &path).expect("renamed");
    path
}

/// Connects and completes our side of the handshake. A server refuses a client's certificate after that: at the first read.
pub fn connect(to: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<Secured> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::from(to.ip());
    let connection = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
    let mut secured = StreamOwned::new(connection, stream);
    while secured.conn.is_handshaking() {
        secured.conn.complete_io(&mut secured.sock)?;
    }
    Ok(secured)
}
