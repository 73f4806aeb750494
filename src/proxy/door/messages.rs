//! The messages of Envoy's `envoy.service.auth.v3.Authorization`, as far as bearward reads and writes them.
//! The tags are those of Envoy's own definitions (envoy/service/auth/v3/external_auth.proto and
//! attribute_context.proto); fields that are not listed here are skipped.
//!
//! A member of a `oneof` is an optional field here: the bytes are the same.

use std::collections::BTreeMap;

use bytes::Bytes;

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
    #[prost(string, tag = "2")]
    pub(super) method: String,
    /// The headers, with pseudo headers: a header that is repeated is joined with commas, and each byte
    /// that is no UTF-8 is replaced by `!`.
    #[prost(btree_map = "string, string", tag = "3")]
    pub(super) headers: BTreeMap<String, String>,
    /// The path and the query.
    #[prost(string, tag = "4")]
    pub(super) path: String,
    #[prost(string, tag = "5")]
    pub(super) host: String,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2` or `HTTP/3`.
    #[prost(string, tag = "10")]
    pub(super) protocol: String,
    #[prost(string, tag = "11")]
    pub(super) body: String,
    #[prost(bytes = "bytes", tag = "12")]
    pub(super) raw_body: Bytes,
    /// The headers as they came, in place of `headers` if the filter has `encode_raw_headers`.
    #[prost(message, optional, tag = "13")]
    pub(super) header_map: Option<RawHeaders>,
}

/// `envoy.config.core.v3.HeaderMap`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawHeaders {
    #[prost(message, repeated, tag = "1")]
    pub(super) headers: Vec<Header>,
}

/// `envoy.config.core.v3.HeaderValue`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
    /// The value if it is sent as bytes; empty otherwise.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) raw_value: Bytes,
}

/// `envoy.service.auth.v3.CheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(super) denied_response: Option<DeniedResponse>,
    #[prost(message, optional, tag = "3")]
    pub(super) ok_response: Option<OkResponse>,
    #[prost(message, optional, tag = "4")]
    pub(super) dynamic_metadata: Option<Metadata>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `envoy.service.auth.v3.DeniedHttpResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    pub(super) headers: Vec<SetHeader>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) body: Bytes,
}

/// `envoy.type.v3.HttpStatus`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
}

/// `envoy.service.auth.v3.OkHttpResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OkResponse {
    /// Headers of the request to upstream.
    #[prost(message, repeated, tag = "2")]
    pub(super) headers: Vec<SetHeader>,
    #[prost(string, repeated, tag = "5")]
    pub(super) headers_to_remove: Vec<String>,
    /// Headers of the answer to the client.
    #[prost(message, repeated, tag = "6")]
    pub(super) response_headers_to_add: Vec<SetHeader>,
}

/// `envoy.config.core.v3.HeaderValueOption`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetHeader {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

impl SetHeader {
    /// `APPEND_IF_EXISTS_OR_ADD`
    const APPEND: i32 = 0;
    /// `OVERWRITE_IF_EXISTS_OR_ADD`
    const OVERWRITE: i32 = 2;

    /// Adds the header to one that is there.
    pub(super) fn appended(self) -> Self {
        SetHeader { append_action: Self::APPEND, ..self }
    }

    /// Whether this is the header with this name, in lower case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.header.as_ref().is_some_and(|header| header.key == name)
    }

    /// Sets a header, in place of one that is there.
    pub(super) fn new(name: &str, value: &[u8]) -> Self {
        let (value, raw_value) = match std::str::from_utf8(value) {
            Ok(text) => (text.to_owned(), Bytes::new()),
            Err(_) => (String::new(), Bytes::copy_from_slice(value)),
        };
        let header = Header { key: name.to_owned(), value, raw_value };
        SetHeader { header: Some(header), append_action: Self::OVERWRITE }
    }
}

/// `google.protobuf.Struct`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(string, optional, tag = "3")]
    pub(super) string_value: Option<String>,
}
