//! Memory of one rank beside the symmetric one: arrays that kernels keep, and tensors that a caller passes.

use serde::{Deserialize, Serialize};

use crate::exchange::Exchange;
use crate::format::{Element, ScaleElement};
use crate::memory::Flag;

/// Arrays in the memory of one rank. `T` is `max_tokens`, `R` ranks, `K` `top_k`, `L` [`Exchange::local_experts_max`],
/// `N` [`Exchange::output_rows_max`], `P` [`Exchange::weights_per_row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Buffer {
    /// u64 `[4]`: code ([`crate::Status`]), who, expected, found. The first error of a call wins; a kernel that finds a code other than 0
    /// returns.
    Status,
    /// u64 `[flags][2]`: calls that are over, and a ticket: [`Flag::epoch_word`].
    Calls,
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
    /// [`crate::RowLayout::RankMajor`]: the same row for each local pick.
    CopyRows,
    /// Handle. f32 `[R][T][K]`: weights of the picks of a copy.
    CopyWeights,
    /// Handle. i32 `[L]`: rows of each local expert, without padding.
    ExpertCounts,
    /// Handle. i32 `[L + 1]`: first row of each local expert; the last entry is the number of rows with padding.
    /// [`crate::RowLayout::RankMajor`]: not used.
    ExpertOffsets,
    /// Handle, [`crate::RowLayout::RankMajor`] only. i32 `[N][K]`: local expert ids of a row's picks, −1 for "not here".
    RowPicks,
    /// Handle, where combine does not weigh. f32 `[N][P]`: weights of a row's picks; of a padding row never written.
    RowWeights,
}

impl Buffer {
    /// Every array.
    pub const ALL: [Buffer; 14] = [
        Buffer::Status,
        Buffer::Calls,
        Buffer::Peers,
        Buffer::Slots,
        Buffer::SendCounts,
        Buffer::ReceivedCounts,
        Buffer::CopyTokens,
        Buffer::CopyOrdinals,
        Buffer::CopyRows,
        Buffer::CopyWeights,
        Buffer::ExpertCounts,
        Buffer::ExpertOffsets,
        Buffer::RowPicks,
        Buffer::RowWeights,
    ];

    /// Those that a handle owns.
    pub fn of_handle() -> impl Iterator<Item = Buffer> {
        Buffer::ALL.into_iter().filter(|buffer| buffer.is_of_handle())
    }

    /// The others: each rank has one of them.
    pub fn of_rank() -> impl Iterator<Item = Buffer> {
        Buffer::ALL.into_iter().filter(|buffer| !buffer.is_of_handle())
    }

    fn is_of_handle(self) -> bool {
        match self {
            Buffer::Status | Buffer::Calls | Buffer::Peers => false,
            Buffer::Slots
            | Buffer::SendCounts
            | Buffer::ReceivedCounts
            | Buffer::CopyTokens
            | Buffer::CopyOrdinals
            | Buffer::CopyRows
            | Buffer::CopyWeights
            | Buffer::ExpertCounts
            | Buffer::ExpertOffsets
            | Buffer::RowPicks
            | Buffer::RowWeights => true,
        }
    }

    /// In reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Buffer::Status => "status",
            Buffer::Calls => "calls",
            Buffer::Peers => "peers",
            Buffer::Slots => "slots",
            Buffer::SendCounts => "send_counts",
            Buffer::ReceivedCounts => "received_counts",
            Buffer::CopyTokens => "copy_tokens",
            Buffer::CopyOrdinals => "copy_ordinals",
            Buffer::CopyRows => "copy_rows",
            Buffer::CopyWeights => "copy_weights",
            Buffer::ExpertCounts => "expert_counts",
            Buffer::ExpertOffsets => "expert_offsets",
            Buffer::RowPicks => "row_picks",
            Buffer::RowWeights => "row_weights",
        }
    }
}

/// A tensor that a caller passes, row-major, in the memory of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// `[tokens, hidden]` in the source format of the dispatch format.
    Tokens,
    /// `[N, hidden]` in the dispatch format: the experts' input.
    ExpertInput,
    /// `[N, hidden / block]` scales of the experts' input (formats with scales only; otherwise null).
    ExpertInputScales,
    /// `[N, hidden]` in the combine format: the experts' output.
    ExpertOutput,
    /// `[tokens, hidden]` in the combine format.
    Combined,
    /// `[tokens, hidden]` in the combine format: gradient of [`Tensor::Combined`].
    CombinedGradient,
    /// `[N, hidden]` in the combine format: gradient of [`Tensor::ExpertOutput`].
    ExpertOutputGradient,
    /// f32 `[N, P]`: gradient of [`Buffer::RowWeights`], from experts that weigh.
    RowWeightGradients,
}

