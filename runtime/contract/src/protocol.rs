//! How rows travel from rank to rank.

use serde::{Deserialize, Serialize};

/// How rows travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Within a domain: one copy of a token to each rank that has one of its experts, stored there over NVLink. The kernels that exist.
    Direct,
    /// Across domains: one copy to each domain, to the rank of the same rail, which sends it on as [`Protocol::Direct`] does; partial sums
    /// come back the same way.
    Hybrid,
    /// Across domains, for few tokens: every pick is a message of its own to the rank of its expert.
    Messages,
}

impl Protocol {
    /// As the language spells it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Direct => "direct",
            Protocol::Hybrid => "hybrid",
            Protocol::Messages => "messages",
        }
    }
}
