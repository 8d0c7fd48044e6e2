//! Who sends how much to whom: in one dispatch, expected, or in a run, counted.
//!
//! Invariant: tokens start on every rank alike, as in [`crate::traffic::Expected`], so that a cell is a mean of its destination times the
//! tokens that come that way; the sums over the cells of each link are the bytes of the report's phase.

use super::figure::{Anchor, Figure, Ink, Key, WIDTH, round};
use super::style::{Mark, STEPS};
use super::text::Type;
use crate::page::report::Report;
use crate::units::{self, Unit};

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
pub struct TrafficMatrix {
    /// `by_rank[from][to]`
    pub by_rank: Vec<Vec<Cell>>,
    /// `by_node[from][to]`; the diagonal is what stays inside the node, over NVLink.
    pub by_node: Vec<Vec<Cell>>,
}

impl TrafficMatrix {
    /// Of a plan. In throughput mode a copy goes over the network to the rank with the same local index, and from there to each rank of
    /// the node that needs it; in latency mode each pick is a message of its own.
    pub fn of_dispatch(report: &Report) -> TrafficMatrix {
        let expected = &report.gate.expected;
        let (ranks, local) = (expected.ranks as usize, expected.ranks_per_node.max(1) as usize);
        let nodes = ranks / local;
        let volume = f64::from(report.parallel.tokens) * report.wire.dispatch_copy() as f64;
        let hybrid = report.mode == moe_front::spec::Mode::Throughput.text();
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
        TrafficMatrix { by_rank, by_node }
    }

    /// Bytes over a link, all ranks together.
    pub fn over(&self, link: Link) -> f64 {
        self.by_rank.iter().flatten().filter(|cell| cell.link == link).map(|cell| cell.bytes).sum()
    }
}

/// Bytes between nodes.
pub(super) fn by_node(report: &Report, traffic: &TrafficMatrix) -> Figure {
    let mut figure = Figure::new(
        "Traffic by node, one dispatch",
        format!(
            "Expected bytes that all {} GPUs of a node (row) send to a node (column) in one dispatch of one layer; the diagonal is what \
             moves inside the node over NVLink, tokens from other nodes included. Combine goes the same ways backwards.",
            report.gate.expected.ranks_per_node
        ),
    );
    let kinds = [(Link::Nvlink, "NVLink, inside a node"), (Link::Rdma, "RDMA, between nodes")];
    Matrix { what: "node", cells: &traffic.by_node, kinds: &kinds, block: 1, exact: false }.draw(&mut figure);
    figure
}

/// Bytes between ranks.
pub(super) fn by_rank(report: &Report, traffic: &TrafficMatrix) -> Figure {
    let way = if report.nodes > 1 && report.mode == moe_front::spec::Mode::Throughput.text() {
        " Over the network a token goes to the GPU with the same local index, which passes it on inside its node."
    } else {
        ""
    };
    let mut figure = Figure::new(
        "Traffic by rank, one dispatch",
        format!(
            "Expected bytes from each rank (row) to each rank (column) in one dispatch of one layer.{way} Empty cells carry nothing."
        ),
    );
    let kinds = [(Link::Own, "to itself, over no link"), (Link::Nvlink, "NVLink"), (Link::Rdma, "RDMA")];
    let block = report.gate.expected.ranks_per_node as usize;
    Matrix { what: "rank", cells: &traffic.by_rank, kinds: &kinds, block, exact: false }.draw(&mut figure);
    figure
}

/// Bytes that were counted on the links of a node, `bytes[from][to]`.
pub(super) fn counted(phase: &str, bytes: &[Vec<u64>]) -> Figure {
    let all: u64 = bytes.iter().flatten().sum();
    if all == 0 {
        return Figure::new(phase, "Nothing crosses a link.");
    }
    let mut figure = Figure::new(
        phase,
        format!(
            "Bytes from each rank (row) to each rank (column); together {}. Empty cells carry nothing.",
            units::bytes(all as f64)
        ),
    );
    let cell = |from: usize, to: usize, bytes: u64| Cell {
        link: if from == to { Link::Own } else { Link::Nvlink },
        bytes: bytes as f64,
    };
    let cells: Vec<Vec<Cell>> = (0..)
        .zip(bytes)
        .map(|(from, row)| (0..).zip(row).map(|(to, &bytes)| cell(from, to, bytes)).collect())
        .collect();
    let kinds = [(Link::Own, "to itself, over no link"), (Link::Nvlink, "NVLink")];
    Matrix { what: "rank", cells: &cells, kinds: &kinds, block: 1, exact: true }.draw(&mut figure);
    figure
}

/// Before the first column.
const LEFT: f64 = 34.0;
/// The widest cells, which carry their number.
const NUMBERED: f64 = 48.0;
/// Narrower cells carry none.
const NARROWEST_NUMBERED: f64 = 38.0;

/// Cells as they are drawn.
struct Matrix<'a> {
    what: &'a str,
    cells: &'a [Vec<Cell>],
    kinds: &'a [(Link, &'a str)],
    /// So many neighbours share a node.
    block: usize,
    /// Whether bytes are counted, not expected.
    exact: bool,
}

/// The colours of a link: from zero to the largest number, in steps of a round size.
struct Scale {
    link: Link,
    /// In the unit of the chart.
    step: f64,
    keys: Vec<Key>,
}

