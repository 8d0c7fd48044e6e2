//! Reading a table of measurements (CSV with a header).
//!
//! Columns of both forms: `node_num`, `hidden_size`, `num_token`, `num_topk`, `num_experts`. Throughput mode: `dispatch_sms`,
//! `dispatch_transmit_us`, `dispatch_notify_us`, the same for `combine`. Low latency: `dispatch_avg_t_us`, `combine_avg_t_us`. Others are
//! ignored: rates in such tables are logical, and are computed again from bytes.

use std::collections::BTreeMap;

use moe_contract::Format;
use moe_front::spec::Mode;
use thiserror::Error;

use crate::sample::{Logits, Sample, SampleError};
use crate::setting::{self, Real, Whole};
use crate::time::{Call, Demand, Direction};
use crate::traffic::{Expected, TopologyError, contiguous, expected_distinct};

/// What the measurements were made on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardware {
    pub gpus_per_node: u32,
    /// Rate of NVLink, per GPU and direction, in bytes per second.
    pub nvlink: f64,
    /// Rate of the network, the same.
    pub rdma: f64,
}

impl Hardware {
    /// H100 nodes of 8, a NIC of 400 Gb/s for each GPU. NVLink is declared as it can be achieved, like in `.moe` files: 360 GB/s of
    /// nominally 450, the part that was published for H800.
    pub const H100: Hardware = Hardware { gpus_per_node: 8, nvlink: 360e9, rdma: 50e9 };
    /// H800 nodes of 8: NVLink 160 GB/s as published (nominally 200), a NIC of 400 Gb/s for each GPU.
    pub const H800: Hardware = Hardware { gpus_per_node: 8, nvlink: 160e9, rdma: 50e9 };
}

/// One measured time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    pub line: u64,
    /// Which kernel.
    pub direction: Direction,
    /// Whether it is its notify kernel.
    pub notify: bool,
    /// What it did.
    pub call: Call,
    /// Its time.
    pub us: f64,
}

/// All measurements of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub mode: Mode,
    pub hardware: Hardware,
    /// In the order of the file.
    pub rows: Vec<Measurement>,
}

/// A table cannot be used.
#[derive(Debug, Error)]
pub enum CalibrationError {
    #[error("this is not a table of comma-separated values: {0}")]
    Csv(#[from] csv::Error),
    #[error("there is no column `{column}`; the file has {found}")]
    MissingColumn { column: &'static str, found: String },
    /// A column has the right name in another unit.
    #[error("the column `{found}` is in another unit: convert it to microseconds and call it `{column}`")]
    Unit {
        /// The expected column.
        column: &'static str,
        found: String,
    },
    /// No number.
    #[error("line {line}, column `{column}`: `{text}` is not a number")]
    NotANumber {
        line: u64,
        /// Of the line.
        column: &'static str,
        text: String,
    },
    /// A time or count that cannot be.
    #[error("line {line}, column `{column}`: {value} is not possible; it must be {needed}")]
    Impossible {
        line: u64,
        /// Of the line.
        column: &'static str,
        value: f64,
        /// What could.
        needed: String,
    },
    /// Times that no parameters of the model give.
    #[error("no kernel has these times: the fit does not come to an end; are they of this cluster?")]
    NoFit,
    /// No rows.
    #[error("the table has 0 usable measurements; there must be at least one")]
    Empty,
    /// Counts of a row that no router can have.
    #[error("line {line}: {problem}")]
    Shape {
        line: u64,
        /// What does not fit.
        problem: String,
    },
}

struct Columns<'a> {
    header: &'a csv::StringRecord,
}

impl Columns<'_> {
    fn find(&self, column: &'static str) -> Result<usize, CalibrationError> {
        if let Some(index) = self.header.iter().position(|name| name.trim() == column) {
            return Ok(index);
        }
        // A time in another unit differs in its ending only.
        if let Some(stem) = column.strip_suffix("_us")
            && let Some(found) = self
                .header
                .iter()
                .map(str::trim)
                .find(|name| ["_ms", "_s", "_ns"].iter().any(|unit| name.strip_suffix(unit) == Some(stem)))
        {
            return Err(CalibrationError::Unit { column, found: found.to_owned() });
        }
        let found = self.header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Err(CalibrationError::MissingColumn { column, found })
    }

