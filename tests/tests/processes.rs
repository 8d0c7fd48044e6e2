//! A world of several processes on one virtual node: the bits of one process, what does not belong together, and what is left when one of
//! them is killed.

#[path = "processes/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use moe_contract::RankId;
use moe_random::Random;
use moe_runtime::node::{Node, NodeDevice, NodeOptions, Stay};
use moe_runtime::{Device as _, VirtualOptions};
use world::{DEADLINE, Folder, Job, Process, Processes, RANKS};

#[test]
fn four_processes_give_the_bits_of_one() {
    let folder = Folder::new("bits");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes = Processes::start(&folder, |_| (bundle.clone(), "never"));
    let nodes: Vec<u32> = processes.ranks.iter().map(Process::node).collect();
    assert!(nodes.iter().all(|&node| node == nodes[0]), "one node: {nodes:?}");
    processes.assert_right(&folder, None);
    processes.assert_nothing_left();
}

#[test]
fn two_processes_of_two_ranks_each_give_the_bits_of_one() {
    let folder = Folder::new("each");
    let bundle = folder.bundle("layer.moeb", 8);
    let job = Job { processes: 2, each: 2, ..Job::default() };
    let mut processes = Processes::start_job(&folder, &job, |_| (bundle.clone(), "never"));
    processes.assert_right(&folder, None);
    processes.assert_nothing_left();
}

/// One job after the other on a node that none of them starts or ends.
#[test]
fn a_node_that_is_served_already_takes_the_job_that_names_it() {
    let name = format!("served-{}", std::process::id());
    let node = Node::bind(&name, &VirtualOptions::default()).expect("nobody has it");
    std::thread::spawn(move || node.serve(Stay::Always));
    let folder = Folder::new("served");
    let bundle = folder.bundle("layer.moeb", 8);
    let job = Job { node: Some(name), ..Job::default() };
    for _ in 0..2 {
        let mut processes = Processes::start_job(&folder, &job, |_| (bundle.clone(), "never"));
        assert_eq!(processes.ranks[3].node(), std::process::id());
        processes.assert_right(&folder, None);
    }
}

#[test]
fn a_world_of_another_size_than_the_bundle_is_refused_by_all() {
    let folder = Folder::new("size");
    let bundle = folder.bundle("layer.moeb", 8);
    let job = Job { processes: 3, ..Job::default() };
    let mut processes = Processes::start_job(&folder, &job, |_| (bundle.clone(), "never"));
    assert_eq!(processes.errors(None), ["the bundle is for 4 ranks, the device has 3"; 3]);
    processes.assert_nothing_left();
}

/// A pick that is no expert, on one rank: all processes have the same error, at once, and after a recovery the results of one process.
#[test]
fn a_wrong_number_in_one_process_is_the_same_error_in_all_and_all_recover() {
    let folder = Folder::new("nobody");
    let bundle = folder.bundle("layer.moeb", 8);
    for (each, wrong, rank) in [(1, 2, 2), (2, 0, 1)] {
        let job = Job { processes: RANKS / each, each, ..Job::default() };
        let moment = |process| if process == wrong { "nobody" } else { "other" };
        let mut processes = Processes::start_job(&folder, &job, |process| (bundle.clone(), moment(process)));
        let errors = processes.errors(None);
        let named = format!("rank {rank}, token ");
        assert!(errors[0].starts_with(&named), "{errors:#?}");
        assert!(errors[0].ends_with(": pick 2 is 1000, which is not an expert"), "{errors:#?}");
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:#?}");
        processes.assert_right(&folder, None);
        processes.assert_nothing_left();
    }
}

