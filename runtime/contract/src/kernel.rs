//! The table of kernels: one row per kernel. Whatever follows from a row is derived from it, here and elsewhere, and written nowhere again:
//! grids, arguments, who can wait for whom, the order of the kernels of a call, epochs, names in reports, bytes on the links.
//!
//! Invariant: the kernels of a call are launched in the order of the table.
//!
//! # Order of arithmetic
//! All sums are f32, unfused, and rounded once to the format they are stored in.
//! * Partial sum of a copy: its local picks in ascending position (ascending expert, as a gate gives them); each term is weight × element
//!   (weighted) or the element; the first term starts the sum, each further one is added to it. [`crate::RowLayout::RankMajor`]: the row
//!   itself.
//! * Combined row: the partial sums in ascending rank; the first starts the sum.
//! * Gradient of a weight: a row is cut into chunks of 16 bytes of the combine format. Lane l of 32 starts from +0 and takes the chunks
//!   l, l + 32, l + 64 … ascending, within a chunk the elements ascending: sum = sum + (output × gradient), the product rounded first.
//!   Then, for m = 16, 8, 4, 2, 1: every lane adds the sum of lane `l xor m` to its own. The result is that of any lane (all are equal).
//! * NaN and infinity are numbers like others. A NaN that f32 arithmetic gives (of a NaN, of ∞ − ∞, of 0 × ∞) is 0x7fffffff, whatever
//!   its operands were: a GPU has no other in f32. One that is rounded to bf16 or f16 becomes 0x7fff, to fp8 0x7f. What is only moved
//!   keeps its bits, those of a NaN too: a row on its way to the experts in its source format, a gradient on its way there that is not
//!   weighed, and in f32 a sum of one term that is not weighed. The gradient of the logits promises where a NaN is, not which.

use serde::{Deserialize, Serialize};

use crate::buffer::{Buffer, Tensor};
use crate::call::Call;
use crate::exchange::Exchange;
use crate::item::{Item, Need, Per, Sends};
use crate::memory::Flag;

/// One argument of a kernel, in order. Pointers are u64, numbers as said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// Pointer to an array of this rank.
    Buffer(Buffer),
    /// Pointer to this rank's own symmetric memory.
    Symmetric,
    /// Pointer to a tensor of the caller.
    Tensor(Tensor),
    /// u32: this rank.
    Rank,
    /// u32: tokens of this rank in this call.
    Tokens,
    /// u64: nanoseconds that a wait may take; 0 for no deadline.
    Deadline,
    /// u32: picks an expert may keep from this rank's tokens.
    Capacity,
    /// Pointers to the gate's parameters, in the order of its inputs; the logits are a tensor.
    GateParameters,
}

/// How many CTAs a kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ctas {
    /// Enough for all tokens, as the gate decides.
    OfGate,
    /// One for each expert, zero experts too.
    PerExpert,
    /// One for each rank of the world.
    PerRank,
    /// One for each expert of the rank that has most.
    PerLocalExpert,
    /// [`Exchange::ctas_link`] where it publishes a flag, else up to [`Exchange::ctas_local`].
    Workers,
    /// A single one.
    One,
}

/// CTAs of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    /// Always so many: peers count on it.
    Fixed(u32),
    /// So many, or fewer where other ranks need places on the same GPU: nobody counts them.
    UpTo(u32),
    /// One for so many tokens of the rank, at least one.
    PerTokens(u32),
}

impl Grid {
    /// CTAs for a number of tokens.
    pub fn ctas(self, tokens: u32) -> u32 {
        match self {
            Grid::Fixed(ctas) | Grid::UpTo(ctas) => ctas,
            Grid::PerTokens(each) => tokens.div_ceil(each).max(1),
        }
    }
}

/// Adds 1, from every CTA, to this rank's flag on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publishes {
    /// The flag that peers wait for.
    pub flag: Flag,
    /// For which exchanges it does.
    pub when: Need,
}

/// A call that launches a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartOf {
    /// The call that launches it.
    pub call: Call,
    /// For which exchanges it does.
    pub when: Need,
}

/// What there is to know about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The entry point's name in PTX, and in reports.
    pub name: &'static str,
    /// The calls that it is a part of. It is made for the exchanges that have one of them.
    pub calls: &'static [PartOf],
    /// How its grid follows from the exchange.
    pub ctas: Ctas,
    /// Its arguments, in order.
    pub arguments: &'static [Argument],
    /// The flag that it waits for.
    pub waits: Option<Flag>,
    /// The flag whose epoch says which half of a region it reads, without waiting for it.
    pub reads: Option<Flag>,
    /// The flag that it adds to.
    pub publishes: Option<Publishes>,
    /// What it writes to other ranks beside the flag.
    pub sends: &'static [Sends],
}

