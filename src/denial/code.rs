//! The public error codes, each with its name, its HTTP status and its gRPC status.

use http::StatusCode;

/// Declares the fixed set of public error codes: variant, wire name, HTTP status, gRPC status.
macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $grpc:literal;)*) => {
        /// A public error code. Existing codes never change, because programs depend on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Code { $($variant),* }

        impl Code {
            /// All error codes, in the order of the documentation.
            pub(crate) const ALL: &[Code] = &[$(Code::$variant),*];

            /// Returns the code's name: the value of `error.code`.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            /// Returns the HTTP status of an answer with this code.
            pub(crate) fn status(self) -> StatusCode {
                let status = match self { $(Code::$variant => $status),* };
                let status = StatusCode::from_u16(status);
                debug_assert!(status.is_ok(), "the statuses below are valid");
                status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// Returns the gRPC status of an answer with this code (google.rpc.Code).
            pub(crate) fn grpc(self) -> u8 {
                match self { $(Code::$variant => $grpc),* }
            }
        }
    };
}

codes! {
    MissingApiKey           "MISSING_API_KEY"             401 16;
    InvalidApiKey           "INVALID_API_KEY"             401 16;
    ExpiredApiKey           "EXPIRED_API_KEY"             401 16;
    InsufficientPermissions "INSUFFICIENT_PERMISSIONS"    403 7;
    RouteNotAllowed         "ROUTE_NOT_ALLOWED"           403 7;
    ModelNotAllowed         "MODEL_NOT_ALLOWED"           403 7;
    UntrustedCaller         "UNTRUSTED_CALLER"            403 7;
    UnenforceableLimit      "UNENFORCEABLE_LIMIT"         403 7;
    CredentialInClear       "CREDENTIAL_IN_CLEAR"         403 7;
    RateLimitExceeded       "RATE_LIMIT_EXCEEDED"         429 8;
    BudgetExceeded          "BUDGET_EXCEEDED"             429 8;
    ConcurrencyExceeded     "CONCURRENCY_LIMIT_EXCEEDED"  429 8;
    TooManyFailedAttempts   "TOO_MANY_FAILED_ATTEMPTS"    429 8;
    TokensExceedLimit       "TOKENS_EXCEED_LIMIT"         400 3;
    OutputLimitExceeded     "OUTPUT_LIMIT_EXCEEDED"       400 3;
    BadRequest              "BAD_REQUEST"                 400 3;
    RouteNotFound           "ROUTE_NOT_FOUND"             404 12;
    MethodNotAllowed        "METHOD_NOT_ALLOWED"          405 12;
    InternalError           "INTERNAL_ERROR"              500 13;
    RequestTimeout          "REQUEST_TIMEOUT"             408 4;
    PayloadTooLarge         "PAYLOAD_TOO_LARGE"           413 8;
    UriTooLong              "URI_TOO_LONG"                414 3;
    HeadersTooLarge         "HEADERS_TOO_LARGE"           431 3;
    MisdirectedRequest      "MISDIRECTED_REQUEST"         421 3;
    UpstreamUnreachable     "UPSTREAM_UNREACHABLE"        502 14;
    UpstreamProtocolError   "UPSTREAM_PROTOCOL_ERROR"     502 14;
    UpstreamTimeout         "UPSTREAM_TIMEOUT"            504 4;
    UpstreamUnavailable     "UPSTREAM_UNAVAILABLE"        503 14;
    QueueFull               "QUEUE_FULL"                  503 14;
    QueueTimeout            "QUEUE_TIMEOUT"               503 14;
    Overloaded              "OVERLOADED"                  503 14;
    LimiterUnavailable      "LIMITER_UNAVAILABLE"         503 14;
    KeyStoreUnavailable     "KEY_STORE_UNAVAILABLE"       503 14;
    CertificateMissing      "CERTIFICATE_MISSING"         503 14;
    ShuttingDown            "SHUTTING_DOWN"               503 14;
    ReloadRefused           "RELOAD_REFUSED"              422 9;
    KeyNotFound             "KEY_NOT_FOUND"               404 5;
    KeyConflict             "KEY_CONFLICT"                409 9;
    StoreReadOnly           "STORE_READ_ONLY"             409 9;
}
