//! `moec schema`
//!
//! Invariant: a schema is derived from the very types that are serialised; nothing of them is written twice.

use clap::{Args, ValueEnum};
use moe_front::diagnostics::render::Message;
use moe_planner::Report as Planned;
use moe_planner::page::Simulation;
use moe_planner::placement::PlacementReport;
use schemars::generate::SchemaSettings;
use schemars::{Schema as JsonSchema, json_schema};

use super::inspect::Contents;
use super::plan::{Comparison, Search};
use super::ptx::{JobReport, PtxVerdicts};
use crate::failure::Failure;
use crate::planning::pretty;
use crate::report::Report as Ran;
use crate::terminal::{self, Sentence};

#[derive(Args)]
pub struct Schema {
    /// Of what
    #[arg(value_enum)]
    pub name: SchemaName,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum SchemaName {
    /// Each line of `--message-format json`
    Diagnostic,
    /// `moec run --format json`
    Run,
    /// `moec plan --format json`
    Plan,
    /// `moec plan --compare --format json`
    PlanComparison,
    /// `moec plan --search --format json`
    PlanSearch,
    /// `moec simulate --format json`
    Simulation,
    /// `moec place --format json`, and the file that it writes
    Placement,
    /// `moec inspect --format json`
    Bundle,
    /// `moec ptx check --format json`
    PtxCheck,
    /// `moec ptx run --format json`
    PtxRun,
}

impl SchemaName {
    fn schema(self) -> JsonSchema {
        // What is written, not what may be read: every name is there, also one that is null.
        let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let (title, mut schema) = match self {
            SchemaName::Diagnostic => {
                let of_file = generator.subschema_for::<Message<'_>>();
                let sentence = generator.subschema_for::<Sentence<'_>>();
                let mut schema = json_schema!({
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "description": "A diagnostic of a file, or a sentence that belongs to none.",
                    "anyOf": [of_file, sentence],
                });
                schema.insert("$defs".into(), generator.take_definitions(true).into());
                ("A line of moec --message-format json", schema)
            }
            SchemaName::Run => ("moec run --format json", generator.into_root_schema_for::<Ran>()),
            SchemaName::Plan => ("moec plan --format json", generator.into_root_schema_for::<Planned>()),
            SchemaName::PlanComparison => {
                ("moec plan --compare --format json", generator.into_root_schema_for::<Comparison<'_>>())
            }
            SchemaName::PlanSearch => {
                ("moec plan --search --format json", generator.into_root_schema_for::<Search<'_>>())
            }
            SchemaName::Simulation => ("moec simulate --format json", generator.into_root_schema_for::<Simulation>()),
            SchemaName::PtxCheck => ("moec ptx check --format json", generator.into_root_schema_for::<PtxVerdicts>()),
            SchemaName::PtxRun => ("moec ptx run --format json", generator.into_root_schema_for::<JobReport>()),
            SchemaName::Bundle => ("moec inspect --format json", generator.into_root_schema_for::<Contents>()),
            SchemaName::Placement => ("moec place --format json", generator.into_root_schema_for::<PlacementReport>()),
        };
        schema.insert("title".into(), title.into());
        schema
    }
}

/// Prints a schema.
pub fn schema(arguments: &Schema) -> Result<(), Failure> {
    terminal::print(&pretty(arguments.name.schema().as_value()))
}
