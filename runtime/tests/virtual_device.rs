//! The virtual device through the same trait as any other: order of streams, names in reports, what it refuses.

use std::sync::Arc;
use std::time::Duration;

use moe_contract::RankId;
use moe_runtime::device::{Address, FunctionId, Launch, Memory, StreamId, Value};
use moe_runtime::{Device, DeviceError, VirtualDevice, VirtualOptions};

/// out[0] = out[0] × factor + 1
const STEP: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry step(.param .u64 out, .param .u32 factor)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [factor];
    ld.global.u32 %r2, [%rd1];
    mad.lo.u32 %r3, %r2, %r1, 1;
    st.global.u32 [%rd1], %r3;
    ret;
}
";

/// Waits until a flag is 1.
const WAIT: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry wait(.param .u64 flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [flag];
again:
    ld.acquire.sys.global.u32 %r1, [%rd1];
    setp.ne.u32 %p1, %r1, 1;
    @%p1 bra again;
    ret;
}
";

const RANK: RankId = RankId(0);

fn device(ranks: u32) -> Arc<dyn Device> {
    Arc::new(VirtualDevice::new(ranks, &VirtualOptions::default()).expect("virtual GPUs"))
}

fn word(device: &Arc<dyn Device>, rank: RankId, name: &str, value: u32) -> Memory {
    let memory = Memory::new(device, rank, 4, name).expect("memory");
    memory.write(&value.to_le_bytes()).expect("written");
    memory
}

fn launch(device: &Arc<dyn Device>, stream: StreamId, function: FunctionId, arguments: Vec<Value>) {
    device
        .launch(stream, &Launch { function, grid: 1, block: 1, shared: 0, programmatic: false, arguments })
        .expect("launched");
}

fn finish(device: &Arc<dyn Device>, streams: &[StreamId]) -> Result<(), DeviceError> {
    device.synchronise(streams, Duration::ZERO)
}

fn step(device: &Arc<dyn Device>, stream: StreamId, function: FunctionId, out: &Memory, factor: u32) {
    launch(device, stream, function, vec![Value::Pointer(out.address()), Value::U32(factor)]);
}

#[test]
fn launches_of_a_stream_run_in_order() {
    let device = device(1);
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, STEP, "step").expect("a kernel"));
    let out = word(&device, RANK, "out", 5);
    step(&device, stream, function, &out, 2);
    step(&device, stream, function, &out, 10);
    assert_eq!(out.read::<u32>(0..1).expect("read"), [5], "a copy is made at once");
    finish(&device, &[stream]).expect("they run");
    assert_eq!(out.read::<u32>(0..1).expect("read"), [111], "(5 × 2 + 1) × 10 + 1");
}

#[test]
fn an_event_orders_streams_of_two_ranks() {
    let device = device(2);
    let streams = [0, 1].map(|rank| device.stream(RankId(rank)).expect("a stream"));
    let functions = [0, 1].map(|rank| device.load(RankId(rank), STEP, "step").expect("a kernel"));
    let out = word(&device, RANK, "out", 0);
    // Rank 1 is told first and runs second.
    step(&device, streams[0], functions[0], &out, 3);
    let done = device.record(streams[0]).expect("an event");
    device.wait(streams[1], done).expect("waits");
    step(&device, streams[1], functions[1], &out, 7);
    finish(&device, &streams).expect("they run");
    assert_eq!(out.read::<u32>(0..1).expect("read"), [8], "(0 × 3 + 1) × 7 + 1");
    let traffic = device.traffic().expect("it counts");
    assert_eq!((traffic.bytes(RankId(1), RANK), traffic.bytes(RANK, RankId(1))), (4, 0));
}

#[test]
fn a_wrong_access_is_named_and_can_be_given_up() {
    let device = device(1);
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, STEP, "step").expect("a kernel"));
    let out = word(&device, RANK, "out", 5);
    let beyond = Value::Pointer(out.address().offset(4));
    launch(&device, stream, function, vec![beyond, Value::U32(1)]);
    let error = finish(&device, &[stream]).expect_err("outside");
    assert!(
        matches!(&error, DeviceError::Fault { report } if report.contains("out") && report.contains("kernel `step`")),
        "{error}"
    );
    assert_eq!(finish(&device, &[stream]), Err(error), "the error stays");
    device.abandon().expect("given up");
    assert_eq!(out.read::<u32>(0..1).expect("read"), [5]);
}

#[test]
fn memory_that_nobody_wrote_cannot_be_read() {
    let device = device(1);
    let memory = Memory::new(&device, RANK, 8, "result").expect("memory");
    let error = memory.read::<u32>(0..2).expect_err("never written");
    assert!(error.to_string().contains("result"), "{error}");
}

