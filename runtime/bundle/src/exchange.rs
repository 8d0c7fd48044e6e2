//! The contract between a plan, its kernels and the runtime: shapes, places in memory, and the arguments of every kernel.
//!
//! Invariants (established by the plan, checked by [`Exchange::check`]):
//! * every number a kernel is specialised to is here; a kernel reads no other source;
//! * every offset into symmetric memory is a multiple of 16 bytes, the same on every rank, and regions do not overlap;
//! * rank `r` owns the experts [`Exchange::experts_of`]: contiguous blocks, the first `experts mod ranks` ranks own one more.
//!
//! # Memory
//! *Symmetric memory* is one allocation per rank with the layout [`SymmetricLayout`]. A kernel reaches rank r through `peers[r]`, a
//! device array of `ranks` base addresses. *Half* p of a region is used by calls whose epoch is odd (p = 1) or even (p = 0).
//! Everything in it is zero before epoch 1. Flags are u64 and only grow.
//!
//! *Local memory* is the arrays of [`LocalBuffer`], allocated per rank by the runtime; those of a handle stay valid until it is dropped.
//!
//! # Epochs
//! Dispatch (plain, cached, backward of combine) counts its own calls 1, 2, 3 …, combine (and backward of dispatch) its own, the barrier
//! its own, the backward of combine the arrivals of its weight gradients ([`Argument::GradientEpoch`]); all ranks make the same calls in
//! the same order. In epoch e every CTA of a sending kernel adds 1 to the flag of every
//! destination, so that a flag has arrived when it is at least e × CTAs. Every rank waits for the flags of *all* ranks in every epoch:
//! a rank that sends epoch e has therefore seen every peer send epoch e − 1, and a peer sends epoch e − 1 only after it finished
//! reading epoch e − 2 (kernels of one rank run in stream order). That is why two halves suffice and no credit is needed.
//! Weight gradients of dispatch epoch e are written only after every rank has sent epoch e, that is after it has collected those of
//! earlier epochs; they are safe for the same reason.
//!
//! # Bytes on the links
//! What a kernel writes to a peer, exactly (the plan counts the same, and a test compares it with what the virtual cluster counts).
//! Each sum is per destination rank, the own rank included; `h` is `hidden`, `d` and `c` the element bytes of the dispatch and combine
//! payload, *copies* the tokens sent there.
//! * [`Kernel::DispatchSend`]: copies × (h × d + 4 × scales + 8 + 8 × top_k), 4 for the count, 8 × CTAs for the flag.
//! * [`Kernel::DispatchSendCached`]: copies × (h × d + 4 × scales), 8 × CTAs.
//! * [`Kernel::CombineSend`], [`Kernel::CombineSendUnweighted`]: received copies × h × c, 8 × CTAs.
//! * [`Kernel::CombineBackwardSend`]: copies × h × c, 8 × CTAs.
//! * [`Kernel::CombineBackwardPlace`]: 4 for each pick of a received copy that is of this rank (weighted only), 8 × CTAs.
//! * 8 for [`Kernel::Barrier`].
//!
//! The padding between slots is never written.
//!
//! # Order of arithmetic
//! All sums are f32, unfused, and rounded once to the format they are stored in.
//! * Partial sum of a copy: its local picks in ascending position (ascending expert, as a gate gives them); each term is weight × element
//!   (weighted) or the element; the first term starts the sum, each further one is added to it. [`RowLayout::RankMajor`]: the row itself.
//! * Combined row: the partial sums in ascending rank; the first starts the sum.
//! * Gradient of a weight: a row is cut into chunks of 16 bytes of the combine payload. Lane l of 32 starts from +0 and takes the chunks
//!   l, l + 32, l + 64 … ascending, within a chunk the elements ascending: sum = sum + (output × gradient), the product rounded first.
//!   Then, for m = 16, 8, 4, 2, 1: every lane adds the sum of lane `l xor m` to its own. The result is that of any lane (all are equal).
//! * A NaN that is rounded to bf16 or f16 becomes 0x7fff, to fp8 0x7f.

use serde::{Deserialize, Serialize};

