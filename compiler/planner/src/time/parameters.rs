//! Numbers that a calibration adjusts.

use super::{Call, Direction};

/// What is plausible without a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// The middle.
    pub value: f64,
    /// Standard deviation of the logarithm: with 0.7, anything from half to twice the value.
    pub spread: f64,
}

/// Something made of positive numbers.
pub trait Parameters: Copy + Default {
    /// Shows every number and its prior, always in the same order.
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior));

    /// All numbers as their priors say.
    fn expected() -> Self {
        let mut parameters = Self::default();
        parameters.each(&mut |number, prior| *number = prior.value);
        parameters
    }

    fn numbers(mut self) -> Vec<f64> {
        let mut numbers = Vec::new();
        self.each(&mut |number, _| numbers.push(*number));
        numbers
    }

    /// The same with other numbers.
    fn with(mut self, numbers: &[f64]) -> Self {
        let mut numbers = numbers.iter();
        self.each(&mut |number, _| *number = numbers.next().copied().unwrap_or(*number));
        self
    }

    /// How wide the priors are.
    fn spreads() -> Vec<f64> {
        let mut spreads = Vec::new();
        Self::default().each(&mut |_, prior| spreads.push(prior.spread));
        spreads
    }
}

impl<P: Parameters> Parameters for [P; 2]
where
    [P; 2]: Default,
{
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        self.iter_mut().for_each(|one| one.each(visit));
    }
}

/// Parameters that say how long calls of both directions take.
pub trait Model: Parameters {
    /// The time of a call, in us.
    fn time(&self, direction: Direction, call: &Call) -> f64;
}