    fn number(&self, record: &csv::StringRecord, column: &'static str) -> Result<f64, CalibrationError> {
        let line = line_of(record);
        let text = record.get(self.find(column)?).unwrap_or("").trim();
        text.parse().map_err(|_| CalibrationError::NotANumber { line, column, text: text.to_owned() })
    }

    fn count(
        &self,
        record: &csv::StringRecord,
        column: &'static str,
        setting: &Whole,
    ) -> Result<u32, CalibrationError> {
        let value = self.number(record, column)?;
        // What is no whole number becomes another one; what is too large stays so.
        let whole = value as u64;
        if whole as f64 == value
            && let Ok(count) = setting.narrow(whole)
        {
            return Ok(count);
        }
        Err(CalibrationError::Impossible { line: line_of(record), column, value, needed: setting.range() })
    }

    fn time(&self, record: &csv::StringRecord, column: &'static str, setting: &Real) -> Result<f64, CalibrationError> {
        let value = self.number(record, column)?;
        let impossible =
            |_| CalibrationError::Impossible { line: line_of(record), column, value, needed: setting.range() };
        setting.check(value).map_err(impossible).map(|()| value)
    }
}

fn line_of(record: &csv::StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}

/// Reads a table of measurements of a library that sends fp8 rows with f32 scales per 128 out and bf16 rows back.
///
/// # Errors
/// The first thing that is wrong, with its line and column.
pub fn read(bytes: &[u8], hardware: &Hardware) -> Result<Table, CalibrationError> {
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers()?.clone();
    let columns = Columns { header: &header };
    let mode = if header.iter().any(|name| name.contains("_avg_t_")) { Mode::Latency } else { Mode::Throughput };
    let mut shapes = BTreeMap::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = line_of(&record);
        let [nodes, hidden, tokens, picks, experts] = [
            ("node_num", setting::MEASURED_NODES),
            ("hidden_size", setting::HIDDEN),
            ("num_token", setting::TOKENS),
            ("num_topk", setting::PICKS),
            ("num_experts", setting::EXPERTS),
        ]
        .map(|(name, setting)| columns.count(&record, name, &setting));
        let (nodes, hidden, tokens, picks, experts) = (nodes?, hidden?, tokens?, picks?, experts?);
        let key = (nodes, picks, experts);
        let shape = match shapes.get(&key) {
            Some(shape) => *shape,
            None => {
                let shape = Shape::of(nodes, picks, experts, hardware, mode)
                    .map_err(|problem| CalibrationError::Shape { line, problem })?;
                *shapes.entry(key).or_insert(shape)
            }
        };
        for direction in Direction::ALL {
            let call = |sms| Call {
                tokens: f64::from(tokens),
                nodes,
                demand: shape.demand(picks, message_bytes(mode, direction, hidden, picks), nodes, hardware),
                sms,
                nvlink: hardware.nvlink,
                rdma: hardware.rdma,
            };
            let dispatch = direction == Direction::Dispatch;
            let mut add = |column, notify, sms| -> Result<(), CalibrationError> {
                // A notify kernel that was not launched took no time; what was launched, did.
                let setting = if notify { setting::MEASURED_NOTIFY } else { setting::MEASURED_TIME };
                let us = columns.time(&record, column, &setting)?;
                if us > 0.0 {
                    rows.push(Measurement { line, direction, notify, call: call(sms), us });
                }
                Ok(())
            };
            match mode {
                Mode::Latency => {
                    add(if dispatch { "dispatch_avg_t_us" } else { "combine_avg_t_us" }, false, 1)?;
                }
                Mode::Throughput => {
                    let sms = columns.count(
                        &record,
                        if dispatch { "dispatch_sms" } else { "combine_sms" },
                        &setting::MEASURED_SMS,
                    )?;
                    let (transfer, notify) = if dispatch {
                        ("dispatch_transmit_us", "dispatch_notify_us")
                    } else {
                        ("combine_transmit_us", "combine_notify_us")
                    };
                    add(transfer, false, sms)?;
                    add(notify, true, sms)?;
                }
            }
        }
    }
    Ok(Table { mode, hardware: *hardware, rows })
}

