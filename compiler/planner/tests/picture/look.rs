//! What a reader sees, on a phone too: no word cut off or upon another, every colour explained, everything in a contrast that can be read.

use std::sync::LazyLock;

use super::drawn::{Chart, Drawn, Sheet, charts, colour};
use super::{reports, simulated, spec};
use moe_planner::page::compared;
use moe_planner::page::picture::{Page, traffic};
use moe_planner::placement::{self, Load, Shape};
use moe_planner::{Options, Planner};

/// Pages and pictures of everything that the tool draws, by name: plans that fit and one that does not, one rank and many, names that are
/// too long for any line.
static DOCUMENTS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let mut documents = Vec::new();
    let mut add = |name: &str, page: Page<'_>| {
        documents.push((format!("{name}, page"), page.html()));
        documents.push((format!("{name}, picture"), page.svg()));
    };
    let v3 = spec("deepseek_v3");
    let one_node = reports(&v3, "one_node", &[8]);
    add("one node", Page { plans: &one_node, ..Page::default() });
    add("one rank", Page { plans: &reports(&v3, "one_node", &[1]), ..Page::default() });
    let mut plans = reports(&v3, "pretrain", &[64, 128]);
    assert!(plans.iter().all(|plan| plan.fits == Some(true)));
    let words = compared(&plans).words;
    add("two plans", Page { plans: &plans, comparison: &words, ..Page::default() });

    let options = Options { sampled_tokens: 1024, ..Options::default() };
    let found = Planner::new(&v3, v3.deploy("pretrain").unwrap(), options).unwrap().search().unwrap();
    add("search", Page { plans: &plans, search: Some(&found), ..Page::default() });

    let long = "a_model_whose_name_is_much_longer_than_any_line_of_a_phone_".repeat(4);
    plans[0].costs.model = long.clone();
    plans[0].costs.deploy = "<wide & 広い> ".repeat(20);
    plans[0].explanation.push(long.clone());
    let memory = plans[1].costs.memory.as_mut().expect("the model is known");
    memory.capacity.0 /= 2;
    plans[1].costs.fits = Some(false);
    add("long names, one does not fit", Page { plans: &plans, comparison: &words, ..Page::default() });

    let text = std::fs::read_to_string(format!("{}/../../dsl-examples/deepseek_v3.moe", env!("CARGO_MANIFEST_DIR")));
    let text = text.unwrap().replacen("mode   throughput", "mode   latency", 1).replacen("tokens 4096", "tokens 8", 1);
    let few = moe_front::check_source(text.as_bytes()).spec.unwrap();
    let few = reports(&few, "pretrain", &[64]);
    assert!(few[0].phases.iter().any(|phase| phase.time.bottleneck.name() == "latency"), "latency limits 8 tokens");
    add("latency mode", Page { plans: &few, ..Page::default() });

    for experts in [32, 256] {
        let load = (0..experts).map(|expert| f64::from(1_000_000 / (1 + expert))).collect();
        let load = Load::new(vec![load; 2]).unwrap();
        let shape = Shape { nodes: 2, gpus_per_node: 36, groups: 4, replicas: 72 * (experts as u32).div_ceil(72) + 72 };
        let placed = placement::place(&load, &shape, &placement::Options::default()).unwrap();
        add(&format!("placement of {experts} experts"), Page { placement: Some((&load, &placed)), ..Page::default() });
    }
    for gpus in [64, 1024] {
        let simulation = simulated(gpus);
        add(&format!("simulation of {gpus} GPUs"), Page { simulation: Some(&simulation), ..Page::default() });
    }
    for ranks in [1, 2, 8, 16, 72] {
        let row = |from: u64| (0..ranks).map(|to| if from == to { 0 } else { (from * to) << (from % 24) }).collect();
        let bytes: Vec<Vec<u64>> = (0..ranks).map(row).collect();
        let picture = traffic(&long, "128 tokens", &[("dispatch", bytes.clone()), ("combine", bytes)]);
        documents.push((format!("traffic of {ranks} ranks"), picture));
    }
    documents
});

/// Every chart of every document.
fn each(mut look: impl FnMut(&str, &Sheet, &Chart)) {
    let mut count = 0;
    for (name, document) in DOCUMENTS.iter() {
        let sheet = Sheet::of(document);
        for chart in charts(document) {
            look(name, &sheet, &chart);
            count += 1;
        }
    }
    assert!(count > 60, "{count} charts");
}

fn texts(chart: &Chart) -> impl Iterator<Item = &Drawn> {
    chart.drawn.iter().filter(|drawn| drawn.element == "text")
}

#[test]
fn the_title_of_a_picture_is_not_cut_off() {
    let mut words = 0;
    each(|name, _, chart| {
        for text in texts(chart) {
            words += 1;
            let [left, top, right, bottom] = text.area;
            // Half a unit is what rounding of advances and places may come to.
            let inside = left >= -0.5 && right <= chart.width + 0.5 && top >= 0.0 && bottom <= chart.height;
            assert!(inside, "{name}: {:?} at {:?} of {} x {}", text.words, text.area, chart.width, chart.height);
        }
    });
    assert!(words > 2000, "{words} words");
}