/// How rows of a payload are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// bfloat16
    Bf16,
    /// IEEE binary16
    F16,
    /// IEEE binary32
    F32,
    /// OCP fp8 E4M3 with one f32 scale per 128 elements: scale = max(amax, 1e-4) / 448 and
    /// element = saturate(x × (448 / max(amax, 1e-4))), both divisions correctly rounded, to nearest even. The source row is bf16.
    Fp8E4m3ScaleF32Per128,
}

impl Payload {
    /// Bytes of one element.
    pub fn element_bytes(self) -> u32 {
        match self {
            Payload::Bf16 | Payload::F16 => 2,
            Payload::F32 => 4,
            Payload::Fp8E4m3ScaleF32Per128 => 1,
        }
    }

    /// f32 scales of a row of `hidden` elements.
    pub fn scales(self, hidden: u32) -> u32 {
        match self {
            Payload::Fp8E4m3ScaleF32Per128 => hidden / 128,
            _ => 0,
        }
    }

    /// The format of the rows that the caller passes to dispatch.
    pub fn source(self) -> Payload {
        match self {
            Payload::Fp8E4m3ScaleF32Per128 => Payload::Bf16,
            other => other,
        }
    }
}

/// How received rows are laid out for the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLayout {
    /// One row per received copy, in (source rank, source token) order, compact; its picks as *local* expert ids, −1 for "not here".
    /// The expert function weighs and sums the picks of a row; combine adds rows as they are.
    RankMajor,
    /// Rows grouped by local expert; each group starts at a multiple of `align` rows, within it (source rank, source token) order;
    /// rows between a group's end and the next multiple of `align` are zero.
    ExpertMajor {
        /// In rows, at least 1.
        align: u32,
    },
}

/// Which picks are dropped when an expert has more than its capacity (per source rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// Those with the smallest weight; among equal weights, the later token.
    Lowest,
    /// Those of the latest tokens.
    Position,
}

/// Everything that the dispatch and combine kernels of one bundle are specialised to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Ranks of the domain, 1 to 72.
    pub ranks: u32,
    /// Experts that are sent to, 1 to 1024: ids `0 .. experts`.
    pub experts: u32,
    /// Experts that compute nothing: ids `experts .. experts + zero_experts`, weighed but never sent.
    pub zero_experts: u32,
    /// Picks per token, 1 to 32.
    pub top_k: u32,
    /// Elements per row.
    pub hidden: u32,
    /// Most tokens of a rank in one call.
    pub max_tokens: u32,
    /// Format on the way to the experts.
    pub dispatch: Payload,
    /// Layout in front of the experts.
    pub layout: RowLayout,
    /// Format on the way back, and of the experts' output and the result: [`Payload::Bf16`], [`Payload::F16`] or [`Payload::F32`].
    pub combine: Payload,
    /// Whether combine multiplies an expert's row by its weight ([`RowLayout::ExpertMajor`] only).
    pub weighted: bool,
    /// Capacity: what is dropped.
    pub drop: Option<Drop>,
    /// CTAs of every sending, placing and reducing kernel.
    pub ctas: u32,
    /// Threads of a CTA, a multiple of 32.
    pub threads: u32,
    /// Places in symmetric memory.
    pub symmetric: SymmetricLayout,
}

