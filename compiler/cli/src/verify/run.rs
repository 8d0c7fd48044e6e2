//! What a device makes of what is given.

use std::time::Instant;

use moe_contract::{Buffer, Call, Kernel, LinkBytes, RankId, Tensor};
use moe_judge::{Given, HandleArrays, Produced, ProducedBackward, Rows, experts};
use moe_runtime::communicator::Received;
use moe_runtime::{Communicator, Dispatched, Distributed, Error};

use crate::given::runtime_parameters;
use crate::progress::Progress;

/// Every call, once.
pub struct Run {
    /// What they gave.
    pub produced: Produced,
    /// What arrived at each rank.
    pub received: Vec<Received>,
    /// Wall-clock seconds, those of the experts on the host included.
    pub seconds: f64,
}

/// Calls, with the bytes that each writes.
struct Session<'c> {
    communicator: &'c mut Communicator,
    traffic: Vec<(Call, LinkBytes)>,
}

impl Session<'_> {
    fn counted<T>(&mut self, of: Call, call: impl FnOnce(&mut Communicator) -> Result<T, Error>) -> Result<T, Error> {
        self.communicator.synchronise()?;
        let before = self.communicator.traffic();
        let result = call(self.communicator)?;
        self.communicator.synchronise()?;
        if let (Some(before), Some(after)) = (before, self.communicator.traffic()) {
            self.traffic.push((of, after.since(&before)));
        }
        Ok(result)
    }

    /// Rows; those for which there was room and that did not arrive are zeros.
    fn rows(&mut self, tensor: &Distributed, scales: Option<&Distributed>) -> Result<Vec<Rows>, Error> {
        let bytes: Vec<Vec<u8>> = self.communicator.download(tensor)?;
        let scales = match scales {
            Some(scales) => self.communicator.download(scales)?,
            None => bytes.iter().map(|_| vec![]).collect(),
        };
        Ok(self.of_memory(tensor, bytes, scales))
    }

    fn of_memory(&self, tensor: &Distributed, bytes: Vec<Vec<u8>>, scales: Vec<Vec<u8>>) -> Vec<Rows> {
        let exchange = self.communicator.exchange();
        let format = match tensor.kind() {
            Tensor::ExpertInput => exchange.dispatch,
            _ => exchange.combine,
        };
        let rows = |(bytes, scales)| {
            // A tensor is whole rows, and its scales are those of its rows.
            Rows::from_memory(format, exchange.hidden, bytes, scales).expect("the runtime's own tensors")
        };
        bytes.into_iter().zip(scales).map(rows).collect()
    }
}

impl Run {
    /// Makes every call; those of the backward pass if it is given.
    pub fn every_call(communicator: &mut Communicator, given: &Given, progress: &Progress) -> Result<Run, Error> {
        let start = Instant::now();
        let mut session = Session { communicator, traffic: vec![] };
        let mut run = forward(&mut session, given, progress)?;
        run.produced.traffic = session.traffic;
        run.seconds = start.elapsed().as_secs_f64();
        Ok(run)
    }
}

