//! Pure functions applied to the 32 lanes of a register file.
//!
//! Invariant (kept by the decoder, relied on by the `unsafe` code here): every offset in [`Args`] is a multiple of 128 and
//! leaves room for 32 values of the type used with it inside the warp's file; every predicate index is inside its table.

/// The unit of a register file: a 32-bit register in all lanes. Wider registers have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(128))]
pub(crate) struct Row([[u64; 8]; 2]);

/// Byte offsets of the operands in a warp's register file, and predicate indices.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Args {
    pub d: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Destination predicate; or an operand that is the same for all lanes.
    pub p: u32,
    /// Source predicate.
    pub q: u32,
}

/// Executes one register instruction for the lanes of a mask that is not empty.
pub(crate) type AluFn = unsafe fn(file: *mut u8, predicates: *mut u32, args: &Args, mask: u32);

#[inline(always)]
pub(crate) unsafe fn row<T>(file: *mut u8, offset: u32) -> *mut T {
    // SAFETY: the caller passes a decoder-made offset (module invariant).
    unsafe { file.add(offset as usize).cast::<T>() }
}

/// The bit of each lane. Comparisons with it vectorise; shifts by the lane do not.
const LANE: [u32; 32] = {
    let mut bits = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// Lanes that are computed together: loads and stores of whole blocks are what the compiler vectorises.
const BLOCK: usize = 8;

/// Computes one lane, or all lanes in blocks and keeps those of the mask.
///
/// The destination is a source or disjoint from it, since a register has one width. A block is read before it is written, so
/// a lane never overwrites a source that is still needed.
#[inline(always)]
unsafe fn blocks<R: Copy>(d: *mut R, mask: u32, one: impl Fn(usize) -> R, block: impl Fn(usize) -> [R; BLOCK]) {
    // SAFETY: `d` has room for 32 values (module invariant).
    unsafe {
        if mask == u32::MAX {
            for index in 0..32 / BLOCK {
                d.add(index * BLOCK).cast::<[R; BLOCK]>().write(block(index * BLOCK));
            }
        } else if mask & mask.wrapping_sub(1) == 0 {
            let lane = mask.trailing_zeros() as usize & 31;
            d.add(lane).write(one(lane));
        } else {
            for index in 0..32 / BLOCK {
                let place = d.add(index * BLOCK).cast::<[R; BLOCK]>();
                let (old, new) = (place.read(), block(index * BLOCK));
                place.write(std::array::from_fn(|i| if mask & LANE[index * BLOCK + i] == 0 { old[i] } else { new[i] }));
            }
        }
    }
}

/// Reads the block of a row that starts at a lane.
#[inline(always)]
unsafe fn block<A: Copy>(row: *const A, lane: usize) -> [A; BLOCK] {
    // SAFETY: the caller's lane is a multiple of the block size below 32.
    unsafe { row.add(lane).cast::<[A; BLOCK]>().read() }
}

#[inline(always)]
pub(crate) unsafe fn lanes1<A: Copy, R: Copy>(file: *mut u8, args: &Args, mask: u32, f: impl Fn(A) -> R) {
    // SAFETY: module invariant.
    unsafe {
        let a = row::<A>(file, args.a);
        blocks(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read()),
            |lane| {
                let x = block(a, lane);
                std::array::from_fn(|i| f(x[i]))
            },
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes2<A: Copy, B: Copy, R: Copy>(file: *mut u8, args: &Args, mask: u32, f: impl Fn(A, B) -> R) {
    // SAFETY: module invariant.
    unsafe {
        let (a, b) = (row::<A>(file, args.a), row::<B>(file, args.b));
        blocks(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read(), b.add(lane).read()),
            |lane| {
                let (x, y) = (block(a, lane), block(b, lane));
                std::array::from_fn(|i| f(x[i], y[i]))
            },
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes3<A: Copy, B: Copy, C: Copy, R: Copy>(
    file: *mut u8,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C) -> R,
) {
    // SAFETY: module invariant.
    unsafe {
        let (a, b, c) = (row::<A>(file, args.a), row::<B>(file, args.b), row::<C>(file, args.c));
        blocks(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read(), b.add(lane).read(), c.add(lane).read()),
            |lane| {
                let (x, y, z) = (block(a, lane), block(b, lane), block(c, lane));
                std::array::from_fn(|i| f(x[i], y[i], z[i]))
            },
        );
    }
}

/// A condition on each lane as a mask.
#[inline(always)]
fn mask_of(f: impl Fn(usize) -> [bool; BLOCK]) -> u32 {
    let mut bits = [0; BLOCK];
    for index in 0..32 / BLOCK {
        let flags = f(index * BLOCK);
        bits = std::array::from_fn(|i| bits[i] | if flags[i] { LANE[index * BLOCK + i] } else { 0 });
    }
    bits.iter().fold(0, |all, some| all | some)
}

/// Comparison of two rows into the destination predicate.
#[inline(always)]
pub(crate) unsafe fn compare<A: Copy>(
    file: *mut u8,
    predicates: *mut u32,
    args: &Args,
    mask: u32,
    f: impl Fn(A, A) -> bool,
) {
    // SAFETY: module invariant; predicate indices are inside the table.
    unsafe {
        let (a, b) = (row::<A>(file, args.a), row::<A>(file, args.b));
        let bits = mask_of(|lane| {
            let (x, y) = (block(a, lane), block(b, lane));
            std::array::from_fn(|i| f(x[i], y[i]))
        });
        let p = predicates.add(args.p as usize);
        p.write(p.read() & !mask | bits & mask);
    }
}

/// A function of one lane's value into the destination predicate.
#[inline(always)]
pub(crate) unsafe fn test<A: Copy>(file: *mut u8, predicates: *mut u32, args: &Args, mask: u32, f: impl Fn(A) -> bool) {
    // SAFETY: as in `compare`.
    unsafe {
        let a = row::<A>(file, args.a);
        let bits = mask_of(|lane| block(a, lane).map(&f));
        let p = predicates.add(args.p as usize);
        p.write(p.read() & !mask | bits & mask);
    }
}

/// `d = q ? a : b`
#[inline(always)]
pub(crate) unsafe fn select<A: Copy>(file: *mut u8, predicates: *mut u32, args: &Args, mask: u32) {
    // SAFETY: as in `compare`.
    unsafe {
        let bits = predicates.add(args.q as usize).read();
        let (a, b) = (row::<A>(file, args.a), row::<A>(file, args.b));
        blocks(
            row::<A>(file, args.d),
            mask,
            |lane| if bits & LANE[lane] == 0 { b.add(lane).read() } else { a.add(lane).read() },
            |lane| {
                let (x, y) = (block(a, lane), block(b, lane));
                std::array::from_fn(|i| if bits & LANE[lane + i] == 0 { y[i] } else { x[i] })
            },
        );
    }
}

/// `d = f(a)` as a handler.
macro_rules! unary {
    ($a:ty => $r:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, _: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::lanes1::<$a, $r>(file, args, mask, $f) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `d = f(a, b)` as a handler.
macro_rules! binary {
    ($a:ty, $b:ty => $r:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, _: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::lanes2::<$a, $b, $r>(file, args, mask, $f) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `d = f(a, b, c)` as a handler.
macro_rules! ternary {
    ($a:ty, $b:ty, $c:ty => $r:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, _: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::lanes3::<$a, $b, $c, $r>(file, args, mask, $f) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `d = lop3(a, b, c)` as a handler; the truth table stands in `args.p`.
macro_rules! truth_table {
    () => {{
        unsafe fn handler(file: *mut u8, _: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            let table = args.p;
            let run = |a, b, c| $crate::semantics::integer::lop3(a, b, c, table);
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::lanes3::<u32, u32, u32, u32>(file, args, mask, run) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `p = f(a, b)` as a handler.
macro_rules! comparison {
    ($a:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, predicates: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::compare::<$a>(file, predicates, args, mask, $f) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `p = f(a)` as a handler.
macro_rules! predicate_test {
    ($a:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, predicates: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::test::<$a>(file, predicates, args, mask, $f) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `p = f(q, r)` on whole masks as a handler; the second source is predicate `args.a`.
macro_rules! predicate_logic {
    ($f:expr) => {{
        unsafe fn handler(_: *mut u8, predicates: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: predicate indices are inside the table (module invariant of lanes).
            unsafe {
                let operation: fn(u32, u32) -> u32 = $f;
                let bits = operation(predicates.add(args.q as usize).read(), predicates.add(args.a as usize).read());
                let p = predicates.add(args.p as usize);
                p.write(p.read() & !mask | bits & mask);
            }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `d = q ? a : b` (selp) as a handler.
macro_rules! selection {
    ($a:ty) => {{
        unsafe fn handler(file: *mut u8, predicates: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::select::<$a>(file, predicates, args, mask) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}

/// `d = f(a, n)` as a handler, where `n` is the same for all lanes and stands in `args.p`.
macro_rules! uniform {
    ($a:ty, $f:expr) => {{
        unsafe fn handler(file: *mut u8, _: *mut u32, args: &$crate::semantics::lanes::Args, mask: u32) {
            let n = args.p;
            let operation: fn($a, u32) -> $a = $f;
            // SAFETY: forwarded from the caller.
            unsafe { $crate::semantics::lanes::lanes1::<$a, $a>(file, args, mask, |a| operation(a, n)) }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}
