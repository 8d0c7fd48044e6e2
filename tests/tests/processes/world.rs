//! Processes of a world, as a test starts, watches and kills them.
#![allow(dead_code, reason = "each test file uses a part")]

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

pub const RANKS: u32 = 4;

/// What the processes give a wait: whatever they have to say about each other they say before.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn bundle(tokens: u32) -> Bundle {
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
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("processes-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn bundle(&self, name: &str, tokens: u32) -> PathBuf {
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

/// How the processes of a world are started.
#[derive(Clone)]
pub struct Job {
    pub processes: u32,
    /// Ranks of a process.
    pub each: u32,
    /// In seconds.
    pub deadline: &'static str,
    /// A node that somebody serves.
    pub node: Option<String>,
}

impl Default for Job {
    fn default() -> Job {
        Job { processes: RANKS, each: 1, deadline: "20", node: None }
    }
}

/// The processes of a world. Those that still run are killed at its end.
pub struct Processes {
    pub ranks: Vec<Process>,
    /// The name of their node.
    pub node: String,
    /// Where they meet.
    pub port: u16,
}

pub struct Process {
    pub child: Child,
    pub lines: Receiver<String>,
}

impl Processes {
    /// `of` says of each rank what its bundle is, and at which moment it stops.
    pub fn start(folder: &Folder, of: impl Fn(u32) -> (PathBuf, &'static str)) -> Processes {
        Processes::start_job(folder, &Job::default(), of)
    }

    pub fn start_job(folder: &Folder, job: &Job, of: impl Fn(u32) -> (PathBuf, &'static str)) -> Processes {
        Processes::run(job, |process, command| {
            let (bundle, moment) = of(process);
            command.arg("layer").arg(bundle).arg(folder.0.join("result")).args([moment, job.deadline]);
        })
    }

    /// `asked` says what each process does.
    pub fn run(job: &Job, asked: impl Fn(u32, &mut Command)) -> Processes {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it has one").port();
        drop(listener);
        let start = |process: u32| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rank"));
            asked(process, &mut command);
            for (name, value) in [
                ("RANK", process),
                ("LOCAL_RANK", process),
                ("WORLD_SIZE", job.processes),
                ("RANKS_EACH", job.each),
                ("MASTER_PORT", port.into()),
                ("MOE_PORT", port.into()),
            ] {
                command.env(name, value.to_string());
            }
            command.envs(job.node.iter().map(|node| ("MOE_NODE", node)));
            command.env("MASTER_ADDR", "127.0.0.1").env_remove("LOCAL_WORLD_SIZE");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
            let output = child.stdout.take().expect("it is a pipe");
            let (said, lines) = channel();
            std::thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
            });
            Process { child, lines }
        };
        let user =
            std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).expect("it is there");
        let node = job.node.clone().unwrap_or_else(|| format!("moe-{user}-{port}"));
        Processes { ranks: (0..job.processes).map(start).collect(), node, port }
    }

    /// All end well, and of each rank, but one, there are the bits of one process.
    pub fn assert_right(&mut self, folder: &Folder, but: Option<u32>) {
        let expected = in_one_process();
        assert!(expected.iter().any(|bytes| bytes.iter().any(|&byte| byte != 0)), "there is something to compare");
        for (number, process) in (0..).zip(&mut self.ranks).filter(|(number, _)| Some(*number) != but) {
            assert!(process.child.wait().expect("it ends").success(), "process {number}: {:?}", process.error());
        }
        for (rank, expected) in (0..).zip(expected).filter(|(rank, _)| Some(*rank) != but) {
            let found = std::fs::read(folder.0.join(format!("result.{rank}"))).expect("written");
            assert!(found == expected, "rank {rank}: other bits");
        }
    }

    /// What the others say after one was killed or does not fit; all must end in time.
    pub fn errors(&mut self, but: Option<u32>) -> Vec<String> {
        let others = (0..).zip(&mut self.ranks).filter(|(rank, _)| Some(*rank) != but);
        others.map(|(rank, process)| process.error().unwrap_or_else(|| panic!("rank {rank} noticed nothing"))).collect()
    }

    /// Neither the node nor its name, which is in no file, nor what processes shared: whoever has the environment of the job has ended, and
    /// with it what it had open.
    pub fn assert_nothing_left(mut self) {
        self.ranks.iter_mut().for_each(|process| drop(process.child.wait()));
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let (named, left) = (self.is_named(), self.left());
            if !named && left.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "the name is there: {named}; processes: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let ours = std::fs::read_dir("/proc/self/fd").expect("it is there").flatten();
        let shared = ours.filter_map(|open| std::fs::read_link(open.path()).ok());
        let shared: Vec<PathBuf> = shared.filter(|path| path.to_string_lossy().contains("memfd:moe")).collect();
        assert!(shared.is_empty(), "{shared:?}");
    }

    pub fn is_named(&self) -> bool {
        std::fs::read_to_string("/proc/net/unix").expect("it is there").contains(&self.node)
    }

    /// Processes of the job that have not ended. One that has may still wait for whoever asks how: it has no environment any more.
    pub fn left(&self) -> Vec<String> {
        let told = format!("MOE_PORT={}\0", self.port);
        let of_job = |process: &Path| {
            let environment = std::fs::read(process.join("environ")).ok()?;
            let of_job = String::from_utf8_lossy(&environment).contains(&told);
            of_job.then(|| std::fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " "))
        };
        let all = std::fs::read_dir("/proc").expect("it is there").flatten();
        all.filter_map(|process| of_job(&process.path())).collect()
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
    pub fn says(&self, start: &str) -> Option<String> {
        let until = Instant::now() + 3 * DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.to_owned());
            }
            assert!(!line.starts_with("error: "), "{line}");
        }
        None
    }

    pub fn error(&self) -> Option<String> {
        let until = Instant::now() + 3 * DEADLINE;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            if let Some(error) = line.strip_prefix("error: ") {
                return Some(error.to_owned());
            }
        }
    }

    pub fn node(&self) -> u32 {
        self.says("node ").expect("it attaches").parse().expect("a number")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }
}

/// What all ranks give in one process: two layers, one after the other.
pub fn in_one_process() -> Vec<Vec<u8>> {
    let device = Arc::new(VirtualDevice::new(RANKS, &VirtualOptions::default()).expect("virtual GPUs"));
    let mut moe = Communicator::new(device, &bundle(8), Options::default()).expect("a communicator");
    let [first, second] = [0, 1].map(|round| layer(&mut moe, round, |_| {}).expect("it runs"));
    first.into_iter().zip(second).map(|(first, second)| [first, second].concat()).collect()
}
