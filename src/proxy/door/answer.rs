//! The answer to a question, in the form that the proxy that asks understands.

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::answered::{Facts, Granted};
use super::{ext_authz, forward_auth};
use crate::config::{Asker, Door};
use crate::denial::{AnswerForm, Denial};
use crate::proxy::caller::Caller;

/// The answer to a question, as it is sent to the proxy.
pub(in crate::proxy) struct Shaped {
    pub(in crate::proxy) response: Response<Bytes>,
    pub(in crate::proxy) trailers: Option<HeaderMap>,
}

/// Makes the answer that is sent to the proxy. `answer`: the answer that the client of the request would get, or
/// one without a body if the request may pass.
pub(in crate::proxy) fn shaped(
    door: Door,
    granted: Option<Granted>,
    answer: Response<Bytes>,
    facts: Facts,
) -> Shaped {
    match door.asker {
        Asker::ExtAuthz => {
            let response = ext_authz::shaped(granted, answer, facts);
            Shaped { response, trailers: Some(ext_authz::trailers()) }
        }
        asker => Shaped { response: forward_auth::shaped(asker, granted, answer), trailers: None },
    }
}

/// Makes a refusal short enough for the proxy.
pub(in crate::proxy) fn shortened(door: Door, denial: Denial) -> Denial {
    forward_auth::shortened(door.asker, denial)
}

/// Returns the form in which a question that can't be answered is refused. Where a proxy asks over HTTP, each
/// status of success would let the request pass.
pub(in crate::proxy) fn form_of_failure(door: Door, caller: &Caller) -> AnswerForm {
    if door.asker == Asker::ExtAuthz { caller.form } else { AnswerForm::Json }
}
