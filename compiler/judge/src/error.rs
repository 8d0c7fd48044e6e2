//! Why there is no verdict.

use moe_contract::RankId;
use moe_gate::interpret::GateError;

use crate::given::GivenError;
use crate::reference::PickError;

/// Why there is no verdict: what is given cannot be run at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// It does not fit the layer.
    #[error(transparent)]
    Given(#[from] GivenError),
    /// A token that the gate cannot route.
    #[error("{rank}, {error}")]
    Gate {
        /// Whose token.
        rank: RankId,
        /// Which, and why.
        error: GateError,
    },
    /// A pick that cannot be: the gate and the exchange are of different layers.
    #[error(transparent)]
    Pick(#[from] PickError),
}
