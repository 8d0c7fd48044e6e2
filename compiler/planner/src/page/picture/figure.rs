//! One chart, and the strokes that charts are made of.
//!
//! Invariants: a chart is as wide as a phone, and so are its texts: none reaches outside it, whatever its words are; what is drawn with a
//! colour is drawn with a [`Key`], which only the legend of the same chart gives.

use svg::Document;
use svg::node::element::{Circle, Description, Group, Line, Path, Polyline, Rectangle, Text, Title};

use super::style::{Form, Mark};
use super::text::Type;

/// Width of every chart.
pub(super) const WIDTH: f64 = 420.0;

/// From the baseline of a line of text to that of the next, of [`Type::PLAIN`] or smaller.
pub(super) const LINE: f64 = 17.0;

/// A chart with words about it.
#[derive(Debug)]
pub(super) struct Figure {
    /// Of headings.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    /// Where the next thing goes: what is above is drawn.
    pub y: f64,
    body: Group,
}

/// A mark that the legend explains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Key(Mark);

/// Where a text is from its place.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The colour of a text.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ink {
    Plain,
    Quiet,
    Alarm,
    /// Within what is drawn with a key.
    On(Key),
}

impl Figure {
    pub(super) fn new(title: impl Into<String>, caption: impl Into<String>) -> Figure {
        Figure { title: title.into(), caption: caption.into(), y: 0.0, body: Group::new() }
    }

    fn add(&mut self, node: impl svg::Node) {
        self.body = std::mem::take(&mut self.body).add(node);
    }

    /// What marks mean, in as many lines as they need.
    pub(super) fn legend<const N: usize>(&mut self, entries: [(Mark, &str); N]) -> [Key; N] {
        self.explain(&entries.map(|(mark, name)| (mark, name.to_owned())));
        entries.map(|(mark, _)| Key(mark))
    }

    /// The same for as many as there are.
    pub(super) fn legend_of(&mut self, entries: &[(Mark, String)]) -> Vec<Key> {
        self.explain(entries);
        entries.iter().map(|(mark, _)| Key(*mark)).collect()
    }

    fn explain(&mut self, entries: &[(Mark, String)]) {
        const SAMPLE: f64 = 20.0;
        let mut at = 0.0;
        for (mark, name) in entries {
            let name = Type::PLAIN.elide(name, WIDTH - SAMPLE);
            let width = SAMPLE + Type::PLAIN.width(&name);
            if at > 0.0 && at + width > WIDTH {
                at = 0.0;
                self.y += LINE + 2.0;
            }
            self.sample(*mark, at, self.y + 2.0);
            self.write([at + SAMPLE, self.y + 12.0], Type::PLAIN, Anchor::Start, Ink::Plain, &name);
            at += width + 12.0;
        }
        self.y += LINE + 5.0;
    }

    /// A mark of the legend.
    fn sample(&mut self, mark: Mark, x: f64, y: f64) {
        let key = Key(mark);
        let (middle, centre) = (y + 6.0, x + 6.0);
        match mark.form() {
            Form::Area | Form::Frame => self.rectangle(key, [x + 1.0, y, 12.0, 12.0], ""),
            Form::Line => self.stroke(key, [x, middle], [x + 15.0, middle]),
            Form::Upright => self.stroke(key, [centre, y], [centre, y + 12.0]),
            Form::Cross => self.crosses(key, &[[centre, middle]]),
            Form::Dot => self.dots(key, &[[centre, middle]]),
        }
        if mark == Mark::Front {
            self.best(key, [centre + 1.5, middle], "");
        }
    }

    /// A text at its baseline, moved or shortened where it would reach outside.
    pub(super) fn write(&mut self, [x, y]: [f64; 2], of: Type, anchor: Anchor, ink: Ink, text: &str) {
        let shown = of.elide(text, WIDTH);
        let width = of.width(&shown);
        let x = match anchor {
            Anchor::Start => x.min(WIDTH - width),
            Anchor::Middle => x.min(WIDTH - width / 2.0).max(width / 2.0),
            Anchor::End => x.max(width),
        };
        let mut class = of.class.to_owned();
        class += match anchor {
            Anchor::Start => "",
            Anchor::Middle => " middle",
            Anchor::End => " end",
        };
        class += &match ink {
            Ink::Plain => String::new(),
            Ink::Quiet => " quiet".to_owned(),
            Ink::Alarm => " alarm".to_owned(),
            Ink::On(Key(mark)) => format!(" on-{}", mark.class()),
        };
        self.add(Text::new(shown).set("x", round(x)).set("y", round(y)).set("class", class));
    }

