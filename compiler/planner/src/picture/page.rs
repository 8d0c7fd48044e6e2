//! The page and the picture, put together.

use std::fmt::Write as _;

use svg::Document;
use svg::node::element::{Description, Group, Rectangle, Style, Text, Title};

use super::figure::{Figure, WIDTH, round};
use super::tables::{self, escape};
use super::{Page, experts, name, simulation, style, units};
use crate::report::Report;

/// Charts so far, so that each has an id of its own.
struct Writer {
    text: String,
    figures: usize,
}

impl Writer {
    fn figure(&mut self, figure: Figure) {
        self.figures += 1;
        let id = format!("figure-{}", self.figures);
        let (title, caption) = (escape(&figure.title), escape(&figure.caption));
        let drawn = figure.inline(&id);
        self.push(&format!("<h3>{title}</h3>\n<figure>{drawn}<figcaption>{caption}</figcaption></figure>\n"));
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn list(&mut self, lines: &[String]) {
        self.push("<ul>");
        lines.iter().for_each(|line| self.push(&format!("<li>{}</li>\n", escape(line))));
        self.push("</ul>\n");
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
        style::CHART,
        style::PAGE
    ));
    if let Some(first) = page.plans.first() {
        let source = first.assumptions.first().map(String::as_str).unwrap_or_default();
        writer.push(&format!("<p class=\"quiet\">{} mode · {}</p>\n", first.mode, escape(source)));
    }
    contents(&mut writer, page);
    if let [one] = page.plans {
        writer.push(&facts(one));
    }
    if page.plans.len() > 1 {
        writer.section("comparison", "Plans side by side");
        if let Some((last, lines)) = page.comparison.split_last() {
            writer.push(&format!("<p class=\"verdict\">{}</p>\n", escape(last)));
            writer.list(lines);
        }
        writer.push(&tables::comparison(page.plans));
    }
    if page.search.is_some() || !page.plans.is_empty() {
        writer.section("time-and-memory", "Time and memory");
        page.shared_figures().into_iter().for_each(|figure| writer.figure(figure));
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
        experts::placed(load, placement).into_iter().for_each(|figure| writer.figure(figure));
    }
    if let Some(of) = page.simulation {
        writer.push("<h3>In words</h3>\n");
        writer.list(&of.explanation);
        writer.push(&tables::simulated_times(of));
        simulation::figures(of).into_iter().for_each(|figure| writer.figure(figure));
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
        facts.push((phase.name, units::time(phase.time.total().0), uncertainty));
    }
    let memory = &report.memory;
    let of =
        format!("of {}{}", units::bytes(memory.capacity.0 as f64), if report.fits { "" } else { ": does not fit" });
    facts.push(("memory of a GPU", units::bytes(memory.total().0 as f64), of));
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
    if !report.fits {
        writer.push("<p class=\"bad\">This plan does not fit the memory of a GPU.</p>\n");
    }
    writer.push("<h3>In words</h3>\n");
    writer.list(&report.explanation);
    writer.push("<h3>Where a token goes</h3>\n");
    writer.push(&tables::gate(report));
    Page::figures_of(report).into_iter().for_each(|figure| writer.figure(figure));
    writer.push("<h3>Numbers</h3>\n");
    writer.push(&tables::phases(report));
    writer.push(&tables::totals(report));
    writer.push(&tables::details(report));
}

/// One picture.
pub(super) fn svg(page: &Page<'_>) -> String {
    let margin = 24.0;
    let mut y = margin + 20.0;
    let mut body = Group::new().add(text(0.0, y, "title", &page.title()));
    y += 16.0;
    let words = |body: Group, y: &mut f64, title: &str, lines: &[String]| {
        let mut body = body.add(text(0.0, *y + 18.0, "heading", title));
        *y += 26.0;
        for (first, line) in lines.iter().flat_map(|line| wrap(line, 150)) {
            *y += 17.0;
            body =
                body.add(text(if first { 0.0 } else { 12.0 }, *y, "", &if first { format!("• {line}") } else { line }));
        }
        *y += 20.0;
        body
    };
    if !page.comparison.is_empty() {
        body = words(body, &mut y, "Compared", page.comparison);
    }
    for report in page.plans {
        body = words(body, &mut y, &name(report), &report.explanation);
    }
    if let Some(of) = page.simulation {
        body = words(body, &mut y, "In words", &of.explanation);
    }
    let mut figures = page.shared_figures();
    figures.extend(page.plans.iter().flat_map(Page::figures_of));
    figures.extend(page.placement.into_iter().flat_map(|(load, placement)| experts::placed(load, placement)));
    figures.extend(page.simulation.into_iter().flat_map(simulation::figures));
    for figure in figures {
        y += 14.0;
        body = body.add(text(0.0, y + 14.0, "heading", &figure.title));
        y += 22.0;
        for (_, line) in wrap(&figure.caption, 150) {
            y += 16.0;
            body = body.add(text(0.0, y, "quiet", &line));
        }
        y += 16.0;
        let place = format!("translate(0 {})", round(y));
        body = body.add(figure.body.set("transform", place));
        y += figure.height + 18.0;
    }
    if let Some(assumptions) = page.assumptions() {
        body = words(body, &mut y, "Assumed", assumptions);
    }
    let (width, height) = (WIDTH + 2.0 * margin, round(y + margin));
    let paper = Rectangle::new().set("class", "paper").set("width", "100%").set("height", "100%");
    let about = "Time, memory and traffic of parallel plans; each chart is described by the words above it.";
    let document = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("role", "img")
        .set("aria-labelledby", "title words")
        .add(Title::new(page.title()).set("id", "title"))
        .add(Description::new().set("id", "words").add(svg::node::Text::new(about)))
        .add(Style::new(style::CHART))
        .add(paper)
        .add(body.set("transform", format!("translate({margin} 0)")));
    format!("{document}\n")
}

fn text(x: f64, y: f64, class: &str, words: &str) -> Text {
    Text::new(words).set("x", x).set("y", round(y)).set("class", class)
}

/// Lines of at most `width` characters, and whether each is the first of its text; words are never cut.
fn wrap(text: &str, width: usize) -> Vec<(bool, String)> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let fits = |line: &String| line.is_empty() || line.chars().count() + 1 + word.chars().count() <= width;
        match lines.last_mut().filter(|line| fits(line)) {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().enumerate().map(|(index, line)| (index == 0, line)).collect()
}