/// Byte offsets into symmetric memory. `half` in a doc comment is the parity of the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymmetricLayout {
    /// u64 `[ranks]`: dispatch has arrived from source r.
    pub dispatch_arrival: u64,
    /// u64 `[ranks]`: combine has arrived from rank r.
    pub combine_arrival: u64,
    /// u64 `[ranks]`: weight gradients have arrived from rank r.
    pub gradient_arrival: u64,
    /// u64 `[ranks]`: the barrier has been reached by rank r.
    pub barrier_arrival: u64,
    /// u32 `[half][ranks]`: copies received from source r.
    pub counts: u64,
    /// bytes `[half][ranks][max_tokens]` × `row_bytes`: payload of a slot.
    pub rows: u64,
    /// Distance of payload slots: enough for a row of the dispatch and of the combine format, a multiple of 16.
    pub row_bytes: u64,
    /// f32 `[half][ranks][max_tokens]` × `scale_bytes`: scales of a slot. Meaningless when `scale_bytes` is 0.
    pub scales: u64,
    /// Distance of scale slots, a multiple of 16; 0 without scales.
    pub scale_bytes: u64,
    /// `[half][ranks][max_tokens]` × `record_bytes`: i32 source token, i32 ordinal, i32 picks `[top_k]` (global expert ids, −1 none),
    /// f32 weights `[top_k]`.
    pub records: u64,
    /// Distance of records: 8 + 8 × top_k, rounded up to a multiple of 16.
    pub record_bytes: u64,
    /// bytes `[half][min(ranks, top_k)][max_tokens]` × `partial_bytes`: the partial sum of token t from its j-th destination.
    pub partials: u64,
    /// Distance of partial sums, a multiple of 16.
    pub partial_bytes: u64,
    /// f32 `[half][max_tokens][top_k]`: gradients of the weights of this rank's tokens; half of the *dispatch* epoch.
    pub weight_gradients: u64,
    /// Size of it all.
    pub bytes: u64,
}

/// Arrays in the memory of one rank. `T` is `max_tokens`, `R` ranks, `K` top_k, `L` [`Exchange::local_experts_max`],
/// `N` [`Exchange::output_rows_max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalBuffer {
    /// u64 `[4]`: code ([`status`]), who, expected, found. The first error of a call wins; a kernel that finds a code other than 0 returns.
    Status,
    /// u64 `[R]`: base addresses of the symmetric memory of every rank.
    Peers,
    /// Handle. i32 `[T][R]`: slot of token t at rank r, −1 when it is not sent there.
    Slots,
    /// Handle. u32 `[R]`: copies that this rank sends to rank r.
    SendCounts,
    /// Handle. u32 `[R]`: copies received from source r.
    ReceivedCounts,
    /// Handle. i32 `[R][T]`: source token of each received copy, by (source, slot).
    CopyTokens,
    /// Handle. i32 `[R][T]`: ordinal of this rank among the destinations of that token, in ascending rank order.
    CopyOrdinals,
    /// Handle. i32 `[R][T][K]`: row of the experts' input for each pick of a copy, −1 when the pick is not of this rank.
    /// [`RowLayout::RankMajor`]: the same row for each local pick.
    CopyRows,
    /// Handle. f32 `[R][T][K]`: weights of the picks of a copy.
    CopyWeights,
    /// Handle. i32 `[L]`: rows of each local expert, without padding.
    ExpertCounts,
    /// Handle. i32 `[L + 1]`: first row of each local expert; the last entry is the number of rows with padding.
    /// [`RowLayout::RankMajor`]: not used.
    ExpertOffsets,
    /// Handle, [`RowLayout::RankMajor`] only. i32 `[N][K]`: local expert ids of a row's picks, −1 for "not here".
    RowPicks,
    /// Handle, [`RowLayout::RankMajor`] only. f32 `[N][K]`: weights of a row's picks.
    RowWeights,
}

impl LocalBuffer {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            LocalBuffer::Status => "status",
            LocalBuffer::Peers => "peers",
            LocalBuffer::Slots => "slots",
            LocalBuffer::SendCounts => "send_counts",
            LocalBuffer::ReceivedCounts => "received_counts",
            LocalBuffer::CopyTokens => "copy_tokens",
            LocalBuffer::CopyOrdinals => "copy_ordinals",
            LocalBuffer::CopyRows => "copy_rows",
            LocalBuffer::CopyWeights => "copy_weights",
            LocalBuffer::ExpertCounts => "expert_counts",
            LocalBuffer::ExpertOffsets => "expert_offsets",
            LocalBuffer::RowPicks => "row_picks",
            LocalBuffer::RowWeights => "row_weights",
        }
    }

    /// Those that a handle owns.
    pub const OF_HANDLE: [LocalBuffer; 11] = [
        LocalBuffer::Slots,
        LocalBuffer::SendCounts,
        LocalBuffer::ReceivedCounts,
        LocalBuffer::CopyTokens,
        LocalBuffer::CopyOrdinals,
        LocalBuffer::CopyRows,
        LocalBuffer::CopyWeights,
        LocalBuffer::ExpertCounts,
        LocalBuffer::ExpertOffsets,
        LocalBuffer::RowPicks,
        LocalBuffer::RowWeights,
    ];
}

