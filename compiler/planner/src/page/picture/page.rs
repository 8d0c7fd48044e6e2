//! The page and the picture, put together.

use std::fmt::Write as _;

use svg::Document;
use svg::node::element::{Description, Group, Rectangle, Style, Text, Title};

use super::figure::{Figure, LINE, WIDTH, round};
use super::tables::{self, escape};
use super::text::Type;
use super::{Page, experts, matrix, name, simulation, style};
use crate::page::report::Report;
use crate::units;

/// Charts so far, so that each has an id of its own.
struct Writer {
    text: String,
    figures: usize,
}

impl Writer {
    /// Side by side where there is room.
    fn figures(&mut self, figures: impl IntoIterator<Item = Figure>) {
        self.push("<div class=\"figures\">\n");
        for figure in figures {
            self.figures += 1;
            let id = format!("figure-{}", self.figures);
            let (title, caption) = (escape(&figure.title), escape(&figure.caption));
            let drawn = figure.inline(&id);
            self.push(&format!("<figure><h3>{title}</h3>{drawn}<figcaption>{caption}</figcaption></figure>\n"));
        }
        self.push("</div>\n");
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn list(&mut self, lines: &[String]) {
        self.push("<ul>");
        lines.iter().for_each(|line| self.push(&format!("<li>{}</li>\n", escape(line))));
        self.push("</ul>\n");
    }

    fn headline(&mut self, lines: &[String]) {
        lines.iter().for_each(|line| self.push(&format!("<p class=\"verdict card\">{}</p>\n", escape(line))));
    }

    fn section(&mut self, id: &str, title: &str) {
        self.push(&format!("<h2 id=\"{id}\">{}</h2>\n", escape(title)));
    }
}

/// Both HTML and well-formed XML.
pub(super) fn html(page: &Page<'_>) -> String {
    let title = escape(&page.title());
    let mut writer = Writer { text: String::new(), figures: 0 };
    writer.push(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/><title>{title}</title>\
         <style>{}{}</style></head>\n<body>\n<h1>{title}</h1>\n",
        style::page(),
        style::chart()
    ));
    if let Some(first) = page.plans.first() {
        let source = first.assumptions.first().map(String::as_str).unwrap_or_default();
        writer.push(&format!("<p class=\"quiet\">{} mode · {}</p>\n", first.mode, escape(source)));
    }
    contents(&mut writer, page);
    if let [one] = page.plans {
        writer.headline(&one.headline);
        writer.push(&facts(one));
    }
    if page.plans.len() > 1 {
        writer.section("comparison", "Plans side by side");
        if let Some((last, lines)) = page.comparison.split_last() {
            writer.push(&format!("<p class=\"verdict card\">{}</p>\n", escape(last)));
            writer.list(lines);
        }
        writer.push(&tables::comparison(page.plans));
    }
    if page.search.is_some() || !page.plans.is_empty() {
        writer.section("time-and-memory", "Time and memory");
        writer.figures(page.shared_figures());
    }
    if let Some(found) = page.search {
        writer.push("<h3>Plans of the front</h3>\n");
        writer.push(&tables::front(found));
    }
    for (index, report) in page.plans.iter().enumerate() {
        plan(&mut writer, index, report);
    }
    if let Some((load, placement)) = page.placement {
        writer.section("placement", "Placement of experts");
        writer.push(&tables::placement(placement));
        writer.figures(experts::placed(load, placement));
    }
    if let Some(of) = page.simulation {
        writer.headline(&of.headline);
        writer.push("<h3>In words</h3>\n");
        writer.list(&of.explanation);
        writer.push(&tables::simulated_times(of));
        writer.figures(simulation::figures(of));
        writer.push(&tables::simulated_details(of));
    }
    if let Some(assumptions) = page.assumptions() {
        writer.section("assumptions", "Assumed");
        writer.list(assumptions);
    }
    writer.push("</body></html>\n");
    writer.text
}

fn contents(writer: &mut Writer, page: &Page<'_>) {
    let mut links = Vec::new();
    if page.plans.len() > 1 {
        links.push(("comparison".to_owned(), "Plans side by side".to_owned()));
    }
    if page.search.is_some() || !page.plans.is_empty() {
        links.push(("time-and-memory".to_owned(), "Time and memory".to_owned()));
    }
    links.extend(page.plans.iter().enumerate().map(|(index, report)| (format!("plan-{index}"), name(report))));
    if page.placement.is_some() {
        links.push(("placement".to_owned(), "Placement".to_owned()));
    }
    if page.assumptions().is_some() {
        links.push(("assumptions".to_owned(), "Assumed".to_owned()));
    }
    let links: String = links.iter().map(|(id, text)| format!("<a href=\"#{id}\">{}</a>", escape(text))).collect();
    writer.push(&format!("<nav aria-label=\"Sections\"><p>{links}</p></nav>\n"));
}

