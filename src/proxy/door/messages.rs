//! The question of Envoy's `envoy.service.auth.v3.Authorization`, as far as bearward reads it. The tags are those
//! of Envoy's own definitions (envoy/service/auth/v3/external_auth.proto and attribute_context.proto); fields
//! that are not listed here are skipped.
//!
//! A member of a `oneof` is an optional field here, and some texts are bytes: what is sent is the same.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};

/// `envoy.service.auth.v3.CheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) attributes: Option<AttributeContext>,
}

/// `envoy.service.auth.v3.AttributeContext`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    pub(super) source: Option<Source>,
    #[prost(message, optional, tag = "4")]
    pub(super) request: Option<CheckedRequest>,
}

/// `envoy.service.auth.v3.AttributeContext.Peer`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Source {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Address>,
}

/// `envoy.config.core.v3.Address`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(super) socket_address: Option<SocketAddress>,
    #[prost(message, optional, tag = "2")]
    pub(super) pipe: Option<Pipe>,
}

/// `envoy.config.core.v3.SocketAddress`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub(super) address: String,
}

/// `envoy.config.core.v3.Pipe`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pipe {
    #[prost(string, tag = "1")]
    pub(super) path: String,
}

/// `envoy.service.auth.v3.AttributeContext.Request`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckedRequest {
    #[prost(message, optional, tag = "2")]
    pub(super) http: Option<HttpRequest>,
}

/// `envoy.service.auth.v3.AttributeContext.HttpRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HttpRequest {
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) method: Bytes,
    /// The headers, with pseudo headers: a header that is repeated is joined with commas, and each byte
    /// that is no UTF-8 is replaced by `!`.
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) headers: BTreeMap<String, String>,
    /// The path and the query.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) path: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) host: Bytes,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or `HTTP/3`.
    #[prost(string, tag = "10")]
    pub(super) protocol: String,
    #[prost(bytes = "bytes", tag = "11")]
    pub(super) body: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) raw_body: Bytes,
    /// The headers as they came, in place of `headers` if the filter has `encode_raw_headers`.
    #[prost(message, optional, tag = "13")]
    pub(super) header_map: Option<RawHeaders>,
}

/// The most headers that are kept of a message. A header may have two bytes in a message, and takes some hundred
/// when it was read.
const MOST_HEADERS: usize = 4096;

/// `envoy.config.core.v3.HeaderMap`
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RawHeaders {
    pub(super) headers: Vec<Header>,
    /// Whether there are more headers, which are not kept.
    pub(super) has_more: bool,
}

impl prost::Message for RawHeaders {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        prost::encoding::message::encode_repeated(1, &self.headers, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 if self.headers.len() < MOST_HEADERS => {
                prost::encoding::message::merge_repeated(wire_type, &mut self.headers, buf, ctx)
            }
            _ => {
                self.has_more |= tag == 1;
                prost::encoding::skip_field(wire_type, tag, buf, ctx)
            }
        }
    }

    fn encoded_len(&self) -> usize {
        prost::encoding::message::encoded_len_repeated(1, &self.headers)
    }

    fn clear(&mut self) {
        *self = RawHeaders::default();
    }
}

/// `envoy.config.core.v3.HeaderValue`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
    /// The value if it is sent as bytes; empty otherwise.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) raw_value: Bytes,
}
