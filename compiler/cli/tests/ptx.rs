//! `moec ptx`: kernels that this tool did not write are checked and run, and what is wrong with them is said.

mod support;

use serde_json::Value;
use support::{Folder, text};

/// Rank 0 writes a row into the memory of rank 1 and raises a flag there; rank 1 waits for it. The files are those of docs/ptx.md.
const EXCHANGE: &str = include_str!("../../../tests/data/ptx/exchange.ptx");
const JOB: &str = include_str!("../../../tests/data/ptx/exchange.toml");

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("exchange.ptx", EXCHANGE);
    folder.write("right.ptx", include_str!("../../../tests/data/ptx/mended.ptx"));
    folder.write("job.toml", JOB);
    folder.write("right.toml", JOB.replace("exchange.ptx", "right.ptx"));
    folder
}

#[test]
fn a_scope_that_is_too_narrow_is_found_and_mended() {
    let folder = folder();
    let report = folder.run(&["ptx", "run", "job.toml", "--seeds", "2", "--format", "json"]);
    assert_eq!(report.status.code(), Some(1));
    assert!(text(&report.stderr).contains("job.toml: 7 of 7 schedules failed"), "{}", text(&report.stderr));
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    let found: Vec<&str> =
        report["found"].as_array().expect("findings").iter().filter_map(|found| found["text"].as_str()).collect();
    let wanted = "the release in line 19 is .gpu, the reader is on another rank: needs .sys";
    let of_row = found.iter().find(|found| found.contains(wanted)).expect("the scope");
    assert!(of_row.contains("`row") && of_row.contains("`put`") && of_row.contains("(exchange.cu:16)"), "{of_row}");
    let right = folder.succeeds(&["ptx", "run", "right.toml", "--seeds", "2"]);
    assert!(right.contains("7 schedules") && right.contains("no finding"), "{right}");
    // Without the judge nothing is wrong as long as memory is not weak; then what is missing has its consequence.
    let strong = "policies = [\"round-robin\", \"random\", \"adversarial\"]\n";
    folder.write("strong.toml", format!("{strong}{JOB}"));
    folder.succeeds(&["ptx", "run", "strong.toml", "--no-judge"]);
    let said = folder.run(&["ptx", "run", "job.toml", "--no-judge"]);
    assert_eq!(said.status.code(), Some(1));
    let consequence = "under weak, seed";
    assert!(text(&said.stdout).contains(consequence) && text(&said.stdout).contains("never written"), "{said:?}");
    folder.succeeds(&["ptx", "run", "right.toml", "--no-judge"]);
}

/// The page shows the job and what is said of it.
#[test]
fn the_page_is_what_happens() {
    let page = std::fs::read_to_string(support::workspace().join("docs/ptx.md")).expect("the page");
    assert!(JOB.lines().count() < 30);
    assert!(page.contains(JOB), "the job");
    for arguments in [&["ptx", "run", "job.toml"][..], &["ptx", "run", "job.toml", "--no-judge"]] {
        let said = folder().command(arguments).env("COLUMNS", "100").output().expect("it starts");
        let said = text(&said.stdout) + &text(&said.stderr).replace("job.toml", "exchange.toml");
        let shown: String = said.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        assert!(page.contains(&shown), "the page has to say:\n{shown}");
    }
}