#[test]
fn no_words_stand_upon_others() {
    each(|name, _, chart| {
        let helps = |line: &Drawn| line.classes.iter().any(|class| ["grid", "axis"].contains(&class.as_str()));
        let lines: Vec<&Drawn> = chart.drawn.iter().filter(|drawn| drawn.element == "line" && !helps(drawn)).collect();
        let texts: Vec<&Drawn> = texts(chart).filter(|text| !text.words.is_empty()).collect();
        for (index, one) in texts.iter().enumerate() {
            for other in texts[index + 1..].iter().chain(&lines) {
                let over =
                    |axis: usize| one.area[axis + 2].min(other.area[axis + 2]) - one.area[axis].max(other.area[axis]);
                let most = if other.element == "text" { 0.5 } else { -1e-9 };
                let apart = over(0) <= most || over(1) <= most;
                assert!(apart, "{name}: {:?} and {:?}: {:?}, {:?}", one.words, other.words, one.area, other.area);
            }
        }
    });
}

/// A screen of 390 shows a picture as wide as itself, and a chart of a page with margins of 10.
#[test]
fn a_phone_shows_no_letter_below_eleven_pixels() {
    each(|name, sheet, chart| {
        let room = if name.ends_with("page") { 370.0 } else { 390.0 };
        for text in texts(chart) {
            let size = sheet.size(text) * (room / chart.width).min(1.0);
            assert!(size >= 10.99, "{name}: {:?} is {size:.1} pixels high", text.words);
        }
    });
}

/// A colour is given by a class that both themes know; its first use in a chart stands in the legend, before the word that explains it.
#[test]
fn every_colour_is_in_the_legend() {
    each(|name, sheet, chart| {
        let mut explained: Vec<&str> = vec!["paper", "grid", "axis", "part", "best"];
        for (index, drawn) in chart.drawn.iter().enumerate().filter(|(_, drawn)| drawn.element != "text") {
            for own in ["fill", "stroke", "style", "opacity", "fill-opacity"] {
                assert!(!drawn.attributes.contains_key(own), "{name}: {drawn:?}");
            }
            for class in &drawn.classes {
                let colours = [false, true].map(|dark| {
                    ["fill", "stroke"]
                        .iter()
                        .any(|what| sheet.class(dark, class, what).is_some_and(|value| value.starts_with('#')))
                });
                assert_eq!(colours, [true, true], "{name}: {class} has a colour");
                if !explained.contains(&class.as_str()) {
                    let word =
                        chart.drawn[index + 1..].iter().find(|next| !next.classes.iter().any(|class| class == "best"));
                    let word = word.unwrap_or_else(|| panic!("{name}: a word for {class}"));
                    let beside = word.element == "text" && (word.area[0] - drawn.area[0]).abs() < 22.0;
                    assert!(beside, "{name}: {class} is explained before it is used: {drawn:?}, {word:?}");
                    explained.push(class);
                }
            }
        }
    });
}

