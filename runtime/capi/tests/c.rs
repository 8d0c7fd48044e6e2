//! C programs against the header and the library: compiled as C and C++, linked by hand, by pkg-config, and run on virtual GPUs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use moe_lower::{Choice, compile};
use moe_runtime::VirtualOptions;
use moe_runtime::node::{Node, Stay};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of `libmoe_capi.so`: beside this test, where cargo puts it with everything that the test links.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let folder = test.parent().expect("it lies in a folder").to_owned();
    assert!(folder.join("libmoe_capi.so").exists(), "no libmoe_capi.so in {}", folder.display());
    folder
}

/// Runs a program; what it prints. It must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

/// A small layer in f32, whose combine weighs.
fn bundle(folder: &Path) -> PathBuf {
    bundle_for(folder, "throughput")
}

fn bundle_for(folder: &Path, mode: &str) -> PathBuf {
    let text = "model small {
            hidden 64
            experts 8
            gate(logits: f32[experts]) { let chosen = top(2, experts, by: logits)   weights softmax(logits[chosen]) }
            dispatch { payload f32   layout expert_major align 4 }
            combine { payload f32   reduce f32 weighted }
        }
        cluster node {
            nodes 1   gpus 4 per node
            gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }
            nvlink 160 GB/s
        }
        deploy tiny of small on node { ep 4   tokens 8 per gpu   mode MODE   sms 2 }";
    let text = &text.replace("MODE", mode);
    let path = folder.join("small.moeb");
    let compiled = compile(text, &Choice::default()).unwrap_or_else(|error| panic!("{error}"));
    compiled.bundle.write(&path).expect("written");
    path
}

/// Compiles one of the programs, with all warnings as errors.
fn build(source: &str, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let warnings = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O1"];
    run(Command::new("cc")
        .args(warnings)
        .arg("-I")
        .arg(here().join("include"))
        .arg(here().join("tests").join(source))
        .arg("-L")
        .arg(libraries())
        .args(["-lmoe_capi", "-o"])
        .arg(&program));
    program
}

fn start(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", libraries());
    command
}

#[test]
fn a_layer_in_c_gives_its_closed_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = build("layer.c", folder.path());
    for mode in ["throughput", "latency"] {
        let bundle = bundle_for(folder.path(), mode);
        assert_eq!(run(start(&program).arg(bundle)), "the layer is right\n", "{mode}");
    }
}

/// Four processes of one rank, and two of two.
#[test]
fn processes_join_a_world_in_c() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = bundle(folder.path());
    let program = build("joined.c", folder.path());
    let name = format!("moe-c-{}", std::process::id());
    let node = Node::bind(&name, &VirtualOptions::default()).expect("nobody has it");
    std::thread::spawn(move || node.serve(Stay::Always));
    for (processes, each) in [(4, 1), (2, 2)] {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let process = |rank: i32| {
            let mut command = start(&program);
            command.arg(&bundle).arg(each.to_string()).env("MOE_NODE", &name).env("MASTER_ADDR", "127.0.0.1");
            let told = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", processes)];
            command.envs(told.map(|(name, value)| (name, value.to_string())));
            command
                .envs(["MASTER_PORT", "MOE_PORT"].map(|name| (name, port.to_string())))
                .env_remove("LOCAL_WORLD_SIZE");
            std::thread::spawn(move || run(&mut command))
        };
        let started: Vec<_> = (0..processes).map(process).collect();
        let said: String = started.into_iter().map(|process| process.join().expect("it is right")).collect();
        assert_eq!(said, "rank 0 is right\nrank 1 is right\nrank 2 is right\nrank 3 is right\n");
    }
}

#[test]
fn what_c_passes_wrongly_is_refused_with_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = bundle(folder.path());
    let program = build("refused.c", folder.path());
    let no_bundle = folder.path().join("none.moeb");
    std::fs::write(&no_bundle, "text").expect("written");
    let told = run(start(&program).args([&bundle, &no_bundle]));
    let told = told.replace(&folder.path().to_string_lossy().into_owned(), "FOLDER");
    insta::assert_snapshot!(told);
}

