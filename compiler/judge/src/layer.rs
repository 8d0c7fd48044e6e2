//! A whole layer computed directly, in f64, one token at a time: what its result and its gradients *are*, before any format rounds them.
//!
//! Invariant: nothing here knows that tokens travel. There are no ranks that own experts, no copies, no partial sums and no order of
//! addition; it shares no code with [`crate::reference`]. For token x with picks e₁ … `e_K` and weights w₁ … `w_K`
//!
//! * y = Σ wₖ Eₖ(x) where combine or the experts weigh; y = Σ Eₖ(wₖ x) where the weights scale the experts' input;
//! * ∂loss/∂wₖ = ⟨Eₖ(x), g⟩, and ⟨x, Eₖᵀ(g)⟩ where the weights scale the input, with g the gradient of y;
//! * ∂loss/∂x = Σ wₖ Eₖᵀ(g).
//!
//! An expert that computes nothing, and a pick of −1, give nothing. x is the row that the experts read: of a format with scales, what is
//! left of the token after it. Every sum comes with the sum of the magnitudes of its terms, by which rounding is judged.

use moe_contract::{Exchange, ExpertId, RankId};

use crate::experts::{exact, exact_transposed};
use crate::rows::Rows;

/// A sum in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Of the terms.
    pub value: f64,
    /// Of their magnitudes.
    pub magnitude: f64,
    /// The largest magnitude that is stored on the way.
    pub stored: f64,
}

impl Sum {
    /// A row's element and what it becomes when it is weighed; both are stored.
    fn weighed(&mut self, weight: f64, element: f64) {
        let term = weight * element;
        self.term(term);
        self.stored = self.stored.max(element.abs()).max(term.abs());
    }

    /// A term of an inner product of which one side was stored.
    fn product(&mut self, a: f64, stored: f64) {
        self.term(a * stored);
        self.stored = self.stored.max(stored.abs());
    }

    fn term(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
    }
}

/// Where the weights of a layer take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// Combine multiplies an expert's row by its weight.
    Combine,
    /// The experts multiply their output.
    Output,
    /// The experts multiply their input.
    Input,
}

impl Weighing {
    /// That of a layer.
    pub fn of(exchange: &Exchange, before_experts: bool) -> Weighing {
        match before_experts {
            _ if exchange.weighted => Weighing::Combine,
            true => Weighing::Input,
            false => Weighing::Output,
        }
    }
}

/// A layer with its routing and its tokens.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'l> {
    exchange: &'l Exchange,
    weighing: Weighing,
    tokens: &'l [Rows],
    indices: &'l [Vec<i32>],
    weights: &'l [Vec<f32>],
}

/// A pick that an expert computes.
#[derive(Clone, Copy)]
struct Pick {
    /// Among the picks of its token.
    position: usize,
    expert: ExpertId,
    weight: f64,
}

impl<'l> Layer<'l> {
    /// Of tokens in the source format, picks `[tokens, top_k]` and their weights, of every rank.
    ///
    /// # Panics
    /// When there are not as many picks or weights as the tokens have.
    pub fn new(
        exchange: &'l Exchange,
        before_experts: bool,
        tokens: &'l [Rows],
        indices: &'l [Vec<i32>],
        weights: &'l [Vec<f32>],
    ) -> Layer<'l> {
        let picks: Vec<usize> = tokens.iter().map(|rows| rows.count() * exchange.top_k as usize).collect();
        assert_eq!(indices.iter().map(Vec::len).collect::<Vec<_>>(), picks, "picks of every token");
        assert_eq!(weights.iter().map(Vec::len).collect::<Vec<_>>(), picks, "weights of every token");
        Layer { exchange, weighing: Weighing::of(exchange, before_experts), tokens, indices, weights }
    }

    pub fn exchange(&self) -> &'l Exchange {
        self.exchange
    }

    /// Where its weights take part.
    pub fn weighing(&self) -> Weighing {
        self.weighing
    }

    /// Every token, by rank.
    pub fn tokens(&self) -> impl Iterator<Item = (RankId, usize)> + use<'l> {
        let of_rank = |(rank, tokens): (u32, &Rows)| (0..tokens.count()).map(move |token| (RankId(rank), token));
        (0..).zip(self.tokens).flat_map(of_rank)
    }

    /// The row of a token as the experts read it.
    pub fn read(&self, rank: RankId, token: usize) -> Vec<f64> {
        let sent = self.tokens[rank.index()].elements(token);
        let read = match self.exchange.dispatch.source() == self.exchange.dispatch {
            true => sent,
            false => Rows::from_values(self.exchange.dispatch, self.exchange.hidden, &sent).values(0),
        };
        read.into_iter().map(f64::from).collect()
    }

    fn picks(&self, rank: RankId, token: usize) -> impl Iterator<Item = Pick> + use<'l> {
        let (k, experts) = (self.exchange.top_k as usize, self.exchange.experts);
        let range = token * k..(token + 1) * k;
        let (indices, weights) = (&self.indices[rank.index()][range.clone()], &self.weights[rank.index()][range]);
        indices.iter().zip(weights).enumerate().filter_map(move |(position, (&index, &weight))| {
            let expert = u32::try_from(index).ok().filter(|&expert| expert < experts)?;
            Some(Pick { position, expert: ExpertId(expert), weight: weight.into() })
        })
    }

    /// The largest magnitude of a weight that takes part in a token's result.
    pub fn largest_weight(&self, rank: RankId, token: usize) -> f64 {
        self.picks(rank, token).map(|pick| pick.weight.abs()).fold(0.0, f64::max)
    }

    /// The result of a token.
    pub fn result(&self, rank: RankId, token: usize) -> Vec<Sum> {
        let x = self.read(rank, token);
        let mut sums = vec![Sum::default(); x.len()];
        for Pick { expert, weight, .. } in self.picks(rank, token) {
            if self.weighing == Weighing::Input {
                let scaled: Vec<f64> = x.iter().map(|x| weight * x).collect();
                sums.iter_mut().zip(exact(expert, &scaled)).for_each(|(sum, output)| sum.weighed(1.0, output));
            } else {
                sums.iter_mut().zip(exact(expert, &x)).for_each(|(sum, output)| sum.weighed(weight, output));
            }
        }
        sums
    }

    /// ∂loss/∂w of the picks of a token, given the gradient of its result.
    pub fn weight_gradients(&self, rank: RankId, token: usize, gradient: &[f64]) -> Vec<Sum> {
        let x = self.read(rank, token);
        let mut sums = vec![Sum::default(); self.exchange.top_k as usize];
        for Pick { position, expert, .. } in self.picks(rank, token) {
            let mut product = |a: &[f64], stored: &[f64]| {
                a.iter().zip(stored).for_each(|(a, stored)| sums[position].product(*a, *stored));
            };
            match self.weighing {
                Weighing::Input => product(&x, &exact_transposed(expert, gradient)),
                _ => product(gradient, &exact(expert, &x)),
            }
        }
        sums
    }

    /// ∂loss/∂x of a token, given the gradient of its result.
    pub fn token_gradient(&self, rank: RankId, token: usize, gradient: &[f64]) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); gradient.len()];
        for Pick { expert, weight, .. } in self.picks(rank, token) {
            let of_input = exact_transposed(expert, gradient);
            sums.iter_mut().zip(of_input).for_each(|(sum, gradient)| sum.weighed(weight, gradient));
        }
        sums
    }
}
