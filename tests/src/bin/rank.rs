//! One process of a world on virtual GPUs, as torchrun would start it: what the tests of processes start, and kill.
//!
//! `rank layer BUNDLE RESULT MOMENT DEADLINE` runs two layers, writes what they give, and at some moment of the second says so and waits for
//! its end; at `long` it goes on for ever. Waits have so many seconds; `never` ends none. Some moments are mistakes, after which all processes recover and run a third layer.
//! `rank worlds BUNDLE COUNT` makes so many worlds, one after the other, and says when a tenth and when all are made.
//! `rank share MOMENT` hands memory to the others and takes theirs, as GPUs of several processes do, with files in place of GPUs.
//! `rank serve NAME` is the node, in place of `moec serve`. `MOE_GPU` in the environment names a GPU, in place of
//! virtual ones; `RANKS_EACH` says how many ranks a process has, `PATIENCE`
//! how many seconds processes wait for each other before they have met.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use moe_bundle::Bundle;
use moe_contract::RankId;
use moe_runtime::device::share::{Share, Ticket};
use moe_runtime::node::{Node, NodeDevice, NodeOptions, Stay};
use moe_runtime::{
    Bootstrap as _, Communicator, CudaDevice, CudaOptions, Device, DeviceError, Options, TcpBootstrap, Torchrun,
    VirtualOptions, World,
};
use moe_tests::ranks::{Part, layer, layer_of};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", name] => serve(name),
        ["layer", bundle, result, moment, deadline] => layers(Path::new(bundle), Path::new(result), moment, deadline),
        ["worlds", bundle, count] => worlds(Path::new(bundle), count),
        ["share", moment] => share(moment),
        _ => Err("rank serve | layer | worlds | share …: see the program".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {}", error.to_string().replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}

fn number(variable: &str, default: u32) -> Outcome<u32> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
}

fn patience() -> Outcome<Duration> {
    Ok(Duration::from_secs(number("PATIENCE", 20)?.into()))
}

fn serve(name: &str) -> Outcome<()> {
    Ok(Node::bind(name, &VirtualOptions::default())?.serve(Stay::Once(patience()?))?)
}

/// This process among the others, and its ranks of the node.
fn attach() -> Outcome<(Arc<TcpBootstrap>, Arc<dyn Device>)> {
    let told = Torchrun::from_environment()?;
    let bootstrap = Arc::new(told.meet(patience()?)?);
    if std::env::var_os("MOE_GPU").is_some() {
        let (each, gpu) = (number("RANKS_EACH", 1)?, number("MOE_GPU", 0)?);
        let mine = told.rank * each..(told.rank + 1) * each;
        let device = CudaDevice::of_process(told.world_size * each, mine, gpu, &CudaOptions::default())?;
        return Ok((bootstrap, Arc::new(device)));
    }
    let mut options = NodeOptions { patience: patience()?, ..NodeOptions::of_torchrun(&told)? };
    if options.start.is_some() {
        let program = std::env::current_exe()?.into_os_string();
        options.start = Some(vec![program, "serve".into(), options.name.clone().into()]);
    }
    let each = number("RANKS_EACH", 1)?;
    options.ranks *= each;
    options.mine = told.rank * each..(told.rank + 1) * each;
    let device = Arc::new(NodeDevice::attach(&options)?);
    println!("node {}", device.process());
    Ok((bootstrap, device))
}

