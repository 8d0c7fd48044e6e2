//! What a picture or page looks like, worked out from its text: where every mark and every word is, and which colours the style sheet
//! gives them.

use std::collections::BTreeMap;

use svg::node::element::tag::Type;
use svg::parser::{Event, Parser};

use super::fonts;

/// Places and sizes: left, top, right, bottom.
pub type Area = [f64; 4];

/// Something that is drawn, in the order of drawing.
#[derive(Debug)]
pub struct Drawn {
    pub element: String,
    pub classes: Vec<String>,
    pub area: Area,
    pub words: String,
    /// The attributes as they stand there.
    pub attributes: BTreeMap<String, String>,
}

/// One chart, or a whole picture.
#[derive(Debug)]
pub struct Chart {
    pub width: f64,
    pub height: f64,
    pub drawn: Vec<Drawn>,
}

/// The rules of a style sheet: selector and property to value, for light and for dark.
pub struct Sheet {
    pub light: BTreeMap<(String, String), String>,
    pub dark: BTreeMap<(String, String), String>,
}

impl Sheet {
    /// All `<style>` of a document.
    pub fn of(document: &str) -> Sheet {
        let mut sheet = Sheet { light: BTreeMap::new(), dark: BTreeMap::new() };
        for part in document.split("<style>").skip(1) {
            sheet.read(part.split("</style>").next().unwrap());
        }
        for (key, value) in &sheet.light {
            sheet.dark.entry(key.clone()).or_insert_with(|| value.clone());
        }
        sheet
    }

    fn read(&mut self, text: &str) {
        let (mut rest, mut media) = (text, None);
        while let Some(open) = rest.find(['{', '}']) {
            let (before, after) = (rest[..open].trim(), &rest[open + 1..]);
            if rest.as_bytes()[open] == b'}' {
                media = None;
                rest = after;
            } else if before.starts_with('@') {
                media = Some(before.to_owned());
                rest = after;
            } else {
                let close = after.find('}').expect("a rule ends");
                let rules = match media.as_deref() {
                    None => Some(&mut self.light),
                    Some(media) if media.contains("prefers-color-scheme:dark") => Some(&mut self.dark),
                    Some(_) => None,
                };
                if let Some(rules) = rules {
                    for selector in before.split(',') {
                        for (property, value) in after[..close].split(';').filter_map(|rule| rule.split_once(':')) {
                            rules.insert((selector.to_owned(), property.to_owned()), value.to_owned());
                        }
                    }
                }
                rest = &after[close + 1..];
            }
        }
    }

    /// What a class of a chart has.
    pub fn class(&self, dark: bool, class: &str, property: &str) -> Option<&str> {
        let rules = if dark { &self.dark } else { &self.light };
        rules.get(&(format!("svg .{class}"), property.to_owned())).map(String::as_str)
    }

    /// The colour of a text or area.
    pub fn fill(&self, dark: bool, drawn: &Drawn) -> [f64; 3] {
        let own = drawn.classes.iter().rev().find_map(|class| self.class(dark, class, "fill"));
        let rules = if dark { &self.dark } else { &self.light };
        colour(own.unwrap_or_else(|| &rules[&("svg text".to_owned(), "fill".to_owned())]))
    }

    fn font(&self, drawn: &Drawn) -> (f64, bool) {
        let of = |property| drawn.classes.iter().find_map(|class| self.class(false, class, property));
        let size = of("font-size").unwrap_or_else(|| panic!("a size of letters for {drawn:?}"));
        (size.trim_end_matches("px").parse().unwrap(), of("font-weight") == Some("700"))
    }

    pub fn size(&self, drawn: &Drawn) -> f64 {
        self.font(drawn).0
    }
}

/// Red, green and blue of `#rrggbb`, from 0 to 1.
pub fn colour(text: &str) -> [f64; 3] {
    assert!(text.len() == 7 && text.starts_with('#'), "{text} is a colour");
    [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&text[at..at + 2], 16).unwrap()) / 255.0)
}

