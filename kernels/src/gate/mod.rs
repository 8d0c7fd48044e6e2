//! The gate and its gradient as kernels, specialised to a program of [`moe_gate::ir`].
//!
//! **Reads and writes.** Arguments are those of [`Kernel::Gate`] and [`Kernel::GateBackward`], then a pointer for each parameter of the
//! gate, in the order of its inputs. Tensors start at multiples of 16 bytes. The forward kernel reads a row of logits per token and
//! writes its picks, ascending, and their weights; the backward kernel reads a row of logits and the gradient of the weights and writes
//! a row of gradients. Of a token that cannot be routed nothing is written; the first such token that is found gets into the status
//! ([`moe_contract::status`]). If the status holds an error already, nothing is done.
//!
//! **Launch.** CTAs of [`THREADS`] threads, any number of them. A token takes the lanes that [`moe_gate::order::Lanes`] gives its
//! experts: a warp, or a part of it when experts are few. CTAs stride over the tokens, so that any grid is right;
//! [`GateKernel::grid`] has one step for each warp.
//!
//! **Order.** Nothing that a launch writes is read in it, except the first word of the status: that one is read relaxed at its beginning,
//! by a warp as a whole, and written by compare-and-swap. Lanes of a warp exchange elements through memory of the CTA, ordered by warp
//! barriers: other warp instructions make lanes meet and order no memory.
//!
//! **Registers.** A lane holds its experts in registers: at most 48, up to 62 where there are 17 to 20 or 33 to 40 groups
//! ([`moe_gate::order::Lanes::of`]). Nothing spills.
//!
//! **Cost.** Forward 4 × experts + 8 × picks bytes of a token, backward 8 × experts + 4 × picks; parameters come from the cache.

mod arithmetic;
mod evaluate;
mod fault;
mod groups;
mod memory;
mod network;
mod select;
mod warp;

use std::cell::RefCell;

use moe_contract::{Grid, Kernel, status};
use moe_gate::facts::most_picks;
use moe_gate::ir::{Backward, Gate, InputKind, Program};
use moe_gate::ranges::{Ranges, Reading};

use crate::device::{Builder, DeviceCode, Global, Parameters, Pointer, Pred, U8, U32, U64, Value};
use evaluate::{Lane, Token};
use fault::Fault;
use memory::{Exchange, store_row};
use warp::Warp;

/// Threads of a CTA: few, so that a small batch spreads over many multiprocessors.
pub const THREADS: u32 = 128;

const WARPS: u32 = THREADS / 32;

/// Experts of a gate at most.
pub const EXPERTS_MAX: u32 = 1024;

/// Picks of a token at most: one on each lane.
pub const PICKS_MAX: u32 = 32;

/// A kernel and how to launch it.
#[derive(Clone, Debug)]
pub struct GateKernel {
    /// The kernel.
    pub code: DeviceCode,
    /// Threads of a CTA.
    pub block: u32,
    /// CTAs of a launch.
    pub grid: Grid,
}

/// Why a gate has no kernel. The front end reports the first two before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateLimit {
    /// More experts than a warp holds.
    #[error("the gate has {experts} experts; a kernel holds at most {EXPERTS_MAX}")]
    Experts { experts: u32 },
    /// A choice of more than one expert per lane.
    #[error("the gate chooses {picks} experts; a kernel chooses at most {PICKS_MAX}")]
    Picks { picks: u32 },
    /// A kernel has one argument for logits.
    #[error("`{second}` are logits beside `{first}`; a kernel takes one row of logits per token")]
    SecondLogits {
        /// Name of the input.
        first: String,
        /// Name of the other one.
        second: String,
    },
}

/// The kernel of a gate.
///
/// # Errors
/// If the gate exceeds what a kernel holds.
pub fn device_code(gate: &Gate) -> Result<GateKernel, GateLimit> {
    let (choice, result) = (gate.choice, gate.weights);
    kernel(Kernel::Gate, &gate.program, |parameters| {
        let indices: Pointer<Global, U8> = parameters.pointer();
        let weights: Pointer<Global, U8> = parameters.pointer();
        let finish = move |token: &Token<'_, '_>, values: &[Lane<'_>], live| {
            let warp = token.warp;
            let picks = warp.distribution(token.program.type_of(result));
            let numbers = values[result.0 as usize].numbers();
            token.fault.nan(warp, numbers, &picks);
            warp.k.when(picks.once(live & !token.fault.found()), || {
                let row = token.index.wide() * (4 * u64::from(picks.count));
                indices.bytes(row).cast().at(warp.place).store(values[choice.0 as usize].experts());
                weights.bytes(row).cast().at(warp.place).store(numbers[0]);
            });
        };
        Arguments { gradients: None, finish: Box::new(finish) }
    })
}

