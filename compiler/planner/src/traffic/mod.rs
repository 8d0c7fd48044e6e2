//! Bytes on every link.
//!
//! Invariant: what travels and which way it takes is the contract's to say ([`moe_contract::wire`]). A given routing is counted by
//! [`moe_contract::LinkBytes`], exactly; here is [`Expected`], the mean of a sampled one.
//!
//! # The way of a copy
//! Within a node a token is sent once to each rank that has one of its experts (direct mode). To another node it is sent once, over
//! RDMA, to the GPU with the same local index (its *rail*); that GPU sends it on, once to each rank of its node that has one of its
//! experts (hybrid mode). Combine goes the same way back: the partial sums of the ranks of a node are added by the GPU that
//! forwarded the token, and one sum per node crosses the network.
//!
//! On one node this is the traffic of the kernels that exist. Between nodes there are none yet.

mod closed_form;
mod expected;
mod given;
mod homes;
mod phase;
mod wire;

pub use closed_form::expected_distinct;
pub use expected::{Estimate, Expected, Load};
pub use given::{Given, GivenPhase};
pub use homes::{TopologyError, contiguous, placed};
pub use phase::PhaseName;
pub use wire::Wire;
