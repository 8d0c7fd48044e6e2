//! How often each expert of each layer was picked.
//!
//! Invariant: every layer has a count for each of the same experts, and every count is finite and not negative. Two forms are read, told
//! apart by their first character: CSV with the columns `layer`, `expert` and `count`, one row for each pair in any order; and JSON,
//! either an array with an array of counts for each layer, or `{"layers": [3, 4], "counts": [[…], […]]}` where layers have names.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use thiserror::Error;

/// Above this no count is believed; below it, sums over all experts are exact enough.
const LARGEST_COUNT: f64 = 1e15;
const EXPECTED: &str = "a count: finite, not negative, at most 1e15";

/// Observed picks, by layer and expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    layers: Vec<u32>,
    counts: Vec<Vec<f64>>,
}

/// Counts cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Nothing to read.
    #[error(
        "there are no counts: give a CSV with the columns `layer,expert,count`, or a JSON array with an array of counts per layer"
    )]
    Empty,
    /// Not a table.
    #[error("this is not a table of comma-separated values: {0}")]
    Csv(#[from] csv::Error),
    /// Not JSON, or a count in it that none can be.
    #[error("the counts in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A column is missing.
    #[error(
        "line 1: there is no column `{column}`; the file has {found}; name the columns `layer`, `expert` and `count`"
    )]
    MissingColumn { column: &'static str, found: String },
    /// A cell that does not fit its column.
    #[error("line {line}, column `{column}`: `{text}` is not {needed}")]
    Cell {
        line: u64,
        /// Of the line.
        column: &'static str,
        text: String,
        /// What should.
        needed: &'static str,
    },
    /// Two counts of the same expert.
    #[error(
        "line {line}: layer {layer} has a count of expert {expert} already, in line {first}; keep one of them, or their sum"
    )]
    Twice { line: u64, layer: u32, expert: u32, first: u64 },
    /// A hole.
    #[error(
        "layer {layer} has no count of expert {expert}, but the file has experts up to {last}: add the row `{layer},{expert},0` if it was never picked"
    )]
    Missing {
        layer: u32,
        expert: u32,
        /// Largest expert of the file.
        last: u32,
    },
    /// Layers of different lengths.
    #[error(
        "counts[{row}] has {found} experts and counts[0] has {expected}: every layer needs a count of every expert, 0 if it was never picked"
    )]
    Ragged {
        /// Of the array.
        row: usize,
        /// Its length.
        found: usize,
        expected: usize,
    },
    /// Names of layers that are not one per layer.
    #[error("`layers` must name each layer of `counts` once: {problem}")]
    Names {
        /// What does not fit.
        problem: String,
    },
}

impl Load {
    /// Layers 0, 1, … with a count for each expert.
    ///
    /// # Errors
    /// No counts, layers of different lengths, or a number that is no count.
    pub fn new(counts: Vec<Vec<f64>>) -> Result<Load, LoadError> {
        let layers = (0..counts.len()).map(|layer| layer as u32).collect();
        Load::named(layers, counts)
    }

    /// Layers with the given names.
    fn named(layers: Vec<u32>, counts: Vec<Vec<f64>>) -> Result<Load, LoadError> {
        let expected = counts.first().map_or(0, Vec::len);
        if expected == 0 {
            return Err(LoadError::Empty);
        }
        if let Some(row) = counts.iter().position(|row| row.len() != expected) {
            return Err(LoadError::Ragged { row, found: counts[row].len(), expected });
        }
        if let Some(&wrong) = counts.iter().flatten().find(|&&count| !is_count(count)) {
            return Err(serde_json::Error::invalid_value(Unexpected::Float(wrong), &EXPECTED).into());
        }
        if layers.len() != counts.len() {
            let problem = format!("{} names for {} layers", layers.len(), counts.len());
            return Err(LoadError::Names { problem });
        }
        let mut sorted = layers.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(LoadError::Names { problem: format!("{} stands there twice", twice[0]) });
        }
        Ok(Load { layers, counts })
    }

    /// Reads either form.
    ///
    /// # Errors
    /// With the line and column of what is wrong.
    pub fn parse(text: &[u8]) -> Result<Load, LoadError> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => Err(LoadError::Empty),
            Some(b'[' | b'{') => parse_json(text),
            Some(_) => parse_csv(text),
        }
    }

    /// Layers, by the name that the file gives them.
    pub fn layers(&self) -> &[u32] {
        &self.layers
    }

    /// Experts of each layer.
    pub fn experts(&self) -> u32 {
        self.counts[0].len() as u32
    }

    /// Counts of each expert, layer by layer in the order of [`Self::layers`].
    pub fn counts(&self) -> &[Vec<f64>] {
        &self.counts
    }
}

