//! Dispatch: which token goes where, and which row it becomes there.

use std::ops::Range;

use moe_contract::{Exchange, Padding, RankId, RowLayout};

use crate::rows::Rows;

/// What one rank passes to dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// `[tokens, hidden]` in the source format.
    pub tokens: Rows,
    /// `[tokens, top_k]`, ascending, −1 for none.
    pub indices: Vec<i32>,
    /// `[tokens, top_k]`
    pub weights: Vec<f32>,
}

/// A token at one of its destinations.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Where it comes from.
    pub source: RankId,
    /// Which token of the source.
    pub token: usize,
    /// Place of this rank among the token's destinations, in ascending rank order.
    pub ordinal: usize,
    /// Global ids, −1 for none.
    pub picks: Vec<i32>,
    /// Of the picks.
    pub weights: Vec<f32>,
    /// Row of the experts' input for each pick; `None` for a pick that is not of this rank.
    pub rows: Vec<Option<usize>>,
}

/// What one rank keeps of a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Handle {
    pub rank: RankId,
    /// Tokens of this rank.
    pub tokens: usize,
    /// Picks of this rank's tokens, as they were passed.
    pub indices: Vec<i32>,
    /// `[tokens][ranks]`: place of the token among those that go to that rank.
    pub slots: Vec<Option<usize>>,
    /// Tokens that go to each rank.
    pub send_counts: Vec<usize>,
    /// Received copies by (source, slot).
    pub copies: Vec<Copy>,
    /// Picks of each local expert: its rows without padding, where rows are by expert. As many entries as the rank with most experts has.
    pub expert_counts: Vec<usize>,
    /// First row of each local expert, and the number of rows at the end; empty in a rank-major layout.
    pub expert_offsets: Vec<usize>,
    /// Rows of the experts' input, padding included.
    pub rows: usize,
    /// Those of them that are written, ascending; the others may hold anything.
    pub written: Vec<Range<usize>>,
}

impl Handle {
    /// Copies received from each source.
    pub fn received_counts(&self, exchange: &Exchange) -> Vec<usize> {
        let from = |rank| self.copies.iter().filter(|copy| copy.source == RankId(rank)).count();
        (0..exchange.ranks).map(from).collect()
    }

    /// [`RowLayout::RankMajor`]: local expert of each pick of each row, −1 for "not here".
    pub fn row_picks(&self, exchange: &Exchange) -> Vec<i32> {
        let here = exchange.experts_of(self.rank.0);
        let local = |&pick: &i32| match u32::try_from(pick) {
            Ok(expert) if here.contains(&expert) => (expert - here.start) as i32,
            _ => -1,
        };
        self.copies.iter().flat_map(|copy| copy.picks.iter().map(local)).collect()
    }
}

/// A pick that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rank}, token {token}, pick {position}: {problem}")]
pub struct PickError {
    /// Whose token.
    pub rank: RankId,
    pub token: usize,
    /// Which of its picks.
    pub position: usize,
    pub problem: PickProblem,
}

/// What is wrong with a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickProblem {
    /// Neither an expert nor −1.
    #[error("{0} is not an expert")]
    NoExpert(i32),
    /// The token has picked it before.
    #[error("expert {0} is picked twice")]
    Twice(i32),
}

/// Dispatch on all ranks: what each keeps, and its experts' input.
///
/// # Errors
/// The first pick that cannot be.
///
/// # Panics
/// When there is not one input per rank.
pub fn dispatch(exchange: &Exchange, inputs: &[Input]) -> Result<Vec<(Handle, Rows)>, PickError> {
    assert_eq!(inputs.len(), exchange.ranks as usize, "one input per rank");
    for (rank, input) in (0..).map(RankId).zip(inputs) {
        check_picks(exchange, rank, &input.indices)?;
    }
    let handles: Vec<Handle> = (0..exchange.ranks).map(|rank| handle(exchange, RankId(rank), inputs)).collect();
    let tokens: Vec<&Rows> = inputs.iter().map(|input| &input.tokens).collect();
    let rows = dispatch_cached(exchange, &handles, &tokens);
    Ok(handles.into_iter().zip(rows).collect())
}

/// Dispatch of other tokens with the routing of handles: the experts' input of each rank.
///
/// # Panics
/// When there are not as many tokens as the handles were made for.
pub fn dispatch_cached(exchange: &Exchange, handles: &[Handle], tokens: &[&Rows]) -> Vec<Rows> {
    // A row is converted once, at its source.
    let sent: Vec<Rows> = tokens
        .iter()
        .map(|tokens| {
            assert_eq!(tokens.format(), exchange.dispatch.source(), "tokens in the source format");
            if exchange.dispatch == tokens.format() {
                return (*tokens).clone();
            }
            let mut converted = Rows::zeros(exchange.dispatch, exchange.hidden, tokens.count());
            (0..tokens.count()).for_each(|token| converted.set(token, &tokens.elements(token)));
            converted
        })
        .collect();
    let place = |handle: &Handle| {
        let mut input = Rows::zeros(exchange.dispatch, exchange.hidden, handle.rows);
        for copy in &handle.copies {
            for &row in copy.rows.iter().flatten() {
                input.copy(row, &sent[copy.source.index()], copy.token);
            }
        }
        input
    };
    handles.iter().map(place).collect()
}