/// Who waits for whom, and in which kernel, is said in every process: by the deadline of the waits, or, without one, by the virtual GPUs.
/// Nobody waits in real time for what cannot come.
#[test]
fn a_call_that_only_one_process_makes_is_a_deadlock_that_all_name_and_recover_from() {
    let folder = Folder::new("deadlock");
    let bundle = folder.bundle("layer.moeb", 8);
    for deadline in ["50", "never"] {
        let job = Job { deadline, ..Job::default() };
        let moment = |process| if process == 1 { "barrier" } else { "other" };
        let mut processes = Processes::start_job(&folder, &job, |process| (bundle.clone(), moment(process)));
        let began = Instant::now();
        let errors = processes.errors(None);
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:#?}");
        let named: &[&str] = match deadline {
            "never" => &["deadlock: ", "rank 1, kernel `barrier`", "polls `dispatch.arrive[rank 1]` of rank 3"],
            _ => &["rank 0, dispatch.arrive, waits for rank 1: has 0 of 2 after 50s; 3 other ranks wait too"],
        };
        assert!(named.iter().all(|named| errors[0].contains(named)), "{}", errors[0]);
        processes.assert_right(&folder, None);
        processes.assert_nothing_left();
    }
}

/// The others have gone on and wait for nobody: they hear it with their next call.
#[test]
fn a_call_more_of_one_process_is_named_after_its_deadline() {
    let folder = Folder::new("extra");
    let bundle = folder.bundle("layer.moeb", 8);
    let job = Job { deadline: "1", ..Job::default() };
    let moment = |process| if process == 2 { "extra" } else { "later" };
    let mut processes = Processes::start_job(&folder, &job, |process| (bundle.clone(), moment(process)));
    let errors = processes.errors(None);
    assert_eq!(errors, ["rank 2, barrier.arrive, waits for rank 0: has 0 of 1 after 1s"; 4]);
    processes.assert_right(&folder, None);
    processes.assert_nothing_left();
}

/// Tensors in it need no copy. It is the process's alone, and the node has it no longer than the process is there.
#[test]
fn memory_that_a_process_shares_with_its_rank_has_one_content() {
    let name = format!("both-{}", std::process::id());
    let node = Node::bind(&name, &VirtualOptions::default()).expect("nobody has it");
    std::thread::spawn(move || node.serve(Stay::Always));
    let attach = |mine| {
        let options =
            NodeOptions { name: name.clone(), ranks: 2, mine, patience: Duration::from_secs(10), start: None };
        NodeDevice::attach(&options).expect("it is served")
    };
    let (first, second) = (attach(0..1), attach(1..2));
    let memory = first.host_memory(RankId(0), 5000).expect("there is enough");
    // SAFETY: within the memory, which nothing else uses.
    let place = unsafe { memory.base().add(100).cast::<[u8; 4]>() };
    let address = first.address_of(RankId(0), place.as_ptr() as u64, 4).expect("it lies there");
    let mut found = [1; 4];
    first.read(RankId(0), address, &mut found).expect("new memory counts as written");
    assert_eq!(found, [0; 4]);
    // SAFETY: as above.
    unsafe { place.write(*b"here") };
    first.read(RankId(0), address, &mut found).expect("there");
    assert_eq!(&found, b"here");
    first.write(RankId(0), address, b"gone").expect("there");
    // SAFETY: as above.
    assert_eq!(unsafe { place.read() }, *b"gone");

    assert_eq!(second.address_of(RankId(1), place.as_ptr() as u64, 4), None, "it is of another process");
    let refused = second.host_memory(RankId(0), 8).expect_err("the rank is of another process");
    assert_eq!(refused.to_string(), "virtual GPU: rank 0 is of another process");
    second.read(RankId(0), address, &mut found).expect("the first process is there");
    drop(first);
    let began = Instant::now();
    while second.read(RankId(0), address, &mut found).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "the node still has it");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: as above.
    assert_eq!(unsafe { place.read() }, *b"gone", "whoever holds it still has it");
}

