//! Hardware that nobody has is warned of, with what is known of the GPU; hardware that people have is not.

use moe_front::check_source;
use moe_front::diagnostics::Code;
use moe_front::diagnostics::render::render;
use moe_front::spec::hardware::{GPUS, known, largest};
use moe_front::spec::{Target, limits};
use moe_front::text::Screen;

fn cluster(gpu: &str, nvlink: &str, rdma: &str) -> String {
    format!("cluster c {{\n    nodes 2   gpus 8 per node\n    gpu {gpu}\n    nvlink {nvlink}\n    rdma {rdma}\n}}\n")
}

fn shown(source: &str) -> String {
    let checked = check_source(source.as_bytes());
    assert!(checked.spec.is_some(), "a warning leaves a specification: {source}");
    render("f.moe", source.as_bytes(), &checked.diagnostics, &Screen::ENDLESS)
}

#[test]
fn hardware_that_nobody_has_is_warned_of() {
    let h800 = "\"H800\" { target sm_90a   sms 132   memory 80 GB }";
    let mut all = String::new();
    for (gpu, nvlink, rdma) in [
        (h800, "160 TB/s", "50 GB/s per gpu"),
        (h800, "400 GB/s", "50 GB/s per gpu"),
        (h800, "160 GB/s", "400 GB/s per gpu"),
        (h800, "160 GB/s", "4 TB/s per node"),
        ("\"H800\" { target sm_90a   sms 132   memory 80 TB }", "160 GB/s", "50 GB/s per gpu"),
        ("\"B200\" { target sm_90a   sms 148   memory 180 GB }", "720 GB/s", "50 GB/s per gpu"),
        ("\"NVIDIA H100 80GB HBM3\" { target sm_100a   sms 132   memory 80 GB }", "360 GB/s", "50 GB/s per gpu"),
        ("\"B300\" { target sm_100a   sms 148   memory 270 GB }", "720 GB/s", "50 GB/s per gpu"),
        ("\"H20\" { target sm_90a   sms 132   memory 96 GB }", "360 GB/s", "50 GB/s per gpu"),
        ("{ target sm_90a   sms 100000   memory 1 TB }", "1 TB/s", "50 GB/s per gpu"),
        ("\"mine\" { target sm_100a   sms 161   memory 193 GB }", "901 GB/s", "101 GB/s per gpu"),
    ] {
        let text = shown(&cluster(gpu, nvlink, rdma));
        assert!(text.contains("warning[M0619]"), "{gpu} {nvlink} {rdma}: {text}");
        all.push_str(&text);
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

#[test]
fn hardware_that_people_have_is_not_warned_of() {
    for gpu in GPUS {
        let Some(target) = Target::ALL.into_iter().find(|target| target.text() == gpu.architecture) else { continue };
        for name in [gpu.name.to_owned(), format!("NVIDIA {}-SXM5", gpu.name.to_lowercase())] {
            assert_eq!(known(&name).map(|found| found.name), Some(gpu.name));
            let written =
                format!("\"{name}\" {{ target {} sms {} memory {} B }}", target.text(), gpu.sms, gpu.memory.0);
            let source = cluster(&written, &format!("{} MB/s", gpu.nvlink.0 / 1_000_000), "800 Gb/s per gpu");
            assert_eq!(shown(&source), "", "{source}");
            // A part of a GPU, and what is achieved, are less.
            let part = format!("\"{name}\" {{ target {} sms 16 memory 10 GB }}", target.text());
            assert_eq!(shown(&cluster(&part, "20 GB/s", "1 GB/s per gpu")), "", "{part}");
        }
        assert!(gpu.sms <= largest(target).sms && gpu.memory.0 <= largest(target).memory.0);
        assert!(gpu.memory.0 < limits::MEMORY.0 && gpu.nvlink.0 < limits::RATE.0 && !gpu.source.is_empty());
    }
    assert_eq!(known("GH200").map(|gpu| gpu.name), Some("GH200"), "and not the H200 in it");
    assert!(known("mine").is_none() && known("").is_none());
}

#[test]
fn the_target_of_a_known_gpu_is_a_change_of_the_text() {
    let source = cluster("\"B200\" { target sm_90a   sms 148   memory 180 GB }", "720 GB/s", "50 GB/s per gpu");
    let checked = check_source(source.as_bytes());
    let warning = checked.diagnostics.iter().next().expect("a warning");
    assert_eq!(warning.code, Code::UnlikelyHardware);
    let fix = warning.fix.as_ref().expect("one right answer");
    assert_eq!((&source[fix.start as usize..fix.end as usize], fix.text.as_str()), ("sm_90a", "sm_100a"));
}
