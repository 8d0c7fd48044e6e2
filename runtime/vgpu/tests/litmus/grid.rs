//! The classical shapes in every strength, scope and placement. What is allowed follows from the axioms, see [`super::axioms`].

use super::shape::{Shape, shape};

/// Name, outcome, and what each thread does: `Wx1` writes 1 to x, `Rx0` reads x into r0, `Ax0` adds 1 to x, which was in r0.
const SHAPES: [(&str, &str, &[&[&str]]); 17] = [
    ("MP", "1:r0 = 1 & 1:r1 = 0", &[&["Wx1", "Wy1"], &["Ry0", "Rx1"]]),
    ("SB", "0:r0 = 0 & 1:r0 = 0", &[&["Wx1", "Ry0"], &["Wy1", "Rx0"]]),
    ("LB", "0:r0 = 1 & 1:r0 = 1", &[&["Rx0", "Wy1"], &["Ry0", "Wx1"]]),
    ("S", "1:r0 = 1 & x = 2", &[&["Wx2", "Wy1"], &["Ry0", "Wx1"]]),
    ("R", "1:r0 = 0 & y = 2", &[&["Wx1", "Wy1"], &["Wy2", "Rx0"]]),
    ("2+2W", "x = 1 & y = 1", &[&["Wx1", "Wy2"], &["Wy1", "Wx2"]]),
    ("WRC", "1:r0 = 1 & 2:r0 = 1 & 2:r1 = 0", &[&["Wx1"], &["Rx0", "Wy1"], &["Ry0", "Rx1"]]),
    ("ISA2", "1:r0 = 1 & 2:r0 = 1 & 2:r1 = 0", &[&["Wx1", "Wy1"], &["Ry0", "Wz1"], &["Rz0", "Rx1"]]),
    ("RWC", "1:r0 = 1 & 1:r1 = 0 & 2:r0 = 0", &[&["Wx1"], &["Rx0", "Ry1"], &["Wy1", "Rx0"]]),
    ("W+RWC", "1:r0 = 1 & 1:r1 = 0 & 2:r0 = 0", &[&["Wx1", "Wy1"], &["Ry0", "Rz1"], &["Wz1", "Rx0"]]),
    ("IRIW", "2:r0 = 1 & 2:r1 = 0 & 3:r0 = 1 & 3:r1 = 0", &[&["Wx1"], &["Wy1"], &["Rx0", "Ry1"], &["Ry0", "Rx1"]]),
    ("CoRR", "1:r0 = 1 & 1:r1 = 0", &[&["Wx1"], &["Rx0", "Rx1"]]),
    ("CoRW", "1:r0 = 1 & x = 1", &[&["Wx1"], &["Rx0", "Wx2"]]),
    ("CoWR", "0:r0 = 2 & x = 1", &[&["Wx1", "Rx0"], &["Wx2"]]),
    ("CoWW", "x = 1", &[&["Wx1", "Wx2"], &["Rx0"]]),
    ("MP+A", "1:r0 = 1 & 2:r0 = 2 & 2:r1 = 0", &[&["Wx1", "Wy1"], &["Ay0"], &["Ry0", "Rx1"]]),
    ("A+A", "0:r0 = 0 & 1:r0 = 0", &[&["Ax0"], &["Ax0"]]),
];

/// How strong the accesses of a thread are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    Weak,
    Relaxed,
    /// The first access acquires if it reads, the last releases if it writes; the others are weak, or as in SB strong all the same.
    Ordered,
    /// Relaxed, with `fence.acq_rel` between.
    Fence,
    /// Relaxed, with `fence.sc` between.
    Sequential,
}

impl Strength {
    fn name(self) -> &'static str {
        match self {
            Strength::Weak => "weak",
            Strength::Relaxed => "rlx",
            Strength::Ordered => "ra",
            Strength::Fence => "fence",
            Strength::Sequential => "sc",
        }
    }
}

/// What the first thread and the others do.
const STRENGTHS: [(Strength, Strength); 11] = [
    (Strength::Weak, Strength::Weak),
    (Strength::Relaxed, Strength::Relaxed),
    (Strength::Ordered, Strength::Ordered),
    (Strength::Fence, Strength::Fence),
    (Strength::Sequential, Strength::Sequential),
    (Strength::Ordered, Strength::Relaxed),
    (Strength::Relaxed, Strength::Ordered),
    (Strength::Fence, Strength::Ordered),
    (Strength::Ordered, Strength::Fence),
    (Strength::Sequential, Strength::Fence),
    (Strength::Ordered, Strength::Weak),
];

/// Scopes of the first thread and the others.
const SCOPES: [(&str, &str); 5] = [("cta", "cta"), ("gpu", "gpu"), ("sys", "sys"), ("gpu", "sys"), ("sys", "cta")];

fn access(code: &str, last: bool, first: bool, strength: Strength, scope: &str) -> String {
    let (variable, number) = (&code[1..2], &code[2..]);
    let order = |own: &str| match strength {
        Strength::Weak => "weak".to_owned(),
        Strength::Ordered if own == "relaxed" => "weak".to_owned(),
        Strength::Relaxed | Strength::Ordered | Strength::Fence | Strength::Sequential => format!("{own}.{scope}"),
    };
    let ordered = strength == Strength::Ordered;
    match &code[..1] {
        "W" => format!("st.{} {variable} {number}", order(if ordered && last { "release" } else { "relaxed" })),
        "R" => format!("ld.{} r{number} {variable}", order(if ordered && first { "acquire" } else { "relaxed" })),
        // There is no weak atomic.
        _ if ordered => format!("atom.acq_rel.{scope}.add r{number} {variable} 1"),
        _ => format!("atom.relaxed.{scope}.add r{number} {variable} 1"),
    }
}

/// Every shape; the verdict that stands in it means nothing yet.
pub fn grid() -> Vec<Shape> {
    let mut all = Vec::new();
    for (name, outcome, threads) in SHAPES {
        for (one, others) in STRENGTHS {
            for (scope, other_scope) in SCOPES {
                for (placement, apart) in [("cta", [0, 0]), ("gpu", [0, 1]), ("sys", [1, 0])] {
                    let code = |(at, thread): (usize, &&[&str])| {
                        let (strength, scope) = if at == 0 { (one, scope) } else { (others, other_scope) };
                        let fence = match strength {
                            Strength::Fence => format!("; fence.acq_rel.{scope}; "),
                            Strength::Sequential => format!("; fence.sc.{scope}; "),
                            Strength::Weak | Strength::Relaxed | Strength::Ordered => "; ".to_owned(),
                        };
                        let code: Vec<String> = thread
                            .iter()
                            .enumerate()
                            .map(|(nth, code)| access(code, nth + 1 == thread.len(), nth == 0, strength, scope))
                            .collect();
                        format!("{}.{}: {}", apart[0] * at, apart[1] * at, code.join(&fence))
                    };
                    let code: Vec<String> = threads.iter().enumerate().map(code).collect();
                    let line = format!(
                        "{name}+{}+{}.{scope}+{other_scope}@{placement} :: allowed :: axioms :: - :: {outcome} :: {}",
                        one.name(),
                        others.name(),
                        code.join(" || ")
                    );
                    all.push(shape(&line));
                }
            }
        }
    }
    all
}
