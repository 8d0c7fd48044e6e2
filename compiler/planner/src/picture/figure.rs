//! One chart, and the strokes that charts are made of.

use svg::Document;
use svg::node::element::{Description, Group, Line, Rectangle, Text, Title};

/// Width of every chart.
pub(super) const WIDTH: f64 = 980.0;

/// A chart with words about it.
#[derive(Debug)]
pub(super) struct Figure {
    /// Of headings.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    pub height: f64,
    pub body: Group,
}

impl Figure {
    pub(super) fn new(title: impl Into<String>, caption: impl Into<String>) -> Figure {
        Figure { title: title.into(), caption: caption.into(), height: 0.0, body: Group::new() }
    }

    pub(super) fn add(&mut self, node: impl svg::Node) {
        self.body = std::mem::take(&mut self.body).add(node);
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: impl Into<String>) {
        self.add(Text::new(text).set("x", round(x)).set("y", round(y)).set("class", class));
    }

    pub(super) fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        let line = Line::new().set("x1", round(from[0])).set("y1", round(from[1]));
        self.add(line.set("x2", round(to[0])).set("y2", round(to[1])).set("class", class));
    }

    pub(super) fn rectangle(&mut self, area: [f64; 4], class: &str, tip: impl Into<String>) {
        self.add(rectangle(area, class).add(Title::new(tip)));
    }

    /// Squares with names, in as many lines as they need; returns where the next line begins.
    pub(super) fn legend(&mut self, x: f64, y: f64, entries: &[(String, String)]) -> f64 {
        let (mut at, mut line) = (x, y);
        for (class, name) in entries {
            let width = 30.0 + text_width(name);
            if at > x && at + width > WIDTH {
                (at, line) = (x, line + 20.0);
            }
            self.add(rectangle([at, line, 12.0, 12.0], class));
            self.text(at + 18.0, line + 10.5, "", name.as_str());
            at += width + 8.0;
        }
        line + 20.0
    }

    /// In a page, with an `id` that no other chart of it has.
    pub(super) fn inline(self, id: &str) -> Document {
        Document::new()
            .set("viewBox", (0, 0, WIDTH, round(self.height)))
            .set("width", WIDTH)
            .set("height", round(self.height))
            .set("role", "img")
            .set("aria-labelledby", format!("{id}-title {id}-words"))
            .add(Title::new(self.title).set("id", format!("{id}-title")))
            .add(Description::new().set("id", format!("{id}-words")).add(svg::node::Text::new(self.caption)))
            .add(self.body)
    }
}

pub(super) fn rectangle([x, y, width, height]: [f64; 4], class: &str) -> Rectangle {
    let rectangle = Rectangle::new().set("x", round(x)).set("y", round(y));
    rectangle.set("width", round(width.max(0.0))).set("height", round(height.max(0.0))).set("class", class)
}

/// Hundredths are finer than any screen, and keep pages small.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// About how wide a text of 12 px is.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.7
}
