//! The command line, as clap sees it. Exit status: 0 ok, 1 the user's file or input is wrong, 2 misuse of the command line.

use std::any::TypeId;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueHint};

use crate::arguments::{Build, Check, Completions, Explain, Fmt, Gate, Init, Man, Run};
use crate::commands;
use crate::files::{InputPath, OutputPath};
use crate::screen::Color;
use crate::terminal::MessageFormat;

/// Compiler for Mixture-of-Experts communication: from a .moe file to PTX kernels, and to a verified run of them.
#[derive(Parser)]
#[command(name = "moec", version, about)]
pub struct Cli {
    /// How diagnostics are printed
    #[arg(long, global = true, value_enum, default_value_t = MessageFormat::Human)]
    pub message_format: MessageFormat,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Check a file: diagnostics only
    Check(Check),
    /// Bring files into the canonical format
    Fmt(Fmt),
    /// Compile a file to a bundle of kernels, or print a stage of the compilation
    Build(Build),
    /// Show what is in a bundle: numbers, kernels, PTX, source
    Inspect(commands::Inspect),
    /// Run gate, dispatch, experts, combine and their gradients on every rank, and check every result against the reference
    Run(Run),
    /// Run a gate alone over a file of logits
    Gate(Gate),
    /// Say what a deploy costs and why: traffic, time, memory; compare plans, or search for better ones
    Plan(Box<commands::Plan>),
    /// Simulate one dispatch and one combine of a deploy, chunk by chunk: order, contention, stragglers, slow links
    Simulate(Box<commands::Simulate>),
    /// Say which GPU should hold which experts, and which of them more than once, from how often each was picked
    Place(Box<commands::Place>),
    /// Run virtual GPUs for ranks that are processes of their own, each of which attaches to them
    Serve(commands::Serve),
    /// Check and run PTX that this tool did not write, on the virtual GPU
    Ptx(commands::Ptx),
    /// Explain a diagnostic code, with a failing and a repaired example
    Explain(Explain),
    /// Write a small file to start from
    Init(Init),
    /// Print completions for a shell
    Completions(Completions),
    /// Print a man page: of the tool, or of one of its commands
    Man(Man),
    /// Print the JSON Schema of what a command prints as JSON
    Schema(commands::Schema),
}

impl Command {
    /// Whether it needs more than one thread.
    pub fn computes(&self) -> bool {
        match self {
            Command::Check(_)
            | Command::Fmt(_)
            | Command::Inspect(_)
            | Command::Explain(_)
            | Command::Serve(_)
            | Command::Ptx(_)
            | Command::Init(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Schema(_) => false,
            Command::Build(_)
            | Command::Run(_)
            | Command::Gate(_)
            | Command::Plan(_)
            | Command::Simulate(_)
            | Command::Place(_) => true,
        }
    }
}

/// The command line as it is parsed, completed and described.
pub fn command() -> clap::Command {
    let files = [TypeId::of::<InputPath>(), TypeId::of::<OutputPath>()];
    let hinted = |argument: clap::Arg| {
        let is_file = files.iter().any(|&file| argument.get_value_parser().type_id() == file);
        if is_file { argument.value_hint(ValueHint::FilePath) } else { argument }
    };
    let hinted = |command: clap::Command| command.mut_args(hinted);
    Cli::command().mut_subcommands(|command| hinted(command).mut_subcommands(hinted))
}

/// The same error; of text that is not UTF-8 it also says where.
pub fn told(error: clap::Error, given: &[OsString], command: &mut clap::Command) -> clap::Error {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return error;
    }
    let wrong = (1..given.len()).filter(|&index| given[index].to_str().is_none()).map(|index| {
        // A value of its own stands after its option.
        let option = given[index - 1].to_str().filter(|before| before.starts_with("--") && !before.contains('='));
        let shown = format!("`{}`", given[index].display());
        option.map_or(shown.clone(), |option| format!("`{option}` {shown}"))
    });
    let wrong: Vec<String> = wrong.collect();
    command.error(ErrorKind::InvalidUtf8, format!("{} is not UTF-8 text", wrong.join(", ")))
}
