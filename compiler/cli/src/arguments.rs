//! The arguments of each command, but for those that say more of it than clap does: these stand with their command.

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

use moe_front::spec::limits;

use crate::checked::Warnings;
use crate::files::{InputPath, OutputPath};

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
    /// Judge memory order too: every access of virtual GPUs that nothing orders is an error, whatever came out
    #[arg(long)]
    pub judge: bool,
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
    /// As random, and memory is as weak as PTX allows: what nothing orders may be read old
    Weak,
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
