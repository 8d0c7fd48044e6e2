//! The command-line tool of the moe language.
//!
//! Invariants: results go to standard output, everything that is said about a file or a failure to standard error; exit status 0 means
//! that all went well, 1 that the user's file or input is wrong (and nothing was half-written), 2 misuse of the command line.

mod arguments;
mod commands;
mod failure;
mod given;
mod gpus;
mod memory;
mod output;
mod picture;
mod planning;
mod progress;
mod report;
mod source;
mod synthetic;
mod tensors;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Cli, Command};
use terminal::Terminal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.message_format, cli.color);
    let result = match &cli.command {
        Command::Check(arguments) => commands::check(arguments, &terminal),
        Command::Fmt(arguments) => commands::fmt(arguments, &terminal),
        Command::Build(arguments) => commands::build(arguments, &terminal),
        Command::Run(arguments) => commands::run(arguments, &terminal),
        Command::Gate(arguments) => commands::gate(arguments, &terminal),
        Command::Plan(arguments) => commands::plan(arguments, &terminal),
        Command::Simulate(arguments) => commands::simulate(arguments, &terminal),
        Command::Place(arguments) => commands::place(arguments, &terminal),
        Command::Explain(arguments) => commands::explain(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.fail(&failure);
            ExitCode::FAILURE
        }
    }
}
