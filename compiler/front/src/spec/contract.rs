//! What a model is in the contract of kernels, runtime and planner.

use moe_contract::{Drop, Exchange, Format};

use super::{DropRule, Model, Payload, Scale};
use crate::units::Bytes;

impl Payload {
    /// How a row is stored, whether or not there are kernels for it.
    pub fn stored(self) -> Format {
        match self {
            Payload::Bf16 => Format::BF16,
            Payload::F16 => Format::F16,
            Payload::F32 => Format::F32,
            Payload::Fp8E4m3(Scale::F32Per128) => Format::FP8_F32_128,
            Payload::Fp8E4m3(Scale::Ue8m0Per128) => Format::FP8_UE8M0_128,
            Payload::Fp8E4m3(Scale::Ue8m0Per32) => Format::MXFP8,
            Payload::Fp4E2m1 => Format::NVFP4,
        }
    }

    /// Bytes of a row without its scales.
    pub fn row_bytes(self, hidden: u32) -> Bytes {
        Bytes(self.stored().row_bytes(hidden))
    }

    /// Bytes of the scales of a row.
    pub fn scale_bytes(self, hidden: u32) -> Bytes {
        Bytes(self.stored().scale_bytes(hidden))
    }
}

impl DropRule {
    /// Which picks are dropped.
    pub fn picks(self) -> Drop {
        match self {
            DropRule::Lowest => Drop::Lowest,
            DropRule::Position => Drop::Position,
        }
    }
}

impl Model {
    /// The numbers that kernels for so many ranks and tokens would be specialised to, whether or not there are such kernels.
    pub fn exchange(&self, ranks: u32, tokens: u32, ctas: u32, threads: u32) -> Exchange {
        Exchange {
            ranks,
            experts: self.stored_experts(),
            zero_experts: self.experts - self.stored_experts(),
            top_k: self.top_k(),
            hidden: self.hidden,
            // A rank may take part without tokens; its buffers still have a place for one.
            max_tokens: tokens.max(1),
            dispatch: self.dispatch.payload.stored(),
            layout: self.dispatch.layout.rows(),
            combine: self.combine.payload.stored(),
            weighted: self.combine.weighted,
            drop: self.capacity.map(|capacity| capacity.drop.picks()),
            ctas,
            threads,
        }
    }
}
