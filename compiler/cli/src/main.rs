//! The command-line tool of the moe language.
//!
//! Invariants: results go to standard output, everything that is said about a file or a failure to standard error; exit status 0 means
//! that all went well, 1 that the user's file or input is wrong (and nothing was half-written), 2 misuse of the command line.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod arguments;
mod commands;
mod failure;
mod files;
mod given;
mod gpus;
mod memory;
mod picture;
mod planning;
mod progress;
mod report;
mod scratch;
mod source;
mod tensors;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use arguments::{Cli, Command, MessageFormat};
use failure::Failure;
use terminal::Terminal;

fn main() -> ExitCode {
    let mut command = arguments::command();
    let matches = command.get_matches_mut();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut command).exit(),
    };
    let terminal = Terminal::new(cli.message_format, cli.color);
    memory::prepare(matches!(cli.message_format, MessageFormat::Json));
    // Without a thread for signals there is no tidying up after them, and everything else is as good.
    let _ = scratch::watch_signals();
    let result = match files::conflict(&command, &matches) {
        Some(conflict) => Err(Failure::Message(conflict)),
        None => run(&cli.command, &terminal),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.fail(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, terminal: &Terminal) -> Result<(), Failure> {
    if command.computes() {
        memory::start_threads()?;
    }
    match command {
        Command::Check(arguments) => commands::check(arguments, terminal),
        Command::Fmt(arguments) => commands::fmt(arguments, terminal),
        Command::Build(arguments) => commands::build(arguments, terminal),
        Command::Run(arguments) => commands::run(arguments, terminal),
        Command::Gate(arguments) => commands::gate(arguments, terminal),
        Command::Plan(arguments) => commands::plan(arguments, terminal),
        Command::Simulate(arguments) => commands::simulate(arguments, terminal),
        Command::Place(arguments) => commands::place(arguments, terminal),
        Command::Explain(arguments) => commands::explain(arguments),
        Command::Init(arguments) => commands::init(arguments),
        Command::Completions(arguments) => commands::completions(arguments),
        Command::Man(arguments) => commands::man(arguments),
    }
}