/// Symmetric memory of worlds that are gone is gone from the node too.
#[test]
fn worlds_that_come_and_go_take_no_more_memory_of_the_node() {
    const COUNT: u32 = 100;
    let folder = Folder::new("worlds");
    let bundle = folder.bundle("layer.moeb", 8);
    let job = Job { processes: 2, each: 2, ..Job::default() };
    let mut processes = Processes::run(&job, |_, command| {
        command.arg("worlds").arg(&bundle).arg(COUNT.to_string());
    });
    let node = processes.ranks[0].node();
    let mut resident = |made: u32| {
        for process in &mut processes.ranks {
            assert_eq!(process.says("made ").as_deref(), Some(made.to_string().as_str()));
        }
        let statm = std::fs::read_to_string(format!("/proc/{node}/statm")).expect("it runs");
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number");
        for process in &mut processes.ranks {
            writeln!(process.child.stdin.as_mut().expect("it is a pipe")).expect("it listens");
        }
        4096 * pages
    };
    let (before, after) = (resident(COUNT / 10), resident(COUNT));
    assert!(after < before + (2 << 20), "{before} bytes become {after}");
    processes.assert_nothing_left();
}

#[test]
fn a_process_with_another_bundle_is_named_by_all() {
    let folder = Folder::new("mismatch");
    let (same, other) = (folder.bundle("same.moeb", 8), folder.bundle("other.moeb", 7));
    let mut processes = Processes::start(&folder, |rank| (if rank == 2 { &other } else { &same }.clone(), "never"));
    let errors = processes.errors(None);
    assert!(errors[0].starts_with("the bundle of rank 0 is "), "{errors:?}");
    assert!(errors[0].contains(", and that of rank 2 is "), "{errors:?}");
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
    processes.assert_nothing_left();
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
        processes.assert_nothing_left();
    }
}

/// `MOE_KILLS=50` kills as often; each time at another moment, from the start of the process into its layers.
#[test]
fn a_process_that_is_killed_at_any_moment_is_named_by_all_others() {
    let kills = std::env::var("MOE_KILLS").map_or(8, |kills| kills.parse().expect("a number"));
    let folder = Folder::new("any");
    let bundle = folder.bundle("layer.moeb", 8);
    let (mut longest, mut how) = (Duration::ZERO, BTreeMap::<&str, u32>::new());
    for kill in 0..kills {
        let mut random = Random::stream(7, kill);
        let victim = random.below(RANKS.into()) as u32;
        let longest_delay = 1 << random.below(11);
        let delay = Duration::from_millis(random.below(longest_delay));
        let mut processes = Processes::run(&Job::default(), |_, command| {
            command.arg("layer").arg(&bundle).arg(folder.0.join("result")).args(["long", "5"]).env("PATIENCE", "5");
        });
        std::thread::sleep(delay);
        let process = processes.ranks[victim as usize].child.id();
        processes.ranks[victim as usize].kill();
        let killed = Instant::now();
        let errors = processes.errors(Some(victim));
        longest = longest.max(killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(12), "kill {kill}: after {:?}", killed.elapsed());
        let names = [
            ("in a call", format!("rank {victim} is gone: process {process}, whose")),
            ("while they met", format!("process {victim} has ended")),
            ("before they met", format!("process {victim} did not come")),
            ("before there was a node", format!("local rank {victim} should start it")),
        ];
        for error in errors {
            let name = names.iter().find(|(_, name)| error.contains(name));
            *how.entry(name.unwrap_or_else(|| panic!("kill {kill}, rank {victim} after {delay:?}: {error}")).0)
                .or_default() += 1;
        }
        processes.assert_nothing_left();
    }
    println!("{kills} kills, each named by the 3 others after at most {longest:?}: {how:?}");
}

/// What was launched is launched: the others do not need its process any more.
#[test]
fn a_process_that_is_killed_after_its_last_launch_harms_nobody() {
    let folder = Folder::new("after");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes =
        Processes::start(&folder, |rank| (bundle.clone(), if rank == 1 { "combined" } else { "never" }));
    processes.ranks[1].says("reached").expect("it gets there");
    processes.ranks[1].kill();
    processes.assert_right(&folder, Some(1));
    processes.assert_nothing_left();
}

