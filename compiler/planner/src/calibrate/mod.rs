//! From a table of measurements to a [profile](crate::time::Profile).
//!
//! Invariants: all rows of both directions are fitted at once by least squares on relative errors; a parameter belongs to a kernel or a
//! link of the cluster, never to a row; what was known before (a profile) counts as one more measurement of each parameter, with the
//! spread of its [`Prior`](crate::time::Prior). So a few rows are enough: what they say nothing about stays as it was.

mod evaluate;
mod fit;
mod table;

pub use evaluate::{Held, Residual, hold_out};
pub use fit::{fit, refit};
pub use table::{CalibrationError, Hardware, Measurement, Table, read};