/// Bytes of a copy or message as the measured library sends them.
fn message_bytes(mode: Mode, direction: Direction, hidden: u32, picks: u32) -> f64 {
    let row = |payload: Format| (payload.row_bytes(hidden) + payload.scale_bytes(hidden)) as f64;
    match (direction, mode) {
        (Direction::Combine, _) => row(Format::BF16),
        // Source, picks and weights travel along: 8 bytes, and 4 + 4 for each pick.
        (Direction::Dispatch, Mode::Throughput) => row(Format::FP8_F32_128) + 8.0 + 8.0 * f64::from(picks),
        // A header of 16 bytes tells where the message belongs.
        (Direction::Dispatch, Mode::Latency) => row(Format::FP8_F32_128) + 16.0,
    }
}

/// What the measured router does.
#[derive(Clone, Copy)]
struct Shape {
    nodes: f64,
    ranks: f64,
}

/// Groups of experts that a token of the measured router may use at most; a group is a node.
const GROUPS_AT_MOST: u32 = 4;

impl Shape {
    fn of(nodes: u32, picks: u32, experts: u32, hardware: &Hardware, mode: Mode) -> Result<Shape, String> {
        let ranks = nodes * hardware.gpus_per_node;
        if picks > experts {
            return Err(format!("{picks} picks of {experts} experts are not possible"));
        }
        if mode == Mode::Latency {
            // Messages are per pick, so that only picks count; experts need not divide among ranks.
            return Ok(Shape { nodes: f64::from(picks.min(nodes)), ranks: f64::from(picks.min(ranks)) });
        }
        if !experts.is_multiple_of(ranks) {
            return Err(format!("{experts} experts do not divide among {ranks} GPUs"));
        }
        if nodes <= GROUPS_AT_MOST {
            let distinct = |parts| expected_distinct(experts, picks, parts);
            return Ok(Shape { nodes: distinct(nodes), ranks: distinct(ranks) });
        }
        // Its groups are ranked by their best score: the same gate in the language, sampled.
        let source = format!(
            "model measured {{ hidden 128 experts {experts} in {nodes} groups moe_layers 1
               gate(logits: f32[experts]) {{
                 let best = top({GROUPS_AT_MOST}, groups, by: max(group(logits)))
                 let chosen = top({picks}, experts in best, by: logits)
                 weights softmax(logits)[chosen]
               }}
               dispatch {{ payload bf16 layout rank_major }} combine {{ payload bf16 reduce f32 unweighted }} }}"
        );
        let spec = moe_front::check_source(source.as_bytes()).spec;
        let model = spec.as_ref().and_then(|spec| spec.models.iter().next());
        let (_, model) = model.ok_or("no such router can be described")?;
        let sample =
            Sample::of(&model.gate, &Logits::Independent, 16_384, 1).map_err(|e: SampleError| e.to_string())?;
        let homes = contiguous(model, ranks, hardware.gpus_per_node).map_err(|e: TopologyError| e.to_string())?;
        let expected = Expected::of(&sample, &homes);
        Ok(Shape { nodes: expected.distinct_nodes.mean, ranks: expected.distinct_ranks.mean })
    }

    fn demand(self, picks: u32, bytes: f64, nodes: u32, hardware: &Hardware) -> Demand {
        let (n, g) = (f64::from(nodes), f64::from(hardware.gpus_per_node));
        let picks = f64::from(picks);
        Demand {
            bytes,
            nodes: self.nodes,
            ranks: self.ranks,
            remote_nodes: self.nodes * (1.0 - 1.0 / n),
            nvlink_copies: self.ranks * (1.0 - 1.0 / g),
            picks,
            remote_picks: picks * (1.0 - 1.0 / n),
            local_picks: picks / n * (1.0 - 1.0 / g),
        }
    }
}
