//! Starts the thread that asks issuers for their keys.

use std::io;
use std::sync::Arc;

use crate::identity::{Client, Sweep, Tasks};
use crate::net::issuer_client;
use crate::observe::tally::Gone;
use crate::proxy::Gateway;
use crate::thread_supervisor::Duty;

/// Lets the thread start as soon as there are identities.
pub(super) fn start(gateway: &Arc<Gateway>) -> io::Result<()> {
    let client: Client = Arc::new(|wanted| Box::pin(issuer_client::fetch(wanted)));
    // The gateway refers to what is started with it.
    let of_sweep = Arc::downgrade(gateway);
    let sweep: Sweep = Box::new(move || {
        let Some(gateway) = of_sweep.upgrade() else { return };
        let labels = gateway.identities.sweep(&gateway.limiter, &gateway.usage);
        if !labels.is_empty() {
            let mut gone = Gone::default();
            gone.keys.extend(labels);
            gateway.observers.forget(gone, None);
        }
    });
    let threads = gateway.observers.logs().threads.clone();
    let tasks = Tasks::new(gateway.identities.clone(), client, sweep);
    gateway.identities.start_with(move |runtime| {
        threads.spawn(Duty::Identities, "identities", move || tasks.run(&runtime)).map(drop)
    })
}
