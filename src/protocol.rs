//! The protocol of a connection, and the properties that depend on it.
//!
//! Every difference between HTTP/1.0, HTTP/1.1 and HTTP/2 that a decision depends on has a name
//! here.

use http::Version;

/// The protocol that a peer speaks on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl From<Version> for Protocol {
    fn from(version: Version) -> Self {
        match version {
            Version::HTTP_2 => Protocol::Http2,
            Version::HTTP_10 => Protocol::Http10,
            _ => Protocol::Http11,
        }
    }
}

impl Protocol {
    /// Returns HTTP/2 if `is_http2`, and HTTP/1.1 otherwise.
    pub(crate) fn of_connection(is_http2: bool) -> Self {
        if is_http2 { Protocol::Http2 } else { Protocol::Http11 }
    }

    /// Returns the HTTP version of a request on a connection of this protocol.
    pub(crate) fn version(self) -> Version {
        match self {
            Protocol::Http10 => Version::HTTP_10,
            Protocol::Http11 => Version::HTTP_11,
            Protocol::Http2 => Version::HTTP_2,
        }
    }

    /// Returns the protocol's name for logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }

    /// Whether each request is a stream that can end while its connection continues (RFC 9113,
    /// section 5).
    pub(crate) fn has_streams(self) -> bool {
        self == Protocol::Http2
    }

    /// Whether `Connection` and the other connection-specific headers have a meaning (RFC 9113,
    /// section 8.2.2).
    pub(crate) fn has_connection_headers(self) -> bool {
        self != Protocol::Http2
    }

    /// Whether the end of the connection marks the end of a body of unknown length (RFC 1945,
    /// section 7.2.2).
    pub(crate) fn ends_bodies_with_connection(self) -> bool {
        self == Protocol::Http10
    }

    /// Whether a request must name its host in a Host header (RFC 9112, section 3.2). HTTP/1.0 does
    /// not require this header, and HTTP/2 has `:authority`.
    pub(crate) fn needs_host_header(self) -> bool {
        self == Protocol::Http11
    }

    /// Whether a connection can be upgraded to another protocol (RFC 9110, section 7.8).
    pub(crate) fn has_upgrades(self) -> bool {
        self == Protocol::Http11
    }
}
