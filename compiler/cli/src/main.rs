//! The command-line tool of the moe language.
//!
//! Invariants: results go to standard output, everything that is said about a file or a failure to standard error; exit status 0 means
//! that all went well, 1 that the user's file or input is wrong (and nothing was half-written), 2 misuse of the command line.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod arguments;
mod checked;
mod command_line;
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
mod screen;
mod source;
mod tensors;
mod terminal;
mod verify;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::builder::StyledStr;
use moe_front::text::{Screen, within};

use command_line::{Cli, Command};
use failure::Failure;
use screen::Color;
use terminal::{MessageFormat, Terminal};

fn main() -> ExitCode {
    let results = screen::of(&io::stdout(), Color::Auto);
    let mut command = command_line::command().term_width(results.prose);
    let given: Vec<OsString> = std::env::args_os().collect();
    let parsed = match command.try_get_matches_from_mut(&given) {
        Ok(matches) => {
            Cli::from_arg_matches(&matches).map(|cli| (cli, matches)).map_err(|error| error.format(&mut command))
        }
        Err(error) => Err(command_line::told(error, &given, &mut command)),
    };
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(said) => return misuse(&said),
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

/// What the command line itself has to say: help and version, which are results, or how it was misused.
fn misuse(said: &clap::Error) -> ExitCode {
    if said.use_stderr() {
        let screen = screen::of(&io::stderr(), Color::Auto);
        terminal::say(&shown(&said.render(), &screen));
        return ExitCode::from(2);
    }
    let screen = screen::of(&io::stdout(), Color::Auto);
    match terminal::print(&shown(&said.render(), &screen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            Terminal::new(MessageFormat::Human, Color::Auto).fail(&failure);
            ExitCode::FAILURE
        }
    }
}

fn shown(words: &StyledStr, screen: &Screen) -> String {
    match screen.colour {
        true => words.ansi().to_string(),
        false => words.to_string().lines().map(|line| within(line, screen.ascii).into_owned() + "\n").collect(),
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
        Command::Inspect(arguments) => commands::inspect(arguments, terminal),
        Command::Run(arguments) => commands::run(arguments, terminal),
        Command::Gate(arguments) => commands::gate(arguments, terminal),
        Command::Plan(arguments) => commands::plan(arguments, terminal),
        Command::Simulate(arguments) => commands::simulate(arguments, terminal),
        Command::Place(arguments) => commands::place(arguments, terminal),
        Command::Serve(arguments) => commands::serve(arguments),
        Command::Ptx(arguments) => commands::ptx(arguments, terminal),
        Command::Explain(arguments) => commands::explain(arguments, terminal),
        Command::Init(arguments) => commands::init(arguments, terminal),
        Command::Completions(arguments) => commands::completions(arguments, &mut command_line::command()),
        Command::Man(arguments) => commands::man(arguments, command_line::command()),
        Command::Schema(arguments) => commands::schema(arguments),
    }
}
