//! Calls of a communicator: which kernels each is made of follows from the table.

use serde::Serialize;

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Choose experts and weights.
    Gate,
    /// Gradient of the logits.
    GateBackward,
    /// Rows to the experts.
    Dispatch,
    /// Rows to the experts, the way of an earlier dispatch.
    DispatchCached,
    /// Rows back to the tokens, summed.
    Combine,
    /// Gradient of the tokens.
    DispatchBackward,
    /// Gradients of the experts' output and, where combine weighs, of the weights.
    CombineBackward,
    /// Gradients of weights that experts applied, back to the tokens.
    WeightsBackward,
    /// All ranks meet.
    Barrier,
}

impl Call {
    /// Every call once.
    pub const ALL: [Call; 9] = [
        Call::Gate,
        Call::GateBackward,
        Call::Dispatch,
        Call::DispatchCached,
        Call::Combine,
        Call::DispatchBackward,
        Call::CombineBackward,
        Call::WeightsBackward,
        Call::Barrier,
    ];

    /// In reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Call::Gate => "gate",
            Call::GateBackward => "gate_backward",
            Call::Dispatch => "dispatch",
            Call::DispatchCached => "dispatch_cached",
            Call::Combine => "combine",
            Call::DispatchBackward => "dispatch_backward",
            Call::CombineBackward => "combine_backward",
            Call::WeightsBackward => "weights_backward",
            Call::Barrier => "barrier",
        }
    }
}
