//! A program that calls and never waits takes no more memory, however long it runs. This file has one test, so that nothing else in the
//! process takes memory meanwhile.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Duration;

use moe_contract::RankId;
use moe_runtime::device::{Launch, Memory, Value};
use moe_runtime::{Device, VirtualDevice, VirtualOptions};

const CALLS: u32 = 50_000;
const MOST: u64 = 2 << 20;

/// Adds 1 to a word of the peer and waits until its own has come to a number: a barrier of two ranks; fills new memory.
const MEET: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry meet(.param .u64 own, .param .u64 peer, .param .u32 round, .param .u64 new)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [own];
    ld.param.u64 %rd2, [peer];
    ld.param.u32 %r1, [round];
    ld.param.u64 %rd3, [new];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd4, %r2, 4;
    add.u64 %rd3, %rd3, %rd4;
    st.global.u32 [%rd3], %r2;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra done;
    red.release.sys.global.add.u32 [%rd2], 1;
again:
    ld.acquire.sys.global.u32 %r3, [%rd1];
    setp.lt.u32 %p1, %r3, %r1;
    @%p1 bra again;
done:
    ret;
}
";

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("it is there");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

#[test]
fn fifty_thousand_calls_without_a_wait_take_no_more_memory() {
    let device: Arc<dyn Device> = Arc::new(VirtualDevice::new(2, &VirtualOptions::default()).expect("virtual GPUs"));
    let ranks = [RankId(0), RankId(1)];
    let streams = ranks.map(|rank| device.stream(rank).expect("a stream"));
    let flags = ranks.map(|rank| {
        let flag = Memory::new(&device, rank, 4, "flag").expect("memory");
        flag.zero().expect("zeroed");
        flag
    });
    let mut before = 0;
    for call in 1..=CALLS {
        for rank in ranks {
            let (own, peer) = (rank.index(), 1 - rank.index());
            let function = device.load(rank, MEET, "meet").expect("a kernel");
            let new = match call % 2 {
                0 => Memory::new(&device, rank, 4096, "new"),
                _ => Memory::in_stream(&device, streams[own], rank, 4096, "new"),
            };
            let new = new.expect("memory");
            device.label(rank, new.address(), 4096, "rows", None);
            let pointer = |memory: &Memory| Value::Pointer(memory.address());
            let arguments = vec![pointer(&flags[own]), pointer(&flags[peer]), Value::U32(call), pointer(&new)];
            device
                .launch(
                    streams[own],
                    &Launch { function, grid: 1, block: 32, shared: 0, programmatic: false, arguments },
                )
                .expect("launched");
        }
        let event = device.record(streams[0]).expect("an event");
        device.wait(streams[1], event).expect("a wait");
        if call == CALLS / 5 {
            before = resident();
        }
    }
    device.synchronise(&streams, Duration::ZERO).expect("they run");
    let after = resident();
    assert!(after <= before + MOST, "{before} bytes become {after}");
    assert_eq!(flags[0].read::<u32>(0..1).expect("read"), [CALLS]);
}
