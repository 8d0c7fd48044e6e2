//! What a run gave: plain data, whoever made it.

use moe_contract::{Buffer, Call, LinkBytes};

use crate::rows::Rows;

/// An array of a handle, in the parts that are defined, one after the other.
pub type HandleArrays = Vec<(Buffer, Vec<i32>)>;

/// What a run gave, on every rank.
#[derive(Clone, Debug)]
pub struct Produced {
    /// Sorted picks.
    pub indices: Vec<Vec<i32>>,
    /// Of the picks.
    pub weights: Vec<Vec<f32>>,
    /// What dispatch keeps: every array of [`Buffer::of_handle`] that has defined parts.
    pub handles: Vec<HandleArrays>,
    /// The experts' input.
    pub input: Vec<Rows>,
    /// The result.
    pub combined: Vec<Rows>,
    /// Bytes of each call in order, of what crosses links; empty where the device does not count.
    pub traffic: Vec<(Call, LinkBytes)>,
    /// Of the backward pass.
    pub backward: Option<ProducedBackward>,
}

/// What a backward pass gave, on every rank.
#[derive(Clone, Debug)]
pub struct ProducedBackward {
    /// The experts' input of the second dispatch.
    pub again: Vec<Rows>,
    /// Gradients of the experts' output.
    pub output: Vec<Rows>,
    /// Gradients of the weights, `[tokens, top_k]`: from combine, or from the experts where they weigh.
    pub weights: Vec<Vec<f32>>,
    /// Gradients of the tokens.
    pub tokens: Vec<Rows>,
    /// Gradients of the logits, where the gate has a gradient.
    pub logits: Option<Vec<Vec<f32>>>,
}
