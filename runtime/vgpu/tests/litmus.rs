//! Litmus shapes of the PTX memory consistency model under [`Policy::Weak`]: an outcome that the model forbids is never seen, one that it
//! allows is. And [`Judge`]: shapes without a data race are no finding, those with one are.

#[path = "litmus/axioms.rs"]
mod axioms;
#[path = "litmus/grid.rs"]
mod grid;
#[path = "litmus/kernel.rs"]
mod kernel;
#[path = "litmus/shape.rs"]
mod shape;

use kernel::Built;
use moe_vgpu::{Judge, Policy};
use shape::{Shape, Verdict, table};

/// Seeds under which a forbidden outcome must not be seen.
const NEVER: u64 = 500;
/// Seeds within which an allowed one must be.
const SOON: u64 = 5000;

/// Published verdicts that a run does not show, each with its reason.
const DIFFERENCES: [(&str, &str); 1] = [(
    "LB+RMW-a",
    "thread 2 reads what follows from its own later release: no order of reads and writes in time does that, and loads pass no release",
)];

fn published() -> Vec<Shape> {
    table(include_str!("litmus/published.txt"))
}

/// The first of so many seeds under which the outcome is seen.
fn seen(built: &Built, seeds: u64) -> Option<u64> {
    (0..seeds).find(|seed| built.run(Policy::Weak, *seed, None))
}

/// 98 of 100 verdicts at least, and no alarm that is false.
#[test]
fn published_verdicts() {
    let shapes = published();
    assert_eq!(shapes.len(), 135);
    let (mut differences, mut latest, mut wrong) = (Vec::new(), 0, Vec::new());
    for shape in &shapes {
        let built = Built::new(shape);
        match shape.verdict {
            Verdict::Forbidden => wrong.extend(seen(&built, NEVER).map(|seed| (&shape.name, &shape.source, seed))),
            Verdict::Allowed => match seen(&built, SOON) {
                Some(seed) => latest = latest.max(seed),
                None => differences.push(shape.name.as_str()),
            },
        }
    }
    println!("{} of {}, allowed ones within {latest} seeds", shapes.len() - differences.len(), shapes.len());
    assert_eq!(wrong, [], "forbidden, and seen");
    assert_eq!(differences, DIFFERENCES.map(|(name, _)| name));
    assert!(differences.len() * 100 <= shapes.len() * 2);
}

/// The axioms as they stand here say what was published.
#[test]
fn axioms_agree_with_what_is_published() {
    let mut looked_at = 0;
    for shape in published() {
        let Some(judgement) = axioms::judge(&shape) else { continue };
        looked_at += 1;
        assert_eq!(judgement.allowed, shape.verdict == Verdict::Allowed, "{} ({})", shape.name, shape.source);
    }
    println!("{looked_at} shapes");
    assert!(looked_at >= 75);
}

/// 17 shapes in 11 strengths, 5 pairs of scopes and 3 placements, each as the axioms say: what they allow is seen and what they forbid is not;
/// the judge finds something exactly where some execution has a data race.
#[test]
fn classical_shapes_in_every_strength_scope_and_placement() {
    let shapes = grid::grid();
    assert_eq!(shapes.len(), 17 * 11 * 5 * 3);
    let mut wrong: Vec<(&str, &str)> = Vec::new();
    let (mut allowed, mut races) = (0, 0);
    for shape in &shapes {
        let judgement = axioms::judge(shape).expect("the grid has what the axioms know");
        let built = Built::new(shape);
        let found = seen(&built, if judgement.allowed { SOON } else { NEVER / 5 }).is_some();
        if found != judgement.allowed {
            wrong.push((&shape.name, if found { "forbidden, and seen" } else { "allowed, and not seen" }));
        }
        let judge = Judge::default();
        let told = (0..40).any(|seed| {
            built.run(Policy::Random, seed, Some(&judge));
            !judge.found().is_empty()
        });
        if told != judgement.races {
            wrong.push((&shape.name, if told { "no race, and told" } else { "a race, and not told" }));
        }
        allowed += u32::from(judgement.allowed);
        races += u32::from(judgement.races);
    }
    println!("{} shapes, {allowed} allowed, {races} with a race", shapes.len());
    assert_eq!(wrong, []);
    assert!((500..2300).contains(&allowed) && (500..2300).contains(&races), "both kinds are there");
}

/// What is wrong where only weak memory shows it.
#[test]
fn other_policies_do_not_show_it() {
    let shapes = published();
    let message = shapes.iter().find(|shape| shape.name == "MP-relaxed").expect("its line");
    let built = Built::new(message);
    for policy in [Policy::RoundRobin, Policy::Random, Policy::Adversarial] {
        assert_eq!((0..NEVER).find(|seed| built.run(policy, *seed, None)), None, "{policy}");
    }
    assert!(seen(&built, NEVER).is_some());
}
