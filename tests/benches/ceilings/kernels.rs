//! Kernels that do one thing as fast as a multiprocessor can.
//!
//! Invariants: what each leaves in memory is known, so that a time counts only if the bytes are right; a warp is its own pipeline, as in the
//! kernels of the exchange.

use std::fmt::Write;

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";
/// Warps of a CTA that stores, or loads into registers.
pub const WARPS: u32 = 16;
/// Warps of a CTA that copies in bulk.
pub const BULK_WARPS: u32 = 12;
/// Shared memory of such a warp: the longest row.
pub const BULK_BYTES: u32 = 14_336;

/// Entry, its parameters, and in `%warp`, `%lane`, `%first` the warp of the CTA, the lane, and the number of the warp among all.
fn entry(name: &str, parameters: &[&str], warps: u32, body: &str) -> String {
    let parameters: Vec<String> = parameters.iter().map(|parameter| format!(".param {parameter}")).collect();
    format!(
        "{HEADER}.extern .shared .align 128 .b8 dynamic[];\n.visible .entry {name}({})\n.maxntid {}, 1, 1\n{{\n\
         .reg .pred %p, %q; .reg .b32 %warp, %lane, %first, %all, %row, %rows, %bytes, %at, %x, %y, %z, %w, %here, %bar, %phase, %stage;\n\
         .reg .b32 %sum, %a<64>; .reg .b64 %from, %to, %off, %place, %state, %long;\n\
         mov.u32 %x, %tid.x;\nshr.u32 %warp, %x, 5;\nand.b32 %lane, %x, 31;\n\
         mov.u32 %x, %ctaid.x;\nmad.lo.u32 %first, %x, {warps}, %warp;\n\
         mov.u32 %x, %nctaid.x;\nmul.lo.u32 %all, %x, {warps};\n{body}ret;\n}}\n",
        parameters.join(", "),
        warps * 32
    )
}

const STORE: [&str; 3] = [".u64 to", ".u32 rows", ".u32 bytes"];

/// Every warp stores rows by 16-byte stores: row r is filled with the word r.
pub fn store() -> String {
    let body = "ld.param.u64 %to, [to];\nld.param.u32 %rows, [rows];\nld.param.u32 %bytes, [bytes];\nmov.u32 %row, %first;\n\
        row_loop:\nsetp.ge.u32 %p, %row, %rows;\n@%p bra done;\n\
        mul.wide.u32 %off, %row, %bytes;\nadd.u64 %place, %to, %off;\nshl.b32 %at, %lane, 4;\n\
        pieces:\nsetp.ge.u32 %p, %at, %bytes;\n@%p bra next;\ncvt.u64.u32 %off, %at;\nadd.u64 %off, %place, %off;\n\
        st.global.v4.b32 [%off], {%row, %row, %row, %row};\nadd.u32 %at, %at, 512;\nbra pieces;\n\
        next:\nadd.u32 %row, %row, %all;\nbra row_loop;\ndone:\n";
    entry("store", &STORE, WARPS, body)
}

/// The same by bulk copies out of shared memory, of which each lane of a warp has one under way: row r is filled with the number of its
/// warp among all.
pub fn store_bulk() -> String {
    let body = format!(
        "ld.param.u64 %to, [to];\nld.param.u32 %rows, [rows];\nld.param.u32 %bytes, [bytes];\n\
         mov.u32 %here, dynamic;\nmad.lo.u32 %here, %warp, {BULK_BYTES}, %here;\nshl.b32 %at, %lane, 4;\n\
         fill:\nsetp.ge.u32 %p, %at, %bytes;\n@%p bra filled;\nadd.u32 %x, %here, %at;\n\
         st.shared.v4.b32 [%x], {{%first, %first, %first, %first}};\nadd.u32 %at, %at, 512;\nbra fill;\n\
         filled:\nfence.proxy.async.shared::cta;\nbar.warp.sync 0xffffffff;\n\
         mad.lo.u32 %row, %lane, %all, %first;\nmul.lo.u32 %all, %all, 32;\n\
         row_loop:\nsetp.ge.u32 %p, %row, %rows;\n@%p bra done;\n\
         mul.wide.u32 %off, %row, %bytes;\nadd.u64 %place, %to, %off;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%place], [%here], %bytes;\ncp.async.bulk.commit_group;\n\
         add.u32 %row, %row, %all;\nbra row_loop;\ndone:\ncp.async.bulk.wait_group 0;\n"
    );
    entry("store_bulk", &STORE, BULK_WARPS, &body)
}

