//! How long things live: memory that a stream frees, streams, variables of modules; and runs of a part of what is queued.

mod support;

use moe_vgpu::{ClusterError, Launch, LaunchId, Module, Policy, RankId, RunError};
use support::*;

const ADD: &str = "
    ld.param.u64 %rd1, [word];
    red.relaxed.sys.global.add.u32 [%rd1], 1;";

/// Waits until a word is 1.
const WAIT: &str = "
    ld.param.u64 %rd1, [word];
again:
    ld.acquire.sys.global.u32 %r1, [%rd1];
    setp.ne.u32 %p1, %r1, 1;
    @%p1 bra again;";

#[test]
fn memory_is_freed_when_the_stream_comes_there() {
    let add = kernel("add", ".param .u64 word", ADD);
    let mut cluster = cluster(1);
    let word = zeroed(&mut cluster, 0, 4, "word");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
    cluster.free_after(stream, word).unwrap();
    let twice = cluster.free_after(stream, word).unwrap_err().to_string();
    assert!(twice.contains("use after free: `word` of rank 0 was freed"), "{twice}");
    assert!(cluster.free(word).is_err());
    assert_eq!(words(&mut cluster, word, 1), [0], "it is still there");
    cluster.run().unwrap();
    assert!(cluster.read(word, &mut [0; 4]).is_err());
    // A launch behind the free has not got it.
    let word = zeroed(&mut cluster, 0, 4, "word");
    cluster.launch(stream, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
    cluster.free_after(stream, word).unwrap();
    cluster.launch(stream, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
    let error = cluster.run().unwrap_err().to_string();
    assert!(error.starts_with("use after free: `word` of rank 0 was freed"), "{error}");
    // What was to be freed is freed when everything is given up.
    cluster.abandon();
    let word = zeroed(&mut cluster, 0, 4, "word");
    cluster.launch(stream, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
    cluster.free_after(stream, word).unwrap();
    cluster.abandon();
    assert!(cluster.read(word, &mut [0; 4]).is_err());
}

#[test]
fn a_wait_for_memory_that_is_freed_meanwhile_is_a_use_after_free() {
    let wait = kernel("wait", ".param .u64 word", WAIT);
    let nap = kernel("nap", ".param .u64 word", "nanosleep.u32 100000;");
    for policy in POLICIES {
        let mut cluster = scheduled(1, policy, 3);
        let flag = zeroed(&mut cluster, 0, 4, "flag");
        let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 0));
        cluster.launch(a, &wait, Launch::linear(1, 1, vec![flag.into()])).unwrap();
        cluster.launch(b, &nap, Launch::linear(1, 1, vec![flag.into()])).unwrap();
        cluster.free_after(b, flag).unwrap();
        let error = cluster.run().unwrap_err().to_string();
        assert!(error.starts_with("use after free: `flag` of rank 0 was freed"), "{policy}: {error}");
    }
}

#[test]
fn a_closed_stream_finishes_what_is_in_it() {
    let add = kernel("add", ".param .u64 word", ADD);
    let mut cluster = cluster(2);
    let word = zeroed(&mut cluster, 0, 4, "word");
    let (stream, other) = (stream(&mut cluster, 1), stream(&mut cluster, 0));
    assert_eq!(cluster.rank_of(stream), Some(RankId(1)));
    let launched = cluster.launch(stream, &add, Launch::linear(1, 3, vec![word.into()])).unwrap();
    let done = cluster.record(stream).unwrap();
    cluster.wait(other, done).unwrap();
    cluster.launch(other, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
    cluster.close_stream(stream).unwrap();
    let gone = ClusterError::NoSuch { what: "stream", number: 0 };
    assert_eq!(cluster.launch(stream, &add, Launch::linear(1, 1, vec![word.into()])), Err(gone.clone()));
    assert_eq!(cluster.record(stream), Err(gone.clone()));
    assert_eq!(cluster.close_stream(stream), Err(gone));
    assert_eq!(cluster.oldest_launch(), Some(launched));
    cluster.run().unwrap();
    assert_eq!(words(&mut cluster, word, 1), [4]);
    assert_eq!((cluster.oldest_launch(), cluster.rank_of(stream)), (None, None));
}

#[test]
fn variables_live_as_long_as_somebody_has_the_module() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.global .align 4 .u32 counter = 5;
.visible .entry count() { .reg .b64 %a; mov.u64 %a, counter; red.relaxed.gpu.global.add.u32 [%a], 1; ret; }";
    let mut cluster = cluster(1);
    let module = Module::parse(text).unwrap();
    let stream = stream(&mut cluster, 0);
    let count = module.kernel("count").unwrap();
    cluster.launch(stream, &count, Launch::linear(1, 1, vec![])).unwrap();
    let counter = cluster.variable(RankId(0), &module, "counter").unwrap();
    drop(module);
    cluster.run().unwrap();
    // The kernel still has it.
    cluster.load(RankId(0), &Module::parse(text).unwrap()).unwrap();
    assert_eq!(words(&mut cluster, counter, 1), [6]);
    drop(count);
    cluster.load(RankId(0), &Module::parse(text).unwrap()).unwrap();
    assert!(cluster.read(counter, &mut [0; 4]).is_err(), "nobody has it");
}

#[test]
fn what_waits_for_a_later_launch_goes_on_when_that_has_come() {
    let (add, wait) = (kernel("add", ".param .u64 word", ADD), kernel("wait", ".param .u64 word", WAIT));
    for policy in POLICIES {
        let mut cluster = scheduled(2, policy, 1);
        let word = zeroed(&mut cluster, 0, 4, "word");
        let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
        cluster.launch(a, &wait, Launch::linear(2, 1, vec![word.into()])).unwrap();
        assert_eq!(cluster.advance().unwrap().launches, 0, "{policy}: it waits, which is no error");
        assert_eq!(cluster.oldest_launch(), Some(LaunchId(0)));
        cluster.launch(b, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
        assert_eq!(cluster.advance().unwrap().launches, 2);
        assert_eq!(cluster.oldest_launch(), None);
        assert_eq!(cluster.run().unwrap().launches, 0);
        // Without it, waiting for the end is a deadlock as ever.
        cluster.write(word, &[0; 4]).unwrap();
        cluster.launch(a, &wait, Launch::linear(1, 1, vec![word.into()])).unwrap();
        cluster.advance().unwrap();
        assert!(matches!(cluster.run(), Err(RunError::Deadlock(_))));
    }
}

/// A wait with a deadline that is far away does not pass it while the host still queues.
#[test]
fn no_time_passes_while_the_host_still_queues() {
    let wait = kernel(
        "wait",
        ".param .u64 word, .param .u64 late",
        "
        ld.param.u64 %rd1, [word];
        ld.param.u64 %rd2, [late];
        mov.u64 %rd3, %globaltimer;
    again:
        ld.acquire.sys.global.u32 %r1, [%rd1];
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra done;
        mov.u64 %rd4, %globaltimer;
        sub.u64 %rd4, %rd4, %rd3;
        setp.lt.u64 %p2, %rd4, 1000000000;
        @%p2 bra again;
        st.global.u32 [%rd2], 1;
    done:",
    );
    let add = kernel("add", ".param .u64 word", ADD);
    for policy in [Policy::RoundRobin, Policy::Random, Policy::Adversarial] {
        let mut cluster = scheduled(2, policy, 1);
        let (word, late) = (zeroed(&mut cluster, 0, 4, "word"), zeroed(&mut cluster, 0, 4, "late"));
        let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
        cluster.launch(a, &wait, Launch::linear(1, 1, vec![word.into(), late.into()])).unwrap();
        for _ in 0..100 {
            cluster.advance().unwrap();
        }
        cluster.launch(b, &add, Launch::linear(1, 1, vec![word.into()])).unwrap();
        cluster.run().unwrap();
        assert_eq!(words(&mut cluster, late, 1), [0], "{policy}");
    }
}