/// Codes in [`LocalBuffer::Status`] and the meaning of the other three words.
pub mod status {
    /// No error.
    pub const OK: u64 = 0;
    /// A NaN in the gate: token, expert (or all ones when it is not in the logits), unused.
    pub const GATE_NAN: u64 = 1;
    /// A pick is not an expert: token, pick position, the value as u32.
    pub const PICK_OUT_OF_RANGE: u64 = 2;
    /// A token picks an expert twice: token, pick position of the second, the value.
    pub const PICK_TWICE: u64 = 3;
    /// A token id without a row in the gate's table: token, rows of the table, the id as u32.
    pub const TOKEN_ID_OUT_OF_RANGE: u64 = 4;
    /// Deadline passed in `dispatch.arrive`: source rank, expected, found.
    pub const DISPATCH_DEADLINE: u64 = 16;
    /// Deadline passed in `combine.arrive`.
    pub const COMBINE_DEADLINE: u64 = 17;
    /// Deadline passed in `gradient.arrive`.
    pub const GRADIENT_DEADLINE: u64 = 18;
    /// Deadline passed in `barrier.arrive`.
    pub const BARRIER_DEADLINE: u64 = 19;
}

/// One argument of a kernel, in order. Pointers are u64, numbers as said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// Pointer to an array of this rank.
    Buffer(LocalBuffer),
    /// Pointer to this rank's own symmetric memory.
    Symmetric,
    /// Pointer to a tensor of the caller.
    Tensor(Tensor),
    /// Pointer to a gate parameter: the n-th of the gate that is not the logits.
    GateParameter(u32),
    /// u32: this rank.
    Rank,
    /// u32: tokens of this rank in this call.
    Tokens,
    /// u64: the epoch of this call.
    Epoch,
    /// u64: backward calls of combine on this communicator, this one included. Counts what has arrived in `gradient_arrival`.
    GradientEpoch,
    /// u64: nanoseconds that a wait may take; 0 for no deadline.
    Deadline,
    /// u32: picks an expert may keep from this rank's tokens.
    Capacity,
}

/// A tensor that a caller passes, row-major, in the memory of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tensor {
    /// f32 `[tokens, experts + zero_experts]`
    Logits,
    /// i32 `[tokens, K]`, ascending, −1 for none (after those that are chosen, unless dropped by capacity).
    Indices,
    /// f32 `[tokens, K]`
    Weights,
    /// f32 `[tokens, K]`
    WeightGradients,
    /// f32 `[tokens, experts + zero_experts]`
    LogitGradients,
    /// `[tokens, hidden]` in the source format of the dispatch payload.
    Tokens,
    /// `[N, hidden]` in the dispatch payload: the experts' input.
    ExpertInput,
    /// f32 `[N, hidden / 128]`: scales of the experts' input (fp8 only; otherwise null).
    ExpertInputScales,
    /// `[N, hidden]` in the combine payload: the experts' output.
    ExpertOutput,
    /// `[tokens, hidden]` in the combine payload.
    Combined,
    /// `[tokens, hidden]` in the combine payload: gradient of [`Tensor::Combined`].
    CombinedGradient,
    /// `[N, hidden]` in the combine payload: gradient of [`Tensor::ExpertOutput`].
    ExpertOutputGradient,
}

impl Tensor {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Tensor::Logits => "logits",
            Tensor::Indices => "indices",
            Tensor::Weights => "weights",
            Tensor::WeightGradients => "gradients of weights",
            Tensor::LogitGradients => "gradients of logits",
            Tensor::Tokens => "tokens",
            Tensor::ExpertInput => "experts' input",
            Tensor::ExpertInputScales => "scales of experts' input",
            Tensor::ExpertOutput => "experts' output",
            Tensor::Combined => "combined rows",
            Tensor::CombinedGradient => "gradients of combined rows",
            Tensor::ExpertOutputGradient => "gradients of experts' output",
        }
    }
}

