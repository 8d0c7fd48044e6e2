//! Every headline can be worked out again from the numbers that are printed under it, by code that shares nothing with the planner's.

use moe_front::spec::Spec;
use moe_planner::page::compared;
use moe_planner::{Change, Options, Planner, Report};
use serde_json::Value;

fn example(name: &str) -> String {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("an example")
}

fn spec(source: &str) -> Spec {
    let checked = moe_front::check_source(source.as_bytes());
    checked.spec.unwrap_or_else(|| panic!("{:?}", checked.diagnostics))
}

fn options() -> Options {
    Options { sampled_tokens: 1024, ..Options::default() }
}

fn reports(source: &str, deploy: &str, options: Options, changes: &[Change]) -> Vec<Report> {
    let spec = spec(source);
    let mut planner = Planner::new(&spec, spec.deploy(deploy).expect("the deploy"), options).expect("a planner");
    changes
        .iter()
        .map(|&change| {
            let parallel = planner.parallel(change).expect("a plan");
            planner.report(&parallel).expect("a report")
        })
        .collect()
}

fn report(source: &str, deploy: &str) -> Report {
    reports(source, deploy, options(), &[Change::default()]).remove(0)
}

fn number(json: &Value, path: &str) -> f64 {
    json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {json}"))
}

fn text<'a>(json: &'a Value, path: &str) -> &'a str {
    json.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} is no text"))
}

fn list<'a>(json: &'a Value, path: &str) -> &'a [Value] {
    json.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("{path} is no list"))
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found} is not {expected}");
}

fn needed(json: &Value) -> f64 {
    list(json, "/memory/parts").iter().map(|part| number(part, "/bytes")).sum()
}

/// Every deploy of every example.
fn every_example(mut check: impl FnMut(&str, &Report, &Value)) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples");
    let files = std::fs::read_dir(folder).expect("the examples").map(|file| file.expect("a file").path());
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "moe")) {
        let source = std::fs::read_to_string(&path).expect("an example");
        let deploys: Vec<String> = spec(&source).deploys.iter().map(|(_, deploy)| deploy.name.clone()).collect();
        for deploy in deploys {
            let report = report(&source, &deploy);
            let json = serde_json::to_value(&report).expect("JSON");
            check(&format!("{} of {}", deploy, path.display()), &report, &json);
        }
    }
}

#[test]
fn what_limits_a_call_is_its_largest_part() {
    every_example(|which, _, json| {
        for phase in list(json, "/phases") {
            let parts = ["latency", "copy", "nvlink", "network"];
            let bottleneck = text(phase, "/time/bottleneck");
            let largest = parts.iter().map(|part| number(phase, &format!("/time/{part}"))).fold(0.0, f64::max);
            near(number(phase, &format!("/time/{bottleneck}")), largest);
            assert!(number(phase, "/time/transfer") >= largest, "{which}: {phase}");
        }
    });
}

#[test]
fn what_fits_is_the_sum_of_its_parts() {
    every_example(|which, report, json| {
        if json["memory"].is_null() {
            return;
        }
        let (needed, capacity) = (needed(json), number(json, "/memory/capacity"));
        assert_eq!(json["fits"], needed <= capacity, "{which}");
        let headline = &report.headline[0];
        let gigabytes = |bytes: f64| -> Vec<String> {
            [(1e12, "TB"), (1e9, "GB")]
                .into_iter()
                .flat_map(|(size, unit)| {
                    let value = bytes / size;
                    [format!("{value:.1} {unit}"), format!("{value:.0} {unit}")]
                })
                .collect()
        };
        assert!(
            headline.starts_with(if needed <= capacity { "fits: " } else { "does not fit: " }),
            "{which}: {headline}"
        );
        assert!(gigabytes(needed).iter().any(|size| headline.contains(size)), "{which}: {headline}, not {needed}");
        if needed > capacity {
            let over = format!("{:?}", gigabytes(needed - capacity));
            assert!(gigabytes(needed - capacity).iter().any(|size| headline.contains(size)), "{headline}, not {over}");
        }
    });
}

