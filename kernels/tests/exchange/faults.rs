//! What kernels say when something is wrong: a pick that cannot be, a rank that does not come.

use moe_contract::{Exchange, Fault, Flag, Kernel, Tensor as X};
use moe_vgpu::{RankId, RunError};

use crate::scenario::request;
use crate::trials::a_rank_that_does_not_come;
use crate::world::{Loaded, Passed, Schedule, World};

fn exchange() -> Exchange {
    request().checked().expect("it keeps its limits")
}

fn bytes(picks: &[i32]) -> Vec<u8> {
    picks.iter().flat_map(|pick| pick.to_le_bytes()).collect()
}

/// What layout makes of one rank's picks; the other ranks have no tokens.
fn layout(picks: &[i32]) -> [u64; 4] {
    let loaded = Loaded::new(&exchange());
    let mut world = World::new(&loaded, Schedule::random(7));
    let indices = world.upload("indices", &[bytes(picks), vec![], vec![]]);
    let handle = world.handle();
    let tokens = vec![picks.len() as u32 / 3, 0, 0];
    let call = Passed { tokens, handle: Some(&handle), ..Passed::default() }.tensor(X::Indices, &indices);
    world.launch(Kernel::Route, &call);
    world.run().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!([world.status(1), world.status(2)], [[0; 4]; 2]);
    let found = world.status(0);
    // A kernel after an error does nothing: this one would write to every peer.
    world.launch(Kernel::DispatchSend, &Passed { tokens: vec![0; 3], ..call });
    world.run().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.cluster.traffic().written(RankId(0), RankId(1)), 0);
    assert_ne!(world.cluster.traffic().written(RankId(1), RankId(0)), 0);
    found
}

#[test]
fn a_pick_that_is_no_expert() {
    // 8 experts and a zero expert: 8 is the last that can be picked.
    assert_eq!(layout(&[0, 1, 8, -1, -1, -1, 0, 9, 3]), [Fault::PickOutOfRange.code(), 2, 1, 9]);
    assert_eq!(layout(&[-2, 1, 8]), [Fault::PickOutOfRange.code(), 0, 0, 0xffff_fffe]);
}

#[test]
fn a_pick_that_comes_twice() {
    assert_eq!(layout(&[0, 1, 2, 5, -1, 5]), [Fault::PickTwice.code(), 1, 2, 5]);
    assert_eq!(layout(&[8, 8, 9]), [Fault::PickTwice.code(), 0, 1, 8], "the first wrong pick of the token");
}

#[test]
fn a_rank_that_does_not_come_to_a_barrier() {
    let loaded = Loaded::new(&exchange());
    let mut world = World::new(&loaded, Schedule::adversarial(3));
    world.deadline = 1_000_000;
    world.launch(Kernel::Barrier, &Passed { absent: Some(1), ..Passed::default() });
    world.run().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.status(0), [Flag::Barrier.deadline_code(), 1, 1, 0]);
    assert_eq!(world.status(2), [Flag::Barrier.deadline_code(), 1, 1, 0]);
    assert_eq!(world.status(1), [0; 4]);
    assert!(world.cluster.nanoseconds() >= 1_000_000);
}

#[test]
fn without_a_deadline_the_cluster_names_who_is_missing() {
    let loaded = Loaded::new(&exchange());
    let mut world = World::new(&loaded, Schedule::IN_TURN);
    world.launch(Kernel::Barrier, &Passed { absent: Some(1), ..Passed::default() });
    let error = world.run().expect_err("two ranks wait for ever");
    assert!(matches!(error, RunError::Deadlock(_)), "{error}");
    assert!(error.to_string().contains("barrier.arrive"), "{error}");
}

/// Every kernel that waits, when the last rank has not sent: all CTAs end, and the rank's status says whom it missed.
#[test]
fn every_wait_has_a_deadline() {
    let loaded = Loaded::new(&exchange());
    let waiting: Vec<Kernel> = Kernel::ALL.iter().copied().filter(|kernel| kernel.row().waits.is_some()).collect();
    assert_eq!(waiting.len(), 6);
    for kernel in waiting {
        let outcome = a_rank_that_does_not_come(&loaded, kernel, Schedule::random(5).judged());
        outcome.fine().unwrap_or_else(|problem| panic!("{kernel:?}: {problem}"));
    }
}