/// The kernels of a bundle. The name in PTX is [`Kernel::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Logits to indices and weights. Launched with enough CTAs for all tokens.
    Gate,
    /// Gradient of the weights to gradient of the logits.
    GateBackward,
    /// Marks picks above an expert's capacity with −1. One CTA per expert (zero experts too).
    Capacity,
    /// Indices to slots and counts. One CTA per rank.
    Layout,
    /// Rows, scales and records to every destination; publishes `dispatch_arrival`.
    DispatchSend,
    /// Waits for all sources; positions of rows within each local expert. One CTA per local expert ([`Exchange::local_experts_max`]);
    /// [`RowLayout::RankMajor`]: the same, and it writes counts of picks per expert, no rows.
    DispatchCount,
    /// Rows to the experts' input; completes the handle.
    DispatchPlace,
    /// [`Kernel::DispatchSend`] of a handle: rows and scales only.
    DispatchSendCached,
    /// Waits for all sources, then [`Kernel::DispatchPlace`] of a handle: rows and scales only.
    DispatchPlaceCached,
    /// Partial sums to every source; publishes `combine_arrival`.
    CombineSend,
    /// The same without weights: backward of dispatch ([`Tensor::ExpertOutput`] holds the gradient of the experts' input).
    CombineSendUnweighted,
    /// Waits for all ranks; sums partial sums. A token that was sent nowhere gets zeros.
    CombineReduce,
    /// Backward of combine, first half: [`Tensor::CombinedGradient`] in the combine format to every destination of a handle;
    /// publishes `dispatch_arrival`.
    CombineBackwardSend,
    /// Backward of combine, second half: waits; row gradient = weight × gradient, rounded once (plain copy when unweighted); weight gradient = Σ over
    /// hidden of expert output × gradient, in f32 (per lane in ascending chunks of 16 bytes × 32 lanes, then butterfly), to the
    /// source's `weight_gradients` (not when unweighted); publishes `gradient_arrival`. Padding rows are zeroed.
    CombineBackwardPlace,
    /// Waits for all ranks (`gradient_arrival` at least [`Argument::GradientEpoch`] × CTAs); copies `weight_gradients` of the half of
    /// [`Argument::Epoch`], the dispatch epoch, to [`Tensor::WeightGradients`], 0 for a pick of −1 or of a zero expert. Only when weighted.
    WeightGradientCollect,
    /// All ranks have arrived before any leaves; publishes and waits for `barrier_arrival`. One CTA.
    Barrier,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 16] = [
        Kernel::Gate,
        Kernel::GateBackward,
        Kernel::Capacity,
        Kernel::Layout,
        Kernel::DispatchSend,
        Kernel::DispatchCount,
        Kernel::DispatchPlace,
        Kernel::DispatchSendCached,
        Kernel::DispatchPlaceCached,
        Kernel::CombineSend,
        Kernel::CombineSendUnweighted,
        Kernel::CombineReduce,
        Kernel::CombineBackwardSend,
        Kernel::CombineBackwardPlace,
        Kernel::WeightGradientCollect,
        Kernel::Barrier,
    ];

    /// The entry point's name in PTX, and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Gate => "gate",
            Kernel::GateBackward => "gate_backward",
            Kernel::Capacity => "capacity",
            Kernel::Layout => "layout",
            Kernel::DispatchSend => "dispatch_send",
            Kernel::DispatchCount => "dispatch_count",
            Kernel::DispatchPlace => "dispatch_place",
            Kernel::DispatchSendCached => "dispatch_send_cached",
            Kernel::DispatchPlaceCached => "dispatch_place_cached",
            Kernel::CombineSend => "combine_send",
            Kernel::CombineSendUnweighted => "combine_send_unweighted",
            Kernel::CombineReduce => "combine_reduce",
            Kernel::CombineBackwardSend => "combine_backward_send",
            Kernel::CombineBackwardPlace => "combine_backward_place",
            Kernel::WeightGradientCollect => "weight_gradient_collect",
            Kernel::Barrier => "barrier",
        }
    }

    /// Arguments in order. Of the gate kernels this lists those of a gate without parameters; the pointers of parameters follow
    /// in the order of the gate's inputs.
    pub fn arguments(self) -> Vec<Argument> {
        use Argument::{Buffer, Capacity, Deadline, Epoch, GradientEpoch, Rank, Symmetric, Tokens};
        use LocalBuffer as B;
        use Tensor as X;
        let tensor = Argument::Tensor;
        match self {
            Kernel::Gate => vec![Buffer(B::Status), tensor(X::Logits), tensor(X::Indices), tensor(X::Weights), Tokens],
            Kernel::GateBackward => {
                vec![
                    Buffer(B::Status),
                    tensor(X::Logits),
                    tensor(X::WeightGradients),
                    tensor(X::LogitGradients),
                    Tokens,
                ]
            }
            Kernel::Capacity => vec![Buffer(B::Status), tensor(X::Indices), tensor(X::Weights), Tokens, Capacity],
            Kernel::Layout => {
                vec![Buffer(B::Status), tensor(X::Indices), Buffer(B::Slots), Buffer(B::SendCounts), Tokens]
            }
            Kernel::DispatchSend => vec![
                Buffer(B::Status),
                Buffer(B::Peers),
                tensor(X::Tokens),
                tensor(X::Indices),
                tensor(X::Weights),
                Buffer(B::Slots),
                Buffer(B::SendCounts),
                Rank,
                Tokens,
                Epoch,
            ],
            Kernel::DispatchSendCached => {
                vec![Buffer(B::Status), Buffer(B::Peers), tensor(X::Tokens), Buffer(B::Slots), Rank, Tokens, Epoch]
            }
            Kernel::CombineBackwardSend => vec![
                Buffer(B::Status),
                Buffer(B::Peers),
                tensor(X::CombinedGradient),
                Buffer(B::Slots),
                Rank,
                Tokens,
                Epoch,
            ],
            Kernel::DispatchCount => vec![
                Buffer(B::Status),
                Symmetric,
                Buffer(B::ReceivedCounts),
                Buffer(B::CopyRows),
                Buffer(B::ExpertCounts),
                Rank,
                Epoch,
                Deadline,
            ],
            Kernel::DispatchPlace => vec![
                Buffer(B::Status),
                Symmetric,
                tensor(X::ExpertInput),
                tensor(X::ExpertInputScales),
                Buffer(B::ReceivedCounts),
                Buffer(B::CopyTokens),
                Buffer(B::CopyOrdinals),
                Buffer(B::CopyRows),
                Buffer(B::CopyWeights),
                Buffer(B::ExpertCounts),
                Buffer(B::ExpertOffsets),
                Buffer(B::RowPicks),
                Buffer(B::RowWeights),
                Rank,
                Epoch,
            ],
            Kernel::DispatchPlaceCached => vec![
                Buffer(B::Status),
                Symmetric,
                tensor(X::ExpertInput),
                tensor(X::ExpertInputScales),
                Buffer(B::ReceivedCounts),
                Buffer(B::CopyRows),
                Buffer(B::ExpertCounts),
                Buffer(B::ExpertOffsets),
                Rank,
                Epoch,
                Deadline,
            ],
            Kernel::CombineSend | Kernel::CombineSendUnweighted => vec![
                Buffer(B::Status),
                Buffer(B::Peers),
                tensor(X::ExpertOutput),
                Buffer(B::ReceivedCounts),
                Buffer(B::CopyTokens),
                Buffer(B::CopyOrdinals),
                Buffer(B::CopyRows),
                Buffer(B::CopyWeights),
                Rank,
                Epoch,
            ],
            Kernel::CombineReduce => {
                vec![Buffer(B::Status), Symmetric, tensor(X::Combined), Buffer(B::Slots), Tokens, Epoch, Deadline]
            }
            Kernel::CombineBackwardPlace => vec![
                Buffer(B::Status),
                Buffer(B::Peers),
                Symmetric,
                tensor(X::ExpertOutput),
                tensor(X::ExpertOutputGradient),
                Buffer(B::ReceivedCounts),
                Buffer(B::CopyTokens),
                Buffer(B::CopyRows),
                Buffer(B::CopyWeights),
                Buffer(B::ExpertCounts),
                Buffer(B::ExpertOffsets),
                Rank,
                Epoch,
                Deadline,
            ],
            Kernel::WeightGradientCollect => vec![
                Buffer(B::Status),
                Symmetric,
                tensor(X::Indices),
                tensor(X::WeightGradients),
                Tokens,
                Epoch,
                GradientEpoch,
                Deadline,
            ],
            Kernel::Barrier => vec![Buffer(B::Status), Buffer(B::Peers), Symmetric, Rank, Epoch, Deadline],
        }
    }
}