#[test]
fn a_step_is_the_sum_of_its_parts_and_tokens_follow() {
    every_example(|which, report, json| {
        if json["step"].is_null() {
            return;
        }
        let of = |name: &str| number(json, &format!("/step/{name}"));
        near(of("steady") + of("bubble") + of("replicas"), of("total"));
        near((of("compute") + of("exposed")) * number(json, "/parallel/micro_batches"), of("steady"));
        let plan = |name: &str| number(json, &format!("/parallel/{name}"));
        near(of("tokens"), plan("tokens") * plan("micro_batches") * plan("dp"));
        near(of("tokens_per_second"), of("tokens") / (of("total") / 1e6) / number(json, "/gpus"));
        near(number(json, "/gpus"), plan("pp") * plan("dp") * plan("tp"));
        if json["fits"] == true {
            let said =
                format!("a step takes {:.2} s, {:.0} tokens/s a GPU", of("total") / 1e6, of("tokens_per_second"));
            assert!(report.headline[0].contains(&said), "{which}: {:?}", report.headline);
        }
    });
}

#[test]
fn all_layers_of_a_token_are_so_many_dispatches_and_combines() {
    every_example(|_, _, json| {
        if json["decode"].is_null() {
            return;
        }
        let call = |phase: usize| {
            ["transfer", "notify"].map(|part| number(json, &format!("/phases/{phase}/time/{part}"))).iter().sum::<f64>()
        };
        near(number(json, "/decode"), (call(0) + call(1)) * number(json, "/moe_layers"));
    });
}

#[test]
fn what_is_recomputed_follows_from_what_each_choice_needs() {
    let mut seen = std::collections::BTreeSet::new();
    every_example(|which, report, json| {
        if json["recompute"].is_null() {
            return;
        }
        let capacity = number(json, "/memory/capacity");
        let needs: Vec<(&str, f64)> = list(json, "/recompute/choices")
            .iter()
            .map(|need| {
                near(number(need, "/left"), capacity - number(need, "/bytes"));
                (text(need, "/recompute"), number(need, "/bytes"))
            })
            .collect();
        assert_eq!(needs.iter().map(|need| need.0).collect::<Vec<_>>(), ["none", "selective", "full"]);
        assert!(needs[0].1 > needs[1].1 && needs[1].1 > needs[2].1, "{which}: {needs:?}");
        let expected = if needs[1].1 <= capacity { "selective" } else { "full" };
        let chosen = text(json, "/recompute/chosen");
        assert_eq!(chosen, expected, "{which}");
        near(needs.iter().find(|need| need.0 == chosen).expect("it is listed").1, needed(json));
        assert!(report.headline[1].contains(&format!("({chosen})")), "{which}: {:?}", report.headline);
        seen.insert(expected);
    });
    assert_eq!(seen.len(), 2, "the examples show both: {seen:?}");
}

/// What a person saw: 27.6 s for 20.4 s, and nothing said that 0.3 GB decided.
#[test]
fn a_choice_that_turns_on_a_little_memory_says_so() {
    let source = example("deepseek_v3").replace("memory 80 GB", "memory 85 GB");
    let full = report(&source, "pretrain");
    let json = serde_json::to_value(&full).expect("JSON");
    assert_eq!(json["recompute"]["chosen"], "full");
    let (selective, all) = (&json["recompute"]["choices"][1], &json["recompute"]["choices"][2]);
    let over = -number(selective, "/left");
    assert!(over > 0.0 && over < 0.02 * 85e9, "{over}");
    let said = &full.headline[1];
    for expected in [
        format!("{:.0} MB too much", over / 1e6),
        format!("{:.2} s instead of {:.2} s", number(selective, "/step") / 1e6, number(all, "/step") / 1e6),
        "`--recompute selective` plans with it".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected}: {said}");
    }
    // With 80 GiB it fits, and the step is the one that was told.
    let roomier = report(&source.replace("memory 85 GB", "memory 80 GiB"), "pretrain");
    let roomier = serde_json::to_value(&roomier).expect("JSON");
    assert_eq!(roomier["recompute"]["chosen"], "selective");
    near(number(&roomier, "/step/total"), number(selective, "/step"));
}

