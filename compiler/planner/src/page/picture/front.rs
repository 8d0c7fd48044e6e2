//! The plans of a search by time and memory, with those that no other beats.

use std::collections::BTreeSet;

use super::figure::{Anchor, Figure, Ink, WIDTH, round};
use super::style::Mark;
use super::text::Type;
use crate::cost::search::{Candidate, Found};
use crate::units::{self, Unit};

const LEFT: f64 = 40.0;
const PLOT: f64 = 300.0;
/// Plans that need more times the memory of a GPU are only counted.
const MOST: u64 = 3;

/// A logarithmic axis.
struct Axis {
    marks: Vec<f64>,
    length: f64,
}

impl Axis {
    fn new(least: f64, most: f64, length: f64) -> Axis {
        let mut marks = units::logarithmic_marks(least, most);
        if marks.len() < 2 {
            marks.push(marks[0] * 2.0);
        }
        Axis { marks, length }
    }

    fn at(&self, value: f64) -> f64 {
        let (first, last) = (self.marks[0].ln(), self.marks[self.marks.len() - 1].ln());
        (value.ln() - first) / (last - first) * self.length
    }
}

/// Time across, memory up, both logarithmic.
pub(super) fn figure(found: &Found, capacity: Option<u64>) -> Option<Figure> {
    let mut figure = Figure::new(
        "Time of a step and memory of a GPU",
        format!(
            "{} plans, {} of them fit. No plan beats those on the line in both time and memory; their numbers are those of the table. \
             Both axes are logarithmic.",
            units::count(found.tried as f64),
            units::count(found.fitting as f64)
        ),
    );
    // What needs many times the memory would press everything else together.
    let most = capacity.map_or(u64::MAX, |capacity| capacity.saturating_mul(MOST));
    let everything = || {
        let positive = |plan: &&Candidate| plan.step_us > 0.0 && plan.memory > 0;
        found.all.iter().chain(&found.front).filter(positive).filter(|plan| plan.fits || plan.memory <= most)
    };
    let beyond = found.all.iter().filter(|plan| !plan.fits && plan.memory > most).count();
    if beyond > 0 {
        figure.caption += &format!(
            " {} plans need more than {MOST} times the memory of a GPU and are not drawn.",
            units::count(beyond as f64)
        );
    }
    let range = |value: &dyn Fn(&Candidate) -> f64| {
        let least = everything().map(value).fold(f64::INFINITY, f64::min);
        (least, everything().map(value).fold(0.0, f64::max))
    };
    let (times, memories) = (range(&|plan| plan.step_us), range(&|plan| plan.memory as f64));
    if times.1 <= 0.0 {
        return None;
    }
    let (seconds, gigabytes) = (Unit::of_times([times.1]), Unit::of_bytes([memories.1]));
    let across = Axis::new(seconds.value(times.0), seconds.value(times.1), WIDTH - LEFT);
    let up = Axis::new(gigabytes.value(memories.0), gigabytes.value(memories.1), PLOT);
    let has = capacity.map(|bytes| bytes as f64);
    let limit = has.map_or_else(|| "what a GPU has".to_owned(), |has| format!("what a GPU has, {}", units::bytes(has)));
    let entries = [
        (Mark::Dot, "fits".to_owned()),
        (Mark::Cross, "does not fit".to_owned()),
        (Mark::Front, "no other beats it".to_owned()),
        (Mark::Limit, limit),
    ];
    let keys = figure.legend_of(&entries);
    let [dot, cross, front, limit] = keys[..] else { return None };
    figure.lines(Type::SMALL, Ink::Quiet, &format!("memory of the fullest GPU, {}", gigabytes.name));
    let top = figure.y + 8.0;
    let bottom = top + PLOT;
    let place = |plan: &Candidate| {
        let (time, memory) = (seconds.value(plan.step_us), gigabytes.value(plan.memory as f64));
        [LEFT + across.at(time), bottom - up.at(memory)]
    };
    let mut last = f64::NEG_INFINITY;
    for &mark in &across.marks {
        let (x, label) = (LEFT + across.at(mark), round(mark).to_string());
        figure.grid([x, top], [x, bottom]);
        // Where the mark before leaves room.
        if x - last > Type::NUMBER.width(&label) + 6.0 {
            figure.write([x, bottom + 15.0], Type::NUMBER, Anchor::Middle, Ink::Quiet, &label);
            last = x;
        }
    }
    for &mark in &up.marks {
        let y = bottom - up.at(mark);
        figure.grid([LEFT, y], [WIDTH, y]);
        figure.write([LEFT - 5.0, y + 4.0], Type::NUMBER, Anchor::End, Ink::Quiet, &round(mark).to_string());
    }
    figure.write(
        [WIDTH, bottom + 31.0],
        Type::SMALL,
        Anchor::End,
        Ink::Quiet,
        &format!("time of a step, {}", seconds.name),
    );
    // Thousands of plans lie on each other; one mark for each pixel and kind.
    let mut seen = BTreeSet::new();
    let (mut fit, mut misfit) = (Vec::new(), Vec::new());
    for plan in everything() {
        let at = place(plan);
        if seen.insert((at[0].round() as i64, at[1].round() as i64, plan.fits)) {
            if plan.fits { &mut fit } else { &mut misfit }.push(at);
        }
    }
    figure.crosses(cross, &misfit);
    figure.dots(dot, &fit);
    if let Some(has) = has.map(|bytes| gigabytes.value(bytes)).filter(|has| up.at(*has) > 0.0 && up.at(*has) < PLOT) {
        figure.stroke(limit, [LEFT, bottom - up.at(has)], [WIDTH, bottom - up.at(has)]);
    }
    let places: Vec<[f64; 2]> = found.front.iter().map(place).collect();
    figure.curve(front, &places);
    let mut last: Option<[f64; 2]> = None;
    for (index, (plan, [x, y])) in found.front.iter().zip(places).enumerate() {
        let tip = format!(
            "{}: ep {} pp {} dp {} zero {} {} SMs, {}: {}, {}",
            index + 1,
            plan.parallel.ep,
            plan.parallel.pp,
            plan.parallel.dp,
            plan.parallel.zero,
            plan.parallel.sms,
            plan.parallel.schedule.name(),
            seconds.show(plan.step_us),
            gigabytes.show(plan.memory as f64)
        );
        figure.best(front, [x, y], &tip);
        // Numbers where the last one leaves room.
        if last.is_none_or(|[lx, ly]| (x - lx).abs() > 20.0 || (y - ly).abs() > 16.0) {
            let number = (index + 1).to_string();
            figure.write([x - 7.0, y + 15.0], Type::STRONG, Anchor::End, Ink::Plain, &number);
            last = Some([x, y]);
        }
    }
    figure.y = bottom + 36.0;
    Some(figure)
}