/// What a reader asks first.
fn facts(report: &Report) -> String {
    let mut facts = vec![
        ("GPUs", units::count(f64::from(report.gpus)), String::new()),
        (
            "a token reaches",
            format!("{:.2}", report.gate.expected.distinct_nodes.mean),
            format!("of {} {}", report.nodes, if report.nodes == 1 { "node" } else { "nodes" }),
        ),
    ];
    for phase in report.phases.iter().take(2) {
        let uncertainty =
            format!("± {}, {} limits", units::percent(phase.time.uncertainty), phase.time.bottleneck.name());
        facts.push((phase.name.name(), units::time(phase.time.total().0), uncertainty));
    }
    if let Some(memory) = &report.memory {
        let of = format!(
            "of {}{}",
            units::bytes(memory.capacity.0 as f64),
            if memory.fits() { "" } else { ": does not fit" }
        );
        facts.push(("memory of a GPU", units::bytes(memory.total().0 as f64), of));
    }
    if let Some(step) = &report.step {
        facts.push(("step", units::time(step.total.0), String::new()));
        facts.push(("tokens/s a GPU", units::count(step.tokens_per_second), String::new()));
    }
    if let Some(decode) = &report.decode {
        facts.push(("all layers of one token", units::time(decode.0), String::new()));
    }
    let mut text = "<dl class=\"facts\">".to_owned();
    for (what, value, more) in facts {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "<div><dt>{}</dt><dd>{} <small>{}</small></dd></div>",
            escape(what),
            escape(&value),
            escape(&more)
        );
    }
    text + "</dl>\n"
}

fn plan(writer: &mut Writer, index: usize, report: &Report) {
    writer.section(&format!("plan-{index}"), &name(report));
    if report.fits == Some(false) {
        writer.push("<p class=\"bad\">This plan does not fit the memory of a GPU.</p>\n");
    }
    writer.push("<h3>In words</h3>\n");
    writer.list(&[&report.headline[..], &report.explanation].concat());
    writer.push("<h3>Where a token goes</h3>\n");
    writer.push(&tables::gate(report));
    writer.figures(Page::figures_of(report));
    writer.push("<h3>Numbers</h3>\n");
    writer.push(&tables::phases(report));
    writer.push(&tables::totals(report));
    writer.push(&tables::details(report));
}

/// One picture.
pub(super) fn svg(page: &Page<'_>) -> String {
    let mut picture = Picture::new(&page.title());
    if !page.comparison.is_empty() {
        picture.list("Compared", page.comparison);
    }
    if let Some(of) = page.simulation {
        picture.list("In words", &[&of.headline[..], &of.explanation].concat());
    }
    picture.figures(page.shared_figures());
    for report in page.plans {
        picture.list(&name(report), &[&report.headline[..], &report.explanation].concat());
        picture.figures(Page::figures_of(report));
    }
    picture.figures(page.placement.into_iter().flat_map(|(load, placement)| experts::placed(load, placement)));
    picture.figures(page.simulation.into_iter().flat_map(simulation::figures));
    if let Some(assumptions) = page.assumptions() {
        picture.list("Assumed", assumptions);
    }
    picture.document("Time, memory and traffic; each chart is described by the words above it.")
}

/// Who sends how much to whom in each phase of a run.
pub(super) fn traffic(title: &str, words: &str, phases: &[(&str, Vec<Vec<u64>>)]) -> String {
    let mut picture = Picture::new(title);
    picture.lines(Type::PLAIN, "quiet", words);
    picture.figures(phases.iter().map(|(phase, bytes)| matrix::counted(phase, bytes)));
    picture.document("Bytes from each rank to each rank in each phase of a run.")
}

/// Charts and words below each other, as wide as a phone.
struct Picture {
    title: String,
    body: Group,
    y: f64,
}

impl Picture {
    const MARGIN: f64 = 14.0;

    fn new(title: &str) -> Picture {
        let mut picture = Picture { title: title.to_owned(), body: Group::new(), y: 12.0 };
        picture.lines(Type::TITLE, "", title);
        picture
    }

    fn lines(&mut self, of: Type, class: &str, text: &str) {
        for line in of.wrap(text, WIDTH) {
            self.line(of, class, 0.0, &line);
        }
    }

    fn line(&mut self, of: Type, class: &str, x: f64, words: &str) {
        self.y += LINE + of.size - Type::PLAIN.size;
        let class = format!("{} {class}", of.class);
        let text =
            Text::new(words).set("x", Picture::MARGIN + x).set("y", round(self.y)).set("class", class.trim_end());
        self.body = std::mem::take(&mut self.body).add(text);
    }

    fn list(&mut self, title: &str, lines: &[String]) {
        const INDENT: f64 = 14.0;
        self.y += 16.0;
        self.lines(Type::HEADING, "", title);
        for text in lines {
            for (index, line) in Type::PLAIN.wrap(text, WIDTH - INDENT).iter().enumerate() {
                if index == 0 {
                    self.line(Type::PLAIN, "", 0.0, "•");
                    self.y -= LINE;
                }
                self.line(Type::PLAIN, "", INDENT, line);
            }
        }
    }

    fn figures(&mut self, figures: impl IntoIterator<Item = Figure>) {
        for figure in figures {
            self.y += 20.0;
            self.lines(Type::HEADING, "", &figure.title);
            self.lines(Type::SMALL, "quiet", &figure.caption);
            self.y += 8.0;
            let height = figure.y;
            self.body = std::mem::take(&mut self.body).add(figure.below(Picture::MARGIN, self.y));
            self.y += height;
        }
    }

    fn document(self, about: &str) -> String {
        let (width, height) = (WIDTH + 2.0 * Picture::MARGIN, round(self.y + Picture::MARGIN));
        let document = Document::new()
            .set("viewBox", (0, 0, width, height))
            .set("width", width)
            .set("height", height)
            .set("role", "img")
            .set("aria-labelledby", "title words")
            .add(Title::new(self.title).set("id", "title"))
            .add(Description::new().set("id", "words").add(svg::node::Text::new(about)))
            .add(Style::new(format!("{}{}", style::ALONE, style::chart())))
            .add(Rectangle::new().set("class", "paper").set("width", "100%").set("height", "100%"))
            .add(self.body);
        format!("{document}\n")
    }
}