fn layers(bundle: &Path, result: &Path, moment: &str, deadline: &str) -> Outcome<()> {
    let at = |reached: &str| {
        if reached == moment {
            println!("reached");
            if reached != "waiting" {
                std::thread::sleep(Duration::from_secs(600));
            }
        }
    };
    let (bootstrap, device) = attach()?;
    at("attached");
    let bundle = Bundle::read(bundle)?;
    let world = World::join(Arc::<TcpBootstrap>::clone(&bootstrap), device, &bundle)?;
    at("joined");
    let deadline = if deadline == "never" { None } else { Some(Duration::from_secs(deadline.parse()?)) };
    let mut moe = Communicator::of_ranks(&world, world.mine(), Options { deadline })?;
    let mut found = vec![layer(&mut moe, 0, |_| {})?];
    if moment == "late" {
        std::thread::sleep(Duration::from_secs(2));
    }
    at("waiting");
    for round in (2..).take_while(|_| moment == "long") {
        layer(&mut moe, round, |_| {})?;
    }
    let wrong = matches!(moment, "barrier" | "nobody" | "extra" | "other" | "later");
    if wrong {
        // What goes wrong stops all, who must have what was right before.
        bootstrap.barrier()?;
    }
    let second = match moment {
        "barrier" => moe.barrier().and_then(|()| moe.synchronise()).map(|()| vec![]),
        "nobody" => {
            let exchange = *moe.exchange();
            let mut parts: Vec<Part> = moe.ranks().map(|rank: RankId| Part::new(&exchange, rank, 1)).collect();
            parts.iter_mut().for_each(Part::pick_nobody);
            layer_of(&mut moe, &parts, |_| {})
        }
        "extra" => {
            layer(&mut moe, 1, |_| {}).and_then(|_| moe.barrier()).and_then(|()| moe.synchronise()).map(|()| vec![])
        }
        "later" => layer(&mut moe, 1, |_| {}).and_then(|_| {
            std::thread::sleep(Duration::from_secs(4));
            moe.synchronise().map(|()| vec![])
        }),
        _ => layer(&mut moe, 1, at),
    };
    match second {
        Ok(second) if !wrong => found.push(second),
        Ok(_) => println!("nothing went wrong"),
        Err(error) if wrong => {
            println!("error: {}", error.to_string().replace('\n', " | "));
            world.recover()?;
            found.push(layer(&mut moe, 1, |_| {})?);
        }
        Err(error) => return Err(error.into()),
    }
    let of_rank = |rank: usize| found.iter().flat_map(|layer| layer[rank].clone()).collect::<Vec<u8>>();
    for (place, rank) in world.mine().enumerate() {
        std::fs::write(result.with_extension(rank.to_string()), of_rank(place))?;
    }
    Ok(())
}

fn worlds(bundle: &Path, count: &str) -> Outcome<()> {
    let (count, bundle): (u32, Bundle) = (count.parse()?, Bundle::read(bundle)?);
    let (bootstrap, device) = attach()?;
    for made in 1..=count {
        let world = World::join(Arc::<TcpBootstrap>::clone(&bootstrap), Arc::<dyn Device>::clone(&device), &bundle)?;
        let mut moe = Communicator::of_ranks(&world, world.mine(), Options::default())?;
        moe.barrier()?;
        moe.synchronise()?;
        if made == count / 10 || made == count {
            println!("made {made}");
            // Whoever listens looks at the node meanwhile.
            std::io::stdin().read_line(&mut String::new())?;
        }
    }
    Ok(())
}

/// Each process writes its number into the memory of every other, once it has taken all.
fn share(moment: &str) -> Outcome<()> {
    const BYTES: u64 = 4096;
    let at = |reached: &str| {
        if reached == moment {
            println!("reached");
            std::thread::sleep(Duration::from_secs(600));
        }
    };
    let told = Torchrun::from_environment()?;
    let bootstrap = told.meet(patience()?)?;
    let own = memfd_create("moe-shared", MemfdFlags::CLOEXEC)?;
    let bytes = if moment == "larger" { 2 * BYTES } else { BYTES };
    ftruncate(&own, bytes)?;
    let own = File::from(own);
    let share = Share::open(told.rank..told.rank + 1, Duration::from_secs(1))?;
    let ticket = share.offer(own.try_clone()?.into(), bytes, "a file");
    at("offered");
    let tickets = bootstrap.all_gather(&serde_json::to_vec(&ticket)?)?;
    at("met");
    if moment == "late" {
        // For whoever is stopped meanwhile.
        std::thread::sleep(Duration::from_secs(1));
    }
    let tickets: Vec<Ticket> = tickets.iter().map(|ticket| serde_json::from_slice(ticket)).collect::<Result<_, _>>()?;
    let others = (0..).zip(&tickets).filter(|(process, _)| *process != told.rank);
    let taken: Result<Vec<OwnedFd>, DeviceError> = others.map(|(_, ticket)| share.take(ticket, BYTES)).collect();
    if let Ok(files) = &taken {
        for file in files {
            File::from(file.try_clone()?).write_at(&[told.rank as u8 + 1], told.rank.into())?;
        }
    }
    // As a world does: nobody goes before the others have looked.
    match (taken, bootstrap.barrier()) {
        (Err(DeviceError::Gone { .. }) | Ok(_), Err(met)) => return Err(met.into()),
        (Err(problem), _) => return Err(problem.into()),
        (Ok(_), Ok(())) => {}
    }
    let mut found = vec![0; told.world_size as usize];
    own.read_exact_at(&mut found, 0)?;
    println!("found {found:?}");
    at("taken");
    if moment == "watch" {
        let gone = loop {
            match share.gone() {
                Some(gone) => break gone,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        // Who looks a little later must not find this process gone too.
        std::thread::sleep(Duration::from_millis(200));
        return Err(gone.into());
    }
    Ok(())
}
