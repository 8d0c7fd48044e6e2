//! Whether the memory of this process is enough for what it is asked for.
//!
//! Invariants: what a person can ask for without bound is compared with [`available`] before it is begun; whatever is asked of the system
//! beyond that and not given ends the process with a sentence ([`exhausted`]), as any other failure does.

#![allow(clippy::disallowed_methods, reason = "the system's own files")]

mod exhausted;
mod limits;

use std::num::NonZero;
use std::thread::available_parallelism;

use moe_bundle::{KernelEntry, Manifest};
use moe_planner::human_bytes;

use crate::failure::Failure;
use limits::Limits;

/// What a thread takes of the address space: its stack.
const THREAD: u64 = 2 << 20;
/// What compiling takes, the kernels of one thread included; measured.
const COMPILING: u64 = 64 << 20;
/// What compiling takes for each further thread; measured.
const COMPILING_THREAD: u64 = 4 << 20;

/// What a run takes beside compiling and its data; measured.
const RUNNING: u64 = 64 << 20;

/// What a warp of a virtual GPU takes, its registers most of all; measured.
const WARP: u64 = 32 << 10;

/// Bytes that this process may still take, as far as the system says.
pub fn available() -> Option<u64> {
    Limits::of_this_process().tightest().map(|limit| limit.left)
}

/// For the beginning of a process, before any thread: from now on memory that is not given is said, as JSON or as text.
pub fn prepare(as_json: bool) {
    exhausted::say_when_exhausted(as_json);
    if Limits::of_this_process().address_space().is_some() {
        exhausted::spare_address_space();
    }
}

/// Starts the threads that compute: one for each core, or fewer where the address space is small.
pub fn start_threads() -> Result<(), Failure> {
    let limits = Limits::of_this_process();
    let cores = available_parallelism().map_or(1, NonZero::get);
    let asked =
        std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok()).filter(|&threads| threads > 0);
    let room = |left: u64| usize::try_from(left.saturating_sub(COMPILING) / (THREAD + COMPILING_THREAD));
    let fit = limits.address_space().map_or(usize::MAX, |left| room(left).unwrap_or(usize::MAX));
    let threads = asked.unwrap_or(cores).min(fit).max(1);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| {
        Failure::Message(format!(
            "the system gives this process no threads to compute with: {error}; see its limits (`ulimit -u`, `ulimit -v`)"
        ))
    })
}

/// Refuses to compile where there is no room for a compiler.
pub fn enough_to_compile() -> Result<(), Failure> {
    let threads = rayon::current_num_threads() as u64;
    enough("compiling kernels needs", COMPILING + COMPILING_THREAD * threads, "free some, or raise the limit")
}

/// Refuses a sample of tokens that would not fit. What is kept of a token is its picks, twice.
pub fn enough_for_sample(tokens: usize, top_k: u32) -> Result<(), Failure> {
    const PICK: u64 = 8;
    let needed = (tokens as u64).saturating_mul((u64::from(top_k) + 1) * PICK);
    enough(&format!("a sample of {tokens} tokens needs"), needed, "ask for a smaller one (`--sample`)")
}

/// Refuses a run that would be killed half-way. What it needs is an estimate: the process itself; symmetric memory and what kernels keep; four
/// times the experts' rows at an even load (input, output and both gradients), where a few picks of an expert still take a whole block of rows;
/// the rows of every pick as they came and as they should be (input, input again, gradient); and 16 rows of every token: as it is given, on the
/// device, as it came, as it should be, and directly in f64; and the CTAs of the kernel that has most, with their warps and shared memory.
pub fn enough_for(manifest: &Manifest) -> Result<(), Failure> {
    let exchange = &manifest.exchange;
    let sizes = exchange.sizes();
    let picks = u64::from(exchange.max_tokens) * u64::from(exchange.top_k);
    let (there, back) = (exchange.row_bytes(exchange.dispatch), exchange.row_bytes(exchange.combine));
    let rows = exchange.rows_of(2 * picks) * (there + 4 * back);
    let compared = picks * (4 * there + 2 * back) + u64::from(exchange.max_tokens) * 16 * back;
    let process = RUNNING + COMPILING + COMPILING_THREAD * rayon::current_num_threads() as u64;
    let of_ctas = |entry: &KernelEntry| {
        let of_cta = u64::from(entry.shared) + u64::from(entry.block.div_ceil(32)) * WARP;
        u64::from(entry.grid.ctas(exchange.max_tokens)) * of_cta
    };
    let resident = manifest.kernels.iter().map(of_ctas).max().unwrap_or(0);
    let of_rank = sizes.symmetric + sizes.fixed + sizes.handle + rows + compared + resident;
    let needed = process + u64::from(exchange.ranks) * of_rank;
    enough("a run on virtual GPUs needs", needed, "run fewer tokens (`--tokens`) or ranks (`--gpus-per-node`)")
}

fn enough(what: &str, needed: u64, advice: &str) -> Result<(), Failure> {
    match Limits::of_this_process().tightest() {
        Some(limit) if needed > limit.left => Err(Failure::Message(format!(
            "{what} about {}, and {} leaves {}: {advice}",
            human_bytes(needed as f64),
            limit.name,
            human_bytes(limit.left as f64)
        ))),
        _ => Ok(()),
    }
}