#[test]
fn a_node_that_is_killed_is_named_by_all() {
    let folder = Folder::new("node");
    let bundle = folder.bundle("layer.moeb", 8);
    let mut processes = Processes::start(&folder, |rank| (bundle.clone(), if rank == 0 { "waiting" } else { "late" }));
    let node = processes.ranks[0].node();
    processes.ranks[0].says("reached").expect("it gets there");
    assert!(processes.left().len() > 4 && processes.is_named(), "four processes and a node: {:#?}", processes.left());
    let killed = Command::new("kill").args(["-9", &node.to_string()]).status().expect("there is such a program");
    assert!(killed.success());
    let errors = processes.errors(None);
    let named = format!("its process {node} has ended");
    assert!(
        errors.iter().all(|error| error.starts_with("virtual node `moe-") && error.contains(&named)),
        "{errors:#?}"
    );
    processes.assert_nothing_left();
}

/// Memory that goes from process to process as GPUs do it, with files in place of GPUs.
fn sharing(of: impl Fn(u32) -> &'static str) -> Processes {
    Processes::run(&Job::default(), |process, command| {
        command.args(["share", of(process)]).env("PATIENCE", "4");
    })
}

#[test]
fn every_process_writes_into_the_memory_of_every_other() {
    let mut processes = sharing(|_| "never");
    for (number, process) in (0..).zip(&mut processes.ranks) {
        let expected: Vec<u32> = (0..RANKS).map(|other| if other == number { 0 } else { other + 1 }).collect();
        assert_eq!(process.says("found "), Some(format!("{expected:?}")));
        assert!(process.child.wait().expect("it ends").success());
    }
    processes.assert_nothing_left();
}

#[test]
fn a_process_that_ends_while_memory_is_handed_on_is_named_by_all_others() {
    for (victim, moment) in [(2, "offered"), (0, "met"), (2, "met"), (3, "taken")] {
        let mut processes = sharing(|process| if process == victim { moment } else { "watch" });
        let process = processes.ranks[victim as usize].child.id();
        processes.ranks[victim as usize].says("reached").expect("it gets there");
        processes.ranks[victim as usize].kill();
        let killed = Instant::now();
        let errors = processes.errors(Some(victim));
        assert!(killed.elapsed() < Duration::from_secs(5), "{moment}: after {:?}", killed.elapsed());
        // Before memory is taken the bootstrap notices, if it is quicker.
        let named = [format!("rank {victim} is gone: process {process}, whose"), format!("process {victim} has ended")];
        assert!(errors.iter().all(|error| named.iter().any(|name| error.contains(name))), "{moment}: {errors:#?}");
        processes.assert_nothing_left();
    }
}

#[test]
fn a_process_that_does_not_answer_or_has_other_memory_is_named() {
    let mut processes = sharing(|process| if process == 1 { "larger" } else { "never" });
    let process = processes.ranks[1].child.id();
    let expected = format!("memory of rank 1, process {process}: it has 8192 bytes, and this process expects 4096");
    // Some hear of it from those who have looked.
    let errors = processes.errors(Some(1));
    assert!(errors.contains(&expected), "{errors:#?}");
    processes.assert_nothing_left();

    let mut processes = sharing(|process| if process == 1 { "met" } else { "late" });
    processes.ranks[1].says("reached").expect("it gets there");
    let process = processes.ranks[1].child.id();
    let stopped = Command::new("kill").args(["-STOP", &process.to_string()]).status().expect("there is such a program");
    assert!(stopped.success());
    let expected = format!("memory of rank 1, process {process}: it has not answered within 1s");
    let errors = processes.errors(Some(1));
    assert!(errors.contains(&expected), "{errors:#?}");
    processes.ranks[1].kill();
    processes.assert_nothing_left();
}
