//! What is said of files and shapes that cannot be used: the place and the fix.

use moe_contract::ExpertId;
use moe_contract::placement::Placement;
use moe_front::units::Bytes;
use moe_planner::placement::{Load, Options, PlacementError, Policy, Shape, place};

fn said(text: &str) -> String {
    Load::parse(text.as_bytes()).expect_err("it cannot be used").to_string()
}

#[test]
fn both_forms_of_a_load() {
    let csv = "layer, expert, count, note\n4,1,20,\n3,0,1e3,first\n3,1,5.5,\n4,0,0,\n";
    let load = Load::parse(csv.as_bytes()).expect("it is one");
    assert_eq!(load.layers(), [3, 4]);
    assert_eq!(load.counts(), [[1000.0, 5.5], [0.0, 20.0]]);
    let json = r#"{"layers": [3, 4], "counts": [[1000, 5.5], [0, 20]]}"#;
    assert_eq!(Load::parse(json.as_bytes()).expect("it is one"), load);
    let array = Load::parse(b"[[1000, 5.5], [0, 20]]").expect("it is one");
    assert_eq!((array.layers(), array.counts()), ([0, 1].as_slice(), load.counts()));
}

#[test]
fn a_load_that_cannot_be_used_says_where_and_what_to_do() {
    let cases = [
        "",
        "layer,expert\n0,0\n",
        "layer,expert,count\n0,0,1\n0,1,-3\n",
        "layer,expert,count\n0,0,NaN\n",
        "layer,expert,count\n0,0,inf\n",
        "layer,expert,count\n0,zero,1\n",
        "layer,expert,count\n0,0,1\n0,1\n",
        "layer,expert,count\n0,0,1\n0,0,2\n",
        "layer,expert,count\n0,0,1\n0,1,1\n1,0,1\n",
        "layer,expert,count\n0,4294967295,1\n",
        "layer,expert,count\n",
        "[[1, 2], [3]]",
        "[[1, 2],\n [3, -4]]",
        "[[1, 2],\n [3, NaN]]",
        "[[1, \"2\"]]",
        "[]",
        "[[]]",
        "{\"count\": [[1]]}",
        "{\"layers\": [0], \"counts\": [[1], [2]]}",
        "{\"layers\": [5, 5], \"counts\": [[1], [2]]}",
    ];
    let text: String = cases.iter().map(|case| format!("{case:?}\n    {}\n", said(case))).collect();
    insta::assert_snapshot!("loads", text);
}

fn refused(experts: usize, shape: Shape, options: &Options) -> PlacementError {
    let load = Load::new(vec![vec![1.0; experts]; 2]).expect("it is one");
    place(&load, &shape, options).expect_err("it cannot be")
}

#[test]
fn a_shape_that_cannot_be_says_what_would_do() {
    let good = Shape { nodes: 2, gpus_per_node: 4, groups: 4, replicas: 16 };
    let options = Options { top_k: 2, ..Options::default() };
    let slots = |experts: &[u32]| experts.iter().map(|&expert| ExpertId(expert)).collect::<Vec<_>>();
    let current = |nodes, gpus, each, layers: Vec<(u32, Vec<ExpertId>)>| Options {
        current: Some(Placement::new(nodes, gpus, each, None, layers).expect("the slots fit")),
        ..options.clone()
    };
    let sixteen: Vec<u32> = (0..16).map(|slot| slot % 12).collect();
    let errors = [
        refused(12, Shape { nodes: 0, ..good }, &options),
        refused(12, Shape { groups: 0, ..good }, &options),
        refused(12, Shape { replicas: 8, ..good }, &options),
        refused(12, Shape { replicas: 20, ..good }, &options),
        refused(12, Shape { replicas: 15, ..good }, &options),
        refused(14, good, &options),
        refused(12, Shape { nodes: 4, gpus_per_node: 2, groups: 6, ..good }, &options),
        refused(12, Shape { gpus_per_node: u32::MAX, ..good }, &options),
        refused(12, good, &Options { top_k: 0, ..options.clone() }),
        refused(12, good, &Options { top_k: 13, ..options.clone() }),
        refused(12, good, &Options { slack: f64::NAN, ..options.clone() }),
        refused(12, Shape { replicas: 32, ..good }, &Options { gpu_memory: Some(Bytes(300 << 20)), ..options.clone() }),
        refused(12, good, &Options { gpu_memory: Some(Bytes(1 << 20)), ..options.clone() }),
        refused(12, good, &current(2, 2, 4, vec![(0, slots(&sixteen))])),
        refused(12, good, &current(2, 4, 2, vec![(0, slots(&sixteen))])),
        refused(12, good, &current(2, 4, 2, vec![(0, slots(&[0; 16])), (1, slots(&[0; 16]))])),
    ];
    let text: String = errors.iter().map(|error| format!("{error}\n")).collect();
    insta::assert_snapshot!("shapes", text);
}

/// The global policy does not ask for groups.
#[test]
fn groups_do_not_matter_to_the_global_policy() {
    let load = Load::new(vec![vec![1.0; 14]]).expect("it is one");
    let options = Options { policy: Policy::Global, top_k: 2, ..Options::default() };
    let shape = Shape { nodes: 2, gpus_per_node: 4, groups: 4, replicas: 16 };
    assert!(place(&load, &shape, &options).is_ok());
}

/// No load at all is a load: nothing was picked yet.
#[test]
fn a_layer_that_was_never_picked_is_placed_too() {
    let load = Load::new(vec![vec![0.0; 12]]).expect("it is one");
    let shape = Shape { nodes: 2, gpus_per_node: 4, groups: 4, replicas: 16 };
    let placement = place(&load, &shape, &Options { top_k: 2, ..Options::default() }).expect("it fits");
    assert_eq!(placement.layers[0].after.max_over_mean, 1.0);
    assert_eq!(placement.layers[0].replicas.iter().max(), Some(&2), "copies are spread evenly");
}