/// A kernel that neither waits nor sends: what rows fill in.
const ALONE: Row = Row {
    name: "",
    calls: &[],
    ctas: Ctas::Workers,
    arguments: &[],
    waits: None,
    reads: None,
    publishes: None,
    sends: &[],
};

const fn of(call: Call) -> PartOf {
    PartOf { call, when: Need::Always }
}

const fn publishes(flag: Flag) -> Option<Publishes> {
    Some(Publishes { flag, when: Need::Always })
}

const fn sends(item: Item, per: Per) -> Sends {
    Sends { item, per, when: Need::Always }
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $kernel:ident: $row:expr;)*) => {
        /// The kernels of a bundle.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kernel {
            $($(#[$doc])* $kernel),*
        }

        impl Kernel {
            /// Every kernel, in the order of the table.
            pub const ALL: &'static [Kernel] = &[$(Kernel::$kernel),*];

            /// The row of the table that says everything of it.
            pub fn row(self) -> &'static Row {
                match self {
                    $(Kernel::$kernel => {
                        const ROW: Row = $row;
                        &ROW
                    })*
                }
            }
        }
    };
}

use Argument::{Buffer as B, Capacity, Deadline, GateParameters, Rank, Symmetric, Tensor as X, Tokens};
use Buffer as Array;
use Tensor as Of;

