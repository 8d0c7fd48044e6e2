//! Experts that run on the host: for tests, demonstrations, and to try a function before it becomes a kernel.
//!
//! Invariant: the order of arithmetic is that of a kernel for the same layout. A row of a rank-major layout is the sum over its picks in
//! ascending expert, in f32, each weighted; the result is rounded once, and a NaN is that of a GPU ([`moe_contract::codec::NAN`]).

use moe_contract::codec::canonical;
use moe_contract::{Buffer, Exchange, ExpertId, Format, RankId, Tensor};

use crate::communicator::{Communicator, Dispatched, Handle, Received};
use crate::error::Result;
use crate::tensor::Distributed;

impl Communicator {
    /// Calls `expert` with every row that was dispatched and collects what it writes: the experts' output. Where the gate's weights scale
    /// the input, they do so before the call.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn apply_experts(
        &mut self,
        dispatched: &Dispatched,
        expert: impl FnMut(ExpertId, &[f32], &mut [f32]),
    ) -> Result<Distributed> {
        let order = if self.manifest().gate.before_experts { Order::WeightFirst } else { Order::ExpertFirst };
        self.apply(&dispatched.handle, &dispatched.input, dispatched.scales.as_ref(), order, expert)
    }

    /// Calls `gradient` with the gradient of every row of the experts' output and collects what it writes: the gradient of their input, as
    /// [`Communicator::dispatch_backward`] takes it. Where the weights are the experts' business (a rank-major layout, or weights that scale
    /// the input), they scale it after the call.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn apply_expert_gradients(
        &mut self,
        handle: &Handle,
        gradients: &Distributed,
        gradient: impl FnMut(ExpertId, &[f32], &mut [f32]),
    ) -> Result<Distributed> {
        gradients.expect(Tensor::ExpertOutputGradient)?;
        self.apply(handle, gradients, None, Order::ExpertFirst, gradient)
    }

    fn apply(
        &mut self,
        handle: &Handle,
        rows: &Distributed,
        scales: Option<&Distributed>,
        order: Order,
        mut expert: impl FnMut(ExpertId, &[f32], &mut [f32]),
    ) -> Result<Distributed> {
        let exchange = *self.exchange();
        let format = if rows.kind() == Tensor::ExpertInput { exchange.dispatch } else { exchange.combine };
        let inputs: Vec<Vec<u8>> = self.download(rows)?;
        let scales: Vec<Vec<u8>> = match scales {
            Some(scales) => self.download(scales)?,
            None => inputs.iter().map(|_| vec![]).collect(),
        };
        let received = self.received(handle)?;
        let row_bytes = exchange.row_bytes(exchange.combine) as usize;
        let mut outputs = Vec::new();
        for (((rank, input), scales), received) in self.ranks().zip(&inputs).zip(&scales).zip(&received) {
            // Padding, and rows that were allocated for the worst case and did not arrive, are zero.
            let mut output = vec![0; rows.rows(rank) as usize * row_bytes];
            for (row, picks) in self.work(handle, rank, received)?.iter().enumerate() {
                if picks.is_empty() {
                    continue;
                }
                let values = decode_row(&exchange, format, input, scales, row);
                let sum = picks.iter().map(|pick| apply(&mut expert, pick, &values, order)).reduce(add);
                let sum =
                    exchange.combine.store(&sum.unwrap_or_default().into_iter().map(canonical).collect::<Vec<f32>>());
                output[row * row_bytes..(row + 1) * row_bytes].copy_from_slice(&sum.elements);
            }
            outputs.push(output);
        }
        self.upload(Tensor::ExpertOutput, &outputs)
    }

    /// What is to be done for each row of a rank; nothing for padding.
    fn work(&mut self, handle: &Handle, rank: RankId, received: &Received) -> Result<Vec<Vec<Pick>>> {
        let exchange = *self.exchange();
        let (k, first) = (exchange.top_k as usize, exchange.experts_of(rank.0).start);
        let rows = received.rows as usize;
        let mut work = vec![vec![]; rows];
        if !exchange.layout.by_expert() {
            let experts: Vec<i32> = self.inspect(handle, rank, Buffer::RowPicks, 0..rows * k)?;
            let weights: Vec<f32> = self.inspect(handle, rank, Buffer::RowWeights, 0..rows * k)?;
            for (place, (&local, &weight)) in experts.iter().zip(&weights).enumerate() {
                if let Ok(local) = u32::try_from(local) {
                    work[place / k].push(Pick { expert: ExpertId(first + local), weight: Some(weight) });
                }
            }
            return Ok(work);
        }
        for (local, (&start, &count)) in (0..).zip(received.expert_offsets.iter().zip(&received.expert_counts)) {
            for picks in &mut work[start as usize..(start + count) as usize] {
                picks.push(Pick { expert: ExpertId(first + local), weight: None });
            }
        }
        if self.manifest().gate.before_experts {
            for (source, &copies) in received.copies.iter().enumerate() {
                let start = source * exchange.max_tokens as usize * k;
                let range = start..start + copies as usize * k;
                let rows: Vec<i32> = self.inspect(handle, rank, Buffer::CopyRows, range.clone())?;
                let weights: Vec<f32> = self.inspect(handle, rank, Buffer::CopyWeights, range)?;
                for (&row, &weight) in rows.iter().zip(&weights) {
                    if let Ok(row) = usize::try_from(row) {
                        work[row].iter_mut().for_each(|pick| pick.weight = Some(weight));
                    }
                }
            }
        }
        Ok(work)
    }
}

/// What comes first where a pick has a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    WeightFirst,
    ExpertFirst,
}

/// One call of the expert function.
#[derive(Clone, Copy, Debug)]
struct Pick {
    expert: ExpertId,
    /// `None` where combine weighs.
    weight: Option<f32>,
}

fn apply(expert: &mut impl FnMut(ExpertId, &[f32], &mut [f32]), pick: &Pick, input: &[f32], order: Order) -> Vec<f32> {
    let mut output = vec![0.0; input.len()];
    let scaled = |values: &[f32], weight: f32| values.iter().map(|value| weight * value).collect::<Vec<f32>>();
    match pick.weight {
        None => expert(pick.expert, input, &mut output),
        Some(weight) if order == Order::WeightFirst => expert(pick.expert, &scaled(input, weight), &mut output),
        Some(weight) => {
            expert(pick.expert, input, &mut output);
            output = scaled(&output, weight);
        }
    }
    output
}

fn add(mut sum: Vec<f32>, row: Vec<f32>) -> Vec<f32> {
    sum.iter_mut().zip(row).for_each(|(sum, element)| *sum += element);
    sum
}

/// The numbers that a row stands for.
fn decode_row(exchange: &Exchange, format: Format, input: &[u8], scales: &[u8], row: usize) -> Vec<f32> {
    let part = |all: &[u8], bytes: u64| all[row * bytes as usize..][..bytes as usize].to_vec();
    let elements = part(input, format.row_bytes(exchange.hidden));
    format.values(&elements, &part(scales, if scales.is_empty() { 0 } else { format.scale_bytes(exchange.hidden) }))
}
