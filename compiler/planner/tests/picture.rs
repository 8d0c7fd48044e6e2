//! Pages and pictures against the JSON of the same reports.

#[path = "picture/drawn.rs"]
mod drawn;
#[path = "picture/fonts.rs"]
mod fonts;
#[path = "picture/look.rs"]
mod look;

use std::collections::BTreeMap;

use moe_front::spec::Spec;
use moe_front::units::Microseconds;
use moe_planner::page::Simulation;
use moe_planner::page::compared;
use moe_planner::page::picture::{Link, Page, TrafficMatrix};
use moe_planner::placement::{self, Load, Shape};
use moe_planner::simulate::{Conditions, Fault, GpuId, Spine};
use moe_planner::{Change, Logits, Options, Planner, Report};
use serde_json::Value;
use svg::node::element::tag::Type;
use svg::parser::{Event, Parser};

fn spec(name: &str) -> Spec {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    moe_front::check_source(&std::fs::read(path).unwrap()).spec.unwrap()
}

fn reports(spec: &Spec, deploy: &str, ranks: &[u32]) -> Vec<Report> {
    let options = Options { sampled_tokens: 4096, ..Options::default() };
    let mut planner = Planner::new(spec, spec.deploy(deploy).unwrap(), options).unwrap();
    let plan = |&ep: &u32| {
        let parallel = planner.parallel(Change { ep: Some(ep), ..Change::default() }).unwrap();
        planner.report(&parallel).unwrap()
    };
    ranks.iter().map(plan).collect()
}

/// DeepSeek-V3 on `gpus` GPUs, one NIC slow, pods of 5 nodes.
fn simulated(gpus: u32) -> Simulation {
    let spec = spec("deepseek_v3");
    let options = Options { sampled_tokens: 4096, logits: Logits::Skewed(0.5), ..Options::default() };
    let mut planner = Planner::new(&spec, spec.deploy("pretrain").unwrap(), options).unwrap();
    let parallel = planner.parallel(Change { tokens: Some(512), ..Change::default() }).unwrap();
    let report = planner.report(&parallel).unwrap();
    let conditions = Conditions {
        gpus: Some(gpus),
        spine: Some(Spine { nodes_per_pod: 5, oversubscription: 2.5, latency: Microseconds(1.5) }),
        faults: vec![Fault::SlowNic { gpu: GpuId(13), rate: 0.5 }],
        ..Conditions::default()
    };
    planner.simulate(&report, &conditions, &|_| {}).unwrap()
}

/// A tag of a document and its attributes.
struct Tag {
    name: String,
    attributes: BTreeMap<String, String>,
}

/// Every tag of a document that is well-formed: each is closed, in order, and nothing is left unescaped between them.
fn tags(text: &str) -> Vec<Tag> {
    let (mut tags, mut open): (Vec<Tag>, Vec<String>) = (Vec::new(), Vec::new());
    for event in Parser::new(text) {
        match event {
            Event::Tag(name, kind, attributes) => {
                if kind != Type::End {
                    let attributes = attributes.into_iter().map(|(key, value)| (key, value.to_string())).collect();
                    tags.push(Tag { name: name.to_owned(), attributes });
                }
                match kind {
                    Type::Start => open.push(name.to_owned()),
                    Type::End => assert_eq!(open.pop().as_deref(), Some(name), "closed in order"),
                    Type::Empty => {}
                }
            }
            Event::Text(words) => {
                assert!(!words.contains('<') && !words.contains('>') || open.last().is_some_and(|tag| tag == "style"));
                for rest in words.split('&').skip(1) {
                    let entity = rest.split_once(';').map(|(entity, _)| entity);
                    assert!(matches!(entity, Some("amp" | "lt" | "gt" | "quot" | "#39")), "{rest}");
                }
            }
            Event::Error(error) => panic!("{error}"),
            Event::Comment(_) | Event::Declaration(_) | Event::Instruction(_) => {}
        }
    }
    assert_eq!(open, Vec::<String>::new());
    tags
}

/// Every number of a value, with its path; what a page may leave out is left out here, by name.
fn numbers(path: &str, value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => found.push((path.to_owned(), number.as_f64().unwrap())),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| numbers(&format!("{path}[{index}]"), value, found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| numbers(&format!("{path}.{key}"), value, found));
        }
        _ => {}
    }
}

