//! The `bearward` command.

use std::process::ExitCode;

/// Gives the memory of connections that have ended back to the system, and needs less for each (docs/decisions/014).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    bearward::cli::main()
}
