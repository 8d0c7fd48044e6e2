//! The command line, as clap sees it. Exit status: 0 ok, 1 the user's file or input is wrong, 2 misuse of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Compiler for Mixture-of-Experts communication: from a .moe file to PTX kernels, and to a verified run of them.
#[derive(Parser)]
#[command(name = "moec", version, about, max_term_width = 100)]
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
    /// Explain a diagnostic code, with a failing and a repaired example
    Explain(Explain),
}

#[derive(Args)]
pub struct Check {
    /// The .moe file
    pub file: PathBuf,
}

#[derive(Args)]
pub struct Fmt {
    /// The .moe files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Change nothing; exit 1 if a file is not in the canonical format
    #[arg(long)]
    pub check: bool,
}

#[derive(Args)]
pub struct Build {
    /// The .moe file
    pub file: PathBuf,
    /// Which deploy of the file [default: the only one]
    #[arg(long)]
    pub deploy: Option<String>,
    /// Nodes over which the ranks are spread [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: Option<u32>,
    /// GPUs, that is ranks, of each node [default: as the deploy says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus_per_node: Option<u32>,
    /// GPU architecture, repeatable [default: the cluster's target]
    #[arg(long = "target", value_enum)]
    pub targets: Vec<TargetName>,
    /// Where the bundle goes [default: FILE with the extension moeb]
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Print a stage of the compilation instead of writing a bundle
    #[arg(long, value_enum)]
    pub emit: Option<Stage>,
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
