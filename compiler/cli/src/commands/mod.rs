//! One file per subcommand.

mod build;
mod check;
mod explain;
mod fmt;

pub use build::build;
pub use check::check;
pub use explain::explain;
pub use fmt::fmt;