/// Not numbers of a plan: the version of the form; and what tables give as sums only (parameters by layer, the means of loads).
const LEFT_OUT: [&str; 7] = [
    ".schema",
    ".parameters.",
    ".gate.expected.rank_picks.",
    ".gate.expected.rank_copies.",
    ".gate.expected.node_copies.",
    ".gate.expected.expert_picks.",
    ".gate.expected.ranks",
];

/// The numbers of a page, exactly.
fn shown(page: &str) -> Vec<f64> {
    let tags = tags(page);
    let data = tags.iter().filter(|tag| tag.name == "data");
    data.map(|tag| tag.attributes["value"].parse().expect("the exact value of a number")).collect()
}

#[test]
fn every_number_of_a_report_is_on_its_page() {
    for (model, deploy) in [("deepseek_v3", "pretrain"), ("deepseek_v3", "one_node"), ("kimi_k2", "pretrain")] {
        let spec = spec(model);
        let ranks = if deploy == "one_node" { 8 } else { 64 };
        let plans = reports(&spec, deploy, &[ranks]);
        let page = Page { plans: &plans, ..Page::default() }.html();
        let shown = shown(&page);
        let mut expected = Vec::new();
        numbers("", &serde_json::to_value(&plans[0]).unwrap(), &mut expected);
        assert!(expected.len() > 300, "{}", expected.len());
        // ep, pp, dp, zero and SMs are the name of the plan.
        let name = |path: &str| {
            let field = path.strip_prefix(".parallel.");
            field.is_some_and(|field| ["ep", "pp", "dp", "zero", "sms"].contains(&field)) || path == ".nodes"
        };
        for (path, value) in &expected {
            if LEFT_OUT.iter().any(|left_out| path.starts_with(left_out)) || name(path) {
                continue;
            }
            let close = |shown: &f64| (shown - value).abs() <= 1e-12 * value.abs();
            assert!(shown.iter().any(close), "{model} {deploy}: {path} = {value} is not on the page");
        }
        let plan = &plans[0].parallel;
        let named = format!("ep {} · pp {} · dp {} · zero {} · {} SMs", plan.ep, plan.pp, plan.dp, plan.zero, plan.sms);
        assert!(page.contains(&format!(">{named}</h2>")));
        for line in plans[0].explanation.iter().chain(&plans[0].assumptions) {
            assert!(page.contains(&line.replace('&', "&amp;").replace('>', "&gt;").replace('\'', "&#39;")), "{line}");
        }
    }
}

/// Names of GPUs and pods, the version of the form and the faults are said in words.
#[test]
fn every_number_of_a_simulation_is_on_its_page() {
    let simulation = simulated(64);
    let page = Page { simulation: Some(&simulation), ..Page::default() }.html();
    let shown = shown(&page);
    let mut expected = Vec::new();
    numbers("", &serde_json::to_value(&simulation).unwrap(), &mut expected);
    assert!(expected.len() > 2 * 64 + 64, "{}", expected.len());
    let words = |path: &str| {
        path == ".schema"
            || path.starts_with(".scenario.faults")
            || [".gpu", ".pod", ".rail"].iter().any(|name| path.ends_with(name))
    };
    for (path, value) in expected.iter().filter(|(path, _)| !words(path)) {
        assert!(shown.contains(value), "{path} = {value} is not on the page");
    }
    assert!(page.contains("NIC of GPU 13 at ×0.5 of its rate"));
}

/// A column is as high as the slowest GPU that it stands for.
#[test]
fn many_gpus_share_columns() {
    let simulation = simulated(1024);
    let page = Page { simulation: Some(&simulation), ..Page::default() }.svg();
    let slowest = &simulation.outcome.dispatch.slowest[0];
    let first = slowest.gpu.0 / 8 * 8;
    let words = format!("GPUs {first} to {}, slowest: {:.0} µs", first + 7, slowest.time.0);
    assert!(page.contains(&words), "{words}");
}

