//! What was wrong in published kernels, written anew in small: each is named under every schedule, and mended nothing is said of it.
//!
//! | published as | here | what was missing |
//! |---|---|---|
//! | DeepEP #136 | `nc_load_of_fresh_data` | coherent loads of what a peer writes meanwhile |
//! | DeepEP #621 | `copied_on_without_proxy_fence` | a proxy fence before a bulk load of what a bulk store of a peer wrote |
//! | DeepEP #642 | `stage_reused_without_proxy_fence` | a proxy fence between reads of a stage and the bulk load that fills it again |
//! | DeepEP #651 | `barrier_of_one_level` | a barrier that joins both levels |
//! | DeepEP #657 | `bulk_source_overwritten` | a wait before the source of a bulk store is written again |
//! | DeepEP #715 | `barrier_without_release` | a release of the system's scope before a network barrier |
//! | Primus-Turbo #482 | `cheaper_fence` | the scope of a fence |
//! | TensorRT-LLM #8612 | `counter_without_release` | a release at a counter in front of the flag |
//! | TensorRT-LLM #14608 | `armed_after_the_copy` | bytes told to a barrier before its copy is issued |
//! | rings of several projects | `head_without_release` | a release where a slot is given back |
//!
//! `nc_load_of_fresh_data` and `bulk_source_overwritten` are in `judge.rs`. The second and third are found where [`Rule::StrictProxies`] is asked
//! for: without these fences many kernels are right. Nothing of the projects' text is here, and nothing was run on hardware.

use super::*;

/// Words of a rank, zero.
fn zeros<const N: usize>(cluster: &mut Cluster, rank: u32, names: [&str; N]) -> [Address; N] {
    names.map(|name| zeroed(cluster, rank, 256, name))
}

/// Rank 0 puts with so many CTAs of so many threads, rank 1 gets; data, flag and out are in rank 1.
fn put_and_get_with(module: &Module, ctas: u32, threads: u32, counter: bool) -> Vec<(Missing, String)> {
    judged(2, |cluster| {
        let [data, flag, out] = zeros(cluster, 1, ["data", "flag", "out"]);
        let [counted] = zeros(cluster, 0, ["counter"]);
        launch(cluster, 1, module, "get", 1, &[data, flag, out]);
        let stream = cluster.stream(RankId(0)).unwrap();
        let arguments: Vec<Address> = if counter { vec![data, counted, flag] } else { vec![data, flag] };
        let arguments = arguments.into_iter().map(Into::into).collect();
        cluster.launch(stream, &module.kernel("put").unwrap(), Launch::linear(ctas, threads, arguments)).unwrap();
    })
}

/// What is missing by the letter of the model alone.
fn strictly_missing(run: impl Fn(&mut Cluster)) -> Vec<Missing> {
    let strict = Rules::default().with(Rule::StrictProxies, Severity::Error);
    assert_eq!(judged(2, &run), [], "it is not looked for unless it is asked for");
    judged_with(&strict, &[1, 8, 8], 2, run).into_iter().map(|(missing, _)| missing).collect()
}

#[test]
fn a_stage_that_is_filled_again_without_a_proxy_fence() {
    let text = include_str!("published/stage_reused_without_proxy_fence.ptx");
    let run = |fence: &str| {
        let module = mended(text, &[("// here", fence)]);
        strictly_missing(move |cluster| {
            let [from] = zeros(cluster, 0, ["from"]);
            launch(cluster, 0, &module, "k", 64, &[from]);
        })
    };
    let shared = Missing::StrictProxyFence { shared: true };
    assert_eq!(run(""), std::slice::from_ref(&shared));
    assert_eq!(run("fence.proxy.async.global;"), [shared]);
    assert_eq!(run("fence.proxy.async.shared::cta;"), []);
}

#[test]
fn a_row_that_is_copied_on_without_a_proxy_fence() {
    let text = include_str!("published/copied_on_without_proxy_fence.ptx");
    let run = |fence: &str| {
        let module = mended(text, &[("// here", fence)]);
        strictly_missing(move |cluster| {
            let [data, flag, out] = zeros(cluster, 1, ["data", "flag", "out"]);
            launch(cluster, 1, &module, "get", 1, &[data, flag, out]);
            launch(cluster, 0, &module, "put", 1, &[data, flag]);
        })
    };
    let global = Missing::StrictProxyFence { shared: false };
    assert_eq!(run(""), std::slice::from_ref(&global));
    assert_eq!(run("fence.proxy.async.shared::cta;"), [global]);
    assert_eq!(run("fence.proxy.async.global;"), []);
}

#[test]
fn a_barrier_whose_levels_are_not_joined() {
    let text = include_str!("published/barrier_of_one_level.ptx");
    let run = |module: &Module| {
        judged(3, |cluster| {
            let [data, far, out] = zeros(cluster, 2, ["data", "far", "out"]);
            let [near] = zeros(cluster, 1, ["near"]);
            launch(cluster, 2, module, "get", 1, &[data, far, out]);
            launch(cluster, 1, module, "pass", 1, &[near, far]);
            launch(cluster, 0, module, "put", 1, &[data, near]);
        })
    };
    let found = run(&mended(text, &[]));
    assert!(found.iter().any(|(_, text)| text.contains("`data` of rank 2")), "{found:?}");
    assert!(matches!(missing(&found)[0], Missing::Everything(_)), "{found:?}");
    let joined = "w: ld.acquire.sys.global.u32 %v,[%a]; setp.ne.u32 %p,%v,1; @%p bra w;";
    assert_eq!(run(&mended(text, &[("// here", joined)])), []);
}

