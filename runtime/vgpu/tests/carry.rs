//! The carry flag, against arithmetic with 128 bits.

mod support;

use moe_random::Random;
use moe_vgpu::{Argument, Launch};
use support::*;

/// Runs a body with the halves of two numbers in `%rd1` (low) to `%rd4`; what it leaves in `%rd5` to `%rd8`.
fn run(body: &str, a: u128, b: u128) -> [u64; 4] {
    let text = format!(
        "
        ld.param.u64 %rd10, [out];
        ld.param.u64 %rd1, [a0]; ld.param.u64 %rd2, [a1]; ld.param.u64 %rd3, [b0]; ld.param.u64 %rd4, [b1];
        {body}
        st.global.u64 [%rd10], %rd5; st.global.u64 [%rd10+8], %rd6; st.global.u64 [%rd10+16], %rd7; st.global.u64 [%rd10+24], %rd8;"
    );
    let parameters = ".param .u64 out, .param .u64 a0, .param .u64 a1, .param .u64 b0, .param .u64 b1";
    let kernel = kernel("carry", parameters, &text);
    let mut cluster = cluster(1);
    let out = zeroed(&mut cluster, 0, 32, "out");
    let stream = stream(&mut cluster, 0);
    let halves = [a as u64, (a >> 64) as u64, b as u64, (b >> 64) as u64];
    let arguments = [Argument::Pointer(out)].into_iter().chain(halves.map(Argument::U64)).collect();
    cluster.launch(stream, &kernel, Launch::linear(1, 1, arguments)).unwrap();
    cluster.run().unwrap();
    let mut bytes = [0; 32];
    cluster.read(out, &mut bytes).unwrap();
    std::array::from_fn(|at| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap()))
}

fn whole(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// Numbers at the borders, and others.
fn pairs() -> Vec<(u128, u128)> {
    let edges = [0, 1, 2, u128::from(u32::MAX), 1 << 32, u128::from(u64::MAX), 1 << 64, u128::MAX - 1, u128::MAX];
    let mut pairs: Vec<(u128, u128)> = edges.iter().flat_map(|a| edges.map(|b| (*a, b))).collect();
    let mut random = Random::new(11);
    pairs.extend((0..100).map(|_| {
        let mut number = || whole(random.bits(), random.bits()) >> random.below(128);
        (number(), number())
    }));
    pairs
}

/// `sub.cc` leaves 1 when there is no borrow, and `addc` adds it; `subc` goes on with what any of them left.
#[test]
fn a_subtraction_leaves_the_carry_of_adding_the_complement() {
    let body = "
        sub.cc.u64 %rd5, %rd1, %rd3; subc.cc.u64 %rd6, %rd2, %rd4; addc.u64 %rd7, 0, 0;
        add.cc.u64 %rd8, %rd1, %rd3; subc.u64 %rd8, %rd2, %rd4;";
    for (a, b) in pairs() {
        let [low, high, no_borrow, mixed] = run(body, a, b);
        assert_eq!(whole(low, high), a.wrapping_sub(b), "{a} - {b}");
        assert_eq!(no_borrow, u64::from(a >= b), "{a} - {b}");
        // The carry of the low halves stands for no borrow.
        let carry = u64::from((a as u64).checked_add(b as u64).is_none());
        let expected = ((a >> 64) as u64).wrapping_sub((b >> 64) as u64).wrapping_sub(1 - carry);
        assert_eq!(mixed, expected, "{a}, {b}");
    }
}

#[test]
fn thirty_two_bits_and_products_go_on_with_the_same_flag() {
    let body = "
        cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd3; mov.u32 %r3, 7;
        sub.cc.u32 %r4, %r1, %r2; addc.u32 %r5, 0, 0; cvt.u64.u32 %rd5, %r5;
        sub.cc.u32 %r4, %r1, %r2; madc.lo.u32 %r6, %r1, %r3, %r2; cvt.u64.u32 %rd6, %r6;
        sub.cc.s32 %r4, %r1, %r2; subc.s32 %r7, %r3, %r1; cvt.u64.u32 %rd7, %r7;
        mad.lo.cc.u32 %r4, %r1, %r2, %r3; subc.u32 %r8, %r3, 1; cvt.u64.u32 %rd8, %r8;";
    for (a, b) in pairs() {
        let (x, y) = (a as u32, b as u32);
        let carry = u32::from(x >= y);
        let sum = x.wrapping_mul(y).checked_add(7).is_none();
        let expected = [
            carry,
            x.wrapping_mul(7).wrapping_add(y).wrapping_add(carry),
            7u32.wrapping_sub(x).wrapping_sub(1 - carry),
            if sum { 6 } else { 5 },
        ];
        assert_eq!(run(body, a, b), expected.map(u64::from), "{x}, {y}");
    }
}

/// Division by shifting and subtracting: a bit of the quotient is what `addc` finds after `sub.cc`, as in the division of nvcc.
#[test]
fn a_division_of_128_bits() {
    let body = "
        mov.u64 %rd5, 0; mov.u64 %rd6, 0; mov.u64 %rd7, 0; mov.u64 %rd8, 0;
        mov.u32 %r1, 128;
    bit:
        add.cc.u64 %rd1, %rd1, %rd1; addc.cc.u64 %rd2, %rd2, %rd2; addc.cc.u64 %rd7, %rd7, %rd7; addc.u64 %rd8, %rd8, %rd8;
        sub.cc.u64 %rd11, %rd7, %rd3; subc.cc.u64 %rd12, %rd8, %rd4; addc.u64 %rd13, 0, 0;
        setp.ne.u64 %p1, %rd13, 0;
        @%p1 mov.u64 %rd7, %rd11;
        @%p1 mov.u64 %rd8, %rd12;
        add.cc.u64 %rd5, %rd5, %rd5; addc.u64 %rd6, %rd6, %rd6;
        or.b64 %rd5, %rd5, %rd13;
        sub.u32 %r1, %r1, 1;
        setp.ne.u32 %p2, %r1, 0;
        @%p2 bra bit;";
    for (a, b) in pairs() {
        // The remainder, doubled, has to fit.
        let b = (b >> 1).max(1);
        let [q0, q1, r0, r1] = run(body, a, b);
        assert_eq!((whole(q0, q1), whole(r0, r1)), (a / b, a % b), "{a} / {b}");
    }
}