kernels! {
    /// Logits to indices and weights.
    Gate: Row {
        name: "gate",
        calls: &[of(Call::Gate)],
        ctas: Ctas::OfGate,
        arguments: &[B(Array::Status), X(Of::Logits), X(Of::Indices), X(Of::Weights), Tokens, GateParameters],
        ..ALONE
    };
    /// Marks picks above an expert's capacity with −1.
    Capacity: Row {
        name: "capacity",
        calls: &[PartOf { call: Call::Gate, when: Need::Capacity }],
        ctas: Ctas::PerExpert,
        arguments: &[B(Array::Status), X(Of::Indices), X(Of::Weights), Tokens, Capacity],
        ..ALONE
    };
    /// Gradient of the weights to gradient of the logits.
    GateBackward: Row {
        name: "gate_backward",
        calls: &[of(Call::GateBackward)],
        ctas: Ctas::OfGate,
        arguments: &[
            B(Array::Status),
            X(Of::Logits),
            X(Of::WeightGradients),
            X(Of::LogitGradients),
            Tokens,
            GateParameters,
        ],
        ..ALONE
    };
    /// Indices to slots and counts.
    Route: Row {
        name: "route",
        calls: &[of(Call::Dispatch)],
        ctas: Ctas::PerRank,
        arguments: &[B(Array::Status), X(Of::Indices), B(Array::Slots), B(Array::SendCounts), Tokens],
        ..ALONE
    };
    /// Rows, scales and records to every destination.
    DispatchSend: Row {
        name: "dispatch_send",
        calls: &[of(Call::Dispatch)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            B(Array::Peers),
            X(Of::Tokens),
            X(Of::Indices),
            X(Of::Weights),
            B(Array::Slots),
            B(Array::SendCounts),
            Rank,
            Tokens,
        ],
        publishes: publishes(Flag::Dispatch),
        sends: &[
            sends(Item::DispatchRow, Per::CopySent),
            sends(Item::DispatchScales, Per::CopySent),
            sends(Item::Record, Per::CopySent),
            sends(Item::Count, Per::Source),
        ],
        ..ALONE
    };
    /// Positions of rows within each local expert; [`crate::RowLayout::RankMajor`]: the same, and it writes counts of picks per expert,
    /// no rows.
    DispatchCount: Row {
        name: "dispatch_count",
        calls: &[of(Call::Dispatch)],
        ctas: Ctas::PerLocalExpert,
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            Symmetric,
            B(Array::ReceivedCounts),
            B(Array::CopyRows),
            B(Array::ExpertCounts),
            Rank,
            Deadline,
        ],
        waits: Some(Flag::Dispatch),
        ..ALONE
    };
    /// Rows to the experts' input; completes the handle.
    DispatchPlace: Row {
        name: "dispatch_place",
        calls: &[of(Call::Dispatch)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            Symmetric,
            X(Of::ExpertInput),
            X(Of::ExpertInputScales),
            B(Array::ReceivedCounts),
            B(Array::CopyTokens),
            B(Array::CopyOrdinals),
            B(Array::CopyRows),
            B(Array::CopyWeights),
            B(Array::ExpertCounts),
            B(Array::ExpertOffsets),
            B(Array::RowPicks),
            B(Array::RowWeights),
            Rank,
        ],
        reads: Some(Flag::Dispatch),
        ..ALONE
    };
    /// [`Kernel::DispatchSend`] of a handle: rows and scales only.
    DispatchSendCached: Row {
        name: "dispatch_send_cached",
        calls: &[of(Call::DispatchCached)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            B(Array::Peers),
            X(Of::Tokens),
            B(Array::Slots),
            Rank,
            Tokens,
        ],
        publishes: publishes(Flag::Dispatch),
        sends: &[sends(Item::DispatchRow, Per::CopySent), sends(Item::DispatchScales, Per::CopySent)],
        ..ALONE
    };
    /// [`Kernel::DispatchPlace`] of a handle: rows and scales only.
    DispatchPlaceCached: Row {
        name: "dispatch_place_cached",
        calls: &[of(Call::DispatchCached)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            Symmetric,
            X(Of::ExpertInput),
            X(Of::ExpertInputScales),
            B(Array::ReceivedCounts),
            B(Array::CopyRows),
            B(Array::ExpertCounts),
            B(Array::ExpertOffsets),
            Rank,
            Deadline,
        ],
        waits: Some(Flag::Dispatch),
        ..ALONE
    };
    /// Partial sums to every source.
    CombineSend: Row { name: "combine_send", calls: &[of(Call::Combine)], ..COMBINE_SEND };
    /// The same without weights ([`Tensor::ExpertOutput`] holds the gradient of the experts' input).
    CombineSendUnweighted: Row { name: "combine_send_unweighted", calls: &[of(Call::DispatchBackward)], ..COMBINE_SEND };
    /// Sums partial sums. A token that was sent nowhere gets zeros.
    CombineReduce: Row {
        name: "combine_reduce",
        calls: &[of(Call::Combine), of(Call::DispatchBackward)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            Symmetric,
            X(Of::Combined),
            B(Array::Slots),
            Tokens,
            Deadline,
        ],
        waits: Some(Flag::Combine),
        ..ALONE
    };
    /// Backward of combine, first half: [`Tensor::CombinedGradient`] in the combine format to every destination of a handle.
    CombineBackwardSend: Row {
        name: "combine_backward_send",
        calls: &[of(Call::CombineBackward)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            B(Array::Peers),
            X(Of::CombinedGradient),
            B(Array::Slots),
            Rank,
            Tokens,
        ],
        publishes: publishes(Flag::Dispatch),
        sends: &[sends(Item::CombineRow, Per::CopySent)],
        ..ALONE
    };
    /// Backward of combine, second half: row gradient = weight × gradient, rounded once (a plain copy where experts weigh); weight
    /// gradient = Σ over hidden of expert output × gradient, to the source (not where experts weigh). Padding rows are zeroed.
    CombineBackwardPlace: Row {
        name: "combine_backward_place",
        calls: &[of(Call::CombineBackward)],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            B(Array::Peers),
            Symmetric,
            X(Of::ExpertOutput),
            X(Of::ExpertOutputGradient),
            B(Array::ReceivedCounts),
            B(Array::CopyTokens),
            B(Array::CopyRows),
            B(Array::CopyWeights),
            B(Array::ExpertCounts),
            B(Array::ExpertOffsets),
            Rank,
            Deadline,
        ],
        waits: Some(Flag::Dispatch),
        publishes: Some(Publishes { flag: Flag::Gradient, when: Need::CombineWeighs }),
        sends: &[Sends { item: Item::WeightGradient, per: Per::PickReceived, when: Need::CombineWeighs }],
        ..ALONE
    };
    /// Gradients of weights that experts computed, to every source.
    WeightGradientSend: Row {
        name: "weight_gradient_send",
        calls: &[PartOf { call: Call::WeightsBackward, when: Need::ExpertsWeigh }],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            B(Array::Peers),
            X(Of::RowWeightGradients),
            B(Array::ReceivedCounts),
            B(Array::CopyTokens),
            B(Array::CopyRows),
            Rank,
        ],
        publishes: publishes(Flag::Gradient),
        sends: &[sends(Item::WeightGradient, Per::PickReceived)],
        ..ALONE
    };
    /// Gradients of weights as they have arrived to [`Tensor::WeightGradients`]; 0 for a pick of −1 or of a zero expert.
    WeightGradientCollect: Row {
        name: "weight_gradient_collect",
        calls: &[
            PartOf { call: Call::CombineBackward, when: Need::CombineWeighs },
            PartOf { call: Call::WeightsBackward, when: Need::ExpertsWeigh },
        ],
        arguments: &[
            B(Array::Status),
            B(Array::Calls),
            Symmetric,
            X(Of::Indices),
            X(Of::WeightGradients),
            Tokens,
            Deadline,
        ],
        waits: Some(Flag::Gradient),
        ..ALONE
    };
    /// All ranks have arrived before any leaves.
    Barrier: Row {
        name: "barrier",
        calls: &[of(Call::Barrier)],
        ctas: Ctas::One,
        arguments: &[B(Array::Status), B(Array::Calls), B(Array::Peers), Symmetric, Rank, Deadline],
        waits: Some(Flag::Barrier),
        publishes: publishes(Flag::Barrier),
        ..ALONE
    };
}

