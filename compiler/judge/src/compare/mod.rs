//! What a run gave against what it must give.
//!
//! Invariants: every quantity that is expected is compared or said not to be; a rank, a call or an array that is missing differs; numbers
//! are compared by their bits, so that a wrong order of addition, −0 for 0 and one NaN for another are found too. Only where the
//! contract leaves the bits of a NaN open ("Order of arithmetic" in [`moe_contract::kernel`]) any NaN is that NaN.

mod links;
mod quantised;

use moe_contract::{Buffer, Exchange, RankId, RowLayout};

use crate::check::{self, Check, Nans};
use crate::expected::Expected;
use crate::place::Naming;
use crate::produced::Produced;
use crate::reference::{Copy, Handle};
use crate::remarks::{Remark, not_finite};

/// Everything that was compared, and what is to be said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Comparisons, in the order of the calls.
    pub checks: Vec<Check>,
    /// What the reader should know of the input and of what could not be compared.
    pub remarks: Vec<Remark>,
}

impl Verdict {
    /// Whether everything that was compared is as it must be.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }
}

const REFERENCE: &str = "the reference";
const COMBINE_WEIGHS: &str = "the reference, which weighs in combine";
const EXPERTS_WEIGH: &str = "the reference, whose experts weigh";
const GATE: &str = "the gate as written, interpreted";
const DERIVATIVE: &str = "the gate's derivative, interpreted";

pub fn compare(produced: &Produced, expected: &Expected) -> Verdict {
    let exchange = &expected.exchange;
    let k = exchange.top_k as usize;
    let (of_tokens, of_picks, of_rows) = (Naming::Rows(&[]), Naming::Tokens("pick"), Naming::Rows(&expected.handles));
    let mut remarks: Vec<Remark> = not_finite("x", &expected.sent).map(Remark::NotFinite).into_iter().collect();
    let mut checks = vec![
        Check::numbers("chosen experts", GATE, &produced.indices, &expected.indices, k, &of_picks),
        Check::numbers("weights", GATE, &produced.weights, &expected.weights, k, &of_picks),
        slots(produced, expected),
        Check::rows("experts' input", REFERENCE, &produced.input, &expected.input, &of_rows),
    ];
    checks.extend(quantised::check(produced, expected));
    checks.push(Check::rows("combined result", REFERENCE, &produced.combined, &expected.combined, &of_tokens));
    match (&produced.backward, &expected.backward) {
        (None, None) => {}
        (None, Some(_)) | (Some(_), None) => {
            let mut check = Check::new("backward pass", REFERENCE, check::BITWISE);
            let said = |there: bool| if there { "one" } else { "none" }.to_owned();
            check.differ("the run".into(), said(produced.backward.is_some()), said(expected.backward.is_some()));
            checks.push(check);
        }
        (Some(found), Some(wanted)) => {
            let experts = exchange.gate_width() as usize;
            let weighed = if exchange.weighted { COMBINE_WEIGHS } else { EXPERTS_WEIGH };
            checks.extend([
                Check::rows("gradient of experts' output", REFERENCE, &found.output, &wanted.output, &of_rows),
                Check::numbers("gradient of weights", weighed, &found.weights, &wanted.weights, k, &of_picks),
                Check::rows("gradient of tokens", REFERENCE, &found.tokens, &wanted.tokens, &of_tokens),
                Check::rows("experts' input, cached routing", REFERENCE, &found.again, &wanted.again, &of_rows),
            ]);
            if let Some(wanted) = &wanted.logits {
                let found = found.logits.as_deref().unwrap_or_default();
                let mut check = Check::new("gradient of logits", DERIVATIVE, check::BITWISE);
                check.all_numbers(found, wanted, experts, &Naming::Tokens("expert"), Nans::Equal);
                checks.push(check);
            }
        }
    }
    if produced.traffic.is_empty() {
        remarks.push(Remark::NoTraffic);
    } else {
        checks.push(links::check(&produced.traffic, &expected.traffic));
    }
    checks.extend(expected.direct.iter().cloned());
    Verdict { checks: checks.into_iter().filter(Check::says_something).collect(), remarks }
}

/// Everything that dispatch keeps: slots, counts, places.
fn slots(produced: &Produced, expected: &Expected) -> Check {
    let mut check = Check::new("slots and places", REFERENCE, check::BITWISE);
    check.ranks(produced.handles.len(), expected.handles.len());
    for (rank, (arrays, handle)) in (0..).map(RankId).zip(produced.handles.iter().zip(&expected.handles)) {
        for buffer in Buffer::of_handle() {
            let wanted = handle_array(&expected.exchange, handle, buffer);
            let found = arrays.iter().find(|(found, _)| *found == buffer).map_or(&[][..], |(_, found)| found);
            check.numbers_of(rank, found, &wanted, 1, &Naming::Array(buffer.name()), Nans::Bits);
        }
    }
    check
}

/// What an array of a handle must hold, in its defined parts.
pub fn handle_array(exchange: &Exchange, handle: &Handle, buffer: Buffer) -> Vec<i32> {
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