impl Exchange {
    /// The experts of a rank.
    pub fn experts_of(&self, rank: u32) -> std::ops::Range<u32> {
        let (each, more) = (self.experts / self.ranks, self.experts % self.ranks);
        let first = rank * each + rank.min(more);
        first..first + each + u32::from(rank < more)
    }

    /// The rank that owns an expert.
    pub fn rank_of(&self, expert: u32) -> u32 {
        let (each, more) = (self.experts / self.ranks, self.experts % self.ranks);
        let in_larger = more * (each + 1);
        if expert < in_larger { expert / (each + 1) } else { more + (expert - in_larger) / each }
    }

    /// Experts of the rank that has most.
    pub fn local_experts_max(&self) -> u32 {
        self.experts.div_ceil(self.ranks)
    }

    /// Rows of the experts' input in the worst case.
    pub fn output_rows_max(&self) -> u64 {
        let copies = u64::from(self.ranks) * u64::from(self.max_tokens);
        match self.layout {
            RowLayout::RankMajor => copies,
            RowLayout::ExpertMajor { align } => {
                let local = u64::from(self.local_experts_max());
                let rows = copies * u64::from(self.top_k).min(local);
                let padding = local * u64::from(align - 1);
                (rows + padding).next_multiple_of(u64::from(align))
            }
        }
    }