const LOAD: [&str; 4] = [".u64 from", ".u64 to", ".u32 rows", ".u32 bytes"];

/// Every warp loads rows into registers, `ahead` pieces of 512 bytes at once, and stores in its place, a word for each lane, the exclusive or
/// of the words that the lane has seen. Rows are multiples of that many pieces.
pub fn load(ahead: u32) -> String {
    let mut body = String::from(
        "ld.param.u64 %from, [from];\nld.param.u64 %to, [to];\nld.param.u32 %rows, [rows];\nld.param.u32 %bytes, [bytes];\n\
         mov.u32 %row, %first;\nmov.u32 %sum, 0;\n\
         row_loop:\nsetp.ge.u32 %p, %row, %rows;\n@%p bra done;\n\
         mul.wide.u32 %off, %row, %bytes;\nadd.u64 %place, %from, %off;\nmov.u32 %at, 0;\n\
         pieces:\nsetp.ge.u32 %p, %at, %bytes;\n@%p bra next;\nshl.b32 %x, %lane, 4;\nadd.u32 %x, %x, %at;\ncvt.u64.u32 %off, %x;\n\
         add.u64 %off, %place, %off;\n",
    );
    let of = |piece: u32| [0, 1, 2, 3].map(|word| format!("%a{}", piece * 4 + word));
    for piece in 0..ahead {
        writeln!(body, "ld.global.v4.b32 {{{}}}, [%off+{}];", of(piece).join(", "), piece * 512).expect("memory");
    }
    for register in (0..ahead).flat_map(of) {
        writeln!(body, "xor.b32 %sum, %sum, {register};").expect("memory");
    }
    write!(
        body,
        "add.u32 %at, %at, {};\nbra pieces;\nnext:\nadd.u32 %row, %row, %all;\nbra row_loop;\ndone:\n\
         mad.lo.u32 %x, %first, 32, %lane;\nmul.wide.u32 %off, %x, 4;\nadd.u64 %place, %to, %off;\nst.global.b32 [%place], %sum;\n",
        ahead * 512
    )
    .expect("memory");
    entry("load", &LOAD, WARPS, &body)
}

