//! What a model is in the contract of kernels, runtime and planner.

use moe_contract::{Drop, Exchange, Launch};

use super::{DropRule, Model};

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
    pub fn exchange(&self, ranks: u32, tokens: u32, launch: Launch) -> Exchange {
        let Launch { ctas_link, ctas_local, threads } = launch;
        Exchange {
            ranks,
            experts: self.stored_experts(),
            zero_experts: self.experts - self.stored_experts(),
            top_k: self.top_k(),
            hidden: self.hidden,
            // A rank may take part without tokens; its buffers still have a place for one.
            max_tokens: tokens.max(1),
            dispatch: self.dispatch.payload,
            layout: self.dispatch.layout,
            combine: self.combine.payload,
            weighted: self.combine.weighted,
            drop: self.capacity.map(|capacity| capacity.drop.picks()),
            ctas_link,
            ctas_local,
            threads,
        }
    }
}
