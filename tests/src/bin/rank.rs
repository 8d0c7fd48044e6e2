//! One process of a world on virtual GPUs, as torchrun would start it: what the tests of processes start, and kill.
//!
//! `rank layer BUNDLE RESULT MOMENT` runs two layers, writes what they give, and at some moment of the second says so and waits for its end.
//! `rank serve NAME` is the node, in place of `moec serve`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use moe_bundle::Bundle;
use moe_runtime::node::{Node, NodeDevice, NodeOptions, Stay};
use moe_runtime::{Communicator, Options, Torchrun, VirtualOptions, World};
use moe_tests::ranks::layer;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// For bootstrap and waits.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", name] => serve(name),
        ["layer", bundle, result, moment] => run(Path::new(bundle), &PathBuf::from(result), moment),
        _ => Err("rank serve NAME | rank layer BUNDLE RESULT MOMENT".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(name: &str) -> Outcome<()> {
    Ok(Node::bind(name, &VirtualOptions::default())?.serve(Stay::Once(PATIENCE))?)
}

fn run(bundle: &Path, result: &Path, moment: &str) -> Outcome<()> {
    let told = Torchrun::from_environment()?;
    let at = |reached: &str| {
        if reached == moment {
            println!("reached");
            if reached != "waiting" {
                std::thread::sleep(Duration::from_secs(600));
            }
        }
    };
    let bootstrap = Arc::new(told.meet(PATIENCE)?);
    let mut options = NodeOptions::of_torchrun(&told)?;
    if options.start.is_some() {
        let program = std::env::current_exe()?.into_os_string();
        options.start = Some(vec![program, "serve".into(), options.name.clone().into()]);
    }
    let device = Arc::new(NodeDevice::attach(&options)?);
    println!("node {}", device.process());
    at("attached");
    let bundle = Bundle::read(bundle)?;
    let world = World::join(bootstrap, device, &bundle)?;
    at("joined");
    let mut moe = Communicator::of_ranks(&world, world.mine(), Options { deadline: Some(PATIENCE) })?;
    let mut found = layer(&mut moe, 0, |_| {})?.concat();
    if moment == "late" {
        std::thread::sleep(Duration::from_secs(2));
    }
    at("waiting");
    found.extend(layer(&mut moe, 1, at)?.concat());
    std::fs::write(result, found)?;
    Ok(())
}
