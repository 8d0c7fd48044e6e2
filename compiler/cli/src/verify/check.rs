//! Comparisons, and the first difference of each.

use moe_bundle::Manifest;
use moe_contract::{Buffer, Exchange, RankId, RowLayout, Scales};
use moe_judge::Rows;
use moe_judge::reference::{Copy, Handle};

use super::{Expected, Produced};
use crate::given::Given;

/// One comparison over all ranks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Check {
    /// What is compared.
    pub what: String,
    /// Numbers that were compared.
    pub compared: u64,
    /// How it is compared.
    pub criterion: &'static str,
    /// The first difference; none if all is well.
    pub difference: Option<Difference>,
    /// A figure worth knowing.
    pub figure: Option<String>,
}

/// A number that is not what it should be.
#[derive(Clone, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Difference {
    /// Where.
    pub place: String,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
}

const BITWISE: &str = "bit for bit";

impl Check {
    /// Whether all is well.
    pub fn holds(&self) -> bool {
        self.difference.is_none()
    }

    fn bitwise(what: impl Into<String>) -> Check {
        Check { what: what.into(), compared: 0, criterion: BITWISE, difference: None, figure: None }
    }

    /// Compares numbers of one rank; `width` numbers are a row.
    fn numbers<T: Bits>(&mut self, rank: usize, found: &[T], expected: &[T], width: usize) {
        self.compared += expected.len() as u64;
        if self.difference.is_some() {
            return;
        }
        if found.len() != expected.len() {
            self.differ(
                format!("rank {rank}"),
                format!("{} numbers", found.len()),
                format!("{} numbers", expected.len()),
            );
        } else if let Some(place) = (0..found.len()).find(|&place| found[place].bits() != expected[place].bits()) {
            let (row, column) = (place / width.max(1), place % width.max(1));
            self.differ(
                format!("rank {rank}, row {row}, element {column}"),
                found[place].to_string(),
                expected[place].to_string(),
            );
        }
    }

    fn rows(&mut self, rank: usize, found: &Rows, expected: &Rows) {
        let hidden = expected.hidden() as usize;
        let element = expected.format().element.bytes() as usize;
        self.compared += (expected.count() * hidden) as u64;
        if self.difference.is_some() {
            return;
        }
        if found.count() != expected.count() {
            self.differ(
                format!("rank {rank}"),
                format!("{} rows", found.count()),
                format!("{} rows", expected.count()),
            );
            return;
        }
        let pairs = found.bytes().chunks(element).zip(expected.bytes().chunks(element));
        let differs =
            if found.bytes() == expected.bytes() { None } else { pairs.into_iter().position(|(a, b)| a != b) };
        if let Some(place) = differs {
            let (row, column) = (place / hidden, place % hidden);
            let place = format!("rank {rank}, row {row}, element {column}");
            self.differ(place, found.elements(row)[column].to_string(), expected.elements(row)[column].to_string());
        }
        let scales = expected.scales().len() / expected.count().max(1);
        self.numbers(rank, found.scales(), expected.scales(), scales);
    }

    fn differ(&mut self, place: String, found: String, expected: String) {
        self.difference = Some(Difference { place, found, expected });
    }
}

/// A number as its bits.
trait Bits: std::marker::Copy + ToString {
    fn bits(self) -> u32;
}

