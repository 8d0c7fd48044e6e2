//! One file per subcommand.

mod build;
mod check;
mod explain;
mod fmt;
mod gate;
mod init;
mod inspect;
mod place;
mod plan;
mod ptx;
mod run;
mod schema;
mod serve;
mod shell;
mod simulate;

pub use build::build;
pub use check::check;
pub use explain::explain;
pub use fmt::fmt;
pub use gate::gate;
pub use init::init;
pub use inspect::{Inspect, inspect};
pub use place::{Place, place};
pub use plan::{Plan, plan};
pub use ptx::{Ptx, ptx};
pub use run::run;
pub use schema::{Schema, schema};
pub use serve::{Serve, serve};
pub use shell::{completions, man};
pub use simulate::{Simulate, simulate};
