//! The judge: what a layer must give, and whether it did.
//!
//! Invariant: nothing here shares code with kernels or runtime, and nothing prints. What is right is said twice, by parts that share no
//! code either: [`reference`] gives the bits, by the contract's "Order of arithmetic" ([`moe_contract::kernel`]), rank by rank; [`layer`]
//! computes the whole layer and its gradients directly, token by token in f64, and the bits must be within rounding of that.
//!
//! ```text
//! Given ──gate as written──▶ routing ──reference──▶ Expected ──▶ compare ──▶ Verdict: checks and remarks
//!   │                            └─────layer──────────▲              ▲
//!   └──────────────── whoever runs it ──────────▶ Produced ──────────┘
//! ```
//!
//! * [`Given`]: what a run is given, by hand, from a file or from a seed ([`Given::synthetic`]).
//! * [`Expected::compute`]: what it must give. Its experts are those of [`experts`], which whoever runs the layer must call as well.
//! * [`Produced`]: what it gave, as plain data.
//! * [`compare`]: every quantity of one against the other, with the first difference in words.
//!
//! NaN and infinity are data: they go where the arithmetic takes them, with the bits that the contract promises, and a [`Remark`] says
//! that the input holds some.

mod check;
mod compare;
mod direct;
mod draw;
mod error;
mod expected;
pub mod experts;
mod given;
pub mod layer;
mod place;
mod produced;
pub mod reference;
mod remarks;
mod rows;

pub use check::{Check, Difference};
pub use compare::{Verdict, compare, handle_array};
pub use error::JudgeError;
pub use expected::{Expected, ExpectedBackward, limit_capacity};
pub use given::{Given, GivenBackward, GivenError, Numbers};
pub use produced::{HandleArrays, Produced, ProducedBackward};
pub use remarks::{NotFinite, Remark, not_finite};
pub use rows::{Rows, RowsError};
