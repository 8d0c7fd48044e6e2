//! However long a program runs, a cluster takes no more memory: everything that is made and given up again is made and given up a
//! million times. This file has one test, so that nothing else in the process takes memory meanwhile.
#![cfg(target_os = "linux")]

mod support;

use moe_vgpu::{Address, Cluster, Judge, Launch, Module, RankId};
use support::*;

const ALLOCATIONS: u32 = 1_000_000;
const LAUNCHES: u32 = 100_000;
/// What the host's allocator may keep more in the end than after the first fifth.
const MOST: u64 = 1 << 20;

/// Bytes of this process that are in main memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Does something so many times.
fn is_constant(what: &str, times: u32, mut each: impl FnMut(u32)) {
    (0..times / 5).for_each(&mut each);
    let before = resident();
    (times / 5..times).for_each(&mut each);
    let after = resident();
    assert!(after <= before + MOST, "{what}, {times} times: {before} bytes become {after}");
}

/// Adds 1 to a word; its variable is memory of the module.
const BUMP: &str = "
.version 8.6
.target sm_90a
.address_size 64
.global .align 4 .u32 calls = 0;
.visible .entry bump(.param .u64 word, .param .u64 flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [word];
    ld.param.u64 %rd2, [flag];
    mov.u64 %rd3, calls;
    red.relaxed.gpu.global.add.u32 [%rd3], 1;
wait:
    ld.acquire.sys.global.u32 %r1, [%rd2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra wait;
    red.relaxed.sys.global.add.u32 [%rd1], 1;
    ret;
}
.visible .entry let(.param .u64 flag)
{
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [flag];
    st.release.sys.global.u32 [%rd1], 1;
    ret;
}
";

/// Two ranks with a word of the first and a stream of each. Rank 0 waits for a flag that is in new memory every time.
struct World {
    cluster: Cluster,
    module: Module,
    word: Address,
    kept: Address,
}

impl World {
    fn new() -> World {
        let mut cluster = cluster(2);
        let word = zeroed(&mut cluster, 0, 4, "word");
        let kept = zeroed(&mut cluster, 1, 1 << 20, "kept");
        World { cluster, module: Module::parse(BUMP).unwrap(), word, kept }
    }

    /// Memory, streams, events and launches of one call, all given up in the end.
    fn call(&mut self, number: u32) {
        if number.is_multiple_of(1000) {
            self.module = Module::parse(BUMP).unwrap();
        }
        let cluster = &mut self.cluster;
        let [a, b] = [0, 1].map(|rank| stream(cluster, rank));
        let flag = zeroed(cluster, 1, 4, "flag");
        cluster.label(flag, 4, "arrived", Some(RankId(1))).unwrap();
        // The same parts of memory that stays are named in every call.
        cluster.label(self.kept.offset(64 * u64::from(number % 100)), 64, "part", None).unwrap();
        let (bump, release) = (self.module.kernel("bump").unwrap(), self.module.kernel("let").unwrap());
        cluster.launch(a, &bump, Launch::linear(2, 32, vec![self.word.into(), flag.into()])).unwrap();
        cluster.launch(b, &release, Launch::linear(1, 1, vec![flag.into()])).unwrap();
        let done = cluster.record(a).unwrap();
        cluster.wait(b, done).unwrap();
        cluster.free_after(b, flag).unwrap();
        cluster.close_stream(a).unwrap();
        cluster.close_stream(b).unwrap();
        cluster.run().unwrap();
        assert!(cluster.close_stream(a).is_err());
    }
}

#[test]
fn a_million_allocations_and_a_hundred_thousand_launches_take_no_more_memory() {
    let mut memory = cluster(3);
    is_constant("allocating and freeing", ALLOCATIONS, |number| {
        let rank = number % 3;
        // Small ones, one that is filled in part, and from time to time one that the system has to give.
        let bytes = if number.is_multiple_of(1000) { 1 << 33 } else { u64::from(number % 5000) };
        let address = memory.allocate(RankId(rank), bytes, "buffer").unwrap();
        memory.label(address, bytes, "all of it", None).unwrap();
        memory.write(address, &[1; 64][..bytes.min(64) as usize]).unwrap();
        memory.free(address).unwrap();
    });

    let mut world = World::new();
    is_constant("calls", LAUNCHES / 2, |number| world.call(number));
    assert_eq!(words(&mut world.cluster, world.word, 1), [LAUNCHES / 2 * 64]);

    let mut watched = World::new();
    let judge = Judge::default();
    watched.cluster.observe(Box::new(judge.clone()));
    is_constant("calls that are watched", LAUNCHES / 20, |number| watched.call(number));
    assert_eq!(judge.found(), []);

    let mut given_up = World::new();
    is_constant("calls that are given up", LAUNCHES / 20, |number| {
        let cluster = &mut given_up.cluster;
        let stream = stream(cluster, 0);
        let flag = zeroed(cluster, 0, 4, "flag");
        let bump = given_up.module.kernel("bump").unwrap();
        cluster.launch(stream, &bump, Launch::linear(1, 32, vec![given_up.word.into(), flag.into()])).unwrap();
        cluster.record(stream).unwrap();
        cluster.free_after(stream, flag).unwrap();
        cluster.close_stream(stream).unwrap();
        assert!(cluster.run().is_err(), "{number}: nobody sets the flag");
        cluster.abandon();
    });
}
