//! `moec serve`: virtual GPUs for ranks that are processes of their own.

use std::time::Duration;

use clap::Args;
use moe_runtime::VirtualOptions;
use moe_runtime::node::{Node, Stay};

use crate::failure::Failure;
use crate::terminal;

/// With `--once`: how long the first process may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Serve {
    /// The node's name on this machine, by which processes attach to it
    #[arg(long)]
    pub name: String,
    /// End with the processes of the first job, or when none has come within a minute
    #[arg(long)]
    pub once: bool,
}

/// Serves until nobody needs it any more, or for ever.
pub fn serve(arguments: &Serve) -> Result<(), Failure> {
    let refused = |error: moe_runtime::DeviceError| Failure::Message(error.to_string());
    let node = Node::bind(&arguments.name, &VirtualOptions::default()).map_err(refused)?;
    terminal::print(&format!("serving virtual GPUs as `{}`\n", node.name()))?;
    node.serve(if arguments.once { Stay::Once(PATIENCE) } else { Stay::Always }).map_err(refused)
}
