//! Units as other people write them: what is said is right to the last bit.

use moe_front::check_source;
use moe_front::diagnostics::Fix;

fn cluster(rdma: &str) -> String {
    format!(
        "cluster c {{ nodes 2 gpus 8 per node gpu {{ target sm_90a sms 132 memory 80 GB }} nvlink 160 GB/s
            rdma {rdma} per gpu }}"
    )
}

fn bandwidth(source: &str) -> Option<u64> {
    let spec = check_source(source.as_bytes()).spec?;
    let rdma = spec.clusters.iter().next()?.1.rdma;
    rdma.map(|link| link.bandwidth.0)
}

fn apply(source: &str, Fix { start, end, text }: &Fix) -> String {
    format!("{}{text}{}", &source[..*start as usize], &source[*end as usize..])
}

/// `Gbps` was answered by "did you mean `GB/s`?", eight times too much.
#[test]
fn gbps_is_bits_per_second() {
    for (written, bytes, said) in [
        ("400 Gbps", 50_000_000_000, "write `400 Gb/s`, which is `50 GB/s`"),
        ("400 Gbit/s", 50_000_000_000, "write `400 Gb/s`, which is `50 GB/s`"),
        ("400 Gbs", 50_000_000_000, "write `400 Gb/s`, which is `50 GB/s`"),
        ("100 Gbps", 12_500_000_000, "write `100 Gb/s`, which is `12.5 GB/s`"),
        ("0.4 Tbps", 50_000_000_000, "write `0.4 Tb/s`, which is `50 GB/s`"),
        ("200_000 Mbps", 25_000_000_000, "write `200_000 Mb/s`, which is `25 GB/s`"),
        ("50 GBps", 50_000_000_000, "write `50 GB/s`"),
        ("50 GByte/s", 50_000_000_000, "write `50 GB/s`"),
        ("50 GiBps", 53_687_091_200, "write `50 GiB/s`"),
        ("50 GB", 50_000_000_000, "write `50 GB/s`"),
        ("50 GiB", 53_687_091_200, "write `50 GiB/s`"),
    ] {
        let source = cluster(written);
        let checked = check_source(source.as_bytes());
        let [error] = checked.diagnostics.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", checked.diagnostics) };
        assert_eq!(error.help.as_deref(), Some(said), "{written}");
        let fix = error.fix.as_ref().expect("there is one right answer");
        assert_eq!(bandwidth(&apply(&source, fix)), Some(bytes), "{written}");
        // What it is in bytes is the same amount.
        if let Some((_, in_bytes)) = said.split_once("which is `") {
            assert_eq!(bandwidth(&cluster(in_bytes.trim_end_matches('`'))), Some(bytes), "{written}");
        }
    }
}

#[test]
fn a_unit_that_leaves_bits_or_bytes_open_is_answered_by_both() {
    let checked = check_source(cluster("400 gbps").as_bytes());
    let error = checked.diagnostics.iter().next().expect("an error");
    assert_eq!(error.help.as_deref(), Some("write `400 Gb/s`, which is `50 GB/s`, or `400 GB/s`"));
    assert_eq!(error.fix, None);
}

#[test]
fn rates_in_powers_of_1024_are_what_they_say() {
    assert_eq!(bandwidth(&cluster("1 GiB/s")), Some(1 << 30));
    assert_eq!(bandwidth(&cluster("1024 MiB/s")), Some(1 << 30));
    assert_eq!(bandwidth(&cluster("0.0625 TiB/s")), Some(1 << 36));
    assert_eq!(bandwidth(&cluster("8 Kb/s")), Some(1000));
}

#[test]
fn memory_in_other_spellings_is_bytes() {
    for (written, said) in [
        ("80 Gb", "write `80 GB`"),
        ("80 gb", "write `80 GB`"),
        ("80 GB/s", "write `80 GB`"),
        ("80 gib", "write `80 GiB`"),
    ] {
        let source = cluster("50 GB/s").replace("80 GB", written);
        let checked = check_source(source.as_bytes());
        let [error] = checked.diagnostics.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", checked.diagnostics) };
        assert_eq!(error.help.as_deref(), Some(said), "{written}");
        let mended = apply(&source, error.fix.as_ref().expect("one right answer"));
        assert!(check_source(mended.as_bytes()).diagnostics.is_empty(), "{mended}");
    }
}