#[test]
fn as_many_multiprocessors_saturate_the_slower_link_as_copying_says() {
    every_example(|_, _, json| {
        if json["enough_sms"].is_null() {
            return;
        }
        let used = number(json, "/parallel/sms");
        let of_call = |phase: usize| {
            let time = |part: &str| number(json, &format!("/phases/{phase}/time/{part}"));
            let link = time("nvlink").max(time("network"));
            if link > 0.0 { (time("copy") * used / link * (1.0 - 1e-12)).ceil() } else { 1.0 }
        };
        near(number(json, "/enough_sms"), of_call(0).max(of_call(1)).max(1.0));
    });
}

/// The verdict by the rule of `docs/planner.md`, from the JSON of the plans.
fn best(plans: &[Value]) -> Option<usize> {
    let fitting: Vec<usize> = (0..plans.len()).filter(|&plan| plans[plan]["fits"] == true).collect();
    let time = |plan: usize| number(&plans[plan], "/step/total") / number(&plans[plan], "/step/tokens");
    let told = |plan: usize| number(&plans[plan], "/step/resolution");
    let fastest = fitting.iter().copied().reduce(|a, b| if time(b) < time(a) { b } else { a })?;
    let near = |plan: &&usize| time(**plan) / time(fastest) - 1.0 <= told(**plan).max(told(fastest));
    let as_fast: Vec<usize> = fitting.iter().filter(near).copied().collect();
    let memory = |plan: usize| needed(&plans[plan]);
    let least = as_fast.iter().map(|&plan| memory(plan)).fold(f64::INFINITY, f64::min);
    let small: Vec<usize> = as_fast.into_iter().filter(|&plan| memory(plan) <= least * 1.02).collect();
    match small[..] {
        [one] => Some(one),
        _ => None,
    }
}

fn judged(source: &str, deploy: &str, changes: &[Change]) -> (Option<usize>, String) {
    let reports = reports(source, deploy, options(), changes);
    let plans: Vec<Value> = reports.iter().map(|report| serde_json::to_value(report).expect("JSON")).collect();
    let comparison = compared(&reports);
    assert_eq!(comparison.verdict.best, best(&plans), "{:?}", comparison.words);
    (comparison.verdict.best, comparison.words.last().expect("a verdict").clone())
}

fn each(numbers: &[u32], change: fn(u32) -> Change) -> Vec<Change> {
    numbers.iter().map(|&number| change(number)).collect()
}

fn ep(ep: u32) -> Change {
    Change { ep: Some(ep), ..Change::default() }
}

fn zero(zero: u32) -> Change {
    Change { zero: u8::try_from(zero).ok(), ..Change::default() }
}

fn pp(pp: u32) -> Change {
    Change { pp: Some(pp), ..Change::default() }
}

fn sms(sms: u32) -> Change {
    Change { sms: Some(sms), ..Change::default() }
}

fn tokens(tokens: u32) -> Change {
    Change { tokens: Some(tokens), ..Change::default() }
}

#[test]
fn the_verdict_is_that_of_the_numbers_whatever_is_compared() {
    for name in ["deepseek_v3", "kimi_k2", "deepseek_v2", "ernie4_5"] {
        let source = example(name);
        for changes in [
            each(&[32, 64, 128], ep),
            each(&[128, 64], ep),
            each(&[0, 1, 2, 3], zero),
            each(&[4, 8, 16], pp),
            each(&[4, 16, 20, 24, 60], sms),
            each(&[1024, 3000, 4096], tokens),
        ] {
            let spec = spec(&source);
            let planner =
                Planner::new(&spec, spec.deploy("pretrain").expect("it has one"), options()).expect("a planner");
            let possible: Vec<Change> =
                changes.into_iter().filter(|&change| planner.parallel(change).is_ok()).collect();
            if possible.len() > 1 {
                judged(&source, "pretrain", &possible);
            }
        }
    }
}

