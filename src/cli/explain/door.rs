//! What bearward answers to another proxy that asks about a request.

use http::request::Parts;

use super::steps::Steps;
use crate::config::{Asker, Config, Door, Unenforceable};
use crate::denial::Denial;
use crate::forward::headers::identity;
use crate::gate::{Context, Decided};
use crate::guard::client::Client;
use crate::proxy::door::told::Told;
use crate::proxy::door::{Read, granted};
use crate::tokens::Learned;

/// Parses the name of a proxy.
pub(super) fn parse(name: &str) -> Result<Asker, String> {
    let names = || Asker::ALL.map(Asker::name).join(", ");
    Asker::named(name).ok_or_else(|| format!("the proxies that ask are: {}", names()))
}

/// Returns the door at which a proxy asks. The listener that is configured for it says what happens to limits
/// that can't be held.
pub(super) fn of(asker: Asker, config: &Config) -> Door {
    let mut doors = config.listeners.iter().filter_map(|listener| listener.door);
    let configured = doors.find(|door| door.asker == asker);
    configured.unwrap_or(Door { asker, unenforceable: Unenforceable::Refuse })
}

/// Decides about a request as for another proxy, and describes what that proxy is answered.
///
/// # Errors
///
/// The request may not pass.
pub(super) fn explain(
    door: Door,
    parts: &Parts,
    client: Client,
    decided: Decided,
    body: Option<&[u8]>,
    context: Context<'_>,
    steps: &mut Steps,
) -> Result<(), Denial> {
    let asker = door.asker;
    let Decided { facts, outcome } = decided;
    // Envoy is taken to send all bodies along.
    let told = Told::of(parts, client, asker.may_send_body().then(|| body.unwrap_or_default()));
    let path = facts.target.as_ref().map(|target| target.path()).unwrap_or_default();
    let outcome = told.and_then(|told| {
        let verdict = outcome?;
        let read = Read::of(&verdict, &told, path);
        let (grant, cost) = granted(verdict, &told, path, read, door, &Learned::default(), context)?;
        grant.check_unused(cost, context)
    });
    let principal = facts.principal.as_ref();
    let answer = match &outcome {
        Ok(()) => {
            let identity = identity(principal)
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
            format!("{} is answered that the request may pass, with {}", asker.name(), identity.join(", "))
        }
        Err(denial) => {
            let status = denial.code().status().as_u16();
            match asker {
                Asker::Nginx => {
                    format!("nginx is answered 403, with x-bearward-status: {status} and x-bearward-body")
                }
                Asker::ExtAuthz => format!("Envoy is answered to deny the request with {status}"),
                _ => format!("{} is answered {status}", asker.name()),
            }
        }
    };
    steps.add("asked by", answer);
    outcome
}