    /// Bytes of a row of a [`Tensor`].
    pub fn tensor_row_bytes(&self, tensor: Tensor) -> u64 {
        match tensor {
            Tensor::Logits | Tensor::LogitGradients => 4 * u64::from(self.experts + self.zero_experts),
            Tensor::Indices | Tensor::Weights | Tensor::WeightGradients => 4 * u64::from(self.top_k),
            Tensor::Tokens => self.row_bytes(self.dispatch.source()),
            Tensor::ExpertInput => self.row_bytes(self.dispatch),
            Tensor::ExpertInputScales => 4 * u64::from(self.dispatch.scales(self.hidden)),
            Tensor::ExpertOutput | Tensor::Combined | Tensor::CombinedGradient | Tensor::ExpertOutputGradient => {
                self.row_bytes(self.combine)
            }
        }
    }

    /// Destinations of a token at most.
    pub fn destinations_max(&self) -> u32 {
        self.ranks.min(self.top_k)
    }

    /// Bytes of a [`LocalBuffer`].
    pub fn buffer_bytes(&self, buffer: LocalBuffer) -> u64 {
        let [ranks, tokens, k, local] =
            [self.ranks, self.max_tokens, self.top_k, self.local_experts_max()].map(u64::from);
        match buffer {
            LocalBuffer::Status => 32,
            LocalBuffer::Peers => 8 * ranks,
            LocalBuffer::Slots | LocalBuffer::CopyTokens | LocalBuffer::CopyOrdinals => 4 * ranks * tokens,
            LocalBuffer::SendCounts | LocalBuffer::ReceivedCounts => 4 * ranks,
            LocalBuffer::CopyRows | LocalBuffer::CopyWeights => 4 * ranks * tokens * k,
            LocalBuffer::ExpertCounts => 4 * local,
            LocalBuffer::ExpertOffsets => 4 * (local + 1),
            LocalBuffer::RowPicks | LocalBuffer::RowWeights => match self.layout {
                RowLayout::RankMajor => 4 * self.output_rows_max() * k,
                RowLayout::ExpertMajor { .. } => 0,
            },
        }
    }
}
