//! Sends requests to the admin listener of a running bearward.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::bom;
use crate::config::Address;
use crate::config::fault::Fault;
use crate::net;

/// Parses the address of the admin listener: `HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`.
pub(super) fn address(text: &str) -> Address {
    match text.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(text.trim_start_matches("http://").trim_end_matches('/').to_owned()),
    }
}

pub(super) fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(token) => {
            let token = Zeroizing::new(token);
            Ok(Zeroizing::new(bom::without(&token).trim().to_owned()))
        }
        Err(error) => Err(Failure::Failed(Fault::unreadable(path, "the admin token", &error).to_string())),
    }
}

/// Sends a request to `address`, and returns the whole answer. Fails if the answer is not complete
/// within `patience`.
pub(super) fn ask(
    address: &Address,
    method: &Method,
    path: &str,
    token: Option<&str>,
    patience: Duration,
) -> Result<Response<Bytes>, Failure> {
    let failed = |why: String| Failure::Failed(format!("{address}: {why}"));
    let request = request(method, path, token).map_err(|error| failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async {
        let (head, body) = net::client::send(address, request).await?.into_parts();
        anyhow::Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    };
    match runtime.block_on(async { tokio::time::timeout(patience, asked).await }) {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_elapsed) => Err(failed(format!("no answer within {patience:?}"))),
    }
}

fn request(method: &Method, path: &str, token: Option<&str>) -> anyhow::Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    if let Some(token) = token {
        let mut credential = HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
        credential.set_sensitive(true);
        request = request.header(AUTHORIZATION, credential);
    }
    Ok(request.body(Empty::new())?)
}