#[test]
fn memory_is_freed_after_the_launches_that_use_it() {
    let device = device(1);
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, STEP, "step").expect("a kernel"));
    let out = word(&device, RANK, "out", 5);
    step(&device, stream, function, &out, 2);
    let address = out.address();
    drop(out);
    finish(&device, &[stream]).expect("the launch still has its memory");
    launch(&device, stream, function, vec![Value::Pointer(address), Value::U32(2)]);
    assert!(matches!(finish(&device, &[stream]), Err(DeviceError::Fault { .. })), "and the next one has not");
}

#[test]
fn a_wait_for_what_never_comes_names_who_should_have_come() {
    let device = device(2);
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, WAIT, "wait").expect("a kernel"));
    let flag = word(&device, RANK, "flags", 0);
    device.label(RANK, flag.address(), 4, "arrival", Some(RankId(1)));
    launch(&device, stream, function, vec![Value::Pointer(flag.address())]);
    let error = finish(&device, &[stream]).expect_err("a deadlock");
    assert!(matches!(&error, DeviceError::Deadlock { .. }), "{error}");
    for part in ["arrival", "rank 1", "kernel `wait`"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

/// Stores the next number for ever.
const COUNT: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry count(.param .u64 out)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, 0;
again:
    st.global.u32 [%rd1], %r1;
    add.u32 %r1, %r1, 1;
    bra again;
}
";

#[test]
fn a_kernel_that_never_ends_is_no_deadlock() {
    let options = VirtualOptions { instruction_limit: 10_000, ..VirtualOptions::default() };
    let device: Arc<dyn Device> = Arc::new(VirtualDevice::new(1, &options).expect("virtual GPUs"));
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, COUNT, "count").expect("a kernel"));
    let out = word(&device, RANK, "out", 5);
    launch(&device, stream, function, vec![Value::Pointer(out.address())]);
    let error = finish(&device, &[stream]).expect_err("the limit");
    assert!(matches!(error, DeviceError::Limit { .. }), "{error:?}");
    for part in ["no end after 10000 warp instructions", "still running: rank 0, kernel `count`: 0 of 1 CTAs"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    device.abandon().expect("given up");
    assert!(out.read::<u32>(0..1).expect("read")[0] > 1000);
}

#[test]
fn memory_of_a_stream_lasts_as_long_as_its_launches_need_it() {
    let device = device(1);
    let (stream, function) =
        (device.stream(RANK).expect("a stream"), device.load(RANK, STEP, "step").expect("a kernel"));
    let out = Memory::in_stream(&device, stream, RANK, 4, "out").expect("memory");
    out.write(&5u32.to_le_bytes()).expect("written");
    step(&device, stream, function, &out, 2);
    let address = out.address();
    drop(out);
    finish(&device, &[stream]).expect("the launch still has its memory");
    launch(&device, stream, function, vec![Value::Pointer(address), Value::U32(2)]);
    assert!(matches!(finish(&device, &[stream]), Err(DeviceError::Fault { .. })), "and the next one has not");
    device.abandon().expect("given up");
    let late = Memory::in_stream(&device, stream, RANK, 4, "late").expect("memory");
    device.close_stream(stream);
    drop(late);
    finish(&device, &[stream]).expect("a stream that is closed frees what is left all the same");
}

#[test]
fn a_kernel_loaded_twice_is_one_function() {
    let device = device(2);
    let load = |rank| device.load(RankId(rank), STEP, "step").expect("a kernel");
    assert_eq!((load(0), load(1), load(0)), (FunctionId(0), FunctionId(1), FunctionId(0)));
}

#[test]
fn what_it_cannot_do_is_said() {
    let device = device(2);
    let stream = device.stream(RankId(1)).expect("a stream");
    let function = device.load(RANK, STEP, "step").expect("a kernel");
    let refused = |launch: Launch| device.launch(stream, &launch).expect_err("refused").to_string();
    let launch = Launch { function, grid: 1, block: 1, shared: 0, programmatic: false, arguments: vec![] };
    assert_eq!(refused(launch.clone()), "virtual GPU: `step` of rank 0 in a stream of rank 1");
    assert_eq!(refused(Launch { function: FunctionId(9), ..launch }), "function 9 does not exist on this device");
    assert_eq!(device.load(RANK, STEP, "stop").expect_err("none").to_string(), "the module has no kernel `stop`");
    let wrong = STEP.replace("mad.lo.u32", "mad.no.u32");
    let error = device.load(RANK, &wrong, "step").expect_err("no PTX").to_string();
    assert!(error.starts_with("cannot load PTX: kernel `step`:") && error.contains("line 12"), "{error}");
    assert!(VirtualDevice::new(5000, &VirtualOptions::default()).is_err());
    assert_eq!(Memory::new(&device, RANK, 0, "nothing").expect("nothing").address(), Address::NULL);
}
