//! The plan of one exchange: where every byte lies, and how many bytes cross each link.
//!
//! Invariant: an [`Exchange`] that [`Request::plan`] returns passes [`Exchange::check`]; the kernels, the runtime and [`traffic`]
//! read the same one, so that a prediction and a run can only agree.

pub mod traffic;

pub use moe_bundle::{Drop, Exchange, LimitError, Payload, RowLayout, SymmetricLayout};

use moe_bundle::LocalBuffer;

/// Regions start at a multiple of this: no two of them share a cache line.
pub const REGION_ALIGN: u64 = 128;

/// What an exchange is specialised to, before anything is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Ranks of the domain.
    pub ranks: u32,
    /// Experts that are sent to.
    pub experts: u32,
    /// Experts that compute nothing.
    pub zero_experts: u32,
    /// Picks per token.
    pub top_k: u32,
    /// Elements per row.
    pub hidden: u32,
    /// Most tokens of a rank in one call.
    pub max_tokens: u32,
    /// Format on the way to the experts.
    pub dispatch: Payload,
    /// Layout in front of the experts.
    pub layout: RowLayout,
    /// Format on the way back.
    pub combine: Payload,
    /// Whether combine multiplies an expert's row by its weight.
    pub weighted: bool,
    /// Which picks are dropped above the capacity, if any.
    pub drop: Option<Drop>,
    /// CTAs of every sending, placing and reducing kernel.
    pub ctas: u32,
    /// Threads of a CTA.
    pub threads: u32,
}

impl Request {
    /// Places everything.
    ///
    /// # Errors
    /// The first limit that the request does not keep.
    pub fn plan(&self) -> Result<Exchange, LimitError> {
        let mut exchange = Exchange {
            ranks: self.ranks,
            experts: self.experts,
            zero_experts: self.zero_experts,
            top_k: self.top_k,
            hidden: self.hidden,
            max_tokens: self.max_tokens,
            dispatch: self.dispatch,
            layout: self.layout,
            combine: self.combine,
            weighted: self.weighted,
            drop: self.drop,
            ctas: self.ctas,
            threads: self.threads,
            symmetric: NOWHERE,
        };
        exchange.check_numbers()?;
        exchange.symmetric = place(&exchange);
        exchange.check()?;
        Ok(exchange)
    }
}

/// The layout before it is computed.
const NOWHERE: SymmetricLayout = SymmetricLayout {
    dispatch_arrival: 0,
    combine_arrival: 0,
    gradient_arrival: 0,
    barrier_arrival: 0,
    counts: 0,
    rows: 0,
    row_bytes: 0,
    scales: 0,
    scale_bytes: 0,
    records: 0,
    record_bytes: 0,
    partials: 0,
    partial_bytes: 0,
    weight_gradients: 0,
    bytes: 0,
};

/// One region after the other, in the order of the fields. The numbers of `exchange` keep their limits, so nothing overflows.
fn place(exchange: &Exchange) -> SymmetricLayout {
    let word = moe_bundle::limits::WORD_BYTES;
    let mut layout = NOWHERE;
    layout.row_bytes = exchange.row_bytes(exchange.dispatch).max(exchange.row_bytes(exchange.combine));
    layout.scale_bytes = (4 * u64::from(exchange.dispatch.scales(exchange.hidden))).next_multiple_of(word);
    layout.record_bytes = (8 + 8 * u64::from(exchange.top_k)).next_multiple_of(word);
    layout.partial_bytes = exchange.row_bytes(exchange.combine);

    let mut free = 0;
    let mut starts = [0; 10];
    let regions = layout.regions(exchange);
    for (start, region) in starts.iter_mut().zip(&regions) {
        *start = free;
        free = (free + region.bytes).next_multiple_of(REGION_ALIGN);
    }
    [
        layout.dispatch_arrival,
        layout.combine_arrival,
        layout.gradient_arrival,
        layout.barrier_arrival,
        layout.counts,
        layout.rows,
        layout.scales,
        layout.records,
        layout.partials,
        layout.weight_gradients,
    ] = starts;
    layout.bytes = free;
    layout
}

/// Memory of one rank, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Symmetric memory.
    pub symmetric: u64,
    /// Arrays that exist once: status and peer table.
    pub fixed: u64,
    /// Arrays of one handle.
    pub handle: u64,
    /// The experts' input with its scales, in the worst case.
    pub expert_input: u64,
    /// The experts' output, in the worst case.
    pub expert_output: u64,
}

impl Sizes {
    /// The sizes of a plan.
    pub fn of(exchange: &Exchange) -> Sizes {
        let scales = 4 * u64::from(exchange.dispatch.scales(exchange.hidden));
        let buffers = |buffers: &[LocalBuffer]| buffers.iter().map(|&buffer| exchange.buffer_bytes(buffer)).sum();
        Sizes {
            symmetric: exchange.symmetric.bytes,
            fixed: buffers(&[LocalBuffer::Status, LocalBuffer::Peers]),
            handle: buffers(&LocalBuffer::OF_HANDLE),
            expert_input: exchange.output_rows_max() * (exchange.row_bytes(exchange.dispatch) + scales),
            expert_output: exchange.output_rows_max() * exchange.row_bytes(exchange.combine),
        }
    }
}
