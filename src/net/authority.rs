//! Handshakes at a listener that gets its certificate by itself: those of the certificate authority
//! (TLS-ALPN-01, RFC 8737), and those of clients.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::{ListenerTls, crypto_provider};
use crate::acme::{ALPN, Registry};
use crate::digest::sha256;

/// Does the handshake with a client. Returns `None` if it was one of an authority: the connection has then
/// ended.
///
/// # Errors
///
/// The handshake failed; the listener has no certificate yet; an authority asks for what nobody has ordered.
pub(super) async fn accept<S>(
    stream: S,
    tls: &ListenerTls,
    registry: &Registry,
) -> io::Result<Option<TlsStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let Some(name) = name_asked_for(&begun.client_hello()) else {
        return begun.into_stream(tls.config.clone()).await.map(Some);
    };
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "an authority asks for what was not ordered");
    let answer = registry.tls_answer(&name).await.ok_or_else(unknown)?;
    let config = challenge(&name, &answer).map_err(io::Error::other)?;
    let mut stream = begun.into_stream(config).await?;
    // The authority has seen the certificate, and wants nothing else (RFC 8737, section 3).
    stream.shutdown().await?;
    Ok(None)
}

/// Returns the name that an authority asks for; `None` if the client is none. An authority offers this one
/// protocol, and names one server.
fn name_asked_for(hello: &rustls::server::ClientHello<'_>) -> Option<String> {
    let mut offered = hello.alpn()?;
    let (first, second) = (offered.next(), offered.next());
    let is_authority = first == Some(ALPN) && second.is_none();
    // Without a name, there is nothing to answer, and no client speaks this protocol either.
    is_authority.then(|| hello.server_name().unwrap_or_default().to_owned())
}

/// Makes the configuration of a handshake with an authority: with a certificate that has the digest of the key
/// authorization in it (RFC 8737, section 3).
fn challenge(
    name: &str,
    key_authorization: &str,
) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&sha256(key_authorization))];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = crypto_provider();
    let key = provider.key_provider.load_private_key(key)?;
    // The library's own check of the pair refuses the critical extension, which it does not know.
    let pair = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
