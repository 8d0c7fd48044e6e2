//! The golden files of `tests/data/gates` (their origin: `tests/data/README.md`), and the gates beside them.

use std::path::{Path, PathBuf};

use moe_gate::ir::{Gate, InputKind};
use safetensors::SafeTensors;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    // Tests of several crates share this file.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|folder| folder.join("dsl-examples").is_dir());
    above.expect("the crate is in the repository").to_owned()
}

/// The files of a folder of the repository with an ending, sorted.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join(folder)).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

/// The gates of a `.moe` file, through the front end.
pub fn gates(path: &Path) -> Vec<(String, Gate)> {
    let checked = moe_front::check_source(&std::fs::read(path).expect("the file is there"));
    let spec = checked.spec.unwrap_or_else(|| panic!("{} has an error: {:?}", path.display(), checked.diagnostics));
    spec.models.iter().map(|(_, model)| (model.name.clone(), model.gate.clone())).collect()
}

/// What one golden file says of a batch.
pub struct Golden {
    pub name: String,
    pub gate: Gate,
    pub tokens: usize,
    pub logits: Vec<f32>,
    pub bias: Vec<f32>,
    pub indices: Vec<i32>,
    pub weights: Vec<f32>,
    pub grad_weights: Vec<f32>,
    pub grad_logits: Vec<f32>,
}

impl Golden {
    pub fn all() -> Vec<Golden> {
        let all: Vec<Golden> = files("tests/data/gates", "safetensors").iter().map(|path| Golden::read(path)).collect();
        assert!(all.len() >= 11, "golden files are missing");
        all
    }

    fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).expect("the file is there");
        let tensors = SafeTensors::deserialize(&bytes).expect("the file is whole");
        let words = |name: &str| -> Vec<[u8; 4]> {
            let Ok(tensor) = tensors.tensor(name) else { return Vec::new() };
            tensor.data().as_chunks::<4>().0.to_vec()
        };
        let floats = |name: &str| words(name).into_iter().map(f32::from_le_bytes).collect::<Vec<f32>>();
        let (name, gate) = gates(&path.with_extension("moe")).remove(0);
        Golden {
            name,
            tokens: tensors.tensor("logits").expect("every gate has logits").shape()[0],
            logits: floats("logits"),
            bias: floats("bias"),
            indices: words("indices").into_iter().map(i32::from_le_bytes).collect(),
            weights: floats("weights"),
            grad_weights: floats("grad_weights"),
            grad_logits: floats("grad_logits"),
            gate,
        }
    }

    /// The tensors that the gate (or its derivative, which has one more) declares.
    pub fn tensors(&self, inputs: &[moe_gate::ir::Input]) -> Vec<moe_gate::inputs::Tensor<'_>> {
        let tensor = |input: &moe_gate::ir::Input| match input.kind {
            InputKind::Logits => &self.logits,
            InputKind::ExpertParameter => &self.bias,
            InputKind::WeightGradient(_) => &self.grad_weights,
            _ => panic!("{}: no golden tensor for {}", self.name, input.name),
        };
        inputs.iter().map(|input| moe_gate::inputs::Tensor::F32(tensor(input))).collect()
    }

    /// Chosen experts equal, weights within 1e-6 relative.
    pub fn check_routing(&self, indices: &[i32], weights: &[f32]) {
        let k = self.gate.top_k() as usize;
        assert_eq!(self.indices.len(), self.tokens * k);
        assert_eq!(indices, self.indices, "{}", self.name);
        assert_eq!(weights.len(), self.weights.len());
        for (place, (found, expected)) in weights.iter().zip(&self.weights).enumerate() {
            let bound = 1e-6 * expected.abs();
            assert!(
                (found - expected).abs() <= bound,
                "{} token {} pick {}: {found} instead of {expected}",
                self.name,
                place / k,
                place % k
            );
        }
    }

    /// Gradients within 1e-5 of the largest of the row.
    pub fn check_gradient(&self, gradient: &[f32]) {
        let experts = self.gate.program.experts() as usize;
        assert_eq!(gradient.len(), self.grad_logits.len());
        for (token, (found, expected)) in gradient.chunks(experts).zip(self.grad_logits.chunks(experts)).enumerate() {
            let bound = 1e-5 * expected.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
            for (expert, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs();
                assert!(error <= bound, "{} token {token} expert {expert}: {found} instead of {expected}", self.name);
            }
        }
    }
}
