//! The time model against published measurements, where they are present, and its committed parameters against a new fit.

use std::path::PathBuf;

use moe_front::spec::Mode;
use moe_planner::calibrate::{Hardware, Held, Residual, Table, hold_out, read, refit};
use moe_planner::time::{Call, Direction, Profile};

/// The published tables; they are other people's data and not part of this project.
fn tables() -> Option<[Table; 2]> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/planner");
    let read_one = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).ok()?;
        Some(read(&bytes, &Hardware::H100).unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    let tables = read_one("h100_throughput_fit.csv").zip(read_one("h100_low_latency_fit.csv"));
    if tables.is_none() {
        eprintln!(
            "NOT TESTED: the published measurements are not in {}, so nothing was fitted again",
            folder.display()
        );
    }
    tables.map(|(throughput, latency)| [throughput, latency])
}

const SOURCE: &str = "DeepEP V1 on H100 nodes of 8 with one 400 Gb/s NIC per GPU, hidden 7168, top-8 of 256 or 288 experts; \
measured by the aiconfigurator project (Apache-2.0)";

fn summary(residuals: &[Residual], at_least: f64) -> (f64, f64, f64) {
    let errors: Vec<f64> = residuals.iter().filter(|one| one.tokens >= at_least).map(|one| one.error).collect();
    let count = errors.len() as f64;
    let worst =
        errors.iter().copied().fold(0.0, |worst: f64, error| if error.abs() > worst.abs() { error } else { worst });
    (errors.iter().map(|error| error.abs()).sum::<f64>() / count, errors.iter().sum::<f64>() / count, worst)
}

#[test]
fn the_committed_profile_is_the_fit() {
    let Some([throughput, latency]) = tables() else { return };
    let mut fitted = Profile { name: "deepep_v1_h100".to_owned(), source: SOURCE.to_owned(), ..Profile::unmeasured() };
    refit(&mut fitted, &throughput).unwrap();
    refit(&mut fitted, &latency).unwrap();
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/deepep_v1_h100.json");
        std::fs::write(path, serde_json::to_string_pretty(&fitted).unwrap() + "\n").unwrap();
        return;
    }
    let numbers = |profile: &Profile| {
        let value = serde_json::to_value(profile).unwrap();
        let mut numbers = Vec::new();
        collect(&value, &mut numbers);
        numbers
    };
    let committed = Profile::deepep_v1_h100();
    assert_eq!(committed.source, fitted.source);
    for (committed, fitted) in numbers(&committed).into_iter().zip(numbers(&fitted)) {
        assert!((committed / fitted - 1.0).abs() < 1e-3, "{committed} is committed, {fitted} fitted: run with BLESS=1");
    }
}

fn collect(value: &serde_json::Value, numbers: &mut Vec<f64>) {
    match value {
        serde_json::Value::Number(number) => numbers.extend(number.as_f64()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, numbers)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| collect(value, numbers)),
        _ => {}
    }
}

/// Prints every group and its signed error (`--nocapture`); `docs/planner.md` quotes it.
#[test]
fn rows_left_out_are_predicted() {
    let Some(tables) = tables() else { return };
    let known = Profile::unmeasured();
    for table in &tables {
        let latency = table.mode == Mode::Latency;
        let at_least = if latency { 8.0 } else { 1024.0 };
        for held in [Held::Nothing, Held::Row, Held::Tokens, Held::NodesAndSms, Held::Sms, Held::Nodes] {
            // Low latency has no number of multiprocessors: its groups are the nodes.
            if latency && matches!(held, Held::NodesAndSms | Held::Sms) {
                continue;
            }
            let residuals = hold_out(&known, table, held);
            for direction in Direction::ALL {
                let of = |nodes: Option<u32>, sms: Option<u32>| -> Vec<Residual> {
                    let wanted = |one: &&Residual| {
                        one.direction == direction
                            && nodes.is_none_or(|nodes| one.nodes == nodes)
                            && sms.is_none_or(|sms| one.sms == sms)
                    };
                    residuals.iter().filter(wanted).copied().collect()
                };
                let print = |what: &str, group: &[Residual]| {
                    let (mean, signed, worst) = summary(group, at_least);
                    println!(
                        "{:?} {} {held:?}{what}: mean |e| {:.1} %, signed {:+.1} %, worst {:+.1} %",
                        table.mode,
                        direction.name(),
                        mean * 100.0,
                        signed * 100.0,
                        worst * 100.0
                    );
                    (mean, worst)
                };
                let (mean, worst) = print("", &of(None, None));
                let mut groups: Vec<(Option<u32>, Option<u32>)> = residuals
                    .iter()
                    .map(|one| match held {
                        Held::NodesAndSms => (Some(one.nodes), Some(one.sms)),
                        Held::Nodes => (Some(one.nodes), None),
                        Held::Sms => (None, Some(one.sms)),
                        Held::Nothing | Held::Row | Held::Tokens => (None, None),
                    })
                    .collect();
                groups.sort_unstable();
                groups.dedup();
                for (nodes, sms) in groups.into_iter().filter(|&group| group != (None, None)) {
                    print(&format!(" {nodes:?} {sms:?}"), &of(nodes, sms));
                }
                let (mean_limit, worst_limit) = match (held, latency) {
                    (Held::Nothing | Held::Row | Held::Tokens, _) => (0.03, 0.10),
                    (_, false) => (0.04, 0.11),
                    (_, true) => (0.07, 0.20),
                };
                assert!(mean < mean_limit && worst.abs() < worst_limit, "{:?} {held:?}: {mean} {worst}", table.mode);
            }
        }
    }
}