    /// What stands to the left and to the right, on one line where both have room, else on as many as they need.
    pub(super) fn row(&mut self, left: (Type, &str), right: (Type, Ink, &str)) {
        const GAP: f64 = 12.0;
        let ((of, words), (of_right, ink, more)) = (left, right);
        if of.width(words) + GAP + of_right.width(more) <= WIDTH {
            self.write([0.0, self.y + 12.0], of, Anchor::Start, Ink::Plain, words);
            self.write([WIDTH, self.y + 12.0], of_right, Anchor::End, ink, more);
            self.y += LINE;
            return;
        }
        self.lines(of, Ink::Plain, words);
        for line in of_right.wrap(more, WIDTH) {
            self.write([WIDTH, self.y + 12.0], of_right, Anchor::End, ink, &line);
            self.y += LINE;
        }
    }

    /// As many lines as the words need.
    pub(super) fn lines(&mut self, of: Type, ink: Ink, words: &str) {
        for line in of.wrap(words, WIDTH) {
            self.write([0.0, self.y + 12.0], of, Anchor::Start, ink, &line);
            self.y += LINE;
        }
    }

    /// An area, or the frame of one; with words for who points at it.
    pub(super) fn rectangle(&mut self, key: Key, area: [f64; 4], tip: &str) {
        self.add(tipped(rectangle(area, &key.0.class()), tip));
    }

    /// An area that is a part of a sum, in the units of an axis.
    pub(super) fn part(&mut self, key: Key, area: [f64; 4], stack: &str, value: f64, tip: &str) {
        let part = rectangle(area, &format!("part {}", key.0.class()));
        self.add(tipped(part.set("data-stack", stack).set("data-value", value), tip));
    }

    /// A line with a meaning.
    pub(super) fn stroke(&mut self, key: Key, from: [f64; 2], to: [f64; 2]) {
        self.line(from, to, &key.0.class());
    }

    /// A line that helps to read.
    pub(super) fn grid(&mut self, from: [f64; 2], to: [f64; 2]) {
        self.line(from, to, "grid");
    }

    /// Where numbers begin.
    pub(super) fn axis(&mut self, from: [f64; 2], to: [f64; 2]) {
        self.line(from, to, "axis");
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        let line = Line::new().set("x1", round(from[0])).set("y1", round(from[1]));
        self.add(line.set("x2", round(to[0])).set("y2", round(to[1])).set("class", class));
    }

    pub(super) fn dots(&mut self, key: Key, places: &[[f64; 2]]) {
        for [x, y] in places {
            let dot = Circle::new().set("cx", round(*x)).set("cy", round(*y)).set("r", 2);
            self.add(dot.set("class", key.0.class()));
        }
    }

    pub(super) fn crosses(&mut self, key: Key, places: &[[f64; 2]]) {
        let path: String =
            places.iter().map(|[x, y]| format!("M{:.1} {:.1}l4 4m0 -4l-4 4", x - 2.0, y - 2.0)).collect();
        if !path.is_empty() {
            self.add(Path::new().set("d", path).set("class", key.0.class()));
        }
    }

    /// A line through places.
    pub(super) fn curve(&mut self, key: Key, places: &[[f64; 2]]) {
        let points: Vec<String> = places.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.add(Polyline::new().set("points", points.join(" ")).set("class", key.0.class()));
    }

    /// A place on the line of the best.
    pub(super) fn best(&mut self, _: Key, [x, y]: [f64; 2], tip: &str) {
        let dot = Circle::new().set("cx", round(x)).set("cy", round(y)).set("r", 4).set("class", "best");
        self.add(tipped(dot, tip));
    }

    /// In a page, with an `id` that no other chart of it has.
    pub(super) fn inline(self, id: &str) -> Document {
        Document::new()
            .set("viewBox", (0, 0, WIDTH, round(self.y)))
            .set("width", WIDTH)
            .set("height", round(self.y))
            .set("role", "img")
            .set("aria-labelledby", format!("{id}-title {id}-words"))
            .add(Title::new(self.title).set("id", format!("{id}-title")))
            .add(Description::new().set("id", format!("{id}-words")).add(svg::node::Text::new(self.caption)))
            .add(self.body)
    }

    /// In a picture, so far down.
    pub(super) fn below(self, x: f64, y: f64) -> Group {
        self.body.set("transform", format!("translate({x} {})", round(y)))
    }
}

fn tipped<T: svg::Node>(mut node: T, tip: &str) -> T {
    if !tip.is_empty() {
        node.append(Title::new(tip));
    }
    node
}

fn rectangle([x, y, width, height]: [f64; 4], class: &str) -> Rectangle {
    let rectangle = Rectangle::new().set("x", round(x)).set("y", round(y));
    rectangle.set("width", round(width.max(0.0))).set("height", round(height.max(0.0))).set("class", class)
}

/// Hundredths are finer than any screen, and keep pages small.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