#[test]
fn stacked_bars_add_up() {
    let spec = spec("deepseek_v3");
    let plans = reports(&spec, "pretrain", &[64, 128]);
    let page = Page { plans: &plans, ..Page::default() }.html();
    let mut stacks: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for tag in tags(&page) {
        if let Some(stack) = tag.attributes.get("data-stack") {
            let number = |name: &str| -> f64 { tag.attributes[name].parse().unwrap() };
            let (values, widths) = stacks.entry(stack.clone()).or_default();
            *values += number("data-value");
            *widths += number("width");
        }
    }
    let mut expected: BTreeMap<String, f64> = BTreeMap::new();
    for (index, plan) in plans.iter().enumerate() {
        let json = serde_json::to_value(plan).unwrap();
        let bytes: f64 =
            json["memory"]["parts"].as_array().unwrap().iter().map(|part| part["bytes"].as_f64().unwrap()).sum();
        expected.insert(format!("memory-{index}"), bytes);
        expected.insert(format!("step-{index}"), json["step"]["total"].as_f64().unwrap());
        for phase in json["phases"].as_array().unwrap() {
            let time = phase["time"]["transfer"].as_f64().unwrap() + phase["time"]["notify"].as_f64().unwrap();
            expected.insert(format!("call-{index}-{}", phase["name"].as_str().unwrap()), time);
        }
    }
    assert_eq!(stacks.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (stack, value) in &expected {
        assert!((stacks[stack].0 / value - 1.0).abs() < 1e-9, "{stack}: {:?} drawn, {value} reported", stacks[stack]);
    }
    // Bars of one chart have one scale.
    for chart in ["memory", "step"] {
        let scale = |index: usize| {
            let (values, widths) = stacks[&format!("{chart}-{index}")];
            widths / values
        };
        assert!((scale(0) / scale(1) - 1.0).abs() < 2e-3, "{chart}: {} and {}", scale(0), scale(1));
    }
}

/// The matrix is built from destinations and ways, the phases from means over tokens: two ways to the same bytes.
#[test]
fn matrices_add_up_to_the_bytes_of_the_phase() {
    for (model, deploy, ranks) in [
        ("deepseek_v3", "pretrain", 64),
        ("deepseek_v3", "pretrain", 128),
        ("deepseek_v3", "one_node", 8),
        ("kimi_k2", "pretrain", 64),
    ] {
        let spec = spec(model);
        let report = reports(&spec, deploy, &[ranks]).remove(0);
        let traffic = TrafficMatrix::of_dispatch(&report);
        let gpus = f64::from(ranks);
        let dispatch = &report.phases[0];
        for (link, bytes) in [(Link::Nvlink, dispatch.nvlink_bytes), (Link::Rdma, dispatch.rdma_bytes)] {
            let drawn = traffic.over(link) / gpus;
            assert!((drawn - bytes).abs() <= 1e-9 * bytes, "{model} ep {ranks} {link:?}: {drawn} and {bytes}");
        }
        let between: f64 = traffic.by_node.iter().flatten().map(|cell| cell.bytes).sum();
        let by_rank = traffic.over(Link::Nvlink) + traffic.over(Link::Rdma);
        assert!((between / by_rank - 1.0).abs() < 1e-9);
    }
}

/// In latency mode every pick is a message, and the matrix counts those.
#[test]
fn matrices_of_latency_mode_add_up_too() {
    let path = format!("{}/../../dsl-examples/deepseek_v3.moe", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replacen("mode   throughput", "mode   latency", 1).replacen("tokens 4096", "tokens 128", 1);
    let spec = moe_front::check_source(text.as_bytes()).spec.unwrap();
    let report = reports(&spec, "pretrain", &[64]).remove(0);
    assert_eq!(report.mode, "latency");
    let traffic = TrafficMatrix::of_dispatch(&report);
    let dispatch = &report.phases[0];
    for (link, bytes) in [(Link::Nvlink, dispatch.nvlink_bytes), (Link::Rdma, dispatch.rdma_bytes)] {
        let drawn = traffic.over(link) / 64.0;
        assert!(bytes > 0.0 && (drawn / bytes - 1.0).abs() < 1e-9, "{link:?}: {drawn} and {bytes}");
    }
    tags(&Page { plans: &[report], ..Page::default() }.html());
}

/// A comparison, a search and a placement on one page, and in one picture.
#[test]
fn a_page_stands_alone() {
    let spec = spec("deepseek_v3");
    let mut plans = reports(&spec, "pretrain", &[64, 128]);
    plans[0].costs.deploy = "<script>alert('a & b')</script>".to_owned();
    plans[1].explanation.push("names may hold <, > & \"quotes\"".to_owned());
    let words = compared(&plans).words;
    let options = Options { sampled_tokens: 1024, ..Options::default() };
    let found = Planner::new(&spec, spec.deploy("pretrain").unwrap(), options).unwrap().search().unwrap();
    let load = Load::new(vec![(0..32).map(|expert| f64::from(1000 / (1 + expert))).collect(); 2]).unwrap();
    let shape = Shape { nodes: 2, gpus_per_node: 4, groups: 4, replicas: 40 };
    let placed = placement::place(&load, &shape, &placement::Options::default()).unwrap();
    let simulation = simulated(64);
    let page = Page {
        plans: &plans,
        comparison: &words,
        search: Some(&found),
        placement: Some((&load, &placed)),
        simulation: Some(&simulation),
    };
    let (html, svg) = (page.html(), page.svg());
    for text in [&html, &svg] {
        let rest = text.replace("http://www.w3.org/1999/xhtml", "").replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "//", "url(", "@import", "<script", "<link", "<iframe", "<img", "src="] {
            assert!(!rest.contains(outside), "{outside}");
        }
        let tags = tags(text);
        let mut ids: Vec<&String> = tags.iter().filter_map(|tag| tag.attributes.get("id")).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "ids are of one element each");
        for tag in &tags {
            for attribute in ["href", "aria-labelledby"] {
                for id in tag.attributes.get(attribute).into_iter().flat_map(|list| list.split(' ')) {
                    let id = id.trim_start_matches('#');
                    assert!(ids.iter().any(|known| *known == id), "{attribute} {id}");
                }
            }
            // A number that is none would show as a hole.
            for (attribute, value) in &tag.attributes {
                assert!(value != "NaN" && value != "inf" && value != "-inf", "{} {attribute}", tag.name);
            }
        }
        assert!(text.contains("&lt;, &gt; &amp; "), "what is escaped is still there");
    }
    // Every chart has a title, and says what it shows.
    let charts = html.matches("<svg").count();
    assert_eq!(charts, html.matches("<desc").count());
    assert!(charts >= 1 + 3 + 2 * 4 + 2 + 4, "{charts}");
    // Each plan of the front by its exact numbers.
    for plan in &found.front {
        assert!(html.contains(&format!("<data value=\"{}\">", plan.step_us)), "{plan:?}");
        assert!(html.contains(&format!("<data value=\"{}\">", plan.memory)), "{plan:?}");
    }
    for layer in &placed.layers {
        for balance in [&layer.before, &layer.after] {
            assert!(html.contains(&format!("<data value=\"{}\">", balance.max_over_mean)));
        }
    }
}