#[test]
fn a_barrier_that_does_not_release() {
    let text = include_str!("published/barrier_without_release.ptx");
    let run = |fence: &str| put_and_get_with(&mended(text, &[("// here", fence)]), 1, 64, false);
    assert!(matches!(missing(&run(""))[0], Missing::Release { .. }));
    let narrow = run("fence.acq_rel.gpu;");
    assert!(
        matches!(missing(&narrow)[0], Missing::ReleaseScope { scope: Scope::Gpu, needed: Scope::Sys, .. }),
        "{narrow:?}"
    );
    assert_eq!(run("fence.acq_rel.sys;"), []);
}

#[test]
fn a_fence_that_was_made_cheaper() {
    let text = include_str!("published/cheaper_fence.ptx");
    let run = |fence: &str| put_and_get_with(&mended(text, &[("fence.acq_rel.gpu;", fence)]), 1, 1, false);
    for (fence, narrow) in [("fence.acq_rel.gpu;", Scope::Gpu), ("fence.acq_rel.cta;", Scope::Cta)] {
        let found = run(fence);
        let told =
            matches!(missing(&found)[0], Missing::ReleaseScope { scope, needed: Scope::Sys, .. } if *scope == narrow);
        assert!(told, "{found:?}");
    }
    assert_eq!(run("fence.acq_rel.sys;"), []);
}

#[test]
fn a_counter_in_front_of_a_flag_that_does_not_release() {
    let text = include_str!("published/counter_without_release.ptx");
    let run = |order: &str| put_and_get_with(&mended(text, &[("atom.relaxed.gpu", order)]), 2, 1, true);
    for order in ["atom.relaxed.gpu", "atom.acquire.gpu", "atom.release.gpu"] {
        let found = run(order);
        assert!(found.iter().any(|(_, text)| text.contains("`data` of rank 1")), "{order}: {found:?}");
    }
    assert_eq!(run("atom.acq_rel.gpu"), []);
}

#[test]
fn a_slot_that_is_given_back_without_a_release() {
    let text = include_str!("published/head_without_release.ptx");
    let run = |module: &Module| {
        judged(2, |cluster| {
            let [slot, tail, out] = zeros(cluster, 1, ["slot", "tail", "out"]);
            let [head] = zeros(cluster, 0, ["head"]);
            launch(cluster, 1, module, "get", 1, &[slot, tail, head, out]);
            launch(cluster, 0, module, "put", 1, &[slot, tail, head]);
        })
    };
    let found = run(&mended(text, &[]));
    assert!(matches!(missing(&found)[..], [Missing::Release { .. }]), "{found:?}");
    assert!(found[0].1.contains("`slot` of rank 1"), "{found:?}");
    assert_eq!(run(&mended(text, &[("st.relaxed.sys", "st.release.sys")])), []);
}

/// Whether the copy comes in time depends on the schedule: judge or executor tell of it where it does not, and no schedule blames the mended
/// one.
#[test]
fn a_barrier_that_is_told_of_the_bytes_too_late() {
    let text = include_str!("published/armed_after_the_copy.ptx");
    let (arrive, expect) =
        ("mbarrier.arrive.shared::cta.b64 %s,[full];", "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full],16;");
    let copy = "cp.async.bulk.shared::cluster";
    let before = format!("{expect} {copy}");
    let right = mended(&text.replace(expect, ""), &[(copy, &before), (arrive, arrive)]);
    let runs = |module: &Module| -> Vec<String> {
        let schedules = POLICIES.into_iter().flat_map(|policy| (0..8).map(move |seed| (policy, seed)));
        let run = |(policy, seed)| {
            let rules = Rules::default().with(Rule::CopyInFlight, Severity::Warning);
            let mut cluster = Cluster::new(Config { ranks: 1, policy, seed, rules, ..Config::default() }).unwrap();
            let judge = Judge::default();
            cluster.observe(Box::new(judge.clone()));
            let [from, out] = zeros(&mut cluster, 0, ["from", "out"]);
            launch(&mut cluster, 0, module, "k", 64, &[from, out]);
            assert_eq!(cluster.run().err().map(|error| error.to_string()), None, "{policy}, seed {seed}");
            let late = "while asynchronous copies still use its shared memory";
            let late = cluster.findings().iter().map(ToString::to_string).filter(|text| text.contains(late));
            judge.found().iter().map(ToString::to_string).chain(late).collect::<Vec<String>>()
        };
        schedules.flat_map(run).collect()
    };
    let told = runs(&mended(text, &[]));
    let is_of_the_copy = |text: &&String| text.contains("`row") || text.contains("asynchronous copies");
    let (of_the_copy, other): (Vec<&String>, Vec<&String>) = told.iter().partition(is_of_the_copy);
    assert!(!of_the_copy.is_empty() && other.is_empty(), "{other:?}");
    assert_eq!(runs(&right), Vec::<String>::new());
}