impl Scale {
    /// With its legend, or nothing where the link carries nothing.
    fn new(figure: &mut Figure, cells: &[Vec<Cell>], unit: Unit, link: Link, name: &str) -> Option<Scale> {
        let of_link = cells.iter().flatten().filter(|cell| cell.link == link);
        let most = unit.value(of_link.map(|cell| cell.bytes).fold(0.0, f64::max));
        if most <= 0.0 {
            return None;
        }
        let marks = units::marks(most, STEPS as u32);
        let bounds = &marks[1..];
        figure.lines(Type::SMALL, Ink::Quiet, &format!("{name}; a cell carries up to"));
        // Few steps are those in the middle, where links differ most.
        let first = (STEPS + 1).saturating_sub(bounds.len()) / 2;
        let entries: Vec<(Mark, String)> = (first..)
            .zip(bounds)
            .map(|(step, bound)| (Mark::Traffic(link, step), format!("{} {}", round(*bound), unit.name)))
            .collect();
        Some(Scale { link, step: marks[1], keys: figure.legend_of(&entries) })
    }

    fn key(&self, value: f64) -> Option<Key> {
        let step = ((value / self.step).ceil() as usize).saturating_sub(1);
        self.keys.get(step.min(self.keys.len().saturating_sub(1))).copied()
    }
}

impl Matrix<'_> {
    fn draw(&self, figure: &mut Figure) {
        let Matrix { what, cells, kinds, block, exact } = *self;
        let count = cells.len();
        let unit = Unit::of_bytes_alike(cells.iter().flatten().map(|cell| cell.bytes));
        let scales: Vec<Scale> =
            kinds.iter().filter_map(|(link, name)| Scale::new(figure, cells, unit, *link, name)).collect();
        let pitch = NUMBERED.min((WIDTH - LEFT) / count.max(1) as f64);
        figure.y += 4.0;
        figure.write([LEFT, figure.y + 12.0], Type::SMALL, Anchor::Start, Ink::Quiet, &format!("to {what}"));
        figure.write([0.0, figure.y + LINE_OF_NAMES], Type::SMALL, Anchor::Start, Ink::Quiet, "from");
        let top = figure.y + LINE_OF_NAMES + 6.0;
        self.names(figure, pitch, top);
        let gap = if pitch > 8.0 { 1.0 } else { 0.0 };
        for to in 0..count {
            let mut from = 0;
            while from < count {
                let cell = cells[from][to];
                // Equal neighbours of a column are one rectangle where cells are too small to be read one by one.
                let alike = |row: &&Vec<Cell>| gap == 0.0 && row[to] == cell;
                let rows = 1 + cells[from + 1..].iter().take_while(alike).count();
                let scale = scales.iter().find(|scale| scale.link == cell.link && cell.bytes > 0.0);
                if let Some(key) = scale.and_then(|scale| scale.key(unit.value(cell.bytes))) {
                    let [x, y] = [LEFT + to as f64 * pitch, top + from as f64 * pitch];
                    let area = [x, y, pitch - gap, rows as f64 * pitch - gap];
                    let sender = match rows {
                        1 => format!("{what} {from}"),
                        _ => format!("each of {what}s {from} to {}", from + rows - 1),
                    };
                    let bytes = if exact { format!("{:.0} bytes", cell.bytes) } else { units::bytes(cell.bytes) };
                    figure.rectangle(key, area, &format!("{sender} to {what} {to}: {bytes}"));
                    if pitch >= NARROWEST_NUMBERED {
                        let middle = [x + area[2] / 2.0, y + area[3] / 2.0 + 4.0];
                        figure.write(middle, Type::NUMBER, Anchor::Middle, Ink::On(key), &unit.number(cell.bytes));
                    }
                }
                from += rows;
            }
        }
        let side = count as f64 * pitch;
        let every = if gap > 0.0 { 1 } else { block.max(1) };
        let every = if gap == 0.0 && every == 1 { count.max(1) } else { every };
        for index in (0..=count).step_by(every) {
            let at = index as f64 * pitch - gap / 2.0;
            figure.grid([LEFT, top + at], [LEFT + side, top + at]);
            figure.grid([LEFT + at, top], [LEFT + at, top + side]);
        }
        figure.y = top + side + 4.0;
        if pitch >= NARROWEST_NUMBERED && count > 0 {
            figure.lines(Type::SMALL, Ink::Quiet, &format!("numbers: {}", unit.name));
        }
    }

    /// The numbers of columns and rows, of as many as have room; those where a node begins first.
    fn names(&self, figure: &mut Figure, pitch: f64, top: f64) {
        let every = (24.0 / pitch).ceil().max(1.0) as usize;
        let every = if every > 1 { every.next_multiple_of(self.block.max(1)) } else { 1 };
        for index in (0..self.cells.len()).step_by(every) {
            let at = (index as f64 + 0.5) * pitch;
            let name = index.to_string();
            figure.write([LEFT + at, top - 5.0], Type::NUMBER, Anchor::Middle, Ink::Plain, &name);
            figure.write([LEFT - 6.0, top + at + 4.0], Type::NUMBER, Anchor::End, Ink::Plain, &name);
        }
    }
}

/// From the words above a matrix to the names of its columns.
const LINE_OF_NAMES: f64 = 26.0;
