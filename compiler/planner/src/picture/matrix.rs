//! Who sends how much to whom in one dispatch, expected.
//!
//! Invariant: tokens start on every rank alike, as in [`crate::traffic::Expected`], so that a cell is a mean of its destination times the
//! tokens that come that way; the sums over the cells of each link are the bytes of the report's phase.

use std::collections::BTreeMap;

use svg::node::element::Title;

use super::figure::{Figure, WIDTH, rectangle};
use super::{name, units};
use crate::report::Report;

/// What a cell crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing: the memory of the rank itself.
    Own,
    /// The links of a node.
    Nvlink,
    /// The network.
    Rdma,
}

/// Bytes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Over what.
    pub link: Link,
    /// In one dispatch of all ranks.
    pub bytes: f64,
}

/// The expected traffic of one dispatch of all ranks of an expert-parallel group.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// `by_rank[from][to]`
    pub by_rank: Vec<Vec<Cell>>,
    /// `by_node[from][to]`; the diagonal is what stays inside the node, over NVLink.
    pub by_node: Vec<Vec<Cell>>,
}

impl Traffic {
    /// Of a plan. In throughput mode a copy goes over the network to the rank with the same local index, and from there to each rank of
    /// the node that needs it; in latency mode each pick is a message of its own.
    pub fn of_dispatch(report: &Report) -> Traffic {
        let expected = &report.gate.expected;
        let (ranks, local) = (expected.ranks as usize, expected.ranks_per_node.max(1) as usize);
        let nodes = ranks / local;
        let volume = f64::from(report.parallel.tokens) * report.wire.dispatch_copy() as f64;
        let hybrid = report.mode == moe_compiler::spec::Mode::Throughput.text();
        let cell = |from: usize, to: usize| {
            let link = match () {
                () if from == to => Link::Own,
                () if from / local == to / local => Link::Nvlink,
                () => Link::Rdma,
            };
            let bytes = match (hybrid, link) {
                // Tokens of the same rail of every node pass here.
                (true, Link::Own | Link::Nvlink) => volume * nodes as f64 * expected.copies_by_rank[to],
                (true, Link::Rdma) if from % local == to % local => volume * expected.copies_by_node[to / local],
                (true, Link::Rdma) => 0.0,
                (false, _) => volume * expected.picks_by_rank[to],
            };
            Cell { link, bytes }
        };
        let by_rank: Vec<Vec<Cell>> = (0..ranks).map(|from| (0..ranks).map(|to| cell(from, to)).collect()).collect();
        let empty =
            |from: usize, to: usize| Cell { link: if from == to { Link::Nvlink } else { Link::Rdma }, bytes: 0.0 };
        let mut by_node: Vec<Vec<Cell>> =
            (0..nodes).map(|from| (0..nodes).map(|to| empty(from, to)).collect()).collect();
        for (from, row) in by_rank.iter().enumerate() {
            for (to, cell) in row.iter().enumerate().filter(|(_, cell)| cell.link != Link::Own) {
                by_node[from / local][to / local].bytes += cell.bytes;
            }
        }
        Traffic { by_rank, by_node }
    }

    /// Bytes over a link, all ranks together.
    pub fn over(&self, link: Link) -> f64 {
        self.by_rank.iter().flatten().filter(|cell| cell.link == link).map(|cell| cell.bytes).sum()
    }
}

/// Least and most of a kind of cell, without those that carry nothing.
fn range(cells: &[Vec<Cell>], link: Link) -> Option<(f64, f64)> {
    let bytes = || cells.iter().flatten().filter(|cell| cell.link == link && cell.bytes > 0.0).map(|cell| cell.bytes);
    let least = bytes().fold(f64::INFINITY, f64::min);
    let most = bytes().fold(0.0, f64::max);
    (most > 0.0).then_some((least, most))
}

fn legend(cells: &[Vec<Cell>], kinds: &[(Link, &str, &str)]) -> Vec<(String, String)> {
    let entry = |&(link, class, name): &(Link, &str, &str)| {
        let (least, most) = range(cells, link)?;
        let (least, most) = (units::bytes(least), units::bytes(most));
        let range = if least == most { most } else { format!("{least} to {most}") };
        Some((class.to_owned(), format!("{name}: {range} a cell")))
    };
    kinds.iter().filter_map(entry).collect()
}

/// Bytes between nodes.
pub(super) fn by_node(report: &Report, traffic: &Traffic) -> Figure {
    let nodes = traffic.by_node.len();
    let mut figure = Figure::new(
        format!("Traffic by node, one dispatch · {}", name(report)),
        format!(
            "Expected bytes that all {} GPUs of a node (row) send to a node (column) in one dispatch of one layer; the diagonal is what \
             moves inside the node over NVLink, tokens from other nodes included. Combine goes the same ways backwards. The stronger the colour, the \
             more, from zero, for each link on its own scale.",
            report.gate.expected.ranks_per_node
        ),
    );
    let kinds = [(Link::Nvlink, "nvlink", "NVLink, inside a node"), (Link::Rdma, "rdma", "RDMA, between nodes")];
    draw(
        &mut figure,
        "node",
        &traffic.by_node,
        &legend(&traffic.by_node, &kinds),
        1,
        if nodes <= 16 { 52.0 } else { 30.0 },
    );
    figure
}