fn forward(session: &mut Session<'_>, given: &Given, progress: &Progress) -> Result<Run, Error> {
    progress.say("gate");
    let parameters = session.communicator.upload_parameters(&runtime_parameters(given))?;
    let logits = session.communicator.upload(Tensor::Logits, &given.logits)?;
    let routing = session.communicator.gate(&logits, &parameters)?;
    let indices = session.communicator.download(&routing.indices)?;
    let weights = session.communicator.download(&routing.weights)?;

    progress.say("dispatch");
    let tokens = upload_rows(session.communicator, Tensor::Tokens, &given.activations)?;
    let dispatched =
        session.counted(Call::Dispatch, |communicator| communicator.dispatch_counted(&tokens, &routing))?;
    let received = session.communicator.received(&dispatched.handle)?;
    let handles = handle_arrays(session.communicator, &dispatched, &received, &given.tokens)?;
    let input = session.rows(&dispatched.input, dispatched.scales.as_ref())?;

    progress.say("experts");
    let output = session.communicator.apply_experts(&dispatched, experts::expert)?;
    progress.say("combine");
    let combined = session.counted(Call::Combine, |communicator| communicator.combine(&dispatched.handle, &output))?;
    let combined = session.rows(&combined, None)?;

    let mut backward = None;
    if let Some(of_result) = &given.backward {
        progress.say("combine backward");
        let gradients = upload_rows(session.communicator, Tensor::CombinedGradient, &of_result.combined)?;
        let of_combine = session.counted(Call::CombineBackward, |communicator| {
            communicator.combine_backward(&dispatched.handle, &output, &gradients)
        })?;
        drop(output);
        let of_output = session.rows(&of_combine.output, None)?;
        let of_weights = match of_combine.weights {
            Some(weights) => weights,
            None => {
                let of_rows = session.communicator.apply_expert_weight_gradients(
                    &dispatched,
                    &of_combine.output,
                    experts::expert,
                    experts::transposed,
                )?;
                session.counted(Call::WeightsBackward, |communicator| {
                    communicator.weights_backward(&dispatched.handle, &of_rows)
                })?
            }
        };

        progress.say("dispatch backward");
        let of_input =
            session.communicator.apply_expert_gradients(&dispatched.handle, &of_combine.output, experts::transposed)?;
        let of_tokens = session.counted(Call::DispatchBackward, |communicator| {
            communicator.dispatch_backward(&dispatched.handle, &of_input)
        })?;
        drop(of_input);
        let of_tokens = session.rows(&of_tokens, None)?;

        progress.say("dispatch cached");
        let again = upload_rows(session.communicator, Tensor::Tokens, &of_result.again)?;
        let (again, scales) = session
            .counted(Call::DispatchCached, |communicator| communicator.dispatch_cached(&dispatched.handle, &again))?;
        let again = session.rows(&again, scales.as_ref())?;

        progress.say("gate backward");
        let has_gradient = session.communicator.has(Kernel::GateBackward);
        let mut of_logits = None;
        if has_gradient {
            let gradients = session.communicator.gate_backward(&logits, &of_weights, &parameters)?;
            of_logits = Some(session.communicator.download(&gradients)?);
        }
        progress.say("barrier");
        session.counted(Call::Barrier, Communicator::barrier)?;
        backward = Some(ProducedBackward {
            again,
            output: of_output,
            weights: session.communicator.download(&of_weights)?,
            tokens: of_tokens,
            logits: of_logits,
        });
    }
    let produced = Produced { indices, weights, handles, input, combined, traffic: vec![], backward };
    Ok(Run { produced, received, seconds: 0.0 })
}

fn upload_rows(communicator: &mut Communicator, tensor: Tensor, rows: &[Rows]) -> Result<Distributed, Error> {
    let bytes: Vec<&[u8]> = rows.iter().map(Rows::bytes).collect();
    communicator.upload(tensor, &bytes)
}

/// What a dispatch keeps on each rank, as far as it is defined.
fn handle_arrays(
    communicator: &mut Communicator,
    dispatched: &Dispatched,
    received: &[Received],
    tokens: &[usize],
) -> Result<Vec<HandleArrays>, Error> {
    let exchange = *communicator.exchange();
    let by_expert = exchange.layout.by_expert();
    // Rows of each local expert; between them lies padding, of which nothing is kept.
    let of_experts = |offsets: &[u32], counts: &[u32]| -> Vec<std::ops::Range<usize>> {
        let range = |(&first, &count): (&u32, &u32)| first as usize..(first + count) as usize;
        offsets.iter().zip(counts).map(range).collect()
    };
    let [ranks, k, most, local] =
        [exchange.ranks, exchange.top_k, exchange.max_tokens, exchange.local_experts_max()].map(|n| n as usize);
    let mut all = Vec::new();
    for ((rank, received), &tokens) in (0..).map(RankId).zip(received).zip(tokens) {
        let rows = received.rows as usize;
        let mut arrays: HandleArrays = Vec::new();
        for buffer in Buffer::of_handle() {
            // One range for each source where there is a place for every token of it.
            let of_sources = |width: usize| -> Vec<std::ops::Range<usize>> {
                let range =
                    |(source, &copies): (usize, &u32)| source * most * width..(source * most + copies as usize) * width;
                received.copies.iter().enumerate().map(range).collect()
            };
            let whole = |range| -> Vec<std::ops::Range<usize>> { std::iter::once(range).collect() };
            let ranges = match buffer {
                Buffer::Status | Buffer::Calls | Buffer::Peers => vec![],
                Buffer::Slots => whole(0..tokens * ranks),
                Buffer::SendCounts | Buffer::ReceivedCounts => whole(0..ranks),
                Buffer::CopyTokens | Buffer::CopyOrdinals => of_sources(1),
                Buffer::CopyRows | Buffer::CopyWeights => of_sources(k),
                Buffer::ExpertCounts => whole(0..local),
                Buffer::ExpertOffsets if by_expert => whole(0..local + 1),
                Buffer::RowPicks | Buffer::RowWeights if !by_expert => whole(0..rows * k),
                Buffer::RowWeights if !exchange.weighted => {
                    of_experts(&received.expert_offsets, &received.expert_counts)
                }
                Buffer::ExpertOffsets | Buffer::RowPicks | Buffer::RowWeights => vec![],
            };
            let mut values = Vec::new();
            for range in ranges {
                values.extend(communicator.inspect::<i32>(&dispatched.handle, rank, buffer, range)?);
            }
            arrays.push((buffer, values));
        }
        all.push(arrays);
    }
    Ok(all)
}