#[test]
fn the_header_is_also_cpp() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("header.cpp");
    std::fs::write(&source, "#include \"moe_runtime.h\"\nmoe_tensor tensor = {};\n").expect("written");
    let warnings = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"];
    run(Command::new("c++").args(warnings).arg("-I").arg(here().join("include")).arg(source));
}

/// Header, library and what pkg-config and other builders read, of one prefix that may be anywhere, as `make install` puts them.
fn installed(folder: &Path) -> PathBuf {
    let prefix = folder.join("prefix");
    let packaging = here().join("packaging");
    let files = [
        (here().join("include/moe_runtime.h"), "include"),
        (libraries().join("libmoe_capi.so"), "lib"),
        (packaging.join("moe_runtime.pc"), "lib/pkgconfig"),
        (packaging.join("moe_runtime-config.cmake"), "lib/cmake/moe_runtime"),
    ];
    for (file, to) in files {
        let to = prefix.join(to);
        std::fs::create_dir_all(&to).expect("a folder");
        std::fs::copy(&file, to.join(file.file_name().expect("a file"))).expect("copied");
    }
    prefix
}

#[test]
fn pkg_config_finds_header_and_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let lib = installed(folder.path()).join("lib");
    let configs = lib.join("pkgconfig");
    let asked =
        |what: &[&str]| run(Command::new("pkg-config").env("PKG_CONFIG_PATH", &configs).args(what).arg("moe_runtime"));
    assert_eq!(asked(&["--modversion"]).trim(), env!("CARGO_PKG_VERSION"));
    let program = folder.path().join("program");
    let flags = asked(&["--cflags", "--libs"]);
    let source = here().join("tests/layer.c");
    run(Command::new("cc").arg(source).args(flags.split_whitespace()).arg("-o").arg(&program));
    let found = run(Command::new(&program).env("LD_LIBRARY_PATH", &lib).arg(bundle(folder.path())));
    assert_eq!(found, "the layer is right\n");
}

#[test]
fn cmake_finds_header_and_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = installed(folder.path());
    let (project, built) = (folder.path().join("project"), folder.path().join("built"));
    std::fs::create_dir_all(&project).expect("a folder");
    std::fs::copy(here().join("tests/layer.c"), project.join("layer.c")).expect("copied");
    let text = "cmake_minimum_required(VERSION 3.13)\nproject(layer C)\nfind_package(moe_runtime REQUIRED)\n\
        add_executable(layer layer.c)\ntarget_link_libraries(layer PRIVATE moe::runtime)\n";
    std::fs::write(project.join("CMakeLists.txt"), text).expect("written");
    let found = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
    run(Command::new("cmake").arg("-S").arg(&project).arg("-B").arg(&built).arg(found));
    run(Command::new("cmake").arg("--build").arg(&built));
    // The program knows where the library is, where the environment does not name another.
    let program = &mut Command::new(built.join("layer"));
    assert_eq!(run(program.env_remove("LD_LIBRARY_PATH").arg(bundle(folder.path()))), "the layer is right\n");
}

/// `BLESS=1` writes it.
#[test]
fn the_header_is_that_of_the_code() {
    let config = cbindgen::Config::from_file(here().join("cbindgen.toml")).expect("a configuration");
    let sources = ["error.rs", "given.rs", "objects.rs", "calls.rs"].map(|name| here().join("src/abi").join(name));
    let builder =
        sources.iter().fold(cbindgen::Builder::new().with_config(config), |builder, path| builder.with_src(path));
    let mut header = Vec::new();
    builder.generate().expect("bindings").write(&mut header);
    let header = String::from_utf8(header).expect("text");
    let path = here().join("include/moe_runtime.h");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &header).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == header, "{} is not what the code gives: run this test with BLESS=1", path.display());
}
