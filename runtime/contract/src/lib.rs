//! The contract of plan, kernels, runtime, planner and virtual cluster: what they all read, and none keeps a second time.
//!
//! Invariant: everything here is data, or a pure function of an [`Exchange`]; the crate knows no device, no compiler and no file.
//!
//! * [`ids`], [`topology`], [`homes`] – ranks, domains, experts, and which expert is where;
//! * [`format`], [`codec`], [`layout`] – how rows are stored, on the host too, and laid out;
//! * [`exchange`], [`limits`] – the numbers that kernels are specialised to, and what they may be;
//! * [`memory`] – symmetric memory: flags, regions, epochs; [`buffer`] – arrays and tensors of one rank;
//! * [`call`], [`item`], [`kernel`] – calls, what kernels write to peers, and the table of kernels; [`wire`] – what follows for the links; [`status`] – for errors;
//! * [`protocol`] – how rows travel; [`placement`] – experts and their copies in slots.

#![warn(missing_docs)]

pub mod buffer;
pub mod call;
pub mod codec;
pub mod exchange;
pub mod format;
pub mod homes;
pub mod ids;
pub mod item;
pub mod kernel;
pub mod layout;
pub mod limits;
pub mod memory;
pub mod placement;
pub mod protocol;
pub mod status;
pub mod topology;
pub mod wire;

pub use buffer::{Buffer, Number, Sizes, Tensor};
pub use call::Call;
pub use exchange::{Drop, Exchange, Launch};
pub use format::{Element, Format, ScaleElement, Scales};
pub use homes::Homes;
pub use ids::{DomainId, ExpertId, RankId};
pub use item::{Item, Need, Per};
pub use kernel::{Argument, Grid, Kernel, Row};
pub use layout::{Padding, RowLayout};
pub use limits::LimitError;
pub use memory::{Flag, Part, Place, Region};
pub use protocol::Protocol;
pub use status::{Fault, Status};
pub use topology::{Owners, Topology};
pub use wire::{Flow, LinkBytes};