/// Every `<svg>` of a document.
pub fn charts(document: &str) -> Vec<Chart> {
    let sheet = Sheet::of(document);
    let (mut charts, mut moved, mut text) = (Vec::new(), vec![[0.0, 0.0]], None::<Drawn>);
    let mut inside = false;
    for event in Parser::new(document) {
        match event {
            Event::Tag("svg", Type::Start, attributes) => {
                let size: Vec<f64> =
                    attributes["viewBox"].split([' ', ',']).map(|number| number.parse().unwrap()).collect();
                charts.push(Chart { width: size[2], height: size[3], drawn: Vec::new() });
                inside = true;
            }
            Event::Tag("svg", Type::End, _) => inside = false,
            _ if !inside => {}
            Event::Tag("g", Type::Start, attributes) => {
                let by = attributes.get("transform").map_or([0.0, 0.0], |transform| {
                    let numbers =
                        transform.trim_start_matches("translate(").trim_end_matches(')').split_once(' ').unwrap();
                    [numbers.0.parse().unwrap(), numbers.1.parse().unwrap()]
                });
                let last = moved.last().copied().unwrap();
                moved.push([last[0] + by[0], last[1] + by[1]]);
            }
            Event::Tag("g", Type::End, _) => {
                moved.pop();
            }
            Event::Tag("text", Type::End, _) => {
                let mut drawn = text.take().expect("a text began");
                let (size, bold) = sheet.font(&drawn);
                let (width, [x, y, ..]) = (fonts::width(&drawn.words, bold) * size, drawn.area);
                let left = match () {
                    () if drawn.classes.iter().any(|class| class == "middle") => x - width / 2.0,
                    () if drawn.classes.iter().any(|class| class == "end") => x - width,
                    () => x,
                };
                // Capitals and figures are as high as 0.73 of their size.
                drawn.area = [left, y - 0.73 * size, left + width, y];
                charts.last_mut().unwrap().drawn.push(drawn);
            }
            Event::Tag(element @ ("rect" | "line" | "circle" | "path" | "polyline" | "text"), kind, attributes)
                if kind != Type::End =>
            {
                let attributes: BTreeMap<String, String> =
                    attributes.into_iter().map(|(key, value)| (key, value.to_string())).collect();
                let classes = attributes.get("class").map_or("", String::as_str).split(' ');
                let classes = classes.map(str::to_owned).collect();
                let [dx, dy] = moved.last().copied().unwrap();
                let number = |name: &str| attributes.get(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
                let area = match element {
                    "rect" => {
                        let [x, y] = [number("x"), number("y")];
                        [x, y, x + number("width"), y + number("height")]
                    }
                    "line" => [
                        number("x1").min(number("x2")),
                        number("y1").min(number("y2")),
                        number("x1").max(number("x2")),
                        number("y1").max(number("y2")),
                    ],
                    "circle" => [
                        number("cx") - number("r"),
                        number("cy") - number("r"),
                        number("cx") + number("r"),
                        number("cy") + number("r"),
                    ],
                    "text" => [number("x"), number("y"), number("x"), number("y")],
                    // Where it begins.
                    _ => {
                        let path = attributes.get("d").or(attributes.get("points")).map_or("", String::as_str);
                        let mut numbers = path.trim_start_matches('M').split([' ', ',', 'l']);
                        let [x, y] = [numbers.next(), numbers.next()].map(|text| text.unwrap().parse().unwrap());
                        [x, y, x, y]
                    }
                };
                let area = [area[0] + dx, area[1] + dy, area[2] + dx, area[3] + dy];
                let drawn = Drawn { element: element.to_owned(), classes, area, words: String::new(), attributes };
                if element == "text" {
                    text = Some(drawn);
                } else {
                    charts.last_mut().unwrap().drawn.push(drawn);
                }
            }
            Event::Text(words) => {
                if let Some(text) = &mut text {
                    let words = words.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
                    text.words += &words.replace("&#39;", "'").replace("&amp;", "&");
                }
            }
            _ => {}
        }
    }
    charts
}
