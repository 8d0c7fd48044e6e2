//! From a table of measurements to a [`Profile`].
//!
//! Invariants: all rows are fitted at once by least squares on relative errors; a parameter belongs to the kernel and the cluster, never to
//! a row; what a parameter is before any measurement ([`Prior`](crate::time::Prior)) counts as one more measurement with its own spread.

mod evaluate;
mod fit;
mod table;

pub use evaluate::{Held, Residual, hold_out};
pub use fit::{fit, refit};
pub use table::{CalibrationError, Hardware, Measurement, Table, read};
