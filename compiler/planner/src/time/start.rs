//! What a call takes before its first token and after its last, in both modes.

use serde::{Deserialize, Serialize};

use super::{Call, Prior};

/// How long it takes until the first token is on its way and the last flag has come, in us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// On one node.
    pub local: f64,
    /// On two nodes.
    pub network: f64,
    /// More for each doubling of the nodes beyond two.
    pub hop: f64,
}

impl Start {
    pub(super) fn of(&self, call: &Call) -> f64 {
        if call.nodes > 1 { self.network + self.hop * (call.doublings() - 1.0) } else { self.local }
    }

    /// Shows the numbers with the priors of a mode.
    pub(super) fn each(&mut self, [local, network, hop]: [Prior; 3], visit: &mut dyn FnMut(&mut f64, Prior)) {
        visit(&mut self.local, local);
        visit(&mut self.network, network);
        visit(&mut self.hop, hop);
    }
}
