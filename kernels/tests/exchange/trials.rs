//! What is tried with a kernel that may be wrong: calls of all kinds, what comes before and after a barrier, wrong picks, a rank that does
//! not come, a host that watches and one that stops everything. Each trial passes with the kernels as they are.

use moe_contract::{Buffer, Fault, Flag, Kernel, Tensor as X, status};
use moe_vgpu::{Launch, Module};

use crate::host::Host;
use crate::scenario::{Picks, Scenario, Tokens, USUAL, enqueue_all, outcome};
use crate::world::{Loaded, Outcome, Passed, Schedule, World};

/// A trial of the kernels of an exchange.
pub type Trial = fn(&Loaded, Kernel, Schedule) -> Outcome;

/// All that a kernel has to pass, the most telling first.
pub fn trials(kernel: Kernel, loaded: &Loaded) -> Vec<Trial> {
    let alone = loaded.exchange.ranks == 1;
    let mut trials: Vec<Trial> = match kernel {
        Kernel::Barrier => vec![around_a_barrier],
        _ => vec![calls],
    };
    if kernel == Kernel::Barrier && !alone {
        trials.push(a_barrier_that_holds);
    }
    if kernel == Kernel::Route {
        trials.push(picks_of_no_expert);
        if loaded.exchange.top_k > 1 {
            trials.push(picks_that_come_twice);
        }
    }
    if kernel.row().waits.is_some() && !alone {
        trials.extend([a_rank_that_does_not_come as Trial, a_host_that_stops_a_wait]);
    }
    trials.extend([a_host_that_stops_at_the_end as Trial, a_host_that_stops]);
    trials
}

/// Every kind of call, several times.
fn calls(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    outcome(loaded, CALLS, schedule)
}

const CALLS: Scenario = Scenario { picks: Picks::Even, tokens: Tokens::All, rounds: 2, ..USUAL };

/// What callers exchange through a barrier.
const AROUND: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry put(.param .u64 cell) {
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [cell];
    st.global.u32 [%rd1], 7;
    ret;
}
.visible .entry take(.param .u64 cell) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [cell];
    ld.global.u32 %r1, [%rd1];
    ret;
}";

/// Each rank puts a word into the memory of the next, and takes its own behind the barrier.
fn around_a_barrier(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let module = Module::parse(AROUND).expect("the text above");
    let mut world = World::new(loaded, schedule);
    let cells = world.everywhere("cell", |_| 4);
    let ranks = cells.len();
    let each = |world: &mut World<'_>, name: &str, ahead: usize| {
        for rank in 0..ranks {
            let cell = cells[(rank + ahead) % ranks];
            let kernel = module.kernel(name).expect("it is there");
            world.launch_alone(rank, &kernel, Launch::linear(1, 1, vec![cell.into()]));
        }
    };
    // Twice: the second barrier is of the second epoch.
    for _ in 0..2 {
        each(&mut world, "put", 1);
        world.launch(Kernel::Barrier, &Passed::default());
        each(&mut world, "take", 0);
        world.launch(Kernel::Barrier, &Passed::default());
    }
    let executed = world.run().map_err(|error| error.to_string());
    world.outcome(executed)
}

/// A barrier that a rank does not reach must hold the others.
fn a_barrier_that_holds(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let mut world = World::new(loaded, schedule);
    world.launch(Kernel::Barrier, &Passed { absent: Some(1), ..Passed::default() });
    let executed = match world.run() {
        Ok(()) => Err("a rank left the barrier before all had arrived".into()),
        Err(_) => Ok(()),
    };
    world.outcome(executed)
}

/// Every token of every rank has a pick that is no expert. One of them must be reported, and it alone.
fn picks_of_no_expert(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let all = loaded.exchange.gate_width();
    wrong_picks(loaded, schedule, |token| vec![all + token], |token| (Fault::PickOutOfRange.code(), 0, all + token))
}

/// Every token of every rank has one pick twice.
fn picks_that_come_twice(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let all = loaded.exchange.gate_width();
    wrong_picks(loaded, schedule, |token| vec![token % all; 2], |token| (Fault::PickTwice.code(), 1, token % all))
}

