//! fp8 rows against the tokens that were sent: the reference's conversion has no part in it.

use moe_contract::{RankId, Scales};

use crate::check::Check;
use crate::expected::Expected;
use crate::produced::Produced;

/// Half a step of 3 mantissa bits.
const RELATIVE: f64 = 1.0 / 16.0;
/// Half the smallest step, in units of the scale.
const SMALLEST: f64 = 1.0 / 1024.0;
/// The scale, the multiplier and the product are rounded to f32.
const ROUNDING: f64 = 1.0 + 1e-6;

/// Each element of each copy; nothing for a format without scales.
pub(super) fn check(produced: &Produced, expected: &Expected) -> Option<Check> {
    let exchange = &expected.exchange;
    let Scales { element: scale, block } = exchange.dispatch.scales?;
    let block = block as usize;
    let criterion = "within half a step of fp8: 1/16 of the number or 1/1024 of the scale";
    let mut check = Check::new("experts' input", "the tokens before they were converted", criterion);
    let mut largest = 0.0f64;
    for (rank, (input, handle)) in (0..).map(RankId).zip(produced.input.iter().zip(&expected.handles)) {
        if input.format() != exchange.dispatch || input.hidden() != exchange.hidden {
            // The comparison with the reference says so.
            continue;
        }
        for copy in &handle.copies {
            let sent = expected.sent[copy.source.index()].elements(copy.token);
            // Copies of a row are equal, bit for bit.
            let Some(&row) = copy.rows.iter().flatten().find(|&&row| row < input.count()) else { continue };
            let found = input.elements(row);
            let scales = input.row_scales(row).chunks(scale.bytes() as usize).map(|bytes| scale.decode(bytes));
            for (first, (sent, scale)) in (0..).step_by(block).zip(sent.chunks(block).zip(scales)) {
                let infinite = sent.iter().any(|number| number.is_infinite());
                for (column, (&element, &sent)) in (first..).zip(found[first..].iter().zip(sent)) {
                    check.compared += 1;
                    // What it stands for may be more than an f32.
                    let found = f64::from(element) * f64::from(scale);
                    // The scale of an infinity is infinite, and nothing of its block is left.
                    let error = if sent.is_nan() || infinite {
                        if found.is_nan() { 0.0 } else { f64::INFINITY }
                    } else {
                        let (sent, scale) = (f64::from(sent), f64::from(scale));
                        let allowed = (sent.abs() * RELATIVE).max(scale * SMALLEST) * ROUNDING;
                        (found - sent).abs() / allowed
                    };
                    largest = largest.max(error);
                    if error.is_nan() || error > 1.0 {
                        let place = format!("{rank}, row {row}, element {column}");
                        let wanted =
                            if infinite { "NaN: an infinity shares its scale".into() } else { sent.to_string() };
                        check.differ(place, found.to_string(), wanted);
                    }
                }
            }
        }
    }
    check.figure = Some(format!("within the bound, {:.1} % of it at most", largest * 100.0));
    Some(check)
}