/// The kernel of a gate's derivative.
///
/// # Errors
/// If the gate exceeds what a kernel holds.
pub fn backward_device_code(backward: &Backward) -> Result<GateKernel, GateLimit> {
    let result = backward.logits;
    kernel(Kernel::GateBackward, &backward.program, |parameters| {
        let weight_gradients: Pointer<Global, U8> = parameters.pointer();
        let gradients: Pointer<Global, U8> = parameters.pointer();
        let finish = move |token: &Token<'_, '_>, values: &[Lane<'_>], live| {
            let experts = token.warp.experts();
            let row = gradients.bytes(token.index.wide() * (4 * u64::from(experts.count)));
            store_row(row, values[result.0 as usize].numbers(), &experts, live & !token.fault.found());
        };
        Arguments { gradients: Some(weight_gradients), finish: Box::new(finish) }
    })
}

/// What the kernels differ in.
struct Arguments<'k> {
    /// Where the gradient of the weights starts.
    gradients: Option<Pointer<'k, Global, U8>>,
    finish: Finish<'k>,
}

/// Writes the results of a token, where it is one of the batch.
type Finish<'k> = Box<dyn Fn(&Token<'_, 'k>, &[Lane<'k>], Value<'k, Pred>) + 'k>;

fn kernel(
    kind: Kernel,
    program: &Program,
    arguments: impl for<'k> FnOnce(&mut Parameters<'k>) -> Arguments<'k>,
) -> Result<GateKernel, GateLimit> {
    check(program)?;
    let ranges = Ranges::of(program, Reading::Computed);
    let mut tokens_of_warp = 1;
    let code = Builder::kernel(kind.name(), THREADS, |k, parameters| {
        let words: Pointer<Global, U64> = parameters.pointer();
        let logits: Pointer<Global, U8> = parameters.pointer();
        let Arguments { gradients, finish } = arguments(parameters);
        let tokens = parameters.value::<U32>();
        let inputs: Vec<Pointer<Global, U8>> = program
            .inputs()
            .iter()
            .map(|input| match input.kind {
                InputKind::Logits => logits,
                InputKind::WeightGradient(_) => gradients.expect("only a derivative reads gradients"),
                _ => parameters.pointer(),
            })
            .collect();

        let warp = Warp::new(k, program);
        tokens_of_warp = warp.tokens();
        // All lanes of a warp leave together, also when another CTA reports an error just now.
        let failed = words.load_relaxed_sys().differs(k.u64(status::FINE));
        k.exit_when(warp.any_of_warp(failed));

        let exchange = Exchange::new(&warp, WARPS, program);
        let first = (k.cta() * WARPS + k.warp()) * warp.tokens();
        k.for_each(first, tokens, k.ctas() * (WARPS * warp.tokens()), |first| {
            let (index, live) = if warp.tokens() == 1 {
                (first, k.truth(true))
            } else {
                let index = first + (k.lane() / k.u32(warp.lanes.lanes));
                // Lanes without a token do the work of the last one and write nothing.
                (index.min(tokens - 1), index.less(tokens))
            };
            let fault = Fault::none(&warp);
            let token = Token {
                program,
                ranges: &ranges,
                warp: &warp,
                exchange: &exchange,
                fault: &fault,
                inputs: &inputs,
                index,
                checked: RefCell::default(),
            };
            finish(&token, &token.evaluate(), live);
            fault.report(&warp, index, live, words);
        });
    });
    Ok(GateKernel { code, block: THREADS, grid: Grid::PerTokens(WARPS * tokens_of_warp) })
}

fn check(program: &Program) -> Result<(), GateLimit> {
    if program.experts() > EXPERTS_MAX {
        return Err(GateLimit::Experts { experts: program.experts() });
    }
    let picks = most_picks(program);
    if picks > PICKS_MAX {
        return Err(GateLimit::Picks { picks });
    }
    let mut logits = program.inputs().iter().filter(|input| input.kind == InputKind::Logits);
    match (logits.next(), logits.next()) {
        (Some(first), Some(second)) => {
            Err(GateLimit::SecondLogits { first: first.name.clone(), second: second.name.clone() })
        }
        _ => Ok(()),
    }
}