const COMBINE_SEND: Row = Row {
    arguments: &[
        B(Array::Status),
        B(Array::Calls),
        B(Array::Peers),
        X(Of::ExpertOutput),
        B(Array::ReceivedCounts),
        B(Array::CopyTokens),
        B(Array::CopyOrdinals),
        B(Array::CopyRows),
        B(Array::CopyWeights),
        Rank,
    ],
    publishes: publishes(Flag::Combine),
    sends: &[sends(Item::CombineRow, Per::CopyReceived)],
    ..ALONE
};

impl Kernel {
    /// The entry point's name in PTX, and in reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The grid that the protocol counts on; `None` for the gate, which decides itself.
    pub fn grid(self, exchange: &Exchange) -> Option<Grid> {
        let ctas = match self.row().ctas {
            Ctas::OfGate => return None,
            Ctas::PerExpert => exchange.gate_width(),
            Ctas::PerRank => exchange.ranks,
            Ctas::PerLocalExpert => exchange.local_experts_max(),
            Ctas::Workers if self.publishes(exchange).is_some() => exchange.ctas_link,
            Ctas::Workers => return Some(Grid::UpTo(exchange.ctas_local)),
            Ctas::One => 1,
        };
        Some(Grid::Fixed(ctas))
    }

    /// Whether an exchange has it.
    pub fn is_of(self, exchange: &Exchange) -> bool {
        self.row().calls.iter().any(|part| part.when.of(exchange))
    }

    /// The flag that it adds to, in an exchange.
    pub fn publishes(self, exchange: &Exchange) -> Option<Flag> {
        self.row().publishes.filter(|publishes| publishes.when.of(exchange)).map(|publishes| publishes.flag)
    }

    /// The flags whose epoch it uses in an exchange.
    pub fn epochs(self, exchange: &Exchange) -> impl Iterator<Item = Flag> {
        let Row { waits, reads, .. } = *self.row();
        let publishes = self.publishes(exchange);
        let mut flags: Vec<Flag> = [waits, reads, publishes].into_iter().flatten().collect();
        flags.sort_unstable();
        flags.dedup();
        flags.into_iter()
    }

    /// The flags whose epoch ends with this kernel: it is the last of its call that uses them.
    pub fn ends(self, exchange: &Exchange) -> impl Iterator<Item = Flag> {
        let goes_on = move |flag: &Flag| {
            let later = |part: &PartOf| {
                let after = part.call.kernels(exchange).skip_while(move |&kernel| kernel != self).skip(1);
                after.flat_map(|kernel| kernel.epochs(exchange)).any(|used| used == *flag)
            };
            self.row().calls.iter().any(later)
        };
        self.epochs(exchange).filter(move |flag| !goes_on(flag))
    }
}

/// Steps that a flag takes in one call: the CTAs of the kernels that publish it.
pub fn steps(flag: Flag, exchange: &Exchange) -> u64 {
    let publishers =
        Kernel::ALL.iter().filter(|kernel| kernel.is_of(exchange) && kernel.publishes(exchange) == Some(flag));
    let ctas = publishers.filter_map(|kernel| kernel.grid(exchange)).map(|grid| u64::from(grid.ctas(0)));
    ctas.max().unwrap_or(0)
}

impl Call {
    /// Its kernels, in the order of launches; none where an exchange has no such call.
    pub fn kernels(self, exchange: &Exchange) -> impl Iterator<Item = Kernel> {
        let of_call =
            move |kernel: &Kernel| kernel.row().calls.iter().any(|part| part.call == self && part.when.of(exchange));
        Kernel::ALL.iter().copied().filter(of_call)
    }
}
