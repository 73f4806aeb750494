//! The integration tests: the real server over real sockets, in this process or as the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on says so by panicking"
)]
#![allow(unreachable_pub, reason = "nothing is reachable from outside of a test")]
#![allow(clippy::too_many_lines, reason = "a table of cases is as long as it has cases")]
#![allow(clippy::type_complexity, reason = "a table's rows are tuples")]

mod admin;
mod answers;
mod bodies;
mod broken_upstreams;
mod budgets;
mod commands;
mod configurations;
mod cors;
mod decisions;
mod doors;
mod edge;
mod faults;
mod forwarding;
mod framing;
mod groups;
mod guard;
mod harness;
mod http2;
mod hyper_contract;
mod identity;
mod identity_configurations;
mod imports;
mod invalid;
mod keys;
mod limits;
mod listeners;
mod logs;
mod models;
mod outcomes;
mod output_caps;
mod page;
mod placeholders;
mod process;
mod queues;
mod reload;
mod resources;
mod reuse;
mod stores;
mod strangers;
mod structure;
mod tls;
mod tokens;
mod upgrades;
mod upstreams;
mod warnings;
