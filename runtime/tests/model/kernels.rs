//! The kernels of the contract, one function each. The gate is a simple one: the largest logits, which are the weights.

use std::collections::BTreeMap;

use moe_bundle::exchange::{LocalBuffer as B, Tensor as X, status};
use moe_bundle::{Argument, Exchange, Kernel, RankId, RowLayout};
use moe_judge::Rows;
use moe_judge::reference::{Weighting, weight_gradient};
use moe_runtime::DeviceError;
use moe_runtime::device::{Address, Value};

use super::State;

type Done = Result<(), DeviceError>;

pub struct Run<'r> {
    pub state: &'r mut State,
    pub exchange: &'r Exchange,
    pub rank: RankId,
    pub kernel: Kernel,
    pub arguments: BTreeMap<String, Value>,
    pub parameters: Vec<Value>,
}

/// What travels with a row.
struct Record {
    /// Token and ordinal.
    head: Vec<i32>,
    picks: Vec<i32>,
    weights: Vec<f32>,
}

impl Run<'_> {
    pub fn run(mut self) -> Done {
        let status = self.address(Argument::Buffer(B::Status));
        if self.u64s(status, 1)?[0] != status::OK {
            return Ok(());
        }
        match self.kernel {
            Kernel::Gate => self.gate(),
            Kernel::GateBackward => self.gate_backward(),
            Kernel::Capacity => self.capacity(),
            Kernel::Layout => self.layout(),
            Kernel::DispatchSend => self.send(X::Tokens, true),
            Kernel::DispatchSendCached => self.send(X::Tokens, false),
            Kernel::CombineBackwardSend => self.send(X::CombinedGradient, false),
            Kernel::DispatchCount => self.count(),
            Kernel::DispatchPlace => self.place(true),
            Kernel::DispatchPlaceCached => {
                if !self.wait(self.exchange.symmetric.dispatch_arrival, self.epoch(), status::DISPATCH_DEADLINE)? {
                    return Ok(());
                }
                self.place(false)
            }
            Kernel::CombineSend => self.combine_send(Weighting::of(self.exchange)),
            Kernel::CombineSendUnweighted => self.combine_send(Weighting::Unweighted),
            Kernel::CombineReduce => self.reduce(),
            Kernel::CombineBackwardPlace => self.backward_place(),
            Kernel::WeightGradientCollect => self.collect(),
            Kernel::Barrier => self.barrier(),
        }
    }

    // Arguments

    fn argument(&self, argument: Argument) -> Value {
        *self.arguments.get(&super::name(&argument)).unwrap_or_else(|| panic!("{:?} has no {argument:?}", self.kernel))
    }

    fn address(&self, argument: Argument) -> Address {
        match self.argument(argument) {
            Value::Pointer(address) => address,
            other => panic!("{argument:?} is {other:?}"),
        }
    }

    fn buffer(&self, buffer: B) -> Address {
        self.address(Argument::Buffer(buffer))
    }

    fn tensor(&self, tensor: X) -> Address {
        self.address(Argument::Tensor(tensor))
    }

    fn epoch(&self) -> u64 {
        match self.argument(Argument::Epoch) {
            Value::U64(epoch) => epoch,
            other => panic!("the epoch is {other:?}"),
        }
    }

    fn tokens(&self) -> usize {
        match self.argument(Argument::Tokens) {
            Value::U32(tokens) => tokens as usize,
            other => panic!("tokens are {other:?}"),
        }
    }

    // Memory

    fn u64s(&mut self, address: Address, count: usize) -> Result<Vec<u64>, DeviceError> {
        let bytes = self.state.load(address, 8 * count)?;
        Ok(bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
    }

    fn i32s(&mut self, address: Address, count: usize) -> Result<Vec<i32>, DeviceError> {
        let bytes = self.state.load(address, 4 * count)?;
        Ok(bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().expect("4 bytes"))).collect())
    }

    fn f32s(&mut self, address: Address, count: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.i32s(address, count)?.into_iter().map(|bits| f32::from_bits(bits as u32)).collect())
    }

    fn put_i32s(&mut self, address: Address, values: &[i32]) -> Done {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.state.store_from(self.rank, address, &bytes)
    }

    fn put_f32s(&mut self, address: Address, values: &[f32]) -> Done {
        let bits: Vec<i32> = values.iter().map(|value| value.to_bits() as i32).collect();
        self.put_i32s(address, &bits)
    }

    fn set_status(&mut self, words: [u64; 4]) -> Done {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let status = self.buffer(B::Status);
        self.state.store(status, &bytes)
    }

    // Shapes

    fn k(&self) -> usize {
        self.exchange.top_k as usize
    }

    fn ranks(&self) -> usize {
        self.exchange.ranks as usize
    }

    /// Place of slot (source, slot) in a region of such halves.
    fn slot(&self, first: usize, slot: usize) -> u64 {
        let half = (self.epoch() % 2) as usize;
        ((half * self.ranks() + first) * self.exchange.max_tokens as usize + slot) as u64
    }

    fn copy(&self, source: usize, slot: usize) -> u64 {
        (source * self.exchange.max_tokens as usize + slot) as u64
    }

    fn peer(&mut self, rank: usize) -> Result<Address, DeviceError> {
        let peers = self.buffer(B::Peers);
        Ok(Address(self.u64s(peers.offset(8 * rank as u64), 1)?[0]))
    }

    /// Adds the CTAs of this kernel to the flags of every rank.
    fn publish(&mut self, flags: u64, ctas: u64) -> Done {
        for rank in 0..self.ranks() {
            let flag = self.peer(rank)?.offset(flags + 8 * u64::from(self.rank.0));
            for _ in 0..ctas {
                let found = self.u64s(flag, 1)?[0];
                self.state.store_from(self.rank, flag, &(found + 1).to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Whether every rank has come; otherwise the status says who has not.
    fn wait(&mut self, flags: u64, epoch: u64, code: u64) -> Result<bool, DeviceError> {
        let ctas = if self.kernel == Kernel::Barrier { 1 } else { u64::from(self.exchange.ctas) };
        let own = self.address(Argument::Symmetric).offset(flags);
        for (source, found) in self.u64s(own, self.ranks())?.into_iter().enumerate() {
            if found < epoch * ctas {
                self.set_status([code, source as u64, epoch * ctas, found])?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    // Kernels

    fn gate(&mut self) -> Done {
        let (k, width) = (self.k(), (self.exchange.experts + self.exchange.zero_experts) as usize);
        let bias = match self.parameters.first() {
            Some(&Value::Pointer(bias)) => self.f32s(bias, width)?,
            _ => vec![0.0; width],
        };
        for token in 0..self.tokens() {
            let logits = self.f32s(self.tensor(X::Logits).offset((4 * token * width) as u64), width)?;
            if let Some(expert) = logits.iter().position(|logit| logit.is_nan()) {
                return self.set_status([status::GATE_NAN, token as u64, expert as u64, 0]);
            }
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| (logits[b] + bias[b]).total_cmp(&(logits[a] + bias[a])));
            let mut chosen = order[..k].to_vec();
            chosen.sort_unstable();
            let at = (4 * token * k) as u64;
            let ids: Vec<i32> = chosen.iter().map(|&expert| expert as i32).collect();
            let weights: Vec<f32> = chosen.iter().map(|&expert| logits[expert]).collect();
            self.put_i32s(self.tensor(X::Indices).offset(at), &ids)?;
            self.put_f32s(self.tensor(X::Weights).offset(at), &weights)?;
        }
        Ok(())
    }

    /// The weights are the largest logits: each gradient goes to the logit of its rank in the order of experts.
    fn gate_backward(&mut self) -> Done {
        let (k, width) = (self.k(), (self.exchange.experts + self.exchange.zero_experts) as usize);
        for token in 0..self.tokens() {
            let logits = self.f32s(self.tensor(X::Logits).offset((4 * token * width) as u64), width)?;
            let given = self.f32s(self.tensor(X::WeightGradients).offset((4 * token * k) as u64), k)?;
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let mut chosen = order[..k].to_vec();
            chosen.sort_unstable();
            let mut gradients = vec![0.0; width];
            chosen.iter().zip(given).for_each(|(&expert, gradient)| gradients[expert] = gradient);
            self.put_f32s(self.tensor(X::LogitGradients).offset((4 * token * width) as u64), &gradients)?;
        }
        Ok(())
    }

    fn capacity(&mut self) -> Done {
        let count = self.tokens() * self.k();
        let mut indices = self.i32s(self.tensor(X::Indices), count)?;
        let weights = self.f32s(self.tensor(X::Weights), count)?;
        let Value::U32(capacity) = self.argument(Argument::Capacity) else { panic!("capacity") };
        let rule = self.exchange.drop.expect("a rule");
        let capacity = capacity as usize;
        moe_judge::reference::keep_within_capacity(self.exchange, rule, capacity, &mut indices, &weights);
        self.put_i32s(self.tensor(X::Indices), &indices)
    }

    fn layout(&mut self) -> Done {
        let (k, ranks) = (self.k(), self.ranks());
        let experts = (self.exchange.experts + self.exchange.zero_experts) as i32;
        let mut counts = vec![0; ranks];
        for token in 0..self.tokens() {
            let picks = self.i32s(self.tensor(X::Indices).offset((4 * token * k) as u64), k)?;
            for (place, &pick) in picks.iter().enumerate() {
                let words = |code| [code, token as u64, place as u64, u64::from(pick as u32)];
                if !(-1..experts).contains(&pick) {
                    return self.set_status(words(status::PICK_OUT_OF_RANGE));
                }
                if pick >= 0 && picks[..place].contains(&pick) {
                    return self.set_status(words(status::PICK_TWICE));
                }
            }
            let mut slots = vec![-1; ranks];
            for &pick in picks.iter().filter(|&&pick| (0..self.exchange.experts as i32).contains(&pick)) {
                let to = self.exchange.rank_of(pick as u32) as usize;
                if slots[to] < 0 {
                    slots[to] = counts[to];
                    counts[to] += 1;
                }
            }
            self.put_i32s(self.buffer(B::Slots).offset((4 * token * ranks) as u64), &slots)?;
        }
        self.put_i32s(self.buffer(B::SendCounts), &counts)
    }

    /// Rows of a tensor, and records of a plain dispatch, to every destination.
    fn send(&mut self, what: X, plain: bool) -> Done {
        if self.state.dead.contains(&self.rank) {
            return Ok(());
        }
        let (k, ranks, me) = (self.k(), self.ranks(), self.rank.index());
        let layout = self.exchange.symmetric.clone();
        let gradient = what == X::CombinedGradient;
        let source = if gradient { self.exchange.combine } else { self.exchange.dispatch.source() };
        let payload = if gradient { self.exchange.combine } else { self.exchange.dispatch };
        for token in 0..self.tokens() {
            let bytes = self.exchange.row_bytes(source);
            let row = self.state.load(self.tensor(what).offset(token as u64 * bytes), bytes as usize)?;
            let mut row = Rows::from_memory(source, self.exchange.hidden, row, vec![]).expect("whole rows");
            if payload != source {
                row = Rows::from_values(payload, self.exchange.hidden, &row.elements(0));
            }
            let slots = self.i32s(self.buffer(B::Slots).offset((4 * token * ranks) as u64), ranks)?;
            let mut ordinal = 0;
            for (to, &slot) in slots.iter().enumerate() {
                let Ok(slot) = usize::try_from(slot) else { continue };
                let base = self.peer(to)?;
                let place = self.slot(me, slot);
                self.state.store_from(self.rank, base.offset(layout.rows + place * layout.row_bytes), row.bytes())?;
                self.put_f32s(base.offset(layout.scales + place * layout.scale_bytes), row.scales())?;
                if plain {
                    let at = (4 * token * k) as u64;
                    let picks = self.i32s(self.tensor(X::Indices).offset(at), k)?;
                    let weights = self.f32s(self.tensor(X::Weights).offset(at), k)?;
                    let record = base.offset(layout.records + place * layout.record_bytes);
                    self.put_i32s(record, &[token as i32, ordinal])?;
                    self.put_i32s(record.offset(8), &picks)?;
                    self.put_f32s(record.offset(8 + 4 * k as u64), &weights)?;
                }
                ordinal += 1;
            }
        }
        if plain {
            let counts = self.i32s(self.buffer(B::SendCounts), ranks)?;
            for (to, &count) in counts.iter().enumerate() {
                let half = (self.epoch() % 2) as usize;
                let at = self.peer(to)?.offset(layout.counts + 4 * (half * ranks + me) as u64);
                self.put_i32s(at, &[count])?;
            }
        }
        self.publish(layout.dispatch_arrival, self.exchange.ctas.into())
    }

    fn record(&mut self, source: usize, slot: usize) -> Result<Record, DeviceError> {
        let (k, layout) = (self.k(), self.exchange.symmetric.clone());
        let place = self.slot(source, slot);
        let at = self.address(Argument::Symmetric).offset(layout.records + place * layout.record_bytes);
        Ok(Record {
            head: self.i32s(at, 2)?,
            picks: self.i32s(at.offset(8), k)?,
            weights: self.f32s(at.offset(8 + 4 * k as u64), k)?,
        })
    }

    /// Counts only; the positions are computed again when rows are placed.
    fn count(&mut self) -> Done {
        let layout = self.exchange.symmetric.clone();
        if !self.wait(layout.dispatch_arrival, self.epoch(), status::DISPATCH_DEADLINE)? {
            return Ok(());
        }
        let (ranks, half) = (self.ranks(), (self.epoch() % 2) as usize);
        let own = self.address(Argument::Symmetric);
        let counts = self.i32s(own.offset(layout.counts + 4 * (half * ranks) as u64), ranks)?;
        let here = self.exchange.experts_of(self.rank.0);
        let mut experts = vec![0; self.exchange.local_experts_max() as usize];
        for (source, &count) in counts.iter().enumerate() {
            for slot in 0..count as usize {
                let Record { picks, .. } = self.record(source, slot)?;
                for pick in picks.into_iter().filter(|&pick| pick >= 0 && here.contains(&(pick as u32))) {
                    experts[(pick as u32 - here.start) as usize] += 1;
                }
            }
        }
        self.put_i32s(self.buffer(B::ReceivedCounts), &counts)?;
        self.put_i32s(self.buffer(B::ExpertCounts), &experts)
    }

    fn place(&mut self, plain: bool) -> Done {
        let (k, layout) = (self.k(), self.exchange.symmetric.clone());
        let local = self.exchange.local_experts_max() as usize;
        let counts = self.i32s(self.buffer(B::ReceivedCounts), self.ranks())?;
        let experts = self.i32s(self.buffer(B::ExpertCounts), local)?;
        let here = self.exchange.experts_of(self.rank.0);
        let mut offsets = vec![0];
        if let RowLayout::ExpertMajor { align } = self.exchange.layout {
            let row = self.exchange.row_bytes(self.exchange.dispatch);
            let scales = self.exchange.tensor_row_bytes(X::ExpertInputScales);
            for (expert, &count) in experts.iter().enumerate() {
                let end = offsets[expert] + count;
                let next = (end as u32).next_multiple_of(align) as i32;
                for padding in end..next {
                    let zeros = vec![0; row.max(scales) as usize];
                    let (input, input_scales) = (self.tensor(X::ExpertInput), self.tensor(X::ExpertInputScales));
                    self.state.store(input.offset(padding as u64 * row), &zeros[..row as usize])?;
                    self.state.store(input_scales.offset(padding as u64 * scales), &zeros[..scales as usize])?;
                }
                offsets.push(next);
            }
            if plain {
                self.put_i32s(self.buffer(B::ExpertOffsets), &offsets)?;
            }
        }
        let mut next: Vec<i32> = offsets.clone();
        let mut row = 0;
        for (source, &count) in counts.iter().enumerate() {
            for slot in 0..count as usize {
                let copy = self.copy(source, slot);
                if plain {
                    let Record { head, picks, weights } = self.record(source, slot)?;
                    let is_here = |pick: i32| pick >= 0 && here.contains(&(pick as u32));
                    let rows: Vec<i32> = picks
                        .iter()
                        .map(|&pick| match self.exchange.layout {
                            _ if !is_here(pick) => -1,
                            RowLayout::RankMajor => row,
                            RowLayout::ExpertMajor { .. } => {
                                let next = &mut next[(pick as u32 - here.start) as usize];
                                *next += 1;
                                *next - 1
                            }
                        })
                        .collect();
                    self.put_i32s(self.buffer(B::CopyTokens).offset(4 * copy), &head[..1])?;
                    self.put_i32s(self.buffer(B::CopyOrdinals).offset(4 * copy), &head[1..])?;
                    self.put_i32s(self.buffer(B::CopyRows).offset(4 * copy * k as u64), &rows)?;
                    self.put_f32s(self.buffer(B::CopyWeights).offset(4 * copy * k as u64), &weights)?;
                    if self.exchange.layout == RowLayout::RankMajor {
                        let at = 4 * (row as u64) * k as u64;
                        let local = |&pick: &i32| if is_here(pick) { pick - here.start as i32 } else { -1 };
                        let local: Vec<i32> = picks.iter().map(local).collect();
                        self.put_i32s(self.buffer(B::RowPicks).offset(at), &local)?;
                        self.put_f32s(self.buffer(B::RowWeights).offset(at), &weights)?;
                    }
                }
                row += 1;
                let rows = self.i32s(self.buffer(B::CopyRows).offset(4 * copy * k as u64), k)?;
                let (bytes, scales) = (
                    self.exchange.row_bytes(self.exchange.dispatch),
                    self.exchange.tensor_row_bytes(X::ExpertInputScales),
                );
                let (own, place) = (self.address(Argument::Symmetric), self.slot(source, slot));
                let data = self.state.load(own.offset(layout.rows + place * layout.row_bytes), bytes as usize)?;
                let scale = self.state.load(own.offset(layout.scales + place * layout.scale_bytes), scales as usize)?;
                for to in rows.into_iter().filter(|&row| row >= 0).map(|row| row as u64) {
                    let (input, input_scales) = (self.tensor(X::ExpertInput), self.tensor(X::ExpertInputScales));
                    self.state.store(input.offset(to * bytes), &data)?;
                    self.state.store(input_scales.offset(to * scales), &scale)?;
                }
            }
        }
        Ok(())
    }

    fn combine_row(&mut self, tensor: X, row: usize) -> Result<Vec<f32>, DeviceError> {
        let (payload, bytes) = (self.exchange.combine, self.exchange.row_bytes(self.exchange.combine));
        let data = self.state.load(self.tensor(tensor).offset(row as u64 * bytes), bytes as usize)?;
        Ok(Rows::from_memory(payload, self.exchange.hidden, data, vec![]).expect("whole rows").elements(0))
    }

    fn rounded(&self, row: &[f32]) -> Vec<u8> {
        Rows::from_values(self.exchange.combine, self.exchange.hidden, row).bytes().into()
    }

    /// Token, ordinal, rows and weights of a received copy.
    fn handle_copy(&mut self, source: usize, slot: usize) -> Result<(i32, Vec<i32>, Vec<f32>), DeviceError> {
        let (k, copy) = (self.k(), self.copy(source, slot));
        Ok((
            self.i32s(self.buffer(B::CopyTokens).offset(4 * copy), 1)?[0],
            self.i32s(self.buffer(B::CopyRows).offset(4 * copy * k as u64), k)?,
            self.f32s(self.buffer(B::CopyWeights).offset(4 * copy * k as u64), k)?,
        ))
    }

    fn combine_send(&mut self, weighting: Weighting) -> Done {
        if self.state.dead.contains(&self.rank) {
            return Ok(());
        }
        let layout = self.exchange.symmetric.clone();
        let counts = self.i32s(self.buffer(B::ReceivedCounts), self.ranks())?;
        for (source, &count) in counts.iter().enumerate() {
            for slot in 0..count as usize {
                let (token, mut rows, weights) = self.handle_copy(source, slot)?;
                let ordinal = self.i32s(self.buffer(B::CopyOrdinals).offset(4 * self.copy(source, slot)), 1)?[0];
                if self.exchange.layout == RowLayout::RankMajor {
                    let first = rows.iter().position(|&row| row >= 0).expect("a copy has a pick here");
                    rows.iter_mut().skip(first + 1).for_each(|row| *row = -1);
                }
                let mut sum: Option<Vec<f32>> = None;
                for (&row, &weight) in rows.iter().zip(&weights).filter(|(row, _)| **row >= 0) {
                    let mut term = self.combine_row(X::ExpertOutput, row as usize)?;
                    if weighting == Weighting::Weighted {
                        term.iter_mut().for_each(|element| *element *= weight);
                    }
                    sum = Some(match sum {
                        None => term,
                        Some(sum) => sum.iter().zip(term).map(|(sum, element)| sum + element).collect(),
                    });
                }
                let bytes = self.rounded(&sum.expect("a copy has a pick here"));
                let j = ordinal as usize;
                let half = (self.epoch() % 2) as usize;
                let places = self.exchange.destinations_max() as usize;
                let place = (half * places + j) * self.exchange.max_tokens as usize + token as usize;
                let to = self.peer(source)?.offset(layout.partials + place as u64 * layout.partial_bytes);
                self.state.store_from(self.rank, to, &bytes)?;
            }
        }
        self.publish(layout.combine_arrival, self.exchange.ctas.into())
    }

    fn reduce(&mut self) -> Done {
        let (layout, ranks) = (self.exchange.symmetric.clone(), self.ranks());
        if !self.wait(layout.combine_arrival, self.epoch(), status::COMBINE_DEADLINE)? {
            return Ok(());
        }
        let (half, places) = ((self.epoch() % 2) as usize, self.exchange.destinations_max() as usize);
        let bytes = self.exchange.row_bytes(self.exchange.combine);
        for token in 0..self.tokens() {
            let slots = self.i32s(self.buffer(B::Slots).offset((4 * token * ranks) as u64), ranks)?;
            let mut sum: Option<Vec<f32>> = None;
            for j in 0..slots.iter().filter(|&&slot| slot >= 0).count() {
                let place = (half * places + j) * self.exchange.max_tokens as usize + token;
                let at =
                    self.address(Argument::Symmetric).offset(layout.partials + place as u64 * layout.partial_bytes);
                let data = self.state.load(at, bytes as usize)?;
                let term = Rows::from_memory(self.exchange.combine, self.exchange.hidden, data, vec![])
                    .expect("whole rows")
                    .elements(0);
                sum = Some(match sum {
                    None => term,
                    Some(sum) => sum.iter().zip(term).map(|(sum, element)| sum + element).collect(),
                });
            }
            let row = self.rounded(&sum.unwrap_or_else(|| vec![0.0; self.exchange.hidden as usize]));
            let to = self.tensor(X::Combined).offset(token as u64 * bytes);
            self.state.store(to, &row)?;
        }
        Ok(())
    }

    fn backward_place(&mut self) -> Done {
        let (k, layout, payload) = (self.k(), self.exchange.symmetric.clone(), self.exchange.combine);
        if !self.wait(layout.dispatch_arrival, self.epoch(), status::DISPATCH_DEADLINE)? {
            return Ok(());
        }
        let bytes = self.exchange.row_bytes(payload);
        let gradients = self.tensor(X::ExpertOutputGradient);
        if matches!(self.exchange.layout, RowLayout::ExpertMajor { .. }) {
            let local = self.exchange.local_experts_max() as usize;
            let counts = self.i32s(self.buffer(B::ExpertCounts), local)?;
            let offsets = self.i32s(self.buffer(B::ExpertOffsets), local + 1)?;
            for (expert, count) in counts.into_iter().enumerate() {
                for padding in offsets[expert] + count..offsets[expert + 1] {
                    self.state.store(gradients.offset(padding as u64 * bytes), &vec![0; bytes as usize])?;
                }
            }
        }
        let counts = self.i32s(self.buffer(B::ReceivedCounts), self.ranks())?;
        for (source, &count) in counts.iter().enumerate() {
            for slot in 0..count as usize {
                let (token, rows, weights) = self.handle_copy(source, slot)?;
                let at = layout.rows + self.slot(source, slot) * layout.row_bytes;
                let data = self.state.load(self.address(Argument::Symmetric).offset(at), bytes as usize)?;
                let gradient = Rows::from_memory(payload, self.exchange.hidden, data.clone(), vec![])
                    .expect("whole rows")
                    .elements(0);
                for (pick, (&row, &weight)) in rows.iter().zip(&weights).enumerate().filter(|(_, (row, _))| **row >= 0)
                {
                    let to = gradients.offset(row as u64 * bytes);
                    if !self.exchange.weighted {
                        self.state.store(to, &data)?;
                        continue;
                    }
                    let weighted: Vec<f32> = gradient.iter().map(|element| weight * element).collect();
                    let weighted = self.rounded(&weighted);
                    self.state.store(to, &weighted)?;
                    let output = self.combine_row(X::ExpertOutput, row as usize)?;
                    let half = (self.epoch() % 2) as usize;
                    let place = (half * self.exchange.max_tokens as usize + token as usize) * k + pick;
                    let home = self.peer(source)?.offset(layout.weight_gradients + 4 * place as u64);
                    self.put_f32s(home, &[weight_gradient(payload, &output, &gradient)])?;
                }
            }
        }
        self.publish(layout.gradient_arrival, self.exchange.ctas.into())
    }

    fn collect(&mut self) -> Done {
        let (k, layout) = (self.k(), self.exchange.symmetric.clone());
        let Value::U64(gradient_epoch) = self.argument(Argument::GradientEpoch) else { panic!("gradient epoch") };
        if !self.wait(layout.gradient_arrival, gradient_epoch, status::GRADIENT_DEADLINE)? {
            return Ok(());
        }
        let half = (self.epoch() % 2) as usize;
        let own = self.address(Argument::Symmetric);
        for token in 0..self.tokens() {
            let picks = self.i32s(self.tensor(X::Indices).offset((4 * token * k) as u64), k)?;
            let at = 4 * ((half * self.exchange.max_tokens as usize + token) * k) as u64;
            let mut gradients = self.f32s(own.offset(layout.weight_gradients + at), k)?;
            for (gradient, pick) in gradients.iter_mut().zip(picks) {
                if !(0..self.exchange.experts as i32).contains(&pick) {
                    *gradient = 0.0;
                }
            }
            self.put_f32s(self.tensor(X::WeightGradients).offset((4 * token * k) as u64), &gradients)?;
        }
        Ok(())
    }

    /// Launches run one after the other here, so that only the last rank can see all the others arrive.
    fn barrier(&mut self) -> Done {
        if !self.state.dead.contains(&self.rank) {
            self.publish(self.exchange.symmetric.barrier_arrival, 1)?;
        }
        if self.rank.0 == self.exchange.ranks - 1 {
            self.wait(self.exchange.symmetric.barrier_arrival, self.epoch(), status::BARRIER_DEADLINE)?;
        }
        Ok(())
    }
}
