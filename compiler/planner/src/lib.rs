//! What a parallel plan costs: bytes on every link, time of every phase, memory of every GPU, placement of experts.
//!
//! Invariant: every number is computed from the specification, the sampled gate and fitted parameters; nothing is looked up by shape, and what
//! is assumed is listed in the report. `docs/planner.md` has the formulas with their sources and the quality of the fit.
//!
//! ```text
//! Spec ──decide──▶ ranks, protocol, SMs
//!      ──sample──▶ picks ──traffic──▶ copies, bytes ──time──▶ phases ──step──▶ time of a step
//!                                                   └─memory─▶ bytes of a GPU ──▶ costs ──page──▶ words, pictures
//! ```
//!
//! Modules know those before them and no others, which `tests/layers.rs` holds: what a number may be and how it reads (`setting`, `units`,
//! `missing`, `not_built`); where tokens go (`sample`, `groups`, `traffic`); how long calls take (`time`, `calibrate`); and on these `cost`,
//! `placement` and `simulate`, which give numbers, and [`page`], which shows them.

pub mod calibrate;
pub mod cost;
mod groups;
pub mod missing;
mod not_built;
pub mod page;
pub mod placement;
pub mod sample;
pub mod setting;
pub mod simulate;
pub mod time;
pub mod traffic;
mod units;

pub use cost::{Change, Options, PlanError, Planner};
pub use not_built::NotBuilt;
pub use page::Report;
pub use sample::{Logits, Sample};
pub use units::human_bytes;