/// What a person saw: the last pair decided, so that the best of three was not named.
#[test]
fn the_best_is_the_best_of_all() {
    let source = example("deepseek_v3");
    let orders = [[1, 0, 2], [0, 1, 2], [2, 0, 1], [2, 1, 0]];
    let names: Vec<String> = orders
        .iter()
        .map(|order| {
            let (best, said) = judged(&source, "pretrain", &each(order, zero));
            assert!(said.starts_with("keep ep 64 pp 16 zero "), "{said}");
            format!("zero {}", order[best.expect("there is one")])
        })
        .collect();
    assert!(names.iter().all(|name| *name == names[0]), "the order of the plans decides nothing: {names:?}");
}

/// What a person saw: ZeRO 0 was recommended, which needs 17 GB more and is no faster.
#[test]
fn zero_0_is_not_recommended_for_nothing() {
    let (best, said) = judged(&example("deepseek_v3"), "pretrain", &each(&[0, 1], zero));
    assert_eq!(best, Some(1), "{said}");
}

#[test]
fn what_does_not_fit_is_never_the_best() {
    let source = example("deepseek_v3");
    let (best, said) = judged(&source, "pretrain", &each(&[1, 16], pp));
    assert_eq!(best, Some(1));
    assert!(said.contains("the only one of 2 that fits the memory"), "{said}");
    let (best, said) = judged(&source, "one_node", &each(&[0, 1], zero));
    assert_eq!(best, None);
    assert!(said.starts_with("none of 2 plans fits the memory: "), "{said}");
}

#[test]
fn a_difference_that_cannot_be_told_is_none() {
    let (best, said) = judged(&example("deepseek_v3"), "pretrain", &each(&[20, 21], sms));
    assert_eq!(best, None);
    assert!(said.starts_with("no difference that can be told between ep 64 pp 16 zero 1 sms 20, "), "{said}");
}

/// What a person saw: another name gave 2909 tokens/s for 1186. Names, the order of settings and units decide nothing.
#[test]
fn the_same_file_in_other_words_is_the_same_plan() {
    let source = example("deepseek_v3");
    let as_json = |source: &str, deploy: &str| {
        let mut json = serde_json::to_value(report(source, deploy)).expect("JSON");
        for name in ["model", "cluster", "deploy"] {
            json[name] = Value::Null;
        }
        json
    };
    let plain = as_json(&source, "pretrain");
    let renamed = source.replace("deepseek_v3 ", "mine ").replace(" pod ", " yard ").replace("pretrain", "later");
    assert_eq!(as_json(&renamed, "later"), plain);
    let units = source
        .replace("160 GB/s", "0.16 TB/s")
        .replace("50 GB/s per gpu", "400 GB/s per node")
        .replace("memory 80 GB", "memory 80000 MB");
    assert_ne!(units, source);
    assert_eq!(as_json(&units, "pretrain"), plain);
    let ordered = source.replace("ep 64   pp 16   dp 128   zero 1", "zero 1   dp 128   pp 16   ep 64").replace(
        "nodes 256   gpus 8 per node\n    gpu    \"H800\" { target sm_90a   sms 132   memory 80 GB }",
        "gpu    \"H800\" { memory 80 GB   sms 132   target sm_90a }\n    gpus 8 per node   nodes 256",
    );
    assert_ne!(ordered, source);
    assert_eq!(as_json(&ordered, "pretrain"), plain);
}

