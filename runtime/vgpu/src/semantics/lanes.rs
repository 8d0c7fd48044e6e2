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

/// The bit of each lane. Comparisons with it vectorise on every processor; shifts by the lane do not.
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
pub(crate) const BLOCK: usize = 8;
/// The same with vectors of 512 bits.
pub(crate) const WIDE_BLOCK: usize = 16;

/// The bit of a lane, as vectors of the block's size get it best.
#[inline(always)]
fn bit<const N: usize>(bits: u32, lane: usize) -> bool {
    if N == WIDE_BLOCK { bits >> lane & 1 != 0 } else { bits & LANE[lane] != 0 }
}

/// Computes one lane, or all lanes in blocks and keeps those of the mask.
///
/// The destination is a source or disjoint from it: a register has one width, and a step writes no row that it reads as
/// another register. A block is read before it is written, so a lane never overwrites a source that is still needed.
#[inline(always)]
unsafe fn blocks<R: Copy, const N: usize>(
    d: *mut R,
    mask: u32,
    one: impl Fn(usize) -> R,
    block: impl Fn(usize) -> [R; N],
) {
    // SAFETY: `d` has room for 32 values (module invariant).
    unsafe {
        if N == BLOCK && mask & mask.wrapping_sub(1) == 0 {
            let lane = mask.trailing_zeros() as usize & 31;
            d.add(lane).write(one(lane));
            return;
        }
        for index in 0..32 / N {
            // The only place that calls it: a second one, and it would not be compiled for wide vectors.
            let new = block(index * N);
            let place = d.add(index * N).cast::<[R; N]>();
            if mask == u32::MAX {
                place.write(new);
            } else {
                let old = place.read();
                place.write(std::array::from_fn(|i| if bit::<N>(mask, index * N + i) { new[i] } else { old[i] }));
            }
        }
    }
}

/// Reads the block of a row that starts at a lane.
#[inline(always)]
unsafe fn block<A: Copy, const N: usize>(row: *const A, lane: usize) -> [A; N] {
    // SAFETY: the caller's lane is a multiple of the block size below 32.
    unsafe { row.add(lane).cast::<[A; N]>().read() }
}

#[inline(always)]
pub(crate) unsafe fn lanes1<A: Copy, R: Copy, const N: usize>(
    file: *mut u8,
    args: &Args,
    mask: u32,
    f: impl Fn(A) -> R,
) {
    // SAFETY: module invariant.
    unsafe {
        let a = row::<A>(file, args.a);
        blocks::<R, N>(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read()),
            |lane| {
                let x = block::<A, N>(a, lane);
                std::array::from_fn(|i| f(x[i]))
            },
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes2<A: Copy, B: Copy, R: Copy, const N: usize>(
    file: *mut u8,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B) -> R,
) {
    // SAFETY: module invariant.
    unsafe {
        let (a, b) = (row::<A>(file, args.a), row::<B>(file, args.b));
        blocks::<R, N>(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read(), b.add(lane).read()),
            |lane| {
                let (x, y) = (block::<_, N>(a, lane), block::<_, N>(b, lane));
                std::array::from_fn(|i| f(x[i], y[i]))
            },
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes3<A: Copy, B: Copy, C: Copy, R: Copy, const N: usize>(
    file: *mut u8,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C) -> R,
) {
    // SAFETY: module invariant.
    unsafe {
        let (a, b, c) = (row::<A>(file, args.a), row::<B>(file, args.b), row::<C>(file, args.c));
        blocks::<R, N>(
            row::<R>(file, args.d),
            mask,
            |lane| f(a.add(lane).read(), b.add(lane).read(), c.add(lane).read()),
            |lane| {
                let (x, y, z) = (block::<_, N>(a, lane), block::<_, N>(b, lane), block::<_, N>(c, lane));
                std::array::from_fn(|i| f(x[i], y[i], z[i]))
            },
        );
    }
}

/// A condition on each lane as a mask.
#[inline(always)]
fn mask_of<const N: usize>(f: impl Fn(usize) -> [bool; N]) -> u32 {
    let mut bits = [0; N];
    for index in 0..32 / N {
        let flags = f(index * N);
        bits = std::array::from_fn(|i| bits[i] | if flags[i] { LANE[index * N + i] } else { 0 });
    }
    bits.iter().fold(0, |all, some| all | some)
}

/// Comparison of two rows into the destination predicate.
#[inline(always)]
pub(crate) unsafe fn compare<A: Copy, const N: usize>(
    file: *mut u8,
    predicates: *mut u32,
    args: &Args,
    mask: u32,
    f: impl Fn(A, A) -> bool,
) {
    // SAFETY: module invariant; predicate indices are inside the table.
    unsafe {
        let (a, b) = (row::<A>(file, args.a), row::<A>(file, args.b));
        let bits = mask_of::<N>(|lane| {
            let (x, y) = (block::<_, N>(a, lane), block::<_, N>(b, lane));
            std::array::from_fn(|i| f(x[i], y[i]))
        });
        let p = predicates.add(args.p as usize);
        p.write(p.read() & !mask | bits & mask);
    }
}

/// A function of one lane's value into the destination predicate.
#[inline(always)]
pub(crate) unsafe fn test<A: Copy, const N: usize>(
    file: *mut u8,
    predicates: *mut u32,
    args: &Args,
    mask: u32,
    f: impl Fn(A) -> bool,
) {
    // SAFETY: as in `compare`.
    unsafe {
        let a = row::<A>(file, args.a);
        let bits = mask_of::<N>(|lane| block::<A, N>(a, lane).map(&f));
        let p = predicates.add(args.p as usize);
        p.write(p.read() & !mask | bits & mask);
    }
}

/// `d = q ? a : b`
#[inline(always)]
pub(crate) unsafe fn select<A: Copy, const N: usize>(file: *mut u8, predicates: *mut u32, args: &Args, mask: u32) {
    // SAFETY: as in `compare`.
    unsafe {
        let bits = predicates.add(args.q as usize).read();
        let (a, b) = (row::<A>(file, args.a), row::<A>(file, args.b));
        blocks::<A, N>(
            row::<A>(file, args.d),
            mask,
            |lane| if bit::<N>(bits, lane) { a.add(lane).read() } else { b.add(lane).read() },
            |lane| {
                let (x, y) = (block::<_, N>(a, lane), block::<_, N>(b, lane));
                std::array::from_fn(|i| if bit::<N>(bits, lane + i) { x[i] } else { y[i] })
            },
        );
    }
}

/// A handler in two versions, see [`super::wide`]. The body forwards what the caller of the handler promises.
macro_rules! handler {
    (|$file:ident, $predicates:ident, $args:ident, $mask:ident, $block:ident| $body:expr) => {{
        #[allow(unused_variables, reason = "few need predicates")]
        unsafe fn plain($file: *mut u8, $predicates: *mut u32, $args: &$crate::semantics::lanes::Args, $mask: u32) {
            const $block: usize = $crate::semantics::lanes::BLOCK;
            // SAFETY: forwarded from the caller.
            unsafe { $body }
        }
        #[cfg(target_arch = "x86_64")]
        #[allow(unused_variables, reason = "few need predicates")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn wide($file: *mut u8, $predicates: *mut u32, $args: &$crate::semantics::lanes::Args, $mask: u32) {
            const $block: usize = $crate::semantics::lanes::WIDE_BLOCK;
            // SAFETY: forwarded from the caller.
            unsafe { $body }
        }
        #[cfg(not(target_arch = "x86_64"))]
        use plain as wide;
        // The wide version is only called on a processor that has its instructions.
        if $crate::semantics::wide::available() {
            wide as $crate::semantics::lanes::AluFn
        } else {
            plain as $crate::semantics::lanes::AluFn
        }
    }};
}

/// `d = f(a)` as a handler.
macro_rules! unary {
    ($a:ty => $r:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| $crate::semantics::lanes::lanes1::<$a, $r, N>(file, args, mask, $f))
    };
}

