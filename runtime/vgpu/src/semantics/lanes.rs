//! Pure functions applied to the 32 lanes of a register file.
//!
//! Invariant (kept by the decoder, relied on by the `unsafe` code here): every offset in [`Args`] is a multiple of 128 and
//! leaves room for 32 values of the type used with it inside the warp's file; every predicate index is inside its table.

/// Byte offsets of the operands in a warp's register file, and predicate indices.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Args {
    pub d: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Destination predicate.
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

const STEP: usize = 8;

#[inline(always)]
pub(crate) unsafe fn lanes1<A: Copy, R: Copy>(file: *mut u8, args: &Args, mask: u32, f: impl Fn(A) -> R) {
    // SAFETY: module invariant. Blocks are read completely before they are written, so operands may be the same register.
    unsafe {
        let a = row::<A>(file, args.a);
        let d = row::<R>(file, args.d);
        if mask == u32::MAX {
            for block in 0..32 / STEP {
                let x = a.add(block * STEP).cast::<[A; STEP]>().read();
                let out: [R; STEP] = std::array::from_fn(|i| f(x[i]));
                d.add(block * STEP).cast::<[R; STEP]>().write(out);
            }
        } else {
            let mut rest = mask;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                d.add(lane).write(f(a.add(lane).read()));
                rest &= rest - 1;
            }
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes2<A: Copy, B: Copy, R: Copy>(file: *mut u8, args: &Args, mask: u32, f: impl Fn(A, B) -> R) {
    // SAFETY: as in `lanes1`.
    unsafe {
        let a = row::<A>(file, args.a);
        let b = row::<B>(file, args.b);
        let d = row::<R>(file, args.d);
        if mask == u32::MAX {
            for block in 0..32 / STEP {
                let x = a.add(block * STEP).cast::<[A; STEP]>().read();
                let y = b.add(block * STEP).cast::<[B; STEP]>().read();
                let out: [R; STEP] = std::array::from_fn(|i| f(x[i], y[i]));
                d.add(block * STEP).cast::<[R; STEP]>().write(out);
            }
        } else {
            let mut rest = mask;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                d.add(lane).write(f(a.add(lane).read(), b.add(lane).read()));
                rest &= rest - 1;
            }
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn lanes3<A: Copy, B: Copy, C: Copy, R: Copy>(
    file: *mut u8,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C) -> R,
) {
    // SAFETY: as in `lanes1`.
    unsafe {
        let a = row::<A>(file, args.a);
        let b = row::<B>(file, args.b);
        let c = row::<C>(file, args.c);
        let d = row::<R>(file, args.d);
        if mask == u32::MAX {
            for block in 0..32 / STEP {
                let x = a.add(block * STEP).cast::<[A; STEP]>().read();
                let y = b.add(block * STEP).cast::<[B; STEP]>().read();
                let z = c.add(block * STEP).cast::<[C; STEP]>().read();
                let out: [R; STEP] = std::array::from_fn(|i| f(x[i], y[i], z[i]));
                d.add(block * STEP).cast::<[R; STEP]>().write(out);
            }
        } else {
            let mut rest = mask;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                d.add(lane).write(f(a.add(lane).read(), b.add(lane).read(), c.add(lane).read()));
                rest &= rest - 1;
            }
        }
    }
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
    // SAFETY: as in `lanes1`; predicate indices are inside the table.
    unsafe {
        let a = row::<A>(file, args.a);
        let b = row::<A>(file, args.b);
        let mut bits = 0u32;
        for block in 0..32 / STEP {
            let x = a.add(block * STEP).cast::<[A; STEP]>().read();
            let y = b.add(block * STEP).cast::<[A; STEP]>().read();
            let flags: [u8; STEP] = std::array::from_fn(|i| u8::from(f(x[i], y[i])));
            // Gathers the low bit of each of the eight bytes into one byte.
            let packed = u64::from_le_bytes(flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            bits |= (packed as u32) << (block * STEP);
        }
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
        let mut bits = 0u32;
        for lane in 0..32 {
            bits |= u32::from(f(a.add(lane).read())) << lane;
        }
        let p = predicates.add(args.p as usize);
        p.write(p.read() & !mask | bits & mask);
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
            // SAFETY: module invariant of lanes.
            unsafe {
                let bits = predicates.add(args.q as usize).read();
                let a = $crate::semantics::lanes::row::<$a>(file, args.a);
                let b = $crate::semantics::lanes::row::<$a>(file, args.b);
                let d = $crate::semantics::lanes::row::<$a>(file, args.d);
                for lane in 0..32 {
                    let chosen = if bits >> lane & 1 == 1 { a.add(lane).read() } else { b.add(lane).read() };
                    if mask == u32::MAX || mask >> lane & 1 == 1 {
                        d.add(lane).write(chosen);
                    }
                }
            }
        }
        handler as $crate::semantics::lanes::AluFn
    }};
}