/// WCAG 2.1: relative luminance, and the contrast of two colours.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let luminance = |colour: [f64; 3]| {
        let [r, g, b] =
            colour.map(|part| if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn contrast_is_that_of_the_guidelines() {
    let of = |one, other| contrast(colour(one), colour(other));
    assert!((of("#000000", "#ffffff") - 21.0).abs() < 1e-9);
    assert!((of("#777777", "#ffffff") - 4.48).abs() < 0.005, "the grey that just fails");
    assert!((of("#767676", "#ffffff") - 4.54).abs() < 0.005, "the grey that just passes");
}

/// Text has a contrast of 4.5 with what is behind its middle, marks of 3 with the paper, in light and in dark.
#[test]
fn everything_can_be_read_in_light_and_in_dark() {
    each(|name, sheet, chart| {
        for dark in [false, true] {
            let paper = colour(sheet.class(dark, "paper", "fill").unwrap());
            let mut areas: Vec<&Drawn> = Vec::new();
            for drawn in &chart.drawn {
                if drawn.element == "text" {
                    let [x, y] =
                        [f64::midpoint(drawn.area[0], drawn.area[2]), f64::midpoint(drawn.area[1], drawn.area[3])];
                    let holds = |area: &&&Drawn| {
                        let [left, top, right, bottom] = area.area;
                        left <= x && x <= right && top <= y && y <= bottom
                    };
                    let behind = areas.iter().rev().find(holds).map_or(paper, |area| sheet.fill(dark, area));
                    let found = contrast(sheet.fill(dark, drawn), behind);
                    assert!(found >= 4.5, "{name}, dark {dark}: {:?} has {found:.2}", drawn.words);
                    continue;
                }
                if drawn.element == "rect"
                    && drawn.classes.iter().any(|class| sheet.class(dark, class, "fill") != Some("none"))
                {
                    areas.push(drawn);
                }
                for class in drawn.classes.iter().filter(|class| !["paper", "grid", "part"].contains(&class.as_str())) {
                    let mark = ["fill", "stroke"]
                        .iter()
                        .find_map(|what| sheet.class(dark, class, what).filter(|value| value.starts_with('#')));
                    let found = contrast(colour(mark.unwrap()), paper);
                    assert!(found >= 3.0, "{name}, dark {dark}: {class} has {found:.2}");
                }
            }
        }
    });
}

/// The words of a page: every colour of text with every background.
#[test]
fn words_of_a_page_can_be_read_in_light_and_in_dark() {
    let plans = reports(&spec("deepseek_v3"), "one_node", &[8]);
    let sheet = Sheet::of(&Page { plans: &plans, ..Page::default() }.html());
    for rules in [&sheet.light, &sheet.dark] {
        let of = |property: &str| -> Vec<(&str, [f64; 3])> {
            let of = rules.iter().filter(|((_, name), _)| name == property);
            of.map(|((selector, _), value)| (selector.as_str(), colour(value))).collect()
        };
        let (inks, papers) = (of("color"), of("background-color"));
        assert!(inks.len() >= 8 && papers.len() >= 3, "{inks:?} {papers:?}");
        for (ink, front) in &inks {
            for (paper, behind) in &papers {
                let found = contrast(*front, *behind);
                assert!(found >= 4.5, "{ink} on {paper} has {found:.2}");
            }
        }
    }
}

/// The series in every kind of colour vision: simulations of Machado, Oliveira and Fernandes (2009), severity 1; distances of CIE L*a*b* (1976),
/// in which 2.3 is just noticeable.
#[test]
fn series_can_be_told_apart_by_everyone() {
    const VISIONS: [(&str, [[f64; 3]; 3]); 4] = [
        ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        (
            "protanopia",
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        ),
        (
            "deuteranopia",
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        ),
        (
            "tritanopia",
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ),
    ];
    let times = |matrix: &[[f64; 3]; 3], v: [f64; 3]| matrix.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
    let lab = |colour: [f64; 3], vision: &[[f64; 3]; 3]| {
        let linear = colour.map(|part| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) });
        let seen = times(vision, linear).map(|part| part.clamp(0.0, 1.0));
        const XYZ: [[f64; 3]; 3] =
            [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]];
        let [x, y, z] = times(&XYZ, seen);
        let f = |t: f64| if t > 216.0 / 24389.0 { t.cbrt() } else { (24389.0 / 27.0 * t + 16.0) / 116.0 };
        let (x, y, z) = (f(x / 0.95047), f(y), f(z / 1.08883));
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let picture = traffic("", "", &[]);
    let sheet = Sheet::of(&picture);
    for dark in [false, true] {
        let series: Vec<[f64; 3]> =
            (0..8).map(|index| colour(sheet.class(dark, &format!("s{index}"), "fill").unwrap())).collect();
        for (vision, matrix) in &VISIONS {
            for (index, one) in series.iter().enumerate() {
                for (other, two) in series.iter().enumerate().skip(index + 1) {
                    let (a, b) = (lab(*one, matrix), lab(*two, matrix));
                    let distance = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
                    assert!(distance > 20.0, "{vision}, dark {dark}: s{index} and s{other} are {distance:.1} apart");
                }
            }
        }
    }
}

/// Units of time and of memory that a text has, as words of their own.
fn units(text: &str) -> Vec<&str> {
    const UNITS: [&str; 9] = ["µs", "ms", "s", "B", "kB", "MB", "GB", "TB", "us"];
    text.split([' ', ',', '<', '>', '\u{202f}']).filter(|word| UNITS.contains(word)).collect()
}

#[test]
fn microseconds_and_milliseconds_share_no_column() {
    let mut columns = 0;
    for (name, document) in DOCUMENTS.iter() {
        for table in document.split("<table").skip(1) {
            let table = table.split("</table>").next().unwrap();
            let mut of_column: Vec<Vec<String>> = Vec::new();
            for row in table.split("<tr>").skip(1) {
                let cells = row.split("<t").skip(1).filter(|cell| cell.starts_with('h') || cell.starts_with('d'));
                // The head of a line is words.
                for (column, cell) in cells.enumerate().skip(1) {
                    let cell = cell.split_once('>').map_or("", |(_, rest)| rest);
                    let shown: String =
                        cell.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
                    of_column.resize_with(of_column.len().max(column + 1), Vec::new);
                    of_column[column].extend(units(&shown).into_iter().map(str::to_owned));
                }
            }
            for mut found in of_column {
                found.dedup();
                assert!(found.len() <= 1, "{name}: a column has {found:?}: {table}");
                columns += 1;
            }
        }
        for chart in charts(document).into_iter().filter(|_| document.starts_with("<!DOCTYPE")) {
            let axes = texts(&chart).filter(|text| text.classes.iter().any(|class| class == "quiet"));
            let labels: Vec<&Drawn> =
                axes.filter(|text| text.words.starts_with(|first: char| first.is_ascii_digit())).collect();
            let mut found: Vec<&str> = labels.iter().flat_map(|text| units(&text.words)).collect();
            found.sort_unstable();
            found.dedup();
            assert!(found.len() <= 1, "{name}: an axis has {found:?}");
        }
        assert!(!units(document).contains(&"us"), "{name}: microseconds are µs");
    }
    assert!(columns > 200, "{columns} columns");
}
