//! A world of several processes on one virtual node: the bits of one process, what does not belong together, and what is left when one of
//! them is killed.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use moe_bundle::Bundle;
use moe_lower::{Choice, compile};
use moe_runtime::{Communicator, Options, VirtualDevice, VirtualOptions};
use moe_tests::ranks::layer;

const RANKS: u32 = 4;

/// What the processes give a wait: whatever they have to say about each other they say before.
const DEADLINE: Duration = Duration::from_secs(20);

fn bundle(tokens: u32) -> Bundle {
    let text = format!(
        "model small {{
            hidden 256
            experts 8
            gate(logits: f32[experts]) {{
                let chosen = top(3, experts, by: logits)
                weights softmax(logits[chosen])
            }}
            dispatch {{ payload fp8_e4m3 scale f32 per 128   layout expert_major align 4 }}
            combine {{ payload bf16   reduce f32 weighted }}
        }}
        cluster node {{
            nodes 1   gpus {RANKS} per node
            gpu \"H800\" {{ target sm_90a   sms 132   memory 80 GB }}
            nvlink 160 GB/s
        }}
        deploy tiny of small on node {{ ep {RANKS}   tokens {tokens} per gpu   sms 2 }}"
    );
    compile(&text, &Choice::default()).unwrap_or_else(|error| panic!("{error}")).bundle
}

/// A folder of a test, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("processes-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn bundle(&self, name: &str, tokens: u32) -> PathBuf {
        let path = self.0.join(name);
        bundle(tokens).write(&path).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The processes of a world. Those that still run are killed at its end.
struct Processes {
    ranks: Vec<Process>,
    /// The name of their node.
    node: String,
}

struct Process {
    child: Child,
    lines: Receiver<String>,
    result: PathBuf,
}

impl Processes {
    /// `of` says of each rank what its bundle is, and at which moment it stops.
    fn start(folder: &Folder, of: impl Fn(u32) -> (PathBuf, &'static str)) -> Processes {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it has one").port();
        drop(listener);
        let start = |rank: u32| {
            let (bundle, moment) = of(rank);
            let result = folder.0.join(format!("result-{rank}"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_rank"));
            command.arg("layer").arg(bundle).arg(&result).arg(moment);
            for (name, value) in [
                ("RANK", rank),
                ("LOCAL_RANK", rank),
                ("WORLD_SIZE", RANKS),
                ("MASTER_PORT", port.into()),
                ("MOE_PORT", port.into()),
            ] {
                command.env(name, value.to_string());
            }
            command.env("MASTER_ADDR", "127.0.0.1").env_remove("LOCAL_WORLD_SIZE").stdout(Stdio::piped());
            let mut child = command.spawn().expect("started");
            let output = child.stdout.take().expect("it is a pipe");
            let (said, lines) = channel();
            std::thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
            });
            Process { child, lines, result }
        };
        let user =
            std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).expect("it is there");
        Processes { ranks: (0..RANKS).map(start).collect(), node: format!("moe-{user}-{port}") }
    }

    /// What the others say after one was killed or does not fit; all must end in time.
    fn errors(&mut self, but: Option<u32>) -> Vec<String> {
        let others = (0..).zip(&mut self.ranks).filter(|(rank, _)| Some(*rank) != but);
        others.map(|(rank, process)| process.error().unwrap_or_else(|| panic!("rank {rank} noticed nothing"))).collect()
    }

