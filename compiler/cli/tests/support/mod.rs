//! The tool as its user calls it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A layer that runs in a blink: 4 ranks, 8 experts, fp8 out and bf16 back.
pub const SMALL: &str = "\
model small {
    hidden  256
    experts 8 in 4 groups

    gate(logits: f32[experts], bias: f32[experts]) {
        let score  = sigmoid(logits)
        let choice = score + bias
        let best   = top(2, groups, by: sum(top(2, choice)))
        let chosen = top(3, experts in best, by: choice)
        weights normalize(score[chosen], eps: 1e-20)
    }

    dispatch { payload fp8_e4m3 scale f32 per 128   layout expert_major align 8 }
    combine  { payload bf16   reduce f32 weighted }
}

cluster node {
    nodes 1   gpus 4 per node
    gpu    \"H800\" { target sm_90a   sms 132   memory 80 GB }
    nvlink 160 GB/s
}

deploy tiny of small on node {
    ep     4
    tokens 8 per gpu
    sms    2
}
";

/// Experts and picks of [`SMALL`].
pub const EXPERTS: usize = 8;
pub const PICKS: usize = 3;
pub const HIDDEN: usize = 256;

/// A folder of its own, with the tool to be run in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// With [`SMALL`] as `small.moe`.
    pub fn with_small() -> Folder {
        let folder = Folder::new();
        folder.write("small.moe", SMALL);
        folder
    }

    /// The tool in this folder, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moec"));
        command.current_dir(self.0.path()).args(arguments);
        // Sentences on one line each, with the characters that they are written in; `terminals.rs` looks at other terminals.
        command.env("COLUMNS", "100000").env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the tool starts")
    }

    /// With something to read on standard input.
    pub fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the tool starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        std::thread::scope(|threads| {
            // Whoever is refused reads nothing, which closes the pipe.
            threads.spawn(move || pipe.write_all(stdin));
            child.wait_with_output().expect("the tool ends")
        })
    }

    /// Names of all files, so that nothing half-written goes unnoticed.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What it says when it fails with status 1, and that it leaves no file behind.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let before = self.files();
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert_eq!(self.files(), before, "{arguments:?} leaves nothing behind");
        said
    }

    /// What it prints when all goes well.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A tensor of a file.
pub struct Named<'a>(pub &'a str, pub Dtype, pub Vec<usize>, pub Vec<u8>);

pub fn f32s(name: &'static str, shape: Vec<usize>, values: &[f32]) -> Named<'static> {
    Named(name, Dtype::F32, shape, bytemuck::cast_slice(values).to_vec())
}

pub fn safetensors(tensors: &[Named<'_>]) -> Vec<u8> {
    let views = tensors.iter().map(|Named(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    safetensors::serialize(views, None).expect("a file")
}

/// Numbers that differ from each other, from −1 to 1.
pub fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|place| (place as f32 * 0.7371).sin()).collect()
}

/// Everything that [`SMALL`] wants, for some tokens.
pub fn input(tokens: usize) -> Vec<Named<'static>> {
    let x: Vec<half::bf16> = numbers(tokens * HIDDEN).into_iter().map(half::bf16::from_f32).collect();
    vec![
        f32s("logits", vec![tokens, EXPERTS], &numbers(tokens * EXPERTS)),
        f32s("bias", vec![EXPERTS], &[0.0; EXPERTS]),
        Named("x", Dtype::BF16, vec![tokens, HIDDEN], bytemuck::cast_slice(&x).to_vec()),
    ]
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example `mixtral`, which then does not say what surrounds its experts.
pub fn without_attention(folder: &Path) -> PathBuf {
    let example = std::fs::read_to_string(workspace().join("dsl-examples/mixtral.moe")).expect("the example");
    let lines: Vec<&str> = example.lines().filter(|line| !line.starts_with("    attention ")).collect();
    assert_eq!(lines.len() + 1, example.lines().count(), "its attention is one line");
    let path = folder.join("mixtral.moe");
    std::fs::write(&path, lines.join("\n")).expect("written");
    path
}
