//! Every colour of pages and pictures, for light and for dark, in one table from which the style sheets and the legends are made.
//!
//! Invariants: on its surface a text has a contrast of at least 4.5 and a mark of at least 3 (WCAG 2.1, 1.4.3 and 1.4.11), so that text
//! within a mark is black or white, whichever stands out more; series can be told apart in every kind of colour vision. Tests compute both
//! from the sheets. Colours are written out at each rule: programs that draw SVG for print know no variables.

use std::fmt::Write as _;

use super::matrix::Link;
use super::text::Type;

/// A colour, 0xRRGGBB, for light and for dark.
#[derive(Clone, Copy)]
struct Colour {
    light: u32,
    dark: u32,
}

const fn colour(light: u32, dark: u32) -> Colour {
    Colour { light, dark }
}

const PAPER: Colour = colour(0xffffff, 0x14171c);
const CARD: Colour = colour(0xf3f5f7, 0x1f242c);
const INK: Colour = colour(0x1b1f24, 0xe6e9ed);
const QUIET: Colour = colour(0x59636e, 0xa3adb8);
const RULE: Colour = colour(0xd5dae0, 0x3a424d);
const ALARM: Colour = colour(0xb3261e, 0xff8a80);
const GOOD: Colour = colour(0x00664b, 0x5fd3a8);
const LINK: Colour = colour(0x0969a8, 0x6cb6ff);

/// Blue, navy or sky, brown or red, orange, green, purple, olive or yellow, grey.
const SERIES: [Colour; 8] = [
    colour(0x0995ed, 0x486de0),
    colour(0x2d2646, 0x6ecefa),
    colour(0x5c0001, 0xc52e0d),
    colour(0xc6831b, 0xec9a1c),
    colour(0x005c41, 0xbcf7e3),
    colour(0xa9209b, 0x885e86),
    colour(0x816326, 0xfcdc70),
    colour(0x898989, 0x9b9b9b),
];

/// How many steps a scale of colours has.
pub(super) const STEPS: usize = 5;

/// From little to much: each step stands out from the paper half as much again as the one before.
const OWN: [Colour; STEPS] = [
    colour(0x919191, 0x676767),
    colour(0x737373, 0x838383),
    colour(0x595959, 0xa2a2a2),
    colour(0x404040, 0xc5c5c5),
    colour(0x262626, 0xebebeb),
];
const NVLINK: [Colour; STEPS] = [
    colour(0x4394ea, 0x0868b9),
    colour(0x1f75c8, 0x3386d9),
    colour(0x005aa4, 0x55a6fc),
    colour(0x024178, 0x9ac8fd),
    colour(0x00264e, 0xe0edfc),
];
const RDMA: [Colour; STEPS] = [
    colour(0xdc7533, 0xa84d00),
    colour(0xba5702, 0xcc6721),
    colour(0x914201, 0xef8746),
    colour(0x6b2f01, 0xffb389),
    colour(0x441a00, 0xfee7db),
];

/// What a chart may be drawn with; a figure says in its legend what each means there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// One of several parts or kinds.
    Series(usize),
    /// A step of the scale of a link.
    Traffic(Link, usize),
    /// What decides, around another mark.
    Outline,
    /// From the least to the most that a number may be.
    Uncertainty,
    /// The busiest of several, on the bar of their mean.
    Most,
    /// What there is and no more.
    Limit,
    /// The mean of several.
    Mean,
    Dot,
    /// One of many that cannot be.
    Cross,
    /// Those that no other beats.
    Front,
}

/// How a mark looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Area,
    Frame,
    Line,
    Upright,
    Cross,
    Dot,
}

