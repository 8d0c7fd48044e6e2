//! The time model against figures that others published and that its parameters were not fitted to (where a prior was taken from one of
//! them, it says so). Rates in such tables are logical: every distinct node (one node: rank) of a token counts, its own included, without
//! what travels along. `docs/planner.md` quotes what is printed here (`--nocapture`).

use moe_front::spec::Mode;
use moe_planner::calibrate::{Hardware, Measurement, Table, fit, read, refit};
use moe_planner::time::{Call, Demand, Direction, Model, Parameters, Profile};
use moe_planner::traffic::expected_distinct;

/// Bytes of a row and its scales, as the published rates count them.
const FP8_ROW: f64 = 7392.0;
const BF16_ROW: f64 = 14336.0;
/// What travels along with a row of dispatch.
const RECORD: f64 = 72.0;

/// One published time and the call behind it.
struct Row {
    label: String,
    direction: Direction,
    call: Call,
    us: f64,
}

/// Signed errors of predictions, printed.
fn errors(rows: &[Row], predict: impl Fn(&Row) -> f64) -> Vec<f64> {
    rows.iter()
        .map(|row| {
            let predicted = predict(row);
            let error = predicted / row.us - 1.0;
            let name = row.direction.name();
            println!("{}, {name}: {:.0} µs, {predicted:.0} predicted, {:+.1} %", row.label, row.us, error * 100.0);
            error
        })
        .collect()
}

#[track_caller]
fn within(errors: &[f64], mean_limit: f64, worst_limit: f64) {
    let mean = errors.iter().map(|error| error.abs()).sum::<f64>() / errors.len() as f64;
    let worst = errors.iter().map(|error| error.abs()).fold(0.0, f64::max);
    println!("mean of absolute errors {:.1} %, worst {:.1} %", mean * 100.0, worst * 100.0);
    assert!(mean < mean_limit && worst < worst_limit, "mean {mean}, worst {worst}");
}

/// A call of a router without groups, top 8.
fn ungrouped(hardware: &Hardware, experts: u32, nodes: u32, tokens: u32, row: f64, sms: u32) -> Call {
    let picks = 8.0;
    let (n, g) = (f64::from(nodes), f64::from(hardware.gpus_per_node));
    let distinct_nodes = expected_distinct(experts, 8, nodes);
    let distinct_ranks = expected_distinct(experts, 8, nodes * hardware.gpus_per_node);
    Call {
        tokens: f64::from(tokens),
        nodes,
        demand: Demand {
            bytes: row,
            nodes: distinct_nodes,
            ranks: distinct_ranks,
            remote_nodes: distinct_nodes * (1.0 - 1.0 / n),
            nvlink_copies: distinct_ranks * (1.0 - 1.0 / g),
            picks,
            remote_picks: picks * (1.0 - 1.0 / n),
            local_picks: picks / n * (1.0 - 1.0 / g),
        },
        sms,
        nvlink: hardware.nvlink,
        rdma: hardware.rdma,
    }
}

/// Dispatch and combine of 4096 tokens, top 8 of 256 in at most 4 groups of a node each, 24 multiprocessors.
fn grouped(hardware: &Hardware, nodes: u32) -> [Call; 2] {
    let header = "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_sms,dispatch_transmit_us,dispatch_notify_us,\
                  combine_sms,combine_transmit_us,combine_notify_us\n";
    let text = format!("{header}{nodes},7168,4096,8,256,24,1,0,24,1,0\n");
    let table = read(text.as_bytes(), hardware).unwrap();
    [table.rows[0].call, table.rows[1].call]
}

/// A time from a published logical rate in GB/s.
fn us(call: &Call, counted_row: f64, rate: f64) -> f64 {
    let copies = if call.nodes == 1 { call.demand.ranks } else { call.demand.nodes };
    call.tokens * counted_row * copies / rate / 1e3
}

/// Dispatch of fp8 rows and combine.
fn pair(label: &str, calls: [Call; 2], rates: [f64; 2]) -> [Row; 2] {
    let [dispatch, combine] = calls;
    let row = |direction, call: Call, counted: f64, rate| Row {
        label: label.to_owned(),
        direction,
        call,
        us: us(&call, counted, rate),
    };
    [row(Direction::Dispatch, dispatch, FP8_ROW, rates[0]), row(Direction::Combine, combine, BF16_ROW, rates[1])]
}

/// DeepEP, docs/legacy.md: H800, 4096 tokens, top 8 in at most 4 of 8 groups, 24 multiprocessors.
fn h800_throughput(nodes: &[u32]) -> Vec<Row> {
    let published = [(1, [153.0, 158.0]), (2, [43.0, 43.0]), (4, [58.0, 57.0]), (8, [51.0, 50.0])];
    let wanted = published.into_iter().filter(|(one, _)| nodes.contains(one));
    wanted.flat_map(|(nodes, rates)| pair(&ranks(nodes), grouped(&Hardware::H800, nodes), rates)).collect()
}

