//! What a file does not say, and what cannot be known without it.
//!
//! Invariant: a number that needs something that the file does not say is withheld, and the reason is told in its place; it is never computed
//! from a part.

use schemars::JsonSchema;
use serde::Serialize;

/// Something that a file does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// What surrounds the experts: attention, dense layers, embeddings.
    Attention,
    /// How wide an expert is.
    ExpertFfn,
    /// What joins the nodes.
    Rdma,
}

impl Missing {
    /// What is not said, and what to write.
    fn told(self, model: &str, cluster: &str) -> String {
        match self {
            Missing::Attention => format!(
                "model `{model}` does not say what surrounds its experts: write `attention grouped {{ heads 64   key_value_heads 8   head 128 }}` \
                 (or `latent`) and `vocab 129280`, and `dense_layers` where it has some, with its own numbers"
            ),
            Missing::ExpertFfn => {
                format!(
                    "model `{model}` does not say how wide an expert is: write `expert_ffn 2048` with its own number"
                )
            }
            Missing::Rdma => format!(
                "cluster `{cluster}` does not say what joins its nodes: write `rdma 50 GB/s per gpu` with its own rate"
            ),
        }
    }
}

/// Why something is withheld, and what to write; nothing if nothing is missing.
pub fn withheld(what: &str, missing: &[Missing], model: &str, cluster: &str) -> Option<String> {
    let told: Vec<String> = missing.iter().map(|missing| missing.told(model, cluster)).collect();
    (!told.is_empty()).then(|| format!("{what} withheld: {}", told.join("; ")))
}
