//! Warp instructions per second on one core, for the three things that communication kernels do: copy, compute, poll.
//! Run with `cargo bench -p moe-vgpu`.

use std::time::{Duration, Instant};

use moe_vgpu::{Address, Argument, Cluster, Config, Kernel, Launch, Module, RankId};

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// Every warp copies 16 bytes per lane and step, four steps in flight, as the dispatch kernel does. Each CTA begins 2 KiB behind the one
/// before it, so that a store never finds what it stores.
const COPY: &str = "
.visible .entry kernel(.param .u64 source, .param .u64 target, .param .u32 rounds) {
    .reg .pred %p<2>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd3, %r2, 16;
    add.u64 %rd1, %rd1, %rd3;
    add.u64 %rd2, %rd2, %rd3;
    mov.u32 %r3, %ctaid.x;
    mul.wide.u32 %rd3, %r3, 2048;
    add.u64 %rd1, %rd1, %rd3;
loop:
    ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1];
    ld.global.v4.b32 {%r8, %r9, %r10, %r11}, [%rd1+512];
    ld.global.v4.b32 {%r12, %r13, %r14, %r15}, [%rd1+1024];
    ld.global.v4.b32 {%r16, %r17, %r18, %r19}, [%rd1+1536];
    st.global.v4.b32 [%rd2], {%r4, %r5, %r6, %r7};
    st.global.v4.b32 [%rd2+512], {%r8, %r9, %r10, %r11};
    st.global.v4.b32 [%rd2+1024], {%r12, %r13, %r14, %r15};
    st.global.v4.b32 [%rd2+1536], {%r16, %r17, %r18, %r19};
    add.u64 %rd1, %rd1, 2048;
    add.u64 %rd2, %rd2, 2048;
    add.u32 %r1, %r1, -1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra loop;
    ret;
}";

/// Integer and floating-point arithmetic on registers.
const COMPUTE: &str = "
.visible .entry kernel(.param .u64 source, .param .u64 target, .param .u32 rounds) {
    .reg .pred %p<3>; .reg .b32 %r<20>; .reg .b64 %rd<8>; .reg .f32 %f<8>;
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, %tid.x;
    cvt.rn.f32.u32 %f1, %r2;
    mov.f32 %f2, 0f3F000000;
loop:
    mad.lo.u32 %r3, %r2, 5, %r1;
    xor.b32 %r4, %r3, %r2;
    shl.b32 %r5, %r4, 3;
    add.u32 %r2, %r5, %r3;
    mul.rn.f32 %f3, %f1, %f2;
    add.rn.f32 %f1, %f3, 0f3F800000;
    setp.gt.f32 %p2, %f1, %f3;
    selp.b32 %r6, %r2, %r3, %p2;
    add.u32 %r1, %r1, -1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra loop;
    ret;
}";

/// Two ranks hand a counter to each other: the worst case, as every step is a wait.
const PING_PONG: &str = "
.visible .entry kernel(.param .u64 own, .param .u64 other, .param .u32 rounds, .param .u32 first) {
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [own];
    ld.param.u64 %rd2, [other];
    ld.param.u32 %r1, [rounds];
    ld.param.u32 %r2, [first];
    mov.u32 %r3, 0;
loop:
    add.u32 %r3, %r3, 1;
    sub.u32 %r5, %r3, %r2;
wait:
    ld.acquire.sys.global.u32 %r4, [%rd1];
    setp.lt.u32 %p3, %r4, %r5;
    @%p3 bra wait;
    red.release.sys.global.add.u32 [%rd2], 1;
    setp.lt.u32 %p1, %r3, %r1;
    @%p1 bra loop;
    ret;
}";

fn kernel(text: &str) -> Kernel {
    let module = Module::parse(&format!("{HEADER}{text}")).expect("the kernel above");
    module.kernel("kernel").expect("its name")
}

fn zeroed(cluster: &mut Cluster, rank: u32, bytes: u64, name: &str) -> Address {
    let address = cluster.allocate(RankId(rank), bytes, name).expect("memory");
    cluster.write(address, &vec![0; bytes as usize]).expect("its own memory");
    address
}

/// Time that this thread has run on a processor; where the system does not say, time as such.
fn processor_time(start: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Runs what has been launched: instructions and time.
fn timed(cluster: &mut Cluster) -> (u64, Duration) {
    let start = Instant::now();
    let before = processor_time(start);
    let report = cluster.run().expect("a run without faults");
    (report.instructions, processor_time(start).checked_sub(before).unwrap())
}

/// Instructions and time of the best of three runs.
fn best(mut run: impl FnMut() -> (u64, Duration)) -> (u64, Duration) {
    (0..3).map(|_| run()).min_by_key(|(_, time)| *time).expect("three runs")
}

fn one_rank(text: &str, rounds: u32, ctas: u32) -> (u64, Duration) {
    let kernel = kernel(text);
    best(|| {
        let mut cluster = Cluster::new(Config::default()).expect("a cluster");
        let bytes = 2048 * u64::from(rounds.min(200));
        let source = zeroed(&mut cluster, 0, bytes + 2048 * u64::from(ctas), "source");
        let numbers: Vec<u8> = (0u64..(bytes / 8) + 256 * u64::from(ctas))
            .flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        cluster.write(source, &numbers).expect("its own memory");
        let target = zeroed(&mut cluster, 0, bytes, "target");
        let stream = cluster.stream(RankId(0)).expect("a stream");
        let arguments: Vec<Argument> = vec![source.into(), target.into(), rounds.into()];
        cluster.launch(stream, &kernel, Launch::linear(ctas, 32, arguments)).expect("a launch");
        timed(&mut cluster)
    })
}

fn two_ranks(rounds: u32) -> (u64, Duration) {
    let kernel = kernel(PING_PONG);
    best(|| {
        let mut cluster = Cluster::new(Config { ranks: 2, ..Config::default() }).expect("a cluster");
        let flags = [0, 1].map(|rank| zeroed(&mut cluster, rank, 4, "flag"));
        for rank in 0..2u32 {
            let stream = cluster.stream(RankId(rank)).expect("a stream");
            let (own, other) = (flags[rank as usize], flags[1 - rank as usize]);
            let arguments = vec![own.into(), other.into(), rounds.into(), Argument::U32(u32::from(rank == 0))];
            cluster.launch(stream, &kernel, Launch::linear(1, 1, arguments)).expect("a launch");
        }
        timed(&mut cluster)
    })
}

fn main() {
    type Run = fn() -> (u64, Duration);
    let benches: [(&str, Run); 3] = [
        ("copy, 16 bytes per lane", || one_rank(COPY, 200, 2000)),
        ("compute", || one_rank(COMPUTE, 400_000, 8)),
        ("ping-pong of two ranks", || two_ranks(200_000)),
    ];
    // `cargo bench` passes flags; a word is a filter.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    println!("{:<28} {:>16} {:>12} {:>22}", "virtual GPU, one core", "instructions", "ms", "M warp instructions/s");
    for (name, run) in benches {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let (instructions, time) = run();
        let rate = instructions as f64 / time.as_secs_f64() / 1e6;
        println!("{name:<28} {instructions:>16} {:>12.1} {rate:>22.1}", time.as_secs_f64() * 1e3);
    }
}