#[test]
fn what_limits_is_marked_in_every_call() {
    let spec = spec("deepseek_v3");
    for (deploy, ranks) in [("pretrain", 64), ("one_node", 8)] {
        let plans = reports(&spec, deploy, &[ranks]);
        let json = serde_json::to_value(&plans[0]).unwrap();
        let by_link = |phase: &&Value| phase["time"]["bottleneck"] != "latency";
        let phases = json["phases"].as_array().unwrap();
        let expected = phases.iter().filter(by_link).count();
        let page = Page { plans: &plans, ..Page::default() }.html();
        let outlined = |tag: &&Tag| tag.attributes.get("class").is_some_and(|class| class == "outline");
        let in_legends = 1;
        assert_eq!(tags(&page).iter().filter(outlined).count(), in_legends + expected, "{deploy}");
        assert_eq!(page.matches("◀ latency limits").count(), phases.len() - expected, "{deploy}");
        for phase in phases {
            let (time, uncertainty) = (&phase["time"], phase["time"]["uncertainty"].as_f64().unwrap());
            let total = time["transfer"].as_f64().unwrap() + time["notify"].as_f64().unwrap();
            let whiskers = format!("{total:.0} µs ± {:.0} % · ", uncertainty * 100.0);
            assert!(page.contains(&whiskers), "{deploy}: {whiskers}");
        }
    }
}
