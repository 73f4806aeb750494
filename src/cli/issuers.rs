//! Asks the issuers of tokens for their keys, for commands that show what comes of it.

use std::sync::Arc;

use crate::app::Prepared;
use crate::identity::{Client, ShownSource, ask_all};
use crate::net::issuer_client;

use super::failure::Failure;

/// Asks all issuers of a configuration for their keys, at the same time, and returns what is known of each.
pub(super) fn asked(prepared: &Prepared) -> Result<Vec<ShownSource>, Failure> {
    let client: Client = Arc::new(|wanted| Box::pin(issuer_client::fetch(wanted)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask_all(&prepared.identities, &client));
    Ok(prepared.identities.shown().issuers)
}
