//! Bytes on every link.
//!
//! Invariant: both ways to count use one description of what travels, [`Wire`], and one way through the cluster, [`Topology`]:
//! [`LinkBytes`] counts a given routing exactly, [`Expected`] the mean of a sampled one.
//!
//! # The way of a copy
//! Within a node a token is sent once to each rank that has one of its experts (direct mode). To another node it is sent once, over
//! RDMA, to the GPU with the same local index (its *rail*); that GPU sends it on, once to each rank of its node that has one of its
//! experts (hybrid mode). Combine goes the same way back: the partial sums of the ranks of a node are added by the GPU that
//! forwarded the token, and one sum per node crosses the network.
//!
//! On one node this is the traffic of the kernels that exist, byte for byte ([`moe_contract::traffic`]). The sizes of counts and flags
//! between nodes are those of the same kernels, applied to the hybrid mode, for which there are no kernels yet.

mod closed_form;
mod exact;
mod expected;
mod given;
mod topology;
mod wire;

pub use closed_form::expected_distinct;
pub use exact::{Flow, LinkBytes};
pub use expected::{Estimate, Expected, Load};
pub use given::{Given, GivenPhase};
pub use topology::{NodeId, Topology, TopologyError};
pub use wire::Wire;