/// The same by bulk copies of `unit` bytes into shared memory, as many as fit into that of a warp; of each unit a lane sees its 16 bytes at the
/// front. Rows are multiples of a unit.
pub fn load_bulk(unit: u32) -> String {
    let stages = BULK_BYTES / unit;
    let body = format!(
        "ld.param.u64 %from, [from];\nld.param.u64 %to, [to];\nld.param.u32 %rows, [rows];\nld.param.u32 %bytes, [bytes];\n\
         mov.u32 %here, dynamic;\nmad.lo.u32 %bar, %warp, 64, %here;\nadd.u32 %here, %here, {BARRIERS};\n\
         mad.lo.u32 %here, %warp, {BULK_BYTES}, %here;\n\
         div.u32 %x, %bytes, {unit};\nmul.lo.u32 %rows, %rows, %x;\n\
         setp.ne.u32 %q, %lane, 0;\n@%q bra made;\nmov.u32 %x, 0;\n\
         make:\nshl.b32 %y, %x, 3;\nadd.u32 %y, %y, %bar;\nmbarrier.init.shared::cta.b64 [%y], 1;\nadd.u32 %x, %x, 1;\n\
         setp.lt.u32 %p, %x, {stages};\n@%p bra make;\nfence.mbarrier_init.release.cluster;\n\
         made:\nbar.warp.sync 0xffffffff;\n\
         mov.u32 %row, %first;\nmov.u32 %w, %first;\nmov.u32 %stage, 0;\nmov.u32 %z, 0;\nmov.u32 %phase, 0;\nmov.u32 %sum, 0;\n\
         issue:\nsetp.ge.u32 %p, %z, {stages};\n@%p bra row_loop;\nsetp.ge.u32 %p, %w, %rows;\n@%p bra row_loop;\n@%q bra issued;\n\
         mul.wide.u32 %off, %w, {unit};\nadd.u64 %place, %from, %off;\nshl.b32 %y, %z, 3;\nadd.u32 %y, %y, %bar;\n\
         mad.lo.u32 %x, %z, {unit}, %here;\nmbarrier.arrive.expect_tx.shared::cta.b64 %state, [%y], {unit};\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%x], [%place], {unit}, [%y];\n\
         issued:\nadd.u32 %w, %w, %all;\nadd.u32 %z, %z, 1;\nbra issue;\n\
         row_loop:\nsetp.ge.u32 %p, %row, %rows;\n@%p bra done;\nshl.b32 %y, %stage, 3;\nadd.u32 %y, %y, %bar;\n\
         wait:\nmbarrier.try_wait.parity.shared::cta.b64 %p, [%y], %phase;\n@!%p bra wait;\n\
         bar.warp.sync 0xffffffff;\n\
         mad.lo.u32 %x, %stage, {unit}, %here;\nshl.b32 %z, %lane, 4;\nadd.u32 %z, %z, %x;\n\
         ld.shared.v4.b32 {{%a0, %a1, %a2, %a3}}, [%z];\nxor.b32 %sum, %sum, %a0;\nxor.b32 %sum, %sum, %a1;\n\
         xor.b32 %sum, %sum, %a2;\nxor.b32 %sum, %sum, %a3;\nbar.warp.sync 0xffffffff;\n\
         setp.ge.u32 %p, %w, %rows;\n@%p bra refilled;\n@%q bra again;\nfence.proxy.async.shared::cta;\n\
         mul.wide.u32 %off, %w, {unit};\nadd.u64 %place, %from, %off;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 %state, [%y], {unit};\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%x], [%place], {unit}, [%y];\n\
         again:\nadd.u32 %w, %w, %all;\n\
         refilled:\nadd.u32 %row, %row, %all;\nadd.u32 %stage, %stage, 1;\nsetp.lt.u32 %p, %stage, {stages};\n@%p bra row_loop;\n\
         mov.u32 %stage, 0;\nxor.b32 %phase, %phase, 1;\nbra row_loop;\ndone:\n\
         mad.lo.u32 %x, %first, 32, %lane;\nmul.wide.u32 %off, %x, 4;\nadd.u64 %place, %to, %off;\nst.global.b32 [%place], %sum;\n"
    );
    entry("load_bulk", &LOAD, BULK_WARPS, &body)
}

/// Bytes of the mbarriers of all warps, in front of their shared memory.
const BARRIERS: u32 = 64 * BULK_WARPS;
/// Dynamic shared memory of what copies in bulk.
pub const SHARED: u32 = BARRIERS + BULK_WARPS * BULK_BYTES;

/// Nothing, for so many threads.
pub fn nothing() -> String {
    entry("nothing", &[".u64 to"], 1, "griddepcontrol.wait;\n")
}

/// Two CTAs hand a word to each other, so many rounds: by an acquire in each look, or by relaxed looks and one fence behind.
pub fn hand_over(relaxed: bool) -> String {
    let (look, fence) = if relaxed { ("relaxed", "fence.acq_rel.sys;\n") } else { ("acquire", "") };
    let body = format!(
        "setp.ne.u32 %p, %lane, 0;\n@%p bra done;\nld.param.u64 %to, [to];\nld.param.u32 %rows, [rows];\n\
         mul.wide.u32 %off, %first, 128;\nadd.u64 %place, %to, %off;\nxor.b32 %x, %first, 1;\nmul.wide.u32 %off, %x, 128;\n\
         add.u64 %from, %to, %off;\nmov.u32 %row, 0;\n\
         rounds:\nadd.u32 %row, %row, 1;\nsub.u32 %y, %row, %x;\n\
         wait:\nld.{look}.sys.global.u32 %z, [%place];\nsetp.lt.u32 %p, %z, %y;\n@%p bra wait;\n{fence}\
         red.release.sys.global.add.u32 [%from], 1;\nsetp.lt.u32 %p, %row, %rows;\n@%p bra rounds;\ndone:\n"
    );
    entry("hand_over", &[".u64 to", ".u32 rows"], 1, &body)
}