#[test]
fn what_must_come_out_is_compared() {
    let folder = folder();
    folder.write("wrong.toml", JOB.replace("exchange.ptx", "right.ptx").replace("steps = [0, 1]", "steps = [0, 2]"));
    let said = folder.run(&["ptx", "run", "wrong.toml", "--seeds", "0"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stdout).contains("`out` holds 1 in element 1, and 2 is expected"), "{}", text(&said.stdout));
    // A job that says how it fails holds when it does.
    let fails = |text: &str| format!("fails = \"{text}\"\n{JOB}");
    folder.write("fails.toml", fails("needs .sys"));
    folder.succeeds(&["ptx", "run", "fails.toml", "--seeds", "1"]);
    folder.write("other.toml", fails("out of bounds"));
    let said = folder.run(&["ptx", "run", "other.toml", "--seeds", "1"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("not every schedule fails with \"out of bounds\""), "{}", text(&said.stderr));
    let accepted = "[[accept]]\nrules = [\"memory-order\"]\nkernel = \"_Z3putPiS_\"\nreason = \"one GPU only\"\n";
    folder.write("accepted.toml", format!("policies = [\"round-robin\", \"random\"]\n{JOB}{accepted}"));
    let said = folder.succeeds(&["ptx", "run", "accepted.toml", "--seeds", "1"]);
    assert!(said.contains("accepted (one GPU only)") && said.contains("no finding"), "{said}");
}

#[test]
fn pointers_structs_files_and_host_steps() {
    let folder = Folder::new();
    folder.write(
        "sum.ptx",
        ".version 8.6\n.target sm_90a\n.address_size 64
.visible .entry sum(.param .align 8 .b8 s[24], .param .f32 scale, .param .u64 table)
{
    .reg .b64 %rd<5>; .reg .b32 %r<4>; .reg .f32 %f<4>;
    ld.param.u32 %r1, [s];
    ld.param.u64 %rd1, [s+8];
    ld.param.u64 %rd2, [table];
    ld.global.u64 %rd3, [%rd2+8];
    ld.global.f32 %f1, [%rd1+4];
    ld.param.f32 %f2, [scale];
    cvt.rn.f32.u32 %f3, %r1;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    st.global.f32 [%rd3], %f1;
    ret;
}
",
    );
    let bytes: Vec<u8> = [1.5f32, 2.5, 3.5].iter().flat_map(|number| number.to_le_bytes()).collect();
    std::fs::write(folder.path("in.bin"), bytes).expect("written");
    folder.write(
        "job.toml",
        "modules = [\"sum.ptx\"]
buffer = [
    { name = \"in\", type = \"f32\", file = \"in.bin\" },
    { name = \"out\", type = \"f32\", count = 2, fill = 0 },
    { name = \"table\", type = \"pointer\", values = [\"in\", \"out+4\"] },
]
step = [
    { launch = \"sum\", args = [[7, \"in+4\"], 0.5, \"table\"] },
    { wait = true },
    { write = \"in\", values = [1.0, 2.0, 8.0] },
]
expect = [
    { buffer = \"out\", from = 1, values = [8.75] },
    { buffer = \"in\", values = [1, 2, 8] },
    { buffer = \"out\", values = [0.001, 8.7], tolerance = 0.1 },
]
",
    );
    let said = folder.succeeds(&["ptx", "run", "job.toml", "--seeds", "1"]);
    assert!(said.contains("no finding"), "{said}");
}

#[test]
fn a_job_that_is_wrong_is_refused_with_its_line_or_what_to_do() {
    let folder = folder();
    for (from, to, expected) in [
        ("ranks = 2", "rank = 2", "job.toml:3: unknown field `rank`"),
        ("rank = 1, type", "rank = 9, type", "rank 9 does not exist"),
        ("type = \"u32\"", "type = \"u33\"", "job.toml:5: unknown variant `u33`"),
        ("count = 64", "count = 6400000000", "`limits.bytes` allows"),
        ("values = [0]", "values = [-1]", "buffer `flag`: -1 is no integer from 0 to 4294967295"),
        ("launch = \"put\"", "launch = \"push\"", "step 2: there is no kernel `push`: the modules have put, get"),
        ("args = [\"row\", \"flag\"]", "args = [\"row\"]", "step 2: kernel `put` takes 2 arguments, here are 1"),
        ("args = [\"row\", \"flag\"]", "args = [\"row\", \"flog\"]", "argument 2: `flog` is no place in a buffer"),
        (
            "block = [64]\nargs = [\"row\", \"flag\"]",
            "block = [2000]\nargs = [\"row\", \"flag\"]",
            "x must be from 1 to 1024",
        ),
        ("exchange.ptx", "nowhere.ptx", "cannot read nowhere.ptx"),
        ("steps = [0, 1]", "", "expect `out`: give one of"),
        ("ranks = 2", "ranks = 2\nlimits = { seconds = 0, instructions = 10 }", "limits.seconds"),
    ] {
        assert!(JOB.contains(from), "{from}");
        folder.write("job.toml", JOB.replacen(from, to, 1));
        let said = folder.fails(&["ptx", "run", "job.toml", "--seeds", "1"]);
        assert!(said.contains(expected), "{to}: {said}");
    }
}

#[test]
fn a_function_that_is_only_declared_is_remarked() {
    let folder = folder();
    let text = ".version 8.6\n.target sm_90a\n.address_size 64\n.extern .func elsewhere();\n\
                .visible .entry k() {\ncall elsewhere, ();\nret;\n}\n";
    folder.write("calls.ptx", text);
    let said = folder.succeeds(&["ptx", "check", "calls.ptx"]);
    assert!(said.contains("calls.ptx: `k` can be run"), "{said}");
    assert!(said.contains("calls.ptx:6: `elsewhere` is only declared here: a run ends where it is called"), "{said}");
    let verdicts: Value =
        serde_json::from_str(&folder.succeeds(&["ptx", "check", "calls.ptx", "--format", "json"])).expect("JSON");
    assert_eq!(verdicts["kernels"][0]["remarks"][0]["line"], 6);
}

#[test]
fn every_kernel_is_supported_or_refused_with_a_reason() {
    let folder = folder();
    let kernel = |name: &str, body: &str| {
        format!(".visible .entry {name}() {{\n.reg .b32 %r<3>; .reg .pred %p;\n{body}\nret;\n}}\n")
    };
    let module = |target: &str, kernels: &[String]| {
        format!(".version 8.6\n.target {target}\n.address_size 64\n{}", kernels.concat())
    };
    let kernels =
        [kernel("one", "frobnicate.u32 %r1;"), kernel("two", "mov.u32 %r1, 1;"), kernel("three", "mov.u32 %r1 %r2;")];
    folder.write("all.ptx", module("sm_90a", &kernels));
    let said = folder.run(&["ptx", "check", "all.ptx", "exchange.ptx"]);
    assert_eq!(said.status.code(), Some(1));
    let shown = text(&said.stdout);
    for expected in [
        "all.ptx:6: `one` cannot be run: unknown instruction `frobnicate`",
        "all.ptx: `two` can be run",
        "all.ptx:16: `three` cannot be run: expected `;`, found `%r2`",
        "exchange.ptx: `get` can be run",
        "3 of 5 kernels can be run",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert!(text(&said.stderr).contains("2 kernels cannot be run"));
    // A job that needs none of these runs.
    let job = |kernel: &str| format!("modules = [\"all.ptx\"]\n[[step]]\nlaunch = \"{kernel}\"\nblock = [32]\n");
    folder.write("two.toml", job("two"));
    folder.succeeds(&["ptx", "run", "two.toml"]);
    folder.write("three.toml", job("three"));
    let said = folder.run(&["ptx", "run", "three.toml"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("expected `;`, found `%r2`"), "{}", text(&said.stderr));
    folder.succeeds(&["ptx", "check", "exchange.ptx"]);
    let old = |target: &str, body: &str| {
        folder.write("old.ptx", module(target, &[kernel("k", body)]));
        folder.run(&["ptx", "check", "old.ptx"])
    };
    for (target, body, first) in [
        ("sm_80", "elect.sync %r1|%p, -1;", "sm_90"),
        ("sm_75", "redux.sync.add.u32 %r1, 1, -1;", "sm_80"),
        ("sm_80", "griddepcontrol.wait;", "sm_90"),
        ("sm_80", "fence.proxy.async;", "sm_90"),
    ] {
        let said = old(target, body);
        let wanted = format!("needs {first}, and the .target of the module is {target}");
        assert!(text(&said.stdout).contains(&wanted), "{body}: {}", text(&said.stdout));
        assert!(old("sm_90a", body).status.success(), "{body}");
    }
}

/// Variables of modules, functions that are stubs, clusters, and a tensor map that goes by value.
#[test]
fn jobs_reach_variables_stubs_clusters_and_tensors() {
    let folder = folder();
    folder.write(
        "all.ptx",
        ".version 8.6
.target sm_90a
.address_size 64
.visible .global .align 4 .u32 limit;
.visible .global .align 4 .b8 sums[16];
.extern .func (.param .b32 r) elsewhere(.param .b32 a);
.extern .func nothing();
.visible .entry sum(.param .align 64 .b8 map[128], .param .u64 out) {
    .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %d<6>;
    .shared .align 128 .b8 tile[64];
    .shared .align 8 .b64 gate;
    ld.param.u64 %d1, [out];
    mov.b64 %d2, map;
    cvta.param.u64 %d2, %d2;
    mov.u32 %r1, tile;
    mov.u32 %r2, gate;
    mbarrier.init.shared::cta.b64 [%r2], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
    mov.u32 %r3, %cluster_ctarank;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d2, {0, %r3}], [%r2];
wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;
    @!%p1 bra wait;
    ld.shared.u32 %r4, [tile+20];
    ld.global.u32 %r5, [limit];
    {
    .param .b32 a; .param .b32 r;
    st.param.b32 [a], %r4;
    call.uni (r), elsewhere, (a);
    ld.param.b32 %r6, [r];
    }
    call.uni nothing, ();
    add.u32 %r7, %r4, %r5;
    add.u32 %r7, %r7, %r6;
    mul.wide.u32 %d3, %r3, 4;
    add.u64 %d1, %d1, %d3;
    st.global.u32 [%d1], %r7;
    mov.u64 %d4, sums;
    add.u64 %d4, %d4, %d3;
    st.global.u32 [%d4], %r7;
    ret;
}
.visible .entry forever(.param .u64 out) {
    .reg .b32 %r<2>; .reg .b64 %d<2>;
    ld.param.u64 %d1, [out];
more:
    red.relaxed.gpu.global.add.u32 [%d1], 1;
    bra more;
}
",
    );
    let job = "modules = [\"all.ptx\"]
stub = [{ name = \"elsewhere\", returns = 1000 }, { name = \"nothing\" }]
buffer = [
    { name = \"x\", type = \"u32\", count = 64, steps = [0, 1] },
    { name = \"map\", type = \"tensormap\", tensor = { of = \"x\", type = \"u32\", dims = [8, 8], tile = [8, 2], swizzle = 32 } },
    { name = \"out\", type = \"u32\", count = 2 },
]
step = [
    { write = \"limit\", type = \"u32\", values = [100] },
    { launch = \"sum\", grid = [2], cluster = [2], args = [\"map\", \"out\"] },
]
expect = [
    { buffer = \"out\", values = [1105, 1113] },
    { buffer = \"sums\", type = \"u32\", values = [1105, 1113, 0, 0] },
]
";
    folder.write("job.toml", job);
    let said = folder.succeeds(&["ptx", "run", "job.toml", "--seeds", "2"]);
    assert!(said.contains("no finding"), "{said}");
    for (from, to, expected) in [
        (
            "write = \"limit\", type = \"u32\"",
            "write = \"limit\"",
            "step 1: `limit` is a variable: give the `type` of its elements",
        ),
        ("write = \"limit\"", "write = \"limits\"", "step 1: there is no buffer `limits`, and no variable of a module"),
        (
            "tile = [8, 2]",
            "tile = [9, 2]",
            "buffer `map`: a tensor map: a row of a tile has a multiple of 16 bytes, not 36",
        ),
        ("cluster = [2]", "cluster = [3]", "grid [2, 1, 1] is not a multiple of cluster [3, 1, 1]"),
    ] {
        assert!(job.contains(from), "{from}");
        folder.write("job.toml", job.replacen(from, to, 1));
        let said = folder.fails(&["ptx", "run", "job.toml", "--seeds", "1"]);
        assert!(said.contains(expected), "{to}: {said}");
    }
    // The time is looked at within a schedule.
    folder.write(
        "job.toml",
        "modules = [\"all.ptx\"]
buffer = [{ name = \"out\", type = \"u32\", values = [0] }]
step = [{ launch = \"forever\", args = [\"out\"] }]
limits = { seconds = 1, instructions = 1000000000000000 }
",
    );
    let said = folder.fails(&["ptx", "run", "job.toml", "--seeds", "1"]);
    assert!(said.contains("0 of 4 schedules have taken the 1 seconds that `limits.seconds` allows"), "{said}");
}

#[test]
fn a_job_launches_dependents() {
    let kernels = |before: &str, behind: &str| {
        format!(
            ".version 8.6\n.target sm_90a\n.address_size 64\n\
             .visible .entry first(.param .u64 x) {{ .reg .b64 %a; ld.param.u64 %a, [x]; griddepcontrol.launch_dependents;\n\
             st.global.u32 [%a], 5; ret; }}\n\
             .visible .entry second(.param .u64 x, .param .u64 out) {{ .reg .b64 %a, %b; .reg .b32 %v;\n\
             ld.param.u64 %a, [x]; ld.param.u64 %b, [out];\n{before} ld.global.u32 %v, [%a]; {behind}\nst.global.u32 [%b], %v; ret; }}\n"
        )
    };
    let job = |file: &str, dependent: bool| {
        format!(
            "modules = [\"{file}\"]\n\
             buffer = [{{ name = \"x\", type = \"u32\", values = [0] }}, {{ name = \"out\", type = \"u32\", values = [0] }}]\n\
             step = [{{ launch = \"first\", args = [\"x\"] }}, {{ launch = \"second\", dependent = {dependent}, args = [\"x\", \"out\"] }}]\n\
             expect = [{{ buffer = \"out\", values = [5] }}]\n"
        )
    };
    let folder = Folder::new();
    folder.write("right.ptx", kernels("griddepcontrol.wait;", ""));
    folder.write("wrong.ptx", kernels("", "griddepcontrol.wait;"));
    for (file, dependent, holds) in [("right.ptx", true, true), ("wrong.ptx", true, false), ("wrong.ptx", false, true)]
    {
        folder.write("job.toml", job(file, dependent));
        let said = folder.run(&["ptx", "run", "job.toml", "--seeds", "3"]);
        let told = text(&said.stdout);
        assert_eq!(said.status.success(), holds, "{file}, {dependent}: {told}");
        assert_eq!(told.contains("griddepcontrol.wait has to come before its access"), !holds, "{told}");
    }
}