    /// Neither the node nor its name, which is in no file.
    fn assert_nothing_left(mut self, node: u32) {
        self.ranks.iter_mut().for_each(|process| drop(process.child.wait()));
        let until = Instant::now() + Duration::from_secs(10);
        let named = || std::fs::read_to_string("/proc/net/unix").expect("it is there").contains(&self.node);
        let state = || std::fs::read_to_string(format!("/proc/{node}/stat")).unwrap_or_default();
        // A process that has ended may still wait for whoever asks how.
        let runs = || state().rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'));
        while named() || runs() {
            assert!(Instant::now() < until, "the node is still there: {} {}", named(), state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.ranks {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Process {
    /// The rest of a line that it says, sooner or later.
    fn says(&self, start: &str) -> Option<String> {
        let until = Instant::now() + 3 * DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.to_owned());
            }
            assert!(!line.starts_with("error: "), "{line}");
        }
        None
    }

    fn error(&self) -> Option<String> {
        let until = Instant::now() + 3 * DEADLINE;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            if let Some(error) = line.strip_prefix("error: ") {
                return Some(error.to_owned());
            }
        }
    }

    fn node(&self) -> u32 {
        self.says("node ").expect("it attaches").parse().expect("a number")
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }
}

/// What all ranks give in one process: two layers, one after the other.
fn in_one_process() -> Vec<Vec<u8>> {
    let device = Arc::new(VirtualDevice::new(RANKS, &VirtualOptions::default()).expect("virtual GPUs"));
    let mut moe = Communicator::new(device, &bundle(8), Options::default()).expect("a communicator");
    let [first, second] = [0, 1].map(|round| layer(&mut moe, round, |_| {}).expect("it runs"));
    first.into_iter().zip(second).map(|(first, second)| [first, second].concat()).collect()
}

#[test]
fn four_processes_give_the_bits_of_one() {
    let folder = Folder::new("bits");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes = Processes::start(&folder, |_| (bundle.clone(), "never"));
    let nodes: Vec<u32> = processes.ranks.iter().map(Process::node).collect();
    assert!(nodes.iter().all(|&node| node == nodes[0]), "one node: {nodes:?}");
    let expected = in_one_process();
    assert!(expected.iter().any(|bytes| bytes.iter().any(|&byte| byte != 0)), "there is something to compare");
    for ((rank, process), expected) in (0..).zip(&mut processes.ranks).zip(expected) {
        assert!(process.child.wait().expect("it ends").success(), "rank {rank}: {:?}", process.error());
        assert!(std::fs::read(&process.result).expect("written") == expected, "rank {rank}: other bits");
    }
    processes.assert_nothing_left(nodes[0]);
}

#[test]
fn a_process_with_another_bundle_is_named_by_all() {
    let folder = Folder::new("mismatch");
    let (same, other) = (folder.bundle("same.moeb", 8), folder.bundle("other.moeb", 7));
    let mut processes = Processes::start(&folder, |rank| (if rank == 2 { &other } else { &same }.clone(), "never"));
    let node = processes.ranks[0].node();
    let errors = processes.errors(None);
    assert!(errors[0].starts_with("the bundle of rank 0 is "), "{errors:?}");
    assert!(errors[0].contains(", and that of rank 2 is "), "{errors:?}");
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
    processes.assert_nothing_left(node);
}

/// Whoever waits for the one that was killed says who it was, and which process; the deadline of waits does not have to pass.
#[test]
fn a_process_that_is_killed_is_named_by_all_others() {
    let folder = Folder::new("killed");
    let bundle = folder.bundle("layer.moeb", 8);
    for (victim, moment) in
        [(2, "attached"), (2, "joined"), (0, "joined"), (2, "dispatched"), (0, "dispatched"), (3, "waiting")]
    {
        let others = if moment == "waiting" { "late" } else { "never" };
        let mut processes =
            Processes::start(&folder, |rank| (bundle.clone(), if rank == victim { moment } else { others }));
        let node = processes.ranks[victim as usize].node();
        processes.ranks[victim as usize].says("reached").expect("it gets there");
        let process = processes.ranks[victim as usize].child.id();
        processes.ranks[victim as usize].kill();
        let killed = Instant::now();
        let errors = processes.errors(Some(victim));
        assert!(killed.elapsed() < DEADLINE / 2, "{moment}: after {:?}", killed.elapsed());
        let named = match moment {
            "attached" => format!("process {victim} has ended"),
            _ => format!("rank {victim} is gone: process {process}, whose"),
        };
        assert!(errors.iter().all(|error| error.contains(&named)), "{victim} {moment}: {errors:#?}");
        processes.assert_nothing_left(node);
    }
}

/// What was launched is launched: the others do not need its process any more.
#[test]
fn a_process_that_is_killed_after_its_last_launch_harms_nobody() {
    let folder = Folder::new("after");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes =
        Processes::start(&folder, |rank| (bundle.clone(), if rank == 1 { "combined" } else { "never" }));
    let node = processes.ranks[1].node();
    processes.ranks[1].says("reached").expect("it gets there");
    processes.ranks[1].kill();
    for ((rank, process), expected) in
        (0..).zip(&mut processes.ranks).zip(in_one_process()).filter(|((rank, _), _)| *rank != 1)
    {
        assert!(process.child.wait().expect("it ends").success(), "rank {rank}: {:?}", process.error());
        assert!(std::fs::read(&process.result).expect("written") == expected, "rank {rank}: other bits");
    }
    processes.assert_nothing_left(node);
}

#[test]
fn a_node_that_is_killed_is_named_by_all() {
    let folder = Folder::new("node");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes = Processes::start(&folder, |rank| (bundle.clone(), if rank == 0 { "waiting" } else { "late" }));
    let node = processes.ranks[0].node();
    processes.ranks[0].says("reached").expect("it gets there");
    let killed = Command::new("kill").args(["-9", &node.to_string()]).status().expect("there is such a program");
    assert!(killed.success());
    let errors = processes.errors(None);
    let named = format!("its process {node} has ended");
    assert!(
        errors.iter().all(|error| error.starts_with("virtual node `moe-") && error.contains(&named)),
        "{errors:#?}"
    );
    processes.assert_nothing_left(node);
}