impl Mark {
    const LINES: [(Mark, Colour, &'static str); 7] = [
        (Mark::Outline, INK, "stroke-width:2;fill:none"),
        (Mark::Uncertainty, INK, "stroke-width:1.5;fill:none"),
        (Mark::Most, INK, "stroke-width:2.5;fill:none"),
        (Mark::Limit, ALARM, "stroke-width:2;fill:none"),
        (Mark::Mean, INK, "stroke-width:1;stroke-dasharray:3 3;fill:none"),
        (Mark::Cross, QUIET, "stroke-width:1;fill:none"),
        (Mark::Front, RDMA[1], "stroke-width:2;fill:none"),
    ];

    pub(super) fn form(self) -> Form {
        match self {
            Mark::Series(_) | Mark::Traffic(..) => Form::Area,
            Mark::Outline => Form::Frame,
            Mark::Uncertainty | Mark::Limit | Mark::Mean | Mark::Front => Form::Line,
            Mark::Most => Form::Upright,
            Mark::Cross => Form::Cross,
            Mark::Dot => Form::Dot,
        }
    }

    pub(super) fn class(self) -> String {
        match self {
            Mark::Series(index) => format!("s{}", index % SERIES.len()),
            Mark::Traffic(Link::Own, step) => format!("own{step}"),
            Mark::Traffic(Link::Nvlink, step) => format!("nvlink{step}"),
            Mark::Traffic(Link::Rdma, step) => format!("rdma{step}"),
            Mark::Outline => "outline".to_owned(),
            Mark::Uncertainty => "uncertainty".to_owned(),
            Mark::Most => "most".to_owned(),
            Mark::Limit => "limit".to_owned(),
            Mark::Mean => "mean".to_owned(),
            Mark::Dot => "dot".to_owned(),
            Mark::Cross => "cross".to_owned(),
            Mark::Front => "front".to_owned(),
        }
    }
}

/// Relative luminance of WCAG 2.1.
fn luminance(colour: u32) -> f64 {
    let channel = |shift: u32| {
        let part = f64::from(colour >> shift & 0xff) / 255.0;
        if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(16) + 0.7152 * channel(8) + 0.0722 * channel(0)
}

/// Black or white, whichever stands out more.
fn ink_on(area: u32) -> u32 {
    let light = luminance(area) + 0.05;
    if 1.05 / light > light / 0.05 { 0xffffff } else { 0x000000 }
}

/// What is of one colour: selector, property, colour, and what else the rule says.
struct Rule(String, &'static str, Colour, &'static str);

fn rule(selector: &str, property: &'static str, colour: Colour) -> Rule {
    Rule(selector.to_owned(), property, colour, "")
}

fn area(mark: Mark, colour: Colour) -> [Rule; 2] {
    let class = mark.class();
    let ink = Colour { light: ink_on(colour.light), dark: ink_on(colour.dark) };
    [rule(&format!("svg .{class}"), "fill", colour), rule(&format!("svg .on-{class}"), "fill", ink)]
}

fn charts() -> Vec<Rule> {
    let mut rules = vec![
        rule("svg .paper", "fill", PAPER),
        rule("svg text", "fill", INK),
        rule("svg .quiet", "fill", QUIET),
        rule("svg .alarm", "fill", ALARM),
        rule("svg .grid", "stroke", RULE),
        rule("svg .axis", "stroke", QUIET),
        // Between the parts of a bar.
        rule("svg .part", "stroke", PAPER),
    ];
    let series = SERIES.into_iter().enumerate().flat_map(|(index, colour)| area(Mark::Series(index), colour));
    rules.extend(series);
    for (link, scale) in [(Link::Own, OWN), (Link::Nvlink, NVLINK), (Link::Rdma, RDMA)] {
        rules.extend(scale.into_iter().enumerate().flat_map(|(step, colour)| area(Mark::Traffic(link, step), colour)));
    }
    rules.push(rule("svg .dot", "fill", OWN[0]));
    rules.push(rule("svg .best", "fill", RDMA[1]));
    rules
        .extend(Mark::LINES.map(|(mark, colour, more)| Rule(format!("svg .{}", mark.class()), "stroke", colour, more)));
    rules
}

fn pages() -> Vec<Rule> {
    vec![
        rule("html", "background-color", PAPER),
        rule("html", "color", INK),
        rule(".card", "background-color", CARD),
        rule("th:first-child", "background-color", PAPER),
        rule(".quiet,figcaption,thead th,dt,small", "color", QUIET),
        rule("a", "color", LINK),
        rule(".bad", "color", ALARM),
        rule(".good,td.best::before", "color", GOOD),
        rule("h2,th,td,figure,dl.numbers div", "border-color", RULE),
        rule(".verdict", "border-color", GOOD),
    ]
}

fn sheet(rules: &[Rule], layout: &str) -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for Rule(selector, property, colour, more) in rules {
        let more = if more.is_empty() { String::new() } else { format!(";{more}") };
        // Writing to a string cannot fail.
        let _ = write!(light, "{selector}{{{property}:#{:06x}{more}}}", colour.light);
        let _ = write!(dark, "{selector}{{{property}:#{:06x}}}", colour.dark);
    }
    // Paper is white, whatever the screen is.
    format!("{layout}{light}@media screen and (prefers-color-scheme:dark){{{dark}}}")
}

/// For charts, in a page or alone.
pub(super) fn chart() -> String {
    let mut layout = "svg text{font-family:system-ui,'Segoe UI','DejaVu Sans',Arial,sans-serif;font-variant-numeric:tabular-nums}\
         svg .end{text-anchor:end}svg .middle{text-anchor:middle}svg .grid,svg .axis{stroke-width:1;fill:none}svg .part{stroke-width:1}svg rect{shape-rendering:crispEdges}"
        .to_owned();
    for font in Type::ALL {
        let weight = if font.bold { 700 } else { 400 };
        let _ = write!(layout, "svg .{}{{font-size:{}px;font-weight:{weight}}}", font.class, font.size);
    }
    sheet(&charts(), &layout)
}

/// For a picture alone: as wide as it is drawn, or as the window.
pub(super) const ALONE: &str = "svg{max-width:100%;height:auto}";

/// For the rest of a page.
pub(super) fn page() -> String {
    sheet(&pages(), LAYOUT)
}

const LAYOUT: &str = "\
html{color-scheme:light dark}body{font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',Arial,sans-serif;max-width:1080px;margin:0 auto;\
padding:24px 20px 64px;overflow-wrap:anywhere}h1{font-size:26px;line-height:1.2;margin:0 0 4px}h2{font-size:20px;margin:40px 0 10px;\
padding-top:14px;border-top:2px solid}h3{font-size:16px;margin:0 0 8px}p{margin:6px 0}\
figcaption{font-size:13px;margin-top:6px}.figures{columns:2 440px;column-gap:16px;margin:14px 0}\
figure{margin:0 0 16px;padding:14px;border:1px solid;border-radius:8px;break-inside:avoid}\
figure svg{display:block;width:100%;max-width:500px;height:auto}.wide{overflow-x:auto;margin:10px 0 16px}\
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}th,td{padding:4px 0 4px 18px;text-align:right;\
border-bottom:1px solid;white-space:nowrap;overflow-wrap:normal}th:first-child{position:sticky;left:0;text-align:left;padding-left:0;\
white-space:normal;min-width:8em}thead th{font-weight:600;white-space:normal;vertical-align:bottom}tbody th{font-weight:400}\
td.best{font-weight:700}td.best::before{content:'\u{2713} '}td.text,th.text{text-align:left}ul{margin:6px 0;padding-left:20px}li{margin:3px 0}\
.verdict{font-size:16px;border-left:4px solid;padding:6px 14px}.bad{font-weight:600}nav a{margin-right:16px}\
dl.facts{display:flex;flex-wrap:wrap;gap:10px 34px;margin:16px 0}dl.facts div{min-width:90px}dt{font-size:12.5px}\
dl.facts dd{margin:0;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums}dd small{font-size:13px;font-weight:400}\
dl.numbers{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:0 40px;margin:10px 0 16px;font-size:13.5px;\
font-variant-numeric:tabular-nums}dl.numbers div{display:flex;justify-content:space-between;gap:16px;padding:4px 0;border-bottom:1px solid}\
dl.numbers dt{font-size:inherit}dl.numbers dd{margin:0;text-align:right}\
@media(max-width:480px){body{padding:16px 10px 48px}figure{padding:8px 0;border-left:0;border-right:0;border-radius:0}h1{font-size:22px}}\
@media print{body{max-width:none;padding:0}h2{break-after:avoid}}";
