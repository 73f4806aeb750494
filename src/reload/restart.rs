//! Finds the changed fields of a configuration that need a restart.

use super::current::Running;
use crate::config::{Config, Listener};

/// Returns the changed fields of a new configuration that take effect only after a restart.
pub(super) fn needs_restart(config: &Config, started: &Config, listeners: &[Running]) -> Vec<&'static str> {
    let bound = listeners.iter().map(|running| &running.listener);
    let what = |listener: &'_ Listener| {
        let Listener { address, tls, door, proxy_protocol, redirect_to_https, hsts } = listener.clone();
        (address, tls.is_some(), door, proxy_protocol, redirect_to_https, hsts)
    };
    let (bound, wanted) = (bound.map(what), config.listeners.iter().map(what));
    let differences = [
        ("listeners", !bound.eq(wanted)),
        ("admin", config.admin != started.admin),
        ("workers", config.workers != started.workers),
        ("limits.connections", config.limits.connections != started.limits.connections),
        ("log", config.log != started.log),
        ("metrics", config.metrics != started.metrics),
        ("traces", config.traces != started.traces),
        ("shared", !is_same_fleet(config, started)),
        ("state", config.state != started.state),
        ("keys.watch", config.keys.watch != started.keys.watch),
    ];
    differences.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// Whether both configurations have their limits in the same place. In another one, all limits would be
/// unused.
fn is_same_fleet(config: &Config, started: &Config) -> bool {
    let place =
        |config: &Config| config.shared.as_ref().map(|shared| (shared.redis.clone(), shared.prefix.clone()));
    place(config) == place(started)
}