/// `picks` of a token are followed by none, and `report` is its status: code, position and pick.
fn wrong_picks(
    loaded: &Loaded,
    schedule: Schedule,
    picks: impl Fn(u32) -> Vec<u32>,
    report: impl Fn(u32) -> (u64, u64, u32),
) -> Outcome {
    let mut world = World::new(loaded, schedule);
    let exchange = world.exchange();
    let (ranks, k, tokens) = (exchange.ranks as usize, exchange.top_k as usize, exchange.max_tokens);
    let picks = |token| picks(token).into_iter().chain(std::iter::repeat(u32::MAX)).take(k);
    let picks: Vec<u8> = (0..tokens).flat_map(picks).flat_map(u32::to_le_bytes).collect();
    let indices = world.upload("indices", &vec![picks; ranks]);
    let handle = world.handle();
    let call = Passed { tokens: vec![tokens; ranks], handle: Some(&handle), ..Passed::default() };
    world.launch(Kernel::Route, &call.tensor(X::Indices, &indices));
    (0..ranks).for_each(|rank| world.host(rank, Host::Watches));
    let executed = world.run().map_err(|error| error.to_string()).and_then(|()| {
        for rank in 0..ranks {
            let found = world.status(rank);
            let [code, token, pick, expert] = found;
            let one = token < u64::from(tokens) && {
                let (expected, at, picked) = report(token as u32);
                (code, pick, expert) == (expected, at, picked.into())
            };
            if !one {
                return Err(format!("rank {rank} reports {found:?}"));
            }
        }
        Ok(())
    });
    world.outcome(executed)
}

/// A kernel that waits for the last rank, which does not come; `deadline` is in nanoseconds.
fn waits_in_vain(world: &mut World<'_>, kernel: Kernel, deadline: u64) {
    world.deadline = deadline;
    let exchange = world.exchange();
    let absent = Some(exchange.ranks - 1);
    if kernel == Kernel::Barrier {
        return world.launch(kernel, &Passed { absent, ..Passed::default() });
    }
    let handle = world.handle();
    // Without tokens or rows: what is looked at is the wait.
    let ranks = exchange.ranks as usize;
    let indices = world.upload("indices", &vec![vec![]; ranks]);
    let call = Passed { tokens: vec![0; ranks], handle: Some(&handle), ..Passed::default() };
    let call = call.tensor(X::Indices, &indices);
    world.launch(Kernel::Route, &call);
    let call = Passed { absent, ..call };
    world.launch(Kernel::DispatchSend, &call);
    if kernel != Kernel::DispatchCount {
        // The handle of an empty dispatch, as its kernels would leave it.
        for buffer in [Buffer::ReceivedCounts, Buffer::ExpertCounts, Buffer::ExpertOffsets] {
            world.fill(&handle, buffer);
        }
        world.launch(Kernel::CombineSend, &call);
    }
    world.launch(kernel, &call);
}

/// Every wait has a deadline: all CTAs end, and the rank's status says whom it missed, to a host that watches too.
pub fn a_rank_that_does_not_come(loaded: &Loaded, kernel: Kernel, schedule: Schedule) -> Outcome {
    let mut world = World::new(loaded, schedule);
    let exchange = world.exchange();
    waits_in_vain(&mut world, kernel, 50_000);
    let absent = exchange.ranks as usize - 1;
    (0..absent).for_each(|rank| world.host(rank, Host::Watches));
    let flag = kernel.row().waits.expect("it waits");
    let expected = moe_contract::kernel::steps(flag, exchange);
    let executed = world.run().map_err(|error| error.to_string()).and_then(|()| {
        for rank in 0..absent {
            let found = world.status(rank);
            let [code, who, wanted, had] = found;
            // Nobody has sent gradients.
            let missed = flag == Flag::Gradient || who == absent as u64;
            if (code, wanted, had, missed) != (flag.deadline_code(), expected, 0, true) {
                return Err(format!("rank {rank} reports {found:?}"));
            }
        }
        Ok(())
    });
    world.outcome(executed)
}

/// The host gives everything up at any time: all calls end.
fn a_host_that_stops(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let mut world = World::new(loaded, schedule);
    enqueue_all(&mut world, CALLS);
    stopped(&mut world, 1)
}

/// The host gives up when all calls have looked whether it has: nothing has told it how far they are.
fn a_host_that_stops_at_the_end(loaded: &Loaded, _: Kernel, schedule: Schedule) -> Outcome {
    let mut world = World::new(loaded, schedule);
    enqueue_all(&mut world, CALLS);
    stopped(&mut world, 1_000_000_000)
}

/// What waits for a rank that does not come ends when the host says so.
fn a_host_that_stops_a_wait(loaded: &Loaded, kernel: Kernel, schedule: Schedule) -> Outcome {
    let mut world = World::new(loaded, schedule);
    waits_in_vain(&mut world, kernel, 0);
    stopped(&mut world, 100_000)
}

/// The host writes every status after so many nanoseconds.
fn stopped(world: &mut World<'_>, after: u32) -> Outcome {
    let ranks = world.exchange().ranks as usize;
    (0..ranks).for_each(|rank| world.host(rank, Host::Stops { after }));
    let executed = world.run().map_err(|error| error.to_string()).and_then(|()| {
        let statuses: Vec<u64> = (0..ranks).map(|rank| world.status(rank)[0]).collect();
        let all = statuses.iter().all(|&code| code == status::STOPPED);
        if all { Ok(()) } else { Err(format!("the ranks report {statuses:?}")) }
    });
    world.outcome(executed)
}
