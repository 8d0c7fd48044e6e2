//! `moec completions` and `moec man`: what a shell and `man` want to know, from the very command line that is parsed.

use crate::arguments::{Completions, Man};
use crate::failure::Failure;
use crate::terminal;

/// Prints the completions for a shell.
pub fn completions(arguments: &Completions, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "moec", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))
}

/// Prints the man page of the tool, or of one of its commands.
pub fn man(arguments: &Man, command: clap::Command) -> Result<(), Failure> {
    let page = match &arguments.command {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let found =
                found.ok_or_else(|| Failure::Message(format!("there is no command `{name}`; see `moec --help`")))?;
            found.name(format!("moec-{name}")).bin_name(format!("moec {name}"))
        }
    };
    let mut text = Vec::new();
    // Writing to memory does not fail.
    clap_mangen::Man::new(page).render(&mut text).map_err(|error| Failure::Message(error.to_string()))?;
    terminal::print(&String::from_utf8_lossy(&text))
}