/// `d = f(a, b)` as a handler.
macro_rules! binary {
    ($a:ty, $b:ty => $r:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| {
            $crate::semantics::lanes::lanes2::<$a, $b, $r, N>(file, args, mask, $f)
        })
    };
}

/// `d = f(a, b, c)` as a handler.
macro_rules! ternary {
    ($a:ty, $b:ty, $c:ty => $r:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| {
            $crate::semantics::lanes::lanes3::<$a, $b, $c, $r, N>(file, args, mask, $f)
        })
    };
}

/// `d = lop3(a, b, c)` as a handler; the truth table stands in `args.p`.
macro_rules! truth_table {
    () => {
        handler!(|file, predicates, args, mask, N| {
            let table = args.p;
            let run = |a, b, c| $crate::semantics::integer::lop3(a, b, c, table);
            $crate::semantics::lanes::lanes3::<u32, u32, u32, u32, N>(file, args, mask, run)
        })
    };
}

/// `p = f(a, b)` as a handler.
macro_rules! comparison {
    ($a:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| {
            $crate::semantics::lanes::compare::<$a, N>(file, predicates, args, mask, $f)
        })
    };
}

/// `p = f(a)` as a handler.
macro_rules! predicate_test {
    ($a:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| {
            $crate::semantics::lanes::test::<$a, N>(file, predicates, args, mask, $f)
        })
    };
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
    ($a:ty) => {
        handler!(|file, predicates, args, mask, N| {
            $crate::semantics::lanes::select::<$a, N>(file, predicates, args, mask)
        })
    };
}

/// `d = f(a, n)` as a handler, where `n` is the same for all lanes and stands in `args.p`.
macro_rules! uniform {
    ($a:ty, $f:expr) => {
        handler!(|file, predicates, args, mask, N| {
            let n = args.p;
            let operation = $crate::semantics::lanes::with_number::<$a>($f);
            $crate::semantics::lanes::lanes1::<$a, $a, N>(file, args, mask, |a| operation(a, n))
        })
    };
}

/// Tells the compiler the types of a function of a value and a number.
#[inline(always)]
pub(crate) fn with_number<A>(f: impl Fn(A, u32) -> A) -> impl Fn(A, u32) -> A {
    f
}
