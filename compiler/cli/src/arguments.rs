//! The command line, as clap sees it. Exit status: 0 ok, 1 the user's file or input is wrong, 2 misuse of the command line.

use std::any::TypeId;
use std::ffi::OsString;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};

use moe_front::spec::limits;

use crate::files::{InputPath, OutputPath};
use crate::source::Warnings;

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
    Inspect(crate::commands::Inspect),
    /// Run gate, dispatch, experts, combine and their gradients on every rank, and check every result against the reference
    Run(Run),
    /// Run a gate alone over a file of logits
    Gate(Gate),
    /// Say what a deploy costs and why: traffic, time, memory; compare plans, or search for better ones
    Plan(Box<crate::commands::Plan>),
    /// Simulate one dispatch and one combine of a deploy, chunk by chunk: order, contention, stragglers, slow links
    Simulate(Box<crate::commands::Simulate>),
    /// Say which GPU should hold which experts, and which of them more than once, from how often each was picked
    Place(Box<crate::commands::Place>),
    /// Explain a diagnostic code, with a failing and a repaired example
    Explain(Explain),
    /// Write a small file to start from
    Init(Init),
    /// Print completions for a shell
    Completions(Completions),
    /// Print a man page: of the tool, or of one of its commands
    Man(Man),
    /// Print the JSON Schema of what a command prints as JSON
    Schema(crate::commands::Schema),
}

impl Command {
    /// Whether it needs more than one thread.
    pub fn computes(&self) -> bool {
        match self {
            Command::Check(_)
            | Command::Fmt(_)
            | Command::Inspect(_)
            | Command::Explain(_)
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
    Cli::command().mut_subcommands(|command| command.mut_args(hinted))
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

/// For an output of a command whose report goes to standard output.
pub fn output_file() -> impl clap::builder::TypedValueParser<Value = OutputPath> {
    OsStringValueParser::new().try_map(OutputPath::parse_file)
}

#[derive(Args)]
pub struct Check {
    /// The .moe file, `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
}

#[derive(Args)]
pub struct Init {
    /// Where the file goes, `-` for standard output; a file that exists is left as it is
    #[arg(default_value = "layer.moe")]
    pub file: OutputPath,
}

#[derive(Args)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args)]
pub struct Man {
    /// A command, such as `run` [default: the tool]
    pub command: Option<String>,
}

#[derive(Args)]
pub struct Fmt {
    /// The .moe files; `-` is standard input, formatted on standard output
    #[arg(required = true)]
    pub files: Vec<InputPath>,
    /// Change nothing; exit 1 if a file is not in the canonical format
    #[arg(long)]
    pub check: bool,
}

#[derive(Args)]
pub struct Build {
    /// The .moe file, `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
    /// Which deploy of the file [default: the only one]
    #[arg(long)]
    pub deploy: Option<String>,
    /// Nodes over which the ranks are spread [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: Option<u32>,
    /// GPUs, that is ranks, of each node [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::DOMAIN)))]
    pub gpus_per_node: Option<u32>,
    /// GPU architecture, repeatable [default: the cluster's target]
    #[arg(long = "target", value_enum)]
    pub targets: Vec<TargetName>,
    /// Where the bundle goes, `-` for standard output [default: FILE with the extension moeb]
    #[arg(short, long)]
    pub output: Option<OutputPath>,
    /// Print a stage of the compilation instead of writing a bundle
    #[arg(long, value_enum)]
    pub emit: Option<Stage>,
}

#[derive(Args)]
pub struct Run {
    /// A .moe file, or a bundle made by `moec build`; `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
    /// Which deploy of the file [default: the only one]
    #[arg(long)]
    pub deploy: Option<String>,
    /// Where the kernels run
    #[arg(long, value_enum, default_value_t = DeviceName::Virtual)]
    pub device: DeviceName,
    /// Nodes over which the ranks are spread [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: Option<u32>,
    /// GPUs, that is ranks, of each node [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::DOMAIN)))]
    pub gpus_per_node: Option<u32>,
    /// Tokens per rank; kernels of a .moe file are made for so many [default: as the deploy says]
    #[arg(long)]
    pub tokens: Option<u32>,
    /// Seed of the input and of the virtual GPUs' schedule
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How the warps of virtual GPUs take turns
    #[arg(long, value_enum, default_value_t = Schedule::RoundRobin)]
    pub schedule: Schedule,
    /// No gradients: gate, dispatch and combine only
    #[arg(long)]
    pub forward_only: bool,
    /// How often everything runs, with the same input; every result is compared, times are medians
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// Logits [tokens, experts], gate parameters and activations x [tokens, hidden]; tokens are split evenly over the ranks
    #[arg(long, conflicts_with = "tokens")]
    pub input: Option<InputPath>,
    /// Where indices, weights and the combined result y [tokens, hidden] go
    #[arg(long, value_parser = output_file())]
    pub output: Option<OutputPath>,
    /// Where a picture of the traffic matrix goes (SVG)
    #[arg(long, value_parser = output_file())]
    pub picture: Option<OutputPath>,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub format: ReportFormat,
}

#[derive(Args)]
pub struct Gate {
    /// The .moe file, `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
    /// Which model of the file [default: the only one]
    #[arg(long)]
    pub model: Option<String>,
    /// Logits [tokens, experts] and every gate parameter under its own name; with `grad_weights`, gradients are computed too
    #[arg(long)]
    pub input: InputPath,
    /// Where indices and weights (and `grad_logits`) go, `-` for standard output
    #[arg(long)]
    pub output: OutputPath,
    /// What executes the gate
    #[arg(long, value_enum, default_value_t = Backend::Host)]
    pub on: Backend,
}

#[derive(Args)]
pub struct Explain {
    /// A code, such as M0301
    pub code: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MessageFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TargetName {
    #[value(name = "sm_90a")]
    Sm90a,
    #[value(name = "sm_100a")]
    Sm100a,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Stage {
    /// The syntax tree
    Ast,
    /// The typed specification
    Spec,
    /// The gate and its derivative
    Gate,
    /// Shapes, buffers, slots, bytes
    Plan,
    /// Device code as MLIR
    Mlir,
    /// Device code as LLVM IR
    Llvm,
    /// Device code as PTX
    Ptx,
    /// Machine code, through ptxas and nvdisasm
    Sass,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum DeviceName {
    /// The virtual GPU: PTX on this machine's CPU
    Virtual,
    /// NVIDIA GPUs, through the driver
    Cuda,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Schedule {
    /// Every warp in turn
    RoundRobin,
    /// Any warp, as the seed chooses
    Random,
    /// As bad as it may be: a rank starves, a warp sleeps, copies finish late
    Adversarial,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Backend {
    /// The interpreter that defines the meaning
    Reference,
    /// Native code for this CPU
    Host,
    /// The PTX kernel on the virtual GPU
    Virtual,
    /// The PTX kernel on an NVIDIA GPU
    Cuda,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ReportFormat {
    Table,
    Json,
}
