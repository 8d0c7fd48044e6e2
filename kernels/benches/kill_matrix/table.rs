//! What came of the mutants, as tables.

use std::collections::BTreeMap;
use std::fmt;

use moe_vgpu::Conflict;

use crate::mutants::Kind;

/// A mutant, and who noticed.
pub struct Tried {
    pub kernel: &'static str,
    /// The first that has this kernel.
    pub of: String,
    pub kind: Kind,
    pub line: usize,
    pub what: String,
    /// What the run itself showed: a report, or wrong bits.
    pub executor: Option<String>,
    /// What the judge of memory order said.
    pub judge: Option<Conflict>,
    /// What a run showed whose memory is as weak as PTX allows.
    pub exploration: Option<String>,
}

impl Tried {
    pub fn survives(&self) -> bool {
        self.executor.is_none() && self.judge.is_none() && self.exploration.is_none()
    }
}

/// All of them.
#[derive(Default)]
pub struct Matrix {
    /// Kernels that are emitted, and those of them that differ.
    kernels: (usize, usize),
    tried: Vec<Tried>,
}

/// How many were tried, and who noticed how many.
#[derive(Clone, Copy, Default)]
struct Count {
    tried: usize,
    executor: usize,
    judge: usize,
    exploration: usize,
    survivors: usize,
}

impl Count {
    fn add(&mut self, tried: &Tried) {
        self.tried += 1;
        self.executor += usize::from(tried.executor.is_some());
        self.judge += usize::from(tried.judge.is_some());
        self.exploration += usize::from(tried.exploration.is_some());
        self.survivors += usize::from(tried.survives());
    }

    /// By each key.
    fn by<'t, K: Ord>(tried: impl Iterator<Item = &'t Tried>, key: impl Fn(&'t Tried) -> K) -> BTreeMap<K, Count> {
        let mut counts: BTreeMap<K, Count> = BTreeMap::new();
        tried.for_each(|tried| counts.entry(key(tried)).or_default().add(tried));
        counts
    }
}

/// Between these a page has the matrix.
const MARKS: [&str; 2] = ["<!-- make judge writes from here -->\n", "<!-- to here -->\n"];

/// A page with its matrix renewed.
///
/// # Panics
/// If the page has no marks.
pub fn renewed(page: &str, matrix: &Matrix) -> String {
    let (before, rest) = page.split_once(MARKS[0]).expect("the page has the first mark");
    let (_, after) = rest.split_once(MARKS[1]).expect("the page has the second mark");
    format!("{before}{}\n{matrix}\n{}{after}", MARKS[0], MARKS[1])
}

impl Matrix {
    /// So many further kernels are emitted, and so many of them differ.
    pub fn same(&mut self, kernels: usize, differ: usize) {
        self.kernels.0 += kernels;
        self.kernels.1 += differ;
    }

    pub fn add(&mut self, tried: Vec<Tried>) {
        self.tried.extend(tried);
    }

    pub fn survivors(&self) -> impl Iterator<Item = &Tried> {
        self.tried.iter().filter(|tried| tried.survives())
    }

    /// Every mutant, for tools.
    pub fn json(&self) -> String {
        let mutant = |tried: &Tried| {
            let edge = tried.judge.as_ref().map(|conflict| conflict.missing.edge());
            let judge = tried.judge.as_ref().map(ToString::to_string);
            serde_json::json!({
                "kernel": tried.kernel, "of": tried.of, "kind": tried.kind.name(), "line": tried.line, "what": tried.what,
                "executor": tried.executor, "judge": judge, "edge": edge, "exploration": tried.exploration,
            })
        };
        let mutants: Vec<_> = self.tried.iter().map(mutant).collect();
        let (kernels, differ) = self.kernels;
        serde_json::json!({ "kernels": kernels, "differ": differ, "mutants": mutants }).to_string()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Count::by(self.tried.iter(), |_| ()).into_values().next().unwrap_or_default();
        let (kernels, differ) = self.kernels;
        writeln!(
            f,
            "{kernels} kernels are emitted, of which {differ} differ; they have {} mutants. {} are noticed by what comes out (executor), {} by \
             the judge, {} by exploration, {} by nobody.\n",
            all.tried, all.executor, all.judge, all.exploration, all.survivors
        )?;
        let kinds: Vec<Kind> =
            Kind::ALL.into_iter().filter(|kind| self.tried.iter().any(|tried| tried.kind == *kind)).collect();
        writeln!(
            f,
            "| kernel | {} | all | executor | judge | exploration | nobody |",
            kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" | ")
        )?;
        writeln!(f, "|---|{}", "--:|".repeat(kinds.len() + 5))?;
        for (kernel, count) in Count::by(self.tried.iter(), |tried| tried.kernel) {
            let of_kernel = self.tried.iter().filter(|tried| tried.kernel == kernel);
            let by_kind = Count::by(of_kernel, |tried| tried.kind);
            let cells: Vec<String> = kinds
                .iter()
                .map(|kind| by_kind.get(kind).map_or(String::new(), |count| count.tried.to_string()))
                .collect();
            let Count { tried, executor, judge, exploration, survivors } = count;
            writeln!(
                f,
                "| `{kernel}` | {} | {tried} | {executor} | {judge} | {exploration} | {survivors} |",
                cells.join(" | ")
            )?;
        }
        writeln!(
            f,
            "\n| what is taken | mutants | executor | judge | exploration | judge alone | nobody | edges that the judge names |"
        )?;
        writeln!(f, "|---|{}---|", "--:|".repeat(6))?;
        for (kind, count) in Count::by(self.tried.iter(), |tried| tried.kind) {
            let of_kind = || self.tried.iter().filter(move |tried| tried.kind == kind);
            let is_alone =
                |tried: &&Tried| tried.executor.is_none() && tried.exploration.is_none() && tried.judge.is_some();
            let alone = of_kind().filter(is_alone).count();
            let mut edges: BTreeMap<&str, usize> = BTreeMap::new();
            for conflict in of_kind().filter_map(|tried| tried.judge.as_ref()) {
                *edges.entry(conflict.missing.edge()).or_default() += 1;
            }
            let edges: Vec<String> = edges.iter().map(|(edge, times)| format!("{edge} {times}")).collect();
            let Count { tried, executor, judge, exploration, survivors } = count;
            let (name, edges) = (kind.name(), edges.join(", "));
            writeln!(
                f,
                "| {name} | {tried} | {executor} | {judge} | {exploration} | {alone} | {survivors} | {edges} |"
            )?;
        }
        for tried in self.survivors() {
            let Tried { kernel, of, kind, line, what, .. } = tried;
            writeln!(f, "\n`{kernel}` of {of}, {}, line {line}: `{what}`: nobody notices", kind.name())?;
        }
        Ok(())
    }
}