impl Tensor {
    /// In reports and JSON.
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
            Tensor::RowWeightGradients => "gradients of row weights",
        }
    }
}

/// What a [`Tensor`] consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// i32
    I32,
    /// An element of rows.
    Element(Element),
    /// A scale of rows.
    Scale(ScaleElement),
}

impl Number {
    /// In reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Number::I32 => "i32",
            Number::Element(element) => element.name(),
            Number::Scale(scale) => scale.name(),
        }
    }
}

impl Exchange {
    /// What a tensor consists of; none for scales that the format has not got.
    pub fn tensor_number(&self, tensor: Tensor) -> Option<Number> {
        Some(match tensor {
            Tensor::Indices => Number::I32,
            Tensor::Logits
            | Tensor::Weights
            | Tensor::WeightGradients
            | Tensor::LogitGradients
            | Tensor::RowWeightGradients => Number::Element(Element::F32),
            Tensor::Tokens => Number::Element(self.dispatch.source().element),
            Tensor::ExpertInput => Number::Element(self.dispatch.element),
            Tensor::ExpertInputScales => Number::Scale(self.dispatch.scales?.element),
            Tensor::ExpertOutput | Tensor::Combined | Tensor::CombinedGradient | Tensor::ExpertOutputGradient => {
                Number::Element(self.combine.element)
            }
        })
    }

    /// Bytes of a row of a [`Tensor`].
    pub fn tensor_row_bytes(&self, tensor: Tensor) -> u64 {
        match tensor {
            Tensor::Logits | Tensor::LogitGradients => 4 * u64::from(self.gate_width()),
            Tensor::Indices | Tensor::Weights | Tensor::WeightGradients => 4 * u64::from(self.top_k),
            Tensor::Tokens => self.row_bytes(self.dispatch.source()),
            Tensor::ExpertInput => self.row_bytes(self.dispatch),
            Tensor::ExpertInputScales => self.dispatch.scale_bytes(self.hidden),
            Tensor::ExpertOutput | Tensor::Combined | Tensor::CombinedGradient | Tensor::ExpertOutputGradient => {
                self.row_bytes(self.combine)
            }
            Tensor::RowWeightGradients => 4 * u64::from(self.weights_per_row()),
        }
    }

    /// Bytes of a [`Buffer`].
    pub fn buffer_bytes(&self, buffer: Buffer) -> u64 {
        let [ranks, tokens, k, local] =
            [self.ranks, self.max_tokens, self.top_k, self.local_experts_max()].map(u64::from);
        match buffer {
            Buffer::Status => 32,
            Buffer::Calls => 16 * Flag::ALL.len() as u64,
            Buffer::Peers => 8 * ranks,
            Buffer::Slots | Buffer::CopyTokens | Buffer::CopyOrdinals => 4 * ranks * tokens,
            Buffer::SendCounts | Buffer::ReceivedCounts => 4 * ranks,
            Buffer::CopyRows | Buffer::CopyWeights => 4 * ranks * tokens * k,
            Buffer::ExpertCounts => 4 * local,
            Buffer::ExpertOffsets => 4 * (local + 1),
            Buffer::RowPicks if self.layout.by_expert() => 0,
            Buffer::RowPicks => 4 * self.output_rows_max() * k,
            Buffer::RowWeights if self.weighted => 0,
            Buffer::RowWeights => self.output_rows_max() * self.tensor_row_bytes(Tensor::RowWeightGradients),
        }
    }

    /// Memory of one rank, in bytes.
    pub fn sizes(&self) -> Sizes {
        let rows = self.output_rows_max();
        let [input, scales, output] = [Tensor::ExpertInput, Tensor::ExpertInputScales, Tensor::ExpertOutput]
            .map(|tensor| self.tensor_row_bytes(tensor));
        Sizes {
            symmetric: self.symmetric_bytes(),
            fixed: Buffer::of_rank().map(|buffer| self.buffer_bytes(buffer)).sum(),
            handle: Buffer::of_handle().map(|buffer| self.buffer_bytes(buffer)).sum(),
            expert_input: rows * (input + scales),
            expert_output: rows * output,
        }
    }
}

/// Memory of one rank, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Symmetric memory.
    pub symmetric: u64,
    /// Arrays that exist once.
    pub fixed: u64,
    /// Arrays of one handle.
    pub handle: u64,
    /// The experts' input with its scales, in the worst case.
    pub expert_input: u64,
    /// The experts' output, in the worst case.
    pub expert_output: u64,
}
