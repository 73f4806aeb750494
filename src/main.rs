//! The `bearward` command.

use std::process::ExitCode;

/// The memory allocator. jemalloc needs less memory for each connection, and returns the memory of
/// ended connections to the system (docs/decisions/014).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    bearward::cli::main()
}