/// The same page: H800, 128 tokens, from one node to four times as many as were measured on H100.
fn h800_low_latency(nodes: &[u32]) -> Vec<Row> {
    let published = [
        (1, [77.0, 114.0]),
        (2, [118.0, 195.0]),
        (4, [155.0, 273.0]),
        (8, [173.0, 314.0]),
        (16, [192.0, 369.0]),
        (32, [194.0, 360.0]),
    ];
    let wanted: Vec<(u32, [f64; 2])> = published.into_iter().filter(|(one, _)| nodes.contains(one)).collect();
    low_latency(&Hardware::H800, &wanted)
}

fn ranks(nodes: u32) -> String {
    format!("{} ranks", nodes * 8)
}

fn low_latency(hardware: &Hardware, published: &[(u32, [f64; 2])]) -> Vec<Row> {
    let row = |nodes: u32, direction, bytes, us| {
        let call = ungrouped(hardware, 256, nodes, 128, bytes, 1);
        Row { label: ranks(nodes), direction, call, us }
    };
    let both = |&(nodes, [dispatch, combine]): &(u32, [f64; 2])| {
        [row(nodes, Direction::Dispatch, FP8_ROW + 16.0, dispatch), row(nodes, Direction::Combine, BF16_ROW, combine)]
    };
    published.iter().flat_map(both).collect()
}

fn predicted(profile: &Profile, mode: Mode) -> impl Fn(&Row) -> f64 {
    move |row| profile.predict(mode, row.direction, &row.call).transfer.0
}

fn table(mode: Mode, hardware: Hardware, rows: &[Row]) -> Table {
    let measured =
        |row: &Row| Measurement { line: 0, direction: row.direction, notify: false, call: row.call, us: row.us };
    Table { mode, hardware, rows: rows.iter().map(measured).collect() }
}

/// Another cluster and an earlier version than what was fitted. Of these figures only the priors of NVLink's part and of `hop` know.
#[test]
fn h800_by_the_profile_of_h100() {
    let profile = Profile::deepep_v1_h100();
    let throughput = h800_throughput(&[1, 2, 4, 8]);
    within(&errors(&throughput, predicted(&profile, Mode::Throughput)), 0.05, 0.08);
    let latency = h800_low_latency(&[1, 2, 4, 8, 16, 32]);
    within(&errors(&latency, predicted(&profile, Mode::Latency)), 0.085, 0.175);
}

/// The profile of H800 is that of H100, moved by the figures of 8, 16 and 64 ranks.
#[test]
fn the_profile_of_h800_is_the_fit() {
    let mut fitted = Profile::deepep_v1_h100();
    refit(&mut fitted, &table(Mode::Throughput, Hardware::H800, &h800_throughput(&[1, 2, 8]))).unwrap();
    refit(&mut fitted, &table(Mode::Latency, Hardware::H800, &h800_low_latency(&[1, 2, 8]))).unwrap();
    fitted.name = "deepep_v1_h800".to_owned();
    fitted.source =
        "deepep_v1_h100, moved by the figures of 8, 16 and 64 ranks of H800 in DeepEP's documentation".to_owned();
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/deepep_v1_h800.json");
        std::fs::write(path, serde_json::to_string_pretty(&fitted).unwrap() + "\n").unwrap();
        return;
    }
    let committed = Profile::deepep_v1_h800();
    assert_eq!((&committed.name, &committed.source), (&fitted.name, &fitted.source));
    assert_eq!(committed.notify, Profile::deepep_v1_h100().notify);
    let close = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(b).all(|(a, b)| (a / b - 1.0).abs() < 1e-3);
    assert!(close(committed.throughput.numbers(), fitted.throughput.numbers()), "run with BLESS=1");
    assert!(close(committed.latency.numbers(), fitted.latency.numbers()), "run with BLESS=1");
    assert!((committed.throughput_trust.error / fitted.throughput_trust.error - 1.0).abs() < 1e-3);
    assert!((committed.latency_trust.error / fitted.latency_trust.error - 1.0).abs() < 1e-3);
}

/// Numbers of ranks that its fit has not seen.
#[test]
fn h800_by_its_own_profile() {
    let profile = Profile::of_links(160e9, Some(50e9));
    assert_eq!(profile.name, "deepep_v1_h800");
    within(&errors(&h800_throughput(&[4]), predicted(&profile, Mode::Throughput)), 0.02, 0.03);
    within(&errors(&h800_low_latency(&[4, 16, 32]), predicted(&profile, Mode::Latency)), 0.04, 0.11);
}

/// DeepEP, pull request 173: H20, whose links are those of an H100; the version that introduced NVLink. The prior of `copy` is from 8
/// ranks.
#[test]
fn deepep_v1_on_h20_in_low_latency_mode() {
    let published = [(1, [37.0, 59.0]), (2, [119.0, 199.0]), (4, [157.0, 280.0]), (8, [176.0, 318.0])];
    let profile = Profile::deepep_v1_h100();
    within(&errors(&low_latency(&Hardware::H100, &published), predicted(&profile, Mode::Latency)), 0.12, 0.25);
}