fn is_count(count: f64) -> bool {
    (0.0..=LARGEST_COUNT).contains(&count)
}

/// A number that says where it stands if it is no count.
struct Count(f64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Count, E> {
                self.visit_f64(value as f64)
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Count, E> {
                self.visit_f64(value as f64)
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Count, E> {
                if is_count(value) { Ok(Count(value)) } else { Err(E::invalid_value(Unexpected::Float(value), &self)) }
            }
        }
        // Raised while the number is read, an error gets line and column from serde_json.
        deserializer.deserialize_f64(CountVisitor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    layers: Option<Vec<u32>>,
    counts: Vec<Vec<Count>>,
}

fn parse_json(text: &[u8]) -> Result<Load, LoadError> {
    let named = if text.trim_ascii_start().starts_with(b"[") {
        Named { layers: None, counts: serde_json::from_slice(text)? }
    } else {
        serde_json::from_slice(text)?
    };
    let counts = named.counts.into_iter().map(|row| row.into_iter().map(|count| count.0).collect()).collect();
    match named.layers {
        None => Load::new(counts),
        Some(layers) => Load::named(layers, counts),
    }
}

fn parse_csv(text: &[u8]) -> Result<Load, LoadError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let header = reader.headers()?.clone();
    let column = |name: &'static str| {
        header.iter().position(|found| found == name).ok_or_else(|| LoadError::MissingColumn {
            column: name,
            found: header.iter().map(|found| format!("`{found}`")).collect::<Vec<_>>().join(", "),
        })
    };
    let (layer_column, expert_column, count_column) = (column("layer")?, column("expert")?, column("count")?);
    let mut rows: BTreeMap<(u32, u32), (u64, f64)> = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let id = |column: usize, name: &'static str| {
            record[column].parse::<u32>().map_err(|_| LoadError::Cell {
                line,
                column: name,
                text: record[column].to_owned(),
                needed: "a whole number from 0",
            })
        };
        let (layer, expert) = (id(layer_column, "layer")?, id(expert_column, "expert")?);
        let text = &record[count_column];
        let count = text.parse::<f64>().ok().filter(|&count| is_count(count)).ok_or_else(|| LoadError::Cell {
            line,
            column: "count",
            text: text.to_owned(),
            needed: EXPECTED,
        })?;
        if let Some((first, _)) = rows.insert((layer, expert), (line, count)) {
            return Err(LoadError::Twice { line, layer, expert, first });
        }
    }
    let last = rows.keys().map(|&(_, expert)| expert).max().ok_or(LoadError::Empty)?;
    // In order of layer and expert; a hole is found before anything is reserved for experts that a file only claims to have.
    let mut load = Load { layers: Vec::new(), counts: Vec::new() };
    for (&(layer, expert), &(_, count)) in &rows {
        if load.layers.last() != Some(&layer) {
            load.require_complete(last)?;
            load.layers.push(layer);
            load.counts.push(Vec::new());
        }
        if let Some(row) = load.counts.last_mut() {
            if row.len() as u64 != u64::from(expert) {
                return Err(LoadError::Missing { layer, expert: row.len() as u32, last });
            }
            row.push(count);
        }
    }
    load.require_complete(last)?;
    Ok(load)
}

impl Load {
    /// That the layer read last goes up to expert `last`.
    fn require_complete(&self, last: u32) -> Result<(), LoadError> {
        match (self.layers.last(), self.counts.last()) {
            (Some(&layer), Some(row)) if row.len() as u64 != u64::from(last) + 1 => {
                Err(LoadError::Missing { layer, expert: row.len() as u32, last })
            }
            _ => Ok(()),
        }
    }
}
