//! The plans of a search by time and memory, with those that no other beats.

use std::collections::BTreeSet;

use svg::node::element::{Circle, Path, Polyline, Title};

use super::figure::{Figure, WIDTH, round};
use super::units;
use crate::search::{Candidate, Found};

const LEFT: f64 = 66.0;
const PLOT: f64 = 380.0;
/// Plans that need more times the memory of a GPU are only counted.
const MOST: u64 = 3;

/// Time across, memory up, both logarithmic.
pub(super) fn figure(found: &Found, capacity: Option<u64>) -> Option<Figure> {
    let mut figure = Figure::new(
        "Time of a step and memory of a GPU: the Pareto front",
        format!(
            "{} plans, {} of them fit (dots; crosses do not). No plan beats those on the line in both time and memory; their numbers are \
             those of the table. Both axes are logarithmic.",
            units::count(found.tried as f64),
            units::count(found.fitting as f64)
        ),
    );
    let memory = |candidate: &Candidate| candidate.memory as f64 / 1e9;
    let time = |candidate: &Candidate| candidate.step_us / 1e6;
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
    let (times, memories) = (range(&time), range(&memory));
    if times.1 <= 0.0 {
        return None;
    }
    let axis = |(least, most): (f64, f64)| {
        let mut marks = units::logarithmic_marks(least, most);
        if marks.len() < 2 {
            marks.push(marks[0] * 2.0);
        }
        marks
    };
    let (x_marks, y_marks) = (axis(times), axis(memories));
    let place = |marks: &[f64], value: f64| {
        let (first, last) = (marks[0].ln(), marks[marks.len() - 1].ln());
        (value.ln() - first) / (last - first)
    };
    let top = 22.0;
    let x = |value: f64| LEFT + place(&x_marks, value) * (WIDTH - LEFT - 30.0);
    let y = |value: f64| top + PLOT - place(&y_marks, value) * PLOT;
    figure.text(0.0, 10.0, "small quiet", "memory of the fullest GPU, GB");
    for &mark in &x_marks {
        figure.line([x(mark), top], [x(mark), top + PLOT], "grid");
        figure.text(x(mark), top + PLOT + 16.0, "small middle quiet", format!("{} s", round(mark)));
    }
    for &mark in &y_marks {
        figure.line([LEFT, y(mark)], [WIDTH - 30.0, y(mark)], "grid");
        figure.text(LEFT - 6.0, y(mark) + 4.0, "small end quiet", round(mark).to_string());
    }
    figure.text(WIDTH - 30.0, top + PLOT + 32.0, "small end quiet", "time of a step, seconds");
    // Thousands of plans lie on each other; one mark for each pixel and kind.
    let mut seen = BTreeSet::new();
    let mut crosses = String::new();
    for plan in everything() {
        let (px, py) = (x(time(plan)), y(memory(plan)));
        if !seen.insert((px.round() as i64, py.round() as i64, plan.fits)) {
            continue;
        }
        if plan.fits {
            figure.add(Circle::new().set("cx", round(px)).set("cy", round(py)).set("r", 2.5).set("class", "dot"));
        } else {
            crosses += &format!("M{:.1} {:.1}l4 4m0 -4l-4 4", px - 2.0, py - 2.0);
        }
    }
    if !crosses.is_empty() {
        figure.add(Path::new().set("d", crosses).set("class", "misfit"));
    }
    if let Some(capacity) = capacity.map(|bytes| bytes as f64 / 1e9)
        && capacity > y_marks[0]
        && capacity < y_marks[y_marks.len() - 1]
    {
        figure.line([LEFT, y(capacity)], [WIDTH - 30.0, y(capacity)], "limit");
        let words = format!("{} a GPU", units::bytes(capacity * 1e9));
        figure.text(WIDTH - 34.0, y(capacity) - 5.0, "small end alarm", words);
    }
    let points: Vec<String> =
        found.front.iter().map(|plan| format!("{:.1},{:.1}", x(time(plan)), y(memory(plan)))).collect();
    figure.add(Polyline::new().set("points", points.join(" ")).set("class", "front"));
    let mut last: Option<(f64, f64)> = None;
    for (index, plan) in found.front.iter().enumerate() {
        let (px, py) = (x(time(plan)), y(memory(plan)));
        let tip = format!(
            "{}: ep {} pp {} dp {} zero {} {} SMs, {}: {}, {}",
            index + 1,
            plan.parallel.ep,
            plan.parallel.pp,
            plan.parallel.dp,
            plan.parallel.zero,
            plan.parallel.sms,
            plan.parallel.schedule.name(),
            units::time(plan.step_us),
            units::bytes(plan.memory as f64)
        );
        let dot = Circle::new().set("cx", round(px)).set("cy", round(py)).set("r", 5).set("class", "frontDot");
        figure.add(dot.add(Title::new(tip)));
        // Numbers where the last one leaves room.
        if last.is_none_or(|(lx, ly)| (px - lx).abs() > 16.0 || (py - ly).abs() > 14.0) {
            figure.text(px - 8.0, py + 16.0, "small strong end", (index + 1).to_string());
            last = Some((px, py));
        }
    }
    figure.height = top + PLOT + 38.0;
    Some(figure)
}