impl Bits for f32 {
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Bits for u8 {
    fn bits(self) -> u32 {
        self.into()
    }
}

impl Bits for i32 {
    fn bits(self) -> u32 {
        self.cast_unsigned()
    }
}

/// Everything.
pub fn all(manifest: &Manifest, given: &Given, produced: &Produced, expected: &Expected) -> Vec<Check> {
    let exchange = &manifest.exchange;
    let k = exchange.top_k as usize;
    let mut checks = vec![
        numbers("chosen experts", &produced.indices, &expected.indices, k),
        numbers("weights", &produced.weights, &expected.weights, k),
        slots(manifest, produced, expected),
        rows("experts' input", &produced.input, &expected.input),
        bound(manifest, given, produced, expected),
        rows("combined result", &produced.combined, &expected.combined),
    ];
    if let (Some(produced), Some(expected)) = (&produced.backward, &expected.backward) {
        let of_output: Vec<&Rows> = expected.combine.iter().map(|gradient| &gradient.expert_output).collect();
        checks.push(rows("gradient of experts' output", &produced.output, &of_output));
        if let Some(found) = &produced.weights {
            let wanted: Vec<Vec<f32>> =
                expected.combine.iter().map(|gradient| gradient.weights.clone().unwrap_or_default()).collect();
            checks.push(numbers("gradient of weights", found, &wanted, k));
        }
        checks.push(rows("gradient of tokens", &produced.tokens, &expected.tokens));
        checks.push(rows("experts' input, cached routing", &produced.again, &expected.again));
        if let (Some(found), Some(wanted)) = (&produced.logits, &expected.logits) {
            checks.push(numbers("gradient of logits", found, wanted, manifest.gate.experts as usize));
        }
    }
    if !produced.traffic.is_empty() {
        checks.push(links(produced, expected));
    }
    checks.into_iter().filter(|check| check.compared > 0 || !check.holds()).collect()
}

fn numbers<T: Bits>(what: &str, found: &[Vec<T>], expected: &[Vec<T>], width: usize) -> Check {
    let mut check = Check::bitwise(what);
    for (rank, (found, expected)) in found.iter().zip(expected).enumerate() {
        check.numbers(rank, found, expected, width);
    }
    check
}

fn rows<R: std::borrow::Borrow<Rows>>(what: &str, found: &[Rows], expected: &[R]) -> Check {
    let mut check = Check::bitwise(what);
    for (rank, (found, expected)) in found.iter().zip(expected).enumerate() {
        check.rows(rank, found, expected.borrow());
    }
    check
}

/// Everything that dispatch keeps: slots, counts, places.
fn slots(manifest: &Manifest, produced: &Produced, expected: &Expected) -> Check {
    let mut check = Check::bitwise("slots and places");
    for (rank, (arrays, handle)) in produced.handles.iter().zip(&expected.handles).enumerate() {
        for (buffer, found) in arrays {
            let before = check.difference.is_some();
            check.numbers(rank, found, &array(manifest, handle, *buffer), 1);
            if let (false, Some(difference)) = (before, &mut check.difference) {
                difference.place = format!("{} of {}", difference.place, buffer.name());
            }
        }
    }
    check
}

fn array(manifest: &Manifest, handle: &Handle, buffer: Buffer) -> Vec<i32> {
    let exchange = &manifest.exchange;
    let rank_major = exchange.layout == RowLayout::RankMajor;
    let place = |place: &Option<usize>| place.map_or(-1, |place| place as i32);
    let counts = |counts: &[usize]| counts.iter().map(|&count| count as i32).collect::<Vec<i32>>();
    let weights =
        || handle.copies.iter().flat_map(|copy| copy.weights.iter().map(|weight| weight.to_bits().cast_signed()));
    match buffer {
        Buffer::Status | Buffer::Calls | Buffer::Peers => vec![],
        Buffer::Slots => handle.slots.iter().map(place).collect(),
        Buffer::SendCounts => counts(&handle.send_counts),
        Buffer::ReceivedCounts => counts(&handle.received_counts(exchange)),
        Buffer::CopyTokens => handle.copies.iter().map(|copy| copy.token as i32).collect(),
        Buffer::CopyOrdinals => handle.copies.iter().map(|copy| copy.ordinal as i32).collect(),
        Buffer::CopyRows => handle.copies.iter().flat_map(|copy| copy.rows.iter().map(place)).collect(),
        Buffer::CopyWeights => weights().collect(),
        Buffer::ExpertCounts => counts(&handle.expert_counts),
        Buffer::ExpertOffsets => counts(&handle.expert_offsets),
        Buffer::RowPicks if rank_major => handle.row_picks(exchange),
        Buffer::RowWeights if rank_major => weights().collect(),
        Buffer::RowWeights if !exchange.weighted => {
            let of_copy = |copy: &Copy| -> Vec<(usize, f32)> {
                copy.rows.iter().zip(&copy.weights).filter_map(|(row, &weight)| Some(((*row)?, weight))).collect()
            };
            let mut by_row: Vec<(usize, f32)> = handle.copies.iter().flat_map(of_copy).collect();
            by_row.sort_by_key(|&(row, _)| row);
            by_row.into_iter().map(|(_, weight)| weight.to_bits().cast_signed()).collect()
        }
        Buffer::RowPicks | Buffer::RowWeights => vec![],
    }
}

/// fp8 rows against the rows before they were converted, which the reference's conversion has no part in.
fn bound(manifest: &Manifest, given: &Given, produced: &Produced, expected: &Expected) -> Check {
    let mut check = Check {
        what: "experts' input against the tokens".into(),
        compared: 0,
        criterion: "fp8: within half a step, 1/16 of the number or 1/1024 of the scale",
        difference: None,
        figure: None,
    };
    let mut largest = 0.0f64;
    for (rank, (input, handle)) in produced.input.iter().zip(&expected.handles).enumerate() {
        if let Some(worst) = quantisation_error(&manifest.exchange, handle, input, &given.activations) {
            largest = largest.max(worst);
            check.figure = Some(format!("within the bound, {:.1} % of it at most", largest * 100.0));
            check.compared += (handle.copies.len() as u64) * u64::from(manifest.exchange.hidden);
            if worst > 1.0 && check.difference.is_none() {
                let found = format!("an error of {:.1} % of the bound", worst * 100.0);
                check.differ(RankId(rank as u32).to_string(), found, "at most 100 %".into());
            }
        }
    }
    check
}

/// How far fp8 rows are from what was sent: the largest error over what the format allows. Below 1 all is well.
fn quantisation_error(exchange: &Exchange, handle: &Handle, input: &Rows, sent: &[Rows]) -> Option<f64> {
    /// Half a step of 3 mantissa bits.
    const RELATIVE: f64 = 1.0 / 16.0;
    /// Half the smallest step, in units of the scale.
    const SMALLEST: f64 = 1.0 / 1024.0;
    /// The scale, the multiplier and the product are rounded to f32.
    const ROUNDING: f64 = 1.0 + 1e-6;
    exchange.dispatch.scales.map(|Scales { element, block }| {
        let mut worst = 0.0f64;
        for copy in &handle.copies {
            let source = sent[copy.source.index()].elements(copy.token);
            // Copies of a row are equal, bit for bit.
            let Some(&row) = copy.rows.iter().flatten().next() else { continue };
            let scales: Vec<f32> =
                input.row_scales(row).chunks(element.bytes() as usize).map(|bytes| element.decode(bytes)).collect();
            for (place, (found, wanted)) in input.values(row).into_iter().zip(source).enumerate() {
                let (wanted, scale) = (f64::from(wanted), f64::from(scales[place / block as usize]));
                let allowed = (wanted.abs() * RELATIVE).max(scale * SMALLEST) * ROUNDING;
                worst = worst.max((f64::from(found) - wanted).abs() / allowed);
            }
        }
        worst
    })
}

/// Bytes on every link, against the plan.
fn links(produced: &Produced, expected: &Expected) -> Check {
    let mut check = Check {
        what: "bytes on the links".into(),
        compared: 0,
        criterion: "equal to what the plan says",
        difference: None,
        figure: None,
    };
    for ((call, counted), (_, planned)) in produced.traffic.iter().zip(&expected.traffic) {
        for writer in (0..counted.ranks()).map(RankId) {
            for owner in (0..counted.ranks()).map(RankId).filter(|&owner| owner != writer) {
                check.compared += 1;
                let (found, wanted) = (counted.bytes(writer, owner), planned.bytes(writer, owner));
                if found != wanted && check.difference.is_none() {
                    let place = format!("{}, {writer} to {owner}", call.name());
                    check.differ(place, found.to_string(), wanted.to_string());
                }
            }
        }
    }
    check
}
