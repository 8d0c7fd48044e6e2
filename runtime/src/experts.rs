//! Experts that run on the host: for tests, demonstrations, and to try a function before it becomes a kernel.
//!
//! Invariant: the order of arithmetic is that of a kernel for the same layout. Where combine does not weigh, the experts do: their input
//! or, after them, their output. A row of a rank-major layout is the sum over its picks in ascending expert, in f32; the result is rounded once, and a NaN is that of a GPU ([`moe_contract::codec::NAN`]).

use moe_contract::codec::canonical;
use moe_contract::{Buffer, Exchange, ExpertId, Format, RankId, Tensor};

use crate::communicator::{Communicator, Dispatched, Handle, Received};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// Bytes of every rank.
type OfRanks = Vec<Vec<u8>>;

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
    /// [`Communicator::dispatch_backward`] takes it. Where combine does not weigh, the weights scale it after the call.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn apply_expert_gradients(
        &mut self,
        handle: &Handle,
        gradients: &Distributed,
        gradient: impl FnMut(ExpertId, &[f32], &mut [f32]),
    ) -> Result<Distributed> {
        self.expect(gradients, Tensor::ExpertOutputGradient)?;
        self.apply(handle, gradients, None, Order::ExpertFirst, gradient)
    }

    /// Gradients of the weights that the experts applied, as [`Communicator::weights_backward`] takes them: the inner product of what a
    /// weight multiplied and the gradient of the product, in f64, rounded once. `expert` and `gradient` are those of
    /// [`Communicator::apply_experts`] and [`Communicator::apply_expert_gradients`].
    ///
    /// # Errors
    /// When combine weighs, or a kernel failed.
    pub fn apply_expert_weight_gradients(
        &mut self,
        dispatched: &Dispatched,
        gradients: &Distributed,
        mut expert: impl FnMut(ExpertId, &[f32], &mut [f32]),
        mut gradient: impl FnMut(ExpertId, &[f32], &mut [f32]),
    ) -> Result<Distributed> {
        self.expect(gradients, Tensor::ExpertOutputGradient)?;
        gradients.expect_rows(&dispatched.input.all_rows())?;
        let exchange = *self.exchange();
        if exchange.weighted {
            return Err(Error::NotPossible {
                what: "apply_expert_weight_gradients",
                why: "combine weighs, and combine_backward gives the gradients of the weights",
            });
        }
        let before = self.manifest().gate.before_experts;
        let received = self.received(&dispatched.handle)?;
        let [inputs, scales] = self.rows_and_scales(&dispatched.input, dispatched.scales.as_ref())?;
        let of_outputs: Vec<Vec<u8>> = self.download(gradients)?;
        let per_row = exchange.weights_per_row() as usize;
        let mut outputs = Vec::new();
        for ((rank, received), ((input, scales), of_output)) in
            self.ranks().zip(&received).zip(inputs.iter().zip(&scales).zip(&of_outputs))
        {
            let mut output = vec![0.0f32; gradients.rows(rank) as usize * per_row];
            for (row, picks) in self.work(&dispatched.handle, rank, received)?.iter().enumerate() {
                for pick in picks {
                    let mut factor = decode_row(&exchange, exchange.dispatch, input, scales, row);
                    let mut of_product = decode_row(&exchange, exchange.combine, of_output, &[], row);
                    let mut mapped = vec![0.0; factor.len()];
                    if before {
                        gradient(pick.expert, &of_product, &mut mapped);
                        of_product = mapped;
                    } else {
                        expert(pick.expert, &factor, &mut mapped);
                        factor = mapped;
                    }
                    let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
                    let sum: f64 = factor.iter().zip(&of_product).map(product).sum();
                    output[row * per_row + pick.place] = canonical(sum as f32);
                }
            }
            outputs.push(output);
        }
        self.upload(Tensor::RowWeightGradients, &outputs)
    }

    fn rows_and_scales(&mut self, rows: &Distributed, scales: Option<&Distributed>) -> Result<[OfRanks; 2]> {
        let rows: OfRanks = self.download(rows)?;
        let scales = match scales {
            Some(scales) => self.download(scales)?,
            None => rows.iter().map(|_| vec![]).collect(),
        };
        Ok([rows, scales])
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
        let received = self.received(handle)?;
        let [inputs, scales] = self.rows_and_scales(rows, scales)?;
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
        let (rows, per_row) = (received.rows as usize, exchange.weights_per_row() as usize);
        let first = exchange.experts_of(rank.0).start;
        let mut work = vec![vec![]; rows];
        if exchange.layout.by_expert() {
            for (local, (&start, &count)) in (0..).zip(received.expert_offsets.iter().zip(&received.expert_counts)) {
                let rows = start as usize..(start + count) as usize;
                let expert = ExpertId(first + local);
                let weights: Vec<Option<f32>> = match exchange.weighted {
                    true => vec![None; rows.len()],
                    // Of padding, none is kept.
                    false => {
                        let weights = self.inspect::<f32>(handle, rank, Buffer::RowWeights, rows.clone())?;
                        weights.into_iter().map(Some).collect()
                    }
                };
                for (picks, weight) in work[rows].iter_mut().zip(weights) {
                    picks.push(Pick { expert, place: 0, weight });
                }
            }
            return Ok(work);
        }
        let experts: Vec<i32> = self.inspect(handle, rank, Buffer::RowPicks, 0..rows * per_row)?;
        let weights: Vec<f32> = self.inspect(handle, rank, Buffer::RowWeights, 0..rows * per_row)?;
        for (place, (&local, &weight)) in experts.iter().zip(&weights).enumerate() {
            if let Ok(local) = u32::try_from(local) {
                let pick = Pick { expert: ExpertId(first + local), place: place % per_row, weight: Some(weight) };
                work[place / per_row].push(pick);
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
    /// Among the weights of the row.
    place: usize,
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