/// DeepEP, branch hybrid-ep, Hybrid-EP_Implementation.md: DeepEP V1 on 8 B200, 4096 tokens, whole calls from Python. Their difference
/// between 16 and 24 multiprocessors is that of the kernels; with more, NVLink limits. The priors of `overhead` and of `copy_local` are
/// from these; the profile's own values are fitted to H100.
#[test]
fn multiprocessors_on_b200_and_rows_of_two_sizes() {
    let b200 = Hardware { gpus_per_node: 8, nvlink: 720e9, rdma: 50e9 };
    let profile = Profile::deepep_v1_h100();
    let published = [
        ("fp8", Direction::Dispatch, FP8_ROW, RECORD, [246.0, 349.0]),
        ("bf16", Direction::Dispatch, BF16_ROW, RECORD, [348.0, 494.0]),
        ("bf16", Direction::Combine, BF16_ROW, 0.0, [302.0, 420.0]),
    ];
    let saved: Vec<Row> = published
        .iter()
        .map(|&(label, direction, counted, record, rates)| {
            let call = ungrouped(&b200, 64, 1, 4096, counted + record, 16);
            let [few, more] = rates.map(|rate| us(&call, counted, rate));
            Row { label: format!("{label}, 24 multiprocessors instead of 16 save"), direction, call, us: few - more }
        })
        .collect();
    let predict = |row: &Row| {
        let time = |sms| profile.predict(Mode::Throughput, row.direction, &Call { sms, ..row.call }).transfer.0;
        time(16) - time(24)
    };
    within(&errors(&saved, predict), 0.12, 0.16);
}

/// Hybrid-EP on H100 (the same document), 4096 tokens, 8 experts a rank, without groups: times of kernels with 4, 8 and 16 multiprocessors.
fn hybrid_ep() -> Vec<Row> {
    let published = [
        (2, [(4, [34.0, 52.0]), (8, [62.0, 68.0]), (16, [68.48, 62.95])]),
        (4, [(4, [38.5, 51.0]), (8, [51.3, 56.4]), (16, [55.35, 57.46])]),
        (8, [(4, [37.5, 46.0]), (8, [46.63, 51.03]), (16, [46.52, 49.77])]),
    ];
    let mut rows = Vec::new();
    for (nodes, by_sms) in published {
        for (sms, rates) in by_sms {
            let call = |bytes| ungrouped(&Hardware::H100, nodes * 64, nodes, 4096, bytes, sms);
            let label = format!("{}, {sms} multiprocessors", ranks(nodes));
            rows.extend(pair(&label, [call(FP8_ROW + RECORD), call(BF16_ROW)], rates));
        }
    }
    rows
}

/// Other libraries have other kernels but the same links: where those limit, the time is the same.
#[test]
fn other_libraries_where_links_limit() {
    let profile = Profile::deepep_v1_h100();
    let mut rows: Vec<Row> = hybrid_ep().into_iter().filter(|row| row.call.sms == 16 && row.call.nodes > 2).collect();
    // DeepEP V2, README.md: SM90, CX7, 8192 tokens, on two nodes 12 and on four nodes 6 multiprocessors.
    for (nodes, rates) in [(2, [90.0, 81.0]), (4, [61.0, 61.0])] {
        let call = |bytes| ungrouped(&Hardware::H100, 256, nodes, 8192, bytes, 12);
        rows.extend(pair(&format!("V2, {}", ranks(nodes)), [call(FP8_ROW + RECORD), call(BF16_ROW)], rates));
    }
    // Infrawaves' DeepEP V1 over RoCE with two ports: H100, 4096 tokens, at most 4 groups, 24 multiprocessors. (Its 16 ranks, 46 and 61
    // GB/s, are limited by the multiprocessors of early kernels.)
    for (nodes, rates) in [(4, [56.0, 57.0]), (8, [50.0, 50.0])] {
        rows.extend(pair(&format!("V1, RoCE, {}", ranks(nodes)), grouped(&Hardware::H100, nodes), rates));
    }
    let predict = |row: &Row| {
        let unlimited = Call { sms: 1000, ..row.call };
        profile.predict(Mode::Throughput, row.direction, &unlimited).transfer.0
    };
    within(&errors(&rows, predict), 0.10, 0.17);
}

/// The kernels of another library are other numbers of the same model: its 18 published times, each predicted from the other 17 and what
/// was known of DeepEP V1.
#[test]
fn another_library_is_fitted_from_few_rows() {
    let known = Profile::deepep_v1_h100().throughput;
    let rows = hybrid_ep();
    let measured = table(Mode::Throughput, Hardware::H100, &rows).rows;
    let alike = |a: &Row, b: &Row| a.label == b.label && a.direction == b.direction;
    let predict = |row: &Row| {
        let others = rows.iter().zip(&measured).filter(|(other, _)| !alike(other, row));
        let others: Vec<Measurement> = others.map(|(_, measured)| *measured).collect();
        fit(Mode::Throughput, known, &others).time(row.direction, &row.call)
    };
    within(&errors(&rows, predict), 0.07, 0.20);
}