fn check_picks(exchange: &Exchange, rank: RankId, indices: &[i32]) -> Result<(), PickError> {
    let experts = (exchange.experts + exchange.zero_experts) as i32;
    for (token, picks) in indices.chunks(exchange.top_k as usize).enumerate() {
        for (position, &pick) in picks.iter().enumerate() {
            let error = |problem| Err(PickError { rank, token, position, problem });
            if !(-1..experts).contains(&pick) {
                return error(PickProblem::NoExpert(pick));
            }
            if pick >= 0 && picks[..position].contains(&pick) {
                return error(PickProblem::Twice(pick));
            }
        }
    }
    Ok(())
}

/// The ranks that own a picked expert, ascending, each once.
fn destinations(exchange: &Exchange, picks: &[i32]) -> Vec<RankId> {
    let owns = |rank: &u32| picks.iter().any(|&pick| pick >= 0 && exchange.experts_of(*rank).contains(&(pick as u32)));
    (0..exchange.ranks).filter(owns).map(RankId).collect()
}

fn handle(exchange: &Exchange, rank: RankId, inputs: &[Input]) -> Handle {
    let k = exchange.top_k as usize;
    let indices = inputs[rank.index()].indices.clone();
    let mut send_counts = vec![0; exchange.ranks as usize];
    let mut slots = Vec::new();
    for picks in indices.chunks(k) {
        let destinations = destinations(exchange, picks);
        for to in (0..exchange.ranks).map(RankId) {
            slots.push(destinations.contains(&to).then(|| {
                send_counts[to.index()] += 1;
                send_counts[to.index()] - 1
            }));
        }
    }
    let mut copies = Vec::new();
    for (source, input) in (0..).map(RankId).zip(inputs) {
        for (token, (picks, weights)) in input.indices.chunks(k).zip(input.weights.chunks(k)).enumerate() {
            let destinations = destinations(exchange, picks);
            if let Some(ordinal) = destinations.iter().position(|&to| to == rank) {
                let (picks, weights, rows) = (picks.to_vec(), weights.to_vec(), vec![None; k]);
                copies.push(Copy { source, token, ordinal, picks, weights, rows });
            }
        }
    }
    let mut handle = Handle {
        rank,
        tokens: indices.len() / k,
        indices,
        slots,
        send_counts,
        copies,
        expert_counts: vec![],
        expert_offsets: vec![],
        rows: 0,
        written: vec![],
    };
    assign_rows(exchange, &mut handle);
    handle
}

/// Gives every local pick of every copy its row.
fn assign_rows(exchange: &Exchange, handle: &mut Handle) {
    let first = exchange.experts_of(handle.rank.0).start;
    let here = exchange.experts_of(handle.rank.0);
    for local in 0..exchange.local_experts_max() {
        let expert = first + local;
        let (start, mut count) = (handle.rows, 0);
        for (position, copy) in handle.copies.iter_mut().enumerate() {
            let picked = copy.picks.iter().position(|&pick| here.contains(&expert) && pick == expert as i32);
            if let Some(pick) = picked {
                copy.rows[pick] = Some(match exchange.layout {
                    RowLayout::RankMajor => position,
                    RowLayout::ExpertMajor { .. } | RowLayout::Batched => start + count,
                });
                count += 1;
            }
        }
        handle.expert_counts.push(count);
        match exchange.layout {
            RowLayout::RankMajor => {}
            RowLayout::ExpertMajor { align, padding } => {
                handle.expert_offsets.push(start);
                if padding == Padding::Any {
                    handle.written.push(start..start + count);
                }
                handle.rows = (start + count).next_multiple_of(align as usize);
            }
            RowLayout::Batched => {
                handle.expert_offsets.push(start);
                handle.written.push(start..start + count);
                // Every token of every rank may pick the expert.
                handle.rows = start + (exchange.ranks * exchange.max_tokens) as usize;
            }
        }
    }
    match exchange.layout {
        RowLayout::RankMajor => {
            handle.rows = handle.copies.len();
            handle.written.push(0..handle.rows);
        }
        RowLayout::ExpertMajor { padding, .. } => {
            handle.expert_offsets.push(handle.rows);
            if padding == Padding::Zero {
                handle.written.push(0..handle.rows);
            }
        }
        RowLayout::Batched => handle.expert_offsets.push(handle.rows),
    }
}
