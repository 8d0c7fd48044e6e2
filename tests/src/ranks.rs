//! A layer on some ranks of a small exchange, the same in one process or in many: what goes in depends on rank and round alone.

use moe_contract::{Exchange, Format, RankId, Tensor};
use moe_random::Random;
use moe_runtime::{Communicator, Result};

/// What goes into a layer on one rank.
pub struct Part {
    tokens: Vec<u8>,
    indices: Vec<i32>,
    weights: Vec<f32>,
    output: Vec<u8>,
}

impl Part {
    /// Of a rank in a round.
    pub fn new(exchange: &Exchange, rank: RankId, round: u64) -> Part {
        let mut random = Random::stream(100 + round, rank.0.into());
        let tokens = random.below(u64::from(exchange.max_tokens) + 1) as usize;
        let rows = |format: Format, rows: usize, random: &mut Random| -> Vec<u8> {
            let row = |random: &mut Random| {
                let numbers: Vec<f32> = (0..exchange.hidden).map(|_| 2.0 * random.unit() as f32 - 1.0).collect();
                format.store(&numbers).elements
            };
            (0..rows).flat_map(|_| row(random)).collect()
        };
        let picks = |random: &mut Random| {
            let mut picks = random.choose(exchange.experts, exchange.top_k);
            picks.sort_unstable();
            picks.into_iter().map(|expert| expert as i32).collect::<Vec<i32>>()
        };
        Part {
            tokens: rows(exchange.dispatch.source(), tokens, &mut random),
            indices: (0..tokens).flat_map(|_| picks(&mut random)).collect(),
            weights: (0..tokens * exchange.top_k as usize).map(|_| random.normal()).collect(),
            output: rows(exchange.combine, exchange.output_rows_max() as usize, &mut random),
        }
    }

    /// Its last token, if it has one, picks an expert that does not exist.
    pub fn pick_nobody(&mut self) {
        if let Some(last) = self.indices.last_mut() {
            *last = 1000;
        }
    }
}

/// Dispatch and combine on the ranks of a communicator; of each, the experts' input and the result, as bytes. `reached` hears when both
/// are launched.
///
/// # Errors
/// What goes wrong in them.
pub fn layer(moe: &mut Communicator, round: u64, reached: impl FnMut(&str)) -> Result<Vec<Vec<u8>>> {
    let exchange = *moe.exchange();
    let parts: Vec<Part> = moe.ranks().map(|rank| Part::new(&exchange, rank, round)).collect();
    layer_of(moe, &parts, reached)
}

/// [`layer`], of given parts.
///
/// # Errors
/// What goes wrong in them.
pub fn layer_of(moe: &mut Communicator, parts: &[Part], mut reached: impl FnMut(&str)) -> Result<Vec<Vec<u8>>> {
    let of = |part: fn(&Part) -> &[u8]| parts.iter().map(part).collect::<Vec<_>>();
    let tokens = moe.upload(Tensor::Tokens, &of(|part| &part.tokens))?;
    let indices: Vec<&[i32]> = parts.iter().map(|part| part.indices.as_slice()).collect();
    let weights: Vec<&[f32]> = parts.iter().map(|part| part.weights.as_slice()).collect();
    let routing = moe.upload_routing(&indices, &weights)?;
    let output = moe.upload(Tensor::ExpertOutput, &of(|part| &part.output))?;
    let dispatched = moe.dispatch(&tokens, &routing)?;
    reached("dispatched");
    let combined = moe.combine(&dispatched.handle, &output)?;
    reached("combined");
    let inputs: Vec<Vec<u8>> = moe.download(&dispatched.input)?;
    let combined: Vec<Vec<u8>> = moe.download(&combined)?;
    Ok(inputs.into_iter().zip(combined).map(|(input, combined)| [input, combined].concat()).collect())
}