/// Bytes between ranks.
pub(super) fn by_rank(report: &Report, traffic: &Traffic) -> Figure {
    let ranks = traffic.by_rank.len();
    let way = if report.nodes > 1 && report.mode == moe_compiler::spec::Mode::Throughput.text() {
        " Over the network a token goes to the GPU with the same local index, which passes it on inside its node."
    } else {
        ""
    };
    let mut figure = Figure::new(
        format!("Traffic by rank, one dispatch · {}", name(report)),
        format!(
            "Expected bytes from each rank (row) to each rank (column) in one dispatch of one layer.{way} Empty cells carry nothing. The stronger \
             the colour, the more, from zero, for each link on its own scale."
        ),
    );
    let kinds = [
        (Link::Own, "own", "to itself, over no link"),
        (Link::Nvlink, "nvlink", "NVLink"),
        (Link::Rdma, "rdma", "RDMA"),
    ];
    let legend = legend(&traffic.by_rank, &kinds);
    let local = report.gate.expected.ranks_per_node as usize;
    draw(&mut figure, "rank", &traffic.by_rank, &legend, local, if ranks <= 16 { 52.0 } else { 30.0 });
    figure
}

const LEFT: f64 = 74.0;
/// Cells this wide carry their number.
const NUMBERED: f64 = 46.0;

fn draw(figure: &mut Figure, what: &str, cells: &[Vec<Cell>], legend: &[(String, String)], block: usize, widest: f64) {
    let count = cells.len();
    let pitch = widest.min((if block == 1 { 890.0 } else { 760.0 }) / count as f64);
    let top = figure.legend(0.0, 0.0, legend) + 34.0;
    figure.text(LEFT, top - 22.0, "quiet", format!("to {what}"));
    figure.text(0.0, top + 11.0, "quiet", format!("from {what}"));
    let every = (26.0 / pitch).ceil().max(1.0) as usize;
    // Labels at the beginnings of nodes when not every one has room.
    let every = if every > 1 { every.next_multiple_of(block.max(1)) } else { 1 };
    for index in (0..count).step_by(every) {
        let at = (index as f64 + 0.5) * pitch;
        figure.text(LEFT + at, top - 6.0, "small middle", index.to_string());
        if index > 0 || pitch > 20.0 {
            figure.text(LEFT - 6.0, top + at + 4.0, "small end", index.to_string());
        }
    }
    let most: BTreeMap<u8, f64> = [Link::Own, Link::Nvlink, Link::Rdma]
        .into_iter()
        .filter_map(|link| range(cells, link).map(|(_, most)| (link as u8, most)))
        .collect();
    let gap = if pitch > 8.0 { 1.0 } else { 0.0 };
    for to in 0..count {
        let mut from = 0;
        while from < count {
            let cell = cells[from][to];
            // Equal neighbours of a column are one rectangle where cells are too small to be read one by one.
            let alike = |row: &&Vec<Cell>| gap == 0.0 && row[to] == cell;
            let rows = 1 + cells[from + 1..].iter().take_while(alike).count();
            if cell.bytes > 0.0 {
                let share = cell.bytes / most.get(&(cell.link as u8)).copied().unwrap_or(cell.bytes);
                let area =
                    [LEFT + to as f64 * pitch, top + from as f64 * pitch, pitch - gap, rows as f64 * pitch - gap];
                let sender = if rows > 1 {
                    format!("each of {what}s {from} to {}", from + rows - 1)
                } else {
                    format!("{what} {from}")
                };
                let tip = format!("{sender} to {what} {to}: {}", units::bytes(cell.bytes));
                let opacity = (0.12 + 0.88 * share * share).min(1.0);
                figure.add(
                    rectangle(area, class(cell.link))
                        .set("fill-opacity", (opacity * 100.0).round() / 100.0)
                        .add(Title::new(tip)),
                );
                if pitch >= NUMBERED {
                    let (x, y) = (area[0] + area[2] / 2.0, area[1] + area[3] / 2.0 + 4.0);
                    let class = match cell.link {
                        _ if opacity <= 0.55 => "small middle",
                        Link::Own => "small middle onGrey",
                        Link::Nvlink | Link::Rdma => "small middle onDark",
                    };
                    figure.text(x, y, class, units::bytes(cell.bytes));
                }
            }
            from += rows;
        }
    }
    let side = count as f64 * pitch;
    if block > 1 && block < count {
        for index in (0..=count).step_by(block) {
            let at = index as f64 * pitch - gap / 2.0;
            figure.line([LEFT, top + at], [LEFT + side, top + at], "grid");
            figure.line([LEFT + at, top], [LEFT + at, top + side], "grid");
        }
    }
    debug_assert!(LEFT + side <= WIDTH);
    figure.height = top + side + 6.0;
}

fn class(link: Link) -> &'static str {
    match link {
        Link::Own => "own",
        Link::Nvlink => "nvlink",
        Link::Rdma => "rdma",
    }
}
