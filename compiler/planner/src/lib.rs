//! What a parallel plan costs: bytes on every link, time of every phase, memory of every GPU, placement of experts.
//!
//! Invariant: every number is computed from the specification, the sampled gate and fitted parameters; nothing is looked up by shape, and what
//! is assumed is listed in the report. `docs/planner.md` has the formulas with their sources and the quality of the fit.
//!
//! ```text
//! Spec ──decide──▶ ranks, protocol, SMs
//!      ──sample──▶ picks ──traffic──▶ copies, bytes ──time──▶ phases ──step──▶ time of a step
//!                                                   └─memory─▶ bytes of a GPU ──▶ report, explain, search
//! ```

pub mod calibrate;
pub mod compare;
pub mod explain;
mod groups;
pub mod memory;
pub mod missing;
mod not_built;
pub mod picture;
pub mod placement;
pub mod report;
pub mod sample;
pub mod search;
pub mod setting;
pub mod simulate;
pub mod step;
pub mod time;
pub mod traffic;
mod units;

pub use not_built::NotBuilt;
pub use report::{Change, Options, PlanError, Planner, Report};
pub use sample::{Logits, Sample};
