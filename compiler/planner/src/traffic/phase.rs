//! The calls of a layer in training, in the order of reports.

use moe_contract::{Call, Exchange, Per};
use schemars::JsonSchema;
use serde::Serialize;

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum PhaseName {
    /// Tokens to their experts.
    #[serde(rename = "dispatch")]
    Dispatch,
    /// The experts' rows back.
    #[serde(rename = "combine")]
    Combine,
    /// Gradients to the experts.
    #[serde(rename = "combine backward")]
    CombineBackward,
    /// Gradients of the tokens back.
    #[serde(rename = "dispatch backward")]
    DispatchBackward,
}

impl PhaseName {
    /// All, in order: those of the forward pass first.
    pub const ALL: [PhaseName; 4] =
        [PhaseName::Dispatch, PhaseName::Combine, PhaseName::CombineBackward, PhaseName::DispatchBackward];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            PhaseName::Dispatch => "dispatch",
            PhaseName::Combine => "combine",
            PhaseName::CombineBackward => "combine backward",
            PhaseName::DispatchBackward => "dispatch backward",
        }
    }

    /// The call of a communicator.
    pub fn call(self) -> Call {
        match self {
            PhaseName::Dispatch => Call::Dispatch,
            PhaseName::Combine => Call::Combine,
            PhaseName::CombineBackward => Call::CombineBackward,
            PhaseName::DispatchBackward => Call::DispatchBackward,
        }
    }

    /// Whether rows go from tokens to experts.
    pub fn is_to_experts(self) -> bool {
        match self {
            PhaseName::Dispatch | PhaseName::CombineBackward => true,
            PhaseName::Combine | PhaseName::DispatchBackward => false,
        }
    }

    /// Bytes of a copy, in the direction of the rows.
    pub fn copy_bytes(self, exchange: &Exchange) -> u64 {
        let per = if self.is_to_experts() { Per::CopySent } else { Per::CopyReceived };
        self.call().bytes_per(per, exchange)
    }
}
