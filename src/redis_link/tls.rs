//! TLS of connections to a Redis server.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, RedisResult};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::system_authorities::system_authorities;

/// Begins TLS. `ca`: the PEM text of the authorities; without one, the system's. `client`: the PEM
/// text of the certificate that is shown to the server, and of its key.
///
/// # Errors
///
/// The texts are no certificates, or the handshake fails.
pub(super) async fn begin(
    stream: TcpStream,
    host: &str,
    ca: Option<&[u8]>,
    client: Option<&(Vec<u8>, Vec<u8>)>,
) -> RedisResult<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| unusable("not the name of a server"))?;
    let config = config(ca, client)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

pub(super) fn config(ca: Option<&[u8]>, client: Option<&(Vec<u8>, Vec<u8>)>) -> RedisResult<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable("TLS can't be used"))?
        .with_root_certificates(authorities(ca)?);
    let Some((certificate, key)) = client else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unusable("the client key is no key in PEM"))?;
    let chain = certificates(certificate, "the client certificate is none in PEM")?;
    let pair = builder.with_client_auth_cert(chain, key);
    pair.map_err(|_| unusable("the client key does not belong to the client certificate"))
}

fn authorities(ca: Option<&[u8]>) -> RedisResult<RootCertStore> {
    let Some(ca) = ca else { return Ok(system_authorities()) };
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca, "the authorities are no certificates in PEM")? {
        roots.add(authority).map_err(|_| unusable("an authority is no certificate"))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], fault: &'static str) -> RedisResult<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    read.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(|| unusable(fault))
}

fn unusable(what: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, what).into()
}
