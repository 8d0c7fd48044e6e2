//! What a person reads first.

use crate::cost::Costs;
use crate::cost::compare::MEMORY_RESOLUTION;
use crate::cost::memory::{Choice, Need, Recompute};
use crate::missing::withheld;
use crate::not_built::NotBuilt;
use crate::units::human_bytes;

/// What matters most of a report: whether it fits and how fast it is, or why that is withheld; and what is recomputed, and why.
pub(crate) fn headline(report: &Costs) -> Vec<String> {
    let what = match (report.decode, &report.memory) {
        (Some(_), _) => "memory is",
        (None, Some(_)) => "step and tokens/s are",
        (None, None) => "step, tokens/s and memory are",
    };
    let mut headline: Vec<String> = Vec::new();
    headline.extend(withheld(what, &report.missing, &report.model, &report.cluster));
    headline.extend(report.memory.as_ref().map(|memory| {
        let (total, capacity) = (memory.total().0 as f64, memory.capacity.0 as f64);
        let of = format!("{} of {} on the fullest GPU", human_bytes(total), human_bytes(capacity));
        if !memory.fits() {
            return format!("does not fit: {of}, {} too much", human_bytes(total - capacity));
        }
        match &report.step {
            Some(step) => format!(
                "fits: {of}; a step takes {:.2} s, {:.0} tokens/s a GPU",
                step.total.0 / 1e6,
                step.tokens_per_second
            ),
            None => format!("fits: {of}"),
        }
    }));
    headline.extend(report.recompute.as_ref().map(recomputed));
    headline.extend(
        report
            .decode
            .map(|decode| format!("dispatch + combine of all layers of one token take {:.2} ms", decode.0 / 1e3)),
    );
    headline.extend(report.not_built.iter().map(NotBuilt::told));
    headline
}

/// What is recomputed, why, and what keeping more would need.
fn recomputed(choice: &Choice) -> String {
    let what = match choice.chosen {
        Recompute::None => "recomputed: nothing",
        Recompute::Selective => "recomputed: norms, activation functions and up-projections (selective)",
        Recompute::Full => "recomputed: everything (full), one more forward pass",
    };
    let asked = if choice.asked { ", as asked" } else { "" };
    let size = |need: &Need| human_bytes(need.bytes.0 as f64);
    let room = |need: &Need| {
        let much = human_bytes(need.left.unsigned_abs() as f64);
        if need.fits() { format!("{much} left") } else { format!("{much} too much") }
    };
    let chosen = choice.need(choice.chosen).map(|need| format!(" needs {}, {}", size(need), room(need)));
    let Some(more) = choice.next() else { return format!("{what}{asked};{}", chosen.unwrap_or_default()) };
    let faster = match (choice.need(choice.chosen).and_then(|need| need.step), more.step) {
        (Some(now), Some(then)) if then.0 < now.0 => {
            format!(", and a step would take {:.2} s instead of {:.2} s", then.0 / 1e6, now.0 / 1e6)
        }
        (Some(_), Some(_)) => ", and save no time that is counted".to_owned(),
        _ => String::new(),
    };
    let capacity = more.bytes.0 as f64 + more.left as f64;
    let close = !choice.asked && !more.fits() && more.left.unsigned_abs() as f64 <= MEMORY_RESOLUTION * capacity;
    let close = if close {
        format!(
            "; that is less than memory is counted to ({:.0} %): `--recompute {}` plans with it",
            MEMORY_RESOLUTION * 100.0,
            more.recompute.name()
        )
    } else {
        String::new()
    };
    format!(
        "{what}{asked};{}; {} would need {}, {}{faster}{close}",
        chosen.unwrap_or_default(),
        if more.recompute == Recompute::None { "keeping everything" } else { "selective" },
        size(more),
        room(more)
    )
}
