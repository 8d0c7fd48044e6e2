//! The builder: what each operation becomes in PTX.

use moe_kernels::device::{Builder, Chunk, DeviceCode, F32, Global, Parameters, Pointer, U32, U64};
use moe_kernels::ptx::{Chip, Target};

fn ptx(code: &DeviceCode) -> String {
    code.ptx(Target::of(Chip::Sm90a)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_strided_copy_with_a_barrier_and_a_release() {
    let code = Builder::kernel("copy", 128, |k: &Builder, parameters: &mut Parameters| {
        let from: Pointer<Global, Chunk> = parameters.pointer();
        let to: Pointer<Global, Chunk> = parameters.pointer();
        let flag: Pointer<Global, U64> = parameters.pointer();
        let count = parameters.value::<U32>();
        k.for_each(k.cta() * 128 + k.thread(), count, k.ctas() * 128, |i| to.at(i).store(from.at(i).load()));
        k.cta_barrier();
        k.when(k.thread().equals(k.u32(0)), || flag.red_release_sys_add(k.u64(1)));
    });
    insta::assert_snapshot!(ptx(&code));
}

#[test]
fn every_collective_and_ordered_access() {
    let code = Builder::kernel("collectives", 64, |k: &Builder, parameters: &mut Parameters| {
        let words: Pointer<Global, U32> = parameters.pointer();
        let flags: Pointer<Global, U64> = parameters.pointer();
        let shared = k.shared::<U32>(64);
        let value = words.at(k.thread()).load();
        shared.at(k.thread()).store(value);
        k.cta_barrier();
        shared.at_constant(0).red_relaxed_cta_add(value.warp_max());
        k.warp_barrier();
        let sum = (value.of_lane_xor(3) + value.of_lane_below(1) + value.of_lane(k.u32(5))).warp_sum();
        let ballot = k.ballot(value.less(sum)) & k.lanes_below();
        k.cta_barrier();
        words.at(k.thread()).store(sum + ballot.count_ones() + ballot.trailing_zeros() + shared.at_constant(0).load());
        let seen = flags.load_acquire_sys() + flags.load_relaxed_sys() + k.global_timer();
        let old = flags.compare_and_swap_relaxed_sys(k.u64(0), seen);
        flags.at_constant(1).store(old.of_lane(k.lane()));
        let float: Pointer<Global, F32> = words.cast();
        let number = float.at_constant(7).load();
        float.at_constant(8).store(((number * number) + number / number.sqrt()).abs().max(-number));
    });
    insta::assert_snapshot!(ptx(&code));
}

#[test]
fn a_chip_by_its_name() {
    assert_eq!("sm_100a".parse(), Ok(Chip::Sm100a));
    let error = "sm_80".parse::<Chip>().expect_err("no kernels use what it has");
    assert_eq!(error.to_string(), "there are no kernels for `sm_80`: targets are sm_90a and sm_100a");
}

#[test]
fn dumps_say_the_target() {
    let code = Builder::kernel("nothing", 32, |_: &Builder, _: &mut Parameters| {});
    let target = Target::of(Chip::Sm100a);
    assert!(code.mlir(target).contains("chip = \"sm_100a\", features = \"+ptx86\""), "{}", code.mlir(target));
    let llvm = code.llvm(target).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        llvm.contains("target triple = \"nvptx64-nvidia-cuda\"") && llvm.contains("ptx_kernel void @nothing"),
        "{llvm}"
    );
}
