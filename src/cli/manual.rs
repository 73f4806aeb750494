//! `bearward completions` and `bearward man`: texts that describe all commands.

use clap::{Args, Command};

use super::failure::Failure;
use super::terminal::print;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    /// Prints the completions of a shell.
    pub(super) fn print(&self, mut command: Command) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "bearward", &mut text);
        print(&String::from_utf8_lossy(&text))
    }
}

/// Prints one manual page that describes all commands.
pub(super) fn print_page(mut command: Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    command.build();
    let mut pages = vec![command.clone()];
    while let Some(page) = pages.pop() {
        clap_mangen::Man::new(page.clone()).render(&mut text)?;
        let below = page.get_subcommands().filter(|below| below.get_name() != "help");
        pages.extend(below.cloned());
    }
    print(&String::from_utf8_lossy(&text))
}