/// A file that does not say everything: what it says is answered, and the rest is withheld with what to write.
#[test]
fn what_is_not_known_is_withheld_and_the_reason_is_the_headline() {
    let model = |more: &str| {
        format!(
            "model m {{ hidden 1024 experts 64 moe_layers 8 {more}
                gate(logits: f32[experts]) {{ weights softmax(logits[top(4, experts, by: logits)]) }}
                dispatch {{ payload bf16 layout expert_major align 8 }} combine {{ payload bf16 reduce f32 weighted }} }}
            cluster c {{ nodes 4 gpus 8 per node gpu {{ target sm_90a sms 132 memory 80 GB }} nvlink 160 GB/s rdma 50 GB/s per gpu }}
            deploy train of m on c {{ ep 16 tokens 1024 per gpu sms 20 }}
            deploy serve of m on c {{ ep 16 tokens 64 per gpu mode latency }}"
        )
    };
    let attention = "attention grouped { heads 8 key_value_heads 2 head 128 } vocab 1000";
    let width = "expert_ffn 512";
    let whole = report(&model(&format!("{attention} {width}")), "train");
    assert!(whole.missing.is_empty() && whole.step.is_some() && whole.fits == Some(true), "{:?}", whole.headline);
    for (more, names) in [("", &["attention", "expert_ffn"][..]), (attention, &["expert_ffn"]), (width, &["attention"])]
    {
        for (deploy, what) in [("train", "step, tokens/s and memory are withheld: "), ("serve", "memory is withheld: ")]
        {
            let report = report(&model(more), deploy);
            let json = serde_json::to_value(&report).expect("JSON");
            assert_eq!(json["missing"], serde_json::json!(names));
            for unknown in ["parameters", "of_gpu", "recompute", "memory", "fits", "replicas", "step"] {
                assert!(json[unknown].is_null(), "{unknown} is {}", json[unknown]);
            }
            assert!(report.headline[0].starts_with(what), "{:?}", report.headline);
            for name in names {
                assert!(report.headline[0].contains(&format!("`{name} ")), "{name}: {:?}", report.headline);
            }
            // Headline, page and picture say it; nothing says that it fits.
            let page = moe_planner::page::picture::Page { plans: std::slice::from_ref(&report), ..Default::default() };
            for shown in [report.to_string(), page.html(), page.svg()] {
                assert!(shown.contains("withheld: model"), "{shown}");
                for claim in ["fits", "tokens/s a GPU", "tokens/s per GPU", "memory of a GPU", "a step takes", "in GB"]
                {
                    assert!(!shown.contains(claim), "{claim}: {shown}");
                }
            }
        }
        // What travels and how long it takes depends on none of it.
        let (known, some) = (&whole.phases, report(&model(more), "train").costs.phases);
        assert_eq!(*known, some);
    }
    let three = reports(&model(width), "train", options(), &each(&[8, 16, 32], ep));
    let comparison = compared(&three);
    assert_eq!(comparison.verdict.best, None);
    let last = comparison.words.last().expect("a verdict");
    assert!(last.starts_with("which plan is best is withheld: model `m` does not say what surrounds"), "{last}");
}

/// Nodes that nothing joins: what stays within a node is known.
#[test]
fn replicas_on_nodes_without_rdma_are_not_timed() {
    let source = example("deepseek_v3").replace("    rdma   50 GB/s per gpu\n", "").replace("ep 64", "ep 8");
    let report = report(&source, "pretrain");
    assert!(report.memory.is_some() && report.step.is_none() && report.replicas.is_none());
    assert!(report.headline[0].starts_with("step and tokens/s are withheld: cluster `pod`"), "{:?}", report.headline);
}

/// What there are no kernels for stands in the headline with its code and what to do, and is the only thing that `not_built` adds.
#[test]
fn what_is_not_built_is_in_the_headline() {
    let v3 = example("deepseek_v3").replace("128 per gpu", "128 per gpu   mode latency");
    let told = |deploy: &str| -> Vec<String> {
        let report = report(&v3, deploy);
        report.headline.iter().filter(|line| line.contains("(M07")).cloned().collect()
    };
    let [several] = &told("pretrain")[..] else { panic!("{:?}", told("pretrain")) };
    assert!(
        several.starts_with("planned, not built (M0704): there are no kernels for 8 nodes yet: pass `--nodes 1`"),
        "{several}"
    );
    let [latency] = &told("one_node")[..] else { panic!("{:?}", told("one_node")) };
    assert!(latency.starts_with("built another way (M0705): latency mode has no kernels of its own yet"), "{latency}");
    // What is built moves one copy to each of the ranks of a token, 7464 bytes out and 14336 back, and so is planned.
    let plan = report(&v3, "one_node");
    let copies = plan.gate.expected.nvlink_copies.mean;
    near(plan.phases[0].nvlink_bytes, 128.0 * 7464.0 * copies);
    near(plan.phases[1].nvlink_bytes, 128.0 * 14336.0 * copies);
    let written = report(&example("deepseek_v3"), "one_node");
    assert!(written.headline.iter().all(|line| !line.contains("(M07")), "{:?}", written.headline);
}