/// One row of a slower library: its kind of call takes what it says, others what they took.
#[test]
fn a_row_moves_what_it_tells_about() {
    let known = Profile::deepep_v1_h100();
    let header = "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_avg_t_us,combine_avg_t_us\n";
    let rows = "1,7168,64,8,256,50,80\n8,7168,64,8,256,1,1\n";
    let [one, eight] = [0, 2].map(|row| {
        let both = read(format!("{header}{rows}").as_bytes(), &Hardware::H100).unwrap();
        [both.rows[row].call, both.rows[row + 1].call]
    });
    let measured = read(format!("{header}1,7168,64,8,256,50,80\n").as_bytes(), &Hardware::H100).unwrap();
    let mut fitted = known.clone();
    refit(&mut fitted, &measured).unwrap();
    assert_eq!(fitted.throughput, known.throughput);
    for (direction, us) in Direction::ALL.into_iter().zip([50.0, 80.0]) {
        let of = |profile: &Profile, calls: [Call; 2]| {
            profile.predict(Mode::Latency, direction, &calls[direction as usize]).transfer.0
        };
        assert!((of(&fitted, one) / us - 1.0).abs() < 0.03, "{direction:?} {}", of(&fitted, one));
        assert!((of(&known, one) / us - 1.0).abs() > 0.3, "{direction:?} {}", of(&known, one));
        assert!((of(&fitted, eight) / of(&known, eight) - 1.0).abs() < 0.02, "{direction:?} {}", of(&fitted, eight));
    }
    // It is not surer of it than it was right about it.
    assert!(fitted.latency_trust.error > 0.3, "{}", fitted.latency_trust.error);
}

#[track_caller]
fn refused(table: &str, expected: &str) {
    let error = read(table.as_bytes(), &Hardware::H100).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn tables_that_cannot_be_used_say_where_and_why() {
    let header = "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_avg_t_us,combine_avg_t_us\n";
    refused(
        &header.replace("num_topk,", "").replacen('\n', "\n1,7168,8,256,20,30\n", 1),
        "there is no column `num_topk`",
    );
    refused(
        &(header.replace("combine_avg_t_us", "combine_avg_t_ms") + "1,7168,8,8,256,20,30\n"),
        "`combine_avg_t_ms` is in another unit",
    );
    refused(&format!("{header}1,7168,8,8,256,20,-3\n"), "line 2, column `combine_avg_t_us`: -3 is not possible");
    refused(&format!("{header}1,7168,8,8,256,fast,3\n"), "line 2, column `dispatch_avg_t_us`: `fast` is not a number");
    refused(&format!("{header}1,7168,8,30,16,20,3\n"), "line 2: 30 picks of 16 experts");
    refused(
        &format!("{header}1,7168,8,300,256,20,3\n"),
        "line 2, column `num_topk`: 300 is not possible; it must be a whole number from 1 to 32",
    );
    refused(&format!("{header}1,7168,8\n"), "table of comma-separated values");
}
