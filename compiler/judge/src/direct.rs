//! What is expected against the layer computed directly: near enough that nothing but rounding can be between them.
//!
//! The bounds are sums of the errors of every rounding on the way. With u the unit roundoff of the combine format and v = 2⁻²⁴ that of
//! f32, a row passes at most four roundings to the format (in the experts, in a partial sum, in the last sum; backward also where it is
//! weighed) and, in f32, two products in the experts, one with its weight, and at most K + K additions.

use moe_contract::{Element, RankId};

use crate::check::Check;
use crate::given::GivenBackward;
use crate::layer::{Layer, Sum, Weighing};
use crate::rows::Rows;

const AGAINST: &str = "the whole layer computed directly, in f64";

/// Unit roundoff of f32.
const V: f64 = 1.0 / (1 << 24) as f64;

/// How a format rounds.
#[derive(Clone, Copy)]
struct Rounding {
    name: &'static str,
    /// Half a step, relative to the number.
    unit: f64,
    /// Half of the smallest step.
    smallest: f64,
    largest: f64,
}

impl Rounding {
    fn of(element: Element) -> Rounding {
        match element {
            Element::Bf16 => {
                Rounding { name: "bf16", unit: 2f64.powi(-8), smallest: 2f64.powi(-134), largest: 3.38e38 }
            }
            Element::F16 => Rounding { name: "f16", unit: 2f64.powi(-11), smallest: 2f64.powi(-25), largest: 65504.0 },
            // Combine has no scales: a limit of the exchange.
            Element::F32 | Element::E4m3 | Element::E2m1 => {
                Rounding { name: "f32", unit: V, smallest: 2f64.powi(-150), largest: f32::MAX.into() }
            }
        }
    }
}

/// How far what is found may be from a sum.
struct Bound {
    /// Of the magnitude of the sum.
    relative: f64,
    absolute: f64,
    /// What is stored on the way may be at most this: beyond it the format has no numbers, and nothing is compared.
    stored: f64,
    sum: f64,
}

/// One quantity on all ranks.
struct Comparison {
    check: Check,
    worst: f64,
}

impl Comparison {
    fn new(what: &str, rounding: Rounding) -> Comparison {
        let criterion = format!("within the roundings to {}", rounding.name);
        Comparison { check: Check::new(what, AGAINST, criterion), worst: 0.0 }
    }

    fn number(&mut self, place: impl FnOnce() -> String, found: f32, sum: Sum, bound: &Bound) {
        if !sum.magnitude.is_finite() {
            // An infinity or a NaN takes part: it does not go away.
            self.check.compared += 1;
            if found.is_finite() {
                self.check.differ(place(), found.to_string(), sum.value.to_string());
            }
            return;
        }
        if sum.stored > bound.stored || sum.magnitude > bound.sum {
            return;
        }
        self.check.compared += 1;
        let allowed = bound.relative * sum.magnitude + bound.absolute;
        let error = (f64::from(found) - sum.value).abs();
        // A NaN is no error that is small enough.
        if error.is_nan() || error > allowed {
            self.check.differ(place(), found.to_string(), format!("{} ± {allowed:e}", sum.value));
        } else if error > 0.0 {
            self.worst = self.worst.max(error / allowed);
        }
    }

    fn row(&mut self, rank: RankId, token: usize, found: &Rows, sums: &[Sum], bound: &Bound) {
        for (element, (found, &sum)) in found.elements(token).into_iter().zip(sums).enumerate() {
            self.number(|| format!("{rank}, token {token}, element {element}"), found, sum, bound);
        }
    }

    fn done(mut self) -> Check {
        self.check.figure = Some(format!("within the bound, {:.1} % of it at most", self.worst * 100.0));
        self.check
    }
}

/// A backward pass: the gradients that it was given and those that it must give.
pub(crate) struct Backward<'a> {
    pub given: &'a GivenBackward,
    /// `[tokens, top_k]` of each rank.
    pub weights: &'a [Vec<f32>],
    pub tokens: &'a [Rows],
}

/// The result, and where there is a backward pass the gradients of weights and of tokens.
pub(crate) fn checks(layer: &Layer, combined: &[Rows], backward: Option<&Backward<'_>>) -> Vec<Check> {
    let exchange = layer.exchange();
    let rounding = Rounding::of(exchange.combine.element);
    let k = f64::from(exchange.top_k);
    let additions = (2.0 * k + 4.0) * V;
    // Each rounding to the format may lose half of its smallest step, and a weight multiplies what was lost before it.
    let lost = |weights: f64| rounding.smallest * (4.0 * k * (1.0 + weights) + 4.0);
    // The products of errors with each other are below a tenth of their sum.
    let bound = |roundings: f64, weights: f64| Bound {
        relative: 1.1 * (roundings * rounding.unit + additions),
        absolute: lost(weights),
        stored: rounding.largest / 4.0,
        sum: rounding.largest / 4.0,
    };

    let mut result = Comparison::new("combined result, as expected", rounding);
    let mut of_weights = Comparison::new("gradient of weights, as expected", rounding);
    let mut of_tokens = Comparison::new("gradient of tokens, as expected", rounding);
    for (rank, token) in layer.tokens() {
        let weights = layer.largest_weight(rank, token);
        result.row(rank, token, &combined[rank.index()], &layer.result(rank, token), &bound(3.0, weights));
        let Some(backward) = backward else { continue };
        let gradient: Vec<f64> =
            backward.given.combined[rank.index()].elements(token).into_iter().map(f64::from).collect();
        let sums = layer.token_gradient(rank, token, &gradient);
        of_tokens.row(rank, token, &backward.tokens[rank.index()], &sums, &bound(4.0, weights));
        // One lane of 32 adds its elements, then five lanes; what combine multiplied was rounded to the format before. The experts
        // add in f64.
        let (roundings, additions) = match layer.weighing() {
            Weighing::Combine => (1.0, gradient.len() as f64 / 32.0 + 16.0),
            Weighing::Input | Weighing::Output => (0.0, 4.0),
        };
        let bound = Bound {
            relative: 1.1 * (roundings * rounding.unit + additions * V),
            absolute: gradient.iter().map(|gradient| rounding.smallest * gradient.abs()).sum::<f64>()
                + gradient.len() as f64 * 2f64.powi(-149),
            stored: rounding.largest / 4.0,
            sum: f64::from(f32::MAX) / 4.0,
        };
        let (found, k) = (&backward.weights[rank.index()], exchange.top_k as usize);
        let sums = layer.weight_gradients(rank, token, &gradient);
        for (pick, (&found, &sum)) in found[token * k..(token + 1) * k].iter().zip(&sums).enumerate() {
            of_weights.number(|| format!("{rank}, token {token}, pick {pick}"), found, sum, &bound);
        }
    }
    [result, of_weights, of_tokens].into_iter().map(Comparison::done).filter(Check::says_something).collect()
}
