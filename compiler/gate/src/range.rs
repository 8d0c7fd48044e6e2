//! The numbers between two ends, and what becomes of them.
//!
//! Invariant: the range of a function's result holds every result that operands of its operands' ranges have.

/// Which elements of a value can be NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nan {
    /// None.
    Never,
    /// All at once, or none.
    All,
    Some,
}

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    pub at: f64,
    /// Whether the number belongs to the range.
    pub reached: bool,
}

/// The numbers between two ends, and NaN. Both zeros are one number here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lower end.
    pub low: End,
    /// The upper end.
    pub high: End,
    /// Which elements can be NaN.
    pub nan: Nan,
}

impl End {
    fn at(at: f64) -> End {
        End { at, reached: true }
    }

    /// The outermost of some ends; those that are equal are reached if one of them is.
    fn outermost(ends: impl IntoIterator<Item = End>, outer: fn(f64, f64) -> bool) -> End {
        let ends = ends.into_iter();
        let both = |a: End, b: End| match () {
            () if a.at == b.at => End { at: a.at, reached: a.reached || b.reached },
            () if outer(a.at, b.at) => a,
            () => b,
        };
        ends.reduce(both).unwrap_or(End::at(0.0))
    }
}

impl Range {
    /// Every number, and no NaN.
    pub const NUMBERS: Range = Range {
        low: End { at: f64::NEG_INFINITY, reached: true },
        high: End { at: f64::INFINITY, reached: true },
        nan: Nan::Never,
    };

    pub const FINITE: Range = Range {
        low: End { at: f64::NEG_INFINITY, reached: false },
        high: End { at: f64::INFINITY, reached: false },
        nan: Nan::Never,
    };

    /// Both ends belong to it.
    pub fn closed(low: f64, high: f64) -> Range {
        Range { low: End::at(low), high: End::at(high), nan: Nan::Never }
    }

    fn of(ends: &[End], nan: Nan) -> Range {
        let ends = || ends.iter().copied();
        Range { low: End::outermost(ends(), |a, b| a < b), high: End::outermost(ends(), |a, b| a > b), nan }
    }

    pub(crate) fn with(self, nan: Nan) -> Range {
        Range { nan: self.nan.max(nan), ..self }
    }

    /// Whether a number can be in it.
    pub fn holds(self, number: f64) -> bool {
        let above = self.low.at < number || (self.low.at == number && self.low.reached);
        above && (number < self.high.at || (number == self.high.at && self.high.reached))
    }

    /// Whether every number of it is above another one.
    pub fn is_above(self, number: f64) -> bool {
        self.low.at > number || (self.low.at == number && !self.low.reached)
    }

    /// Whether it holds an infinity.
    pub fn may_be_infinite(self) -> bool {
        self.holds(f64::INFINITY) || self.holds(f64::NEG_INFINITY)
    }

    /// Numbers of this range or of another one.
    pub fn or(self, other: Range) -> Range {
        Range::of(&[self.low, self.high, other.low, other.high], self.nan.max(other.nan))
    }

    /// Of a function that never falls.
    pub fn rising(self, function: impl Fn(f64) -> f64) -> Range {
        let end = |end: End| End { at: function(end.at), ..end };
        Range { low: end(self.low), high: end(self.high), nan: self.nan }
    }

    /// The part that is at least a number; what is below is NaN.
    pub fn from(self, least: f64) -> Range {
        let nan = if self.low.at < least { Nan::Some } else { Nan::Never };
        let raise = |end: End| if end.at < least { End::at(least) } else { end };
        Range { low: raise(self.low), high: raise(self.high), nan: self.nan }.with(nan)
    }

    /// The larger of its number and another one.
    pub fn at_least(self, least: Range) -> Range {
        let end = |a, b| End::outermost([a, b], |a, b| a > b);
        Range { low: end(self.low, least.low), high: end(self.high, least.high), nan: self.nan.max(least.nan) }
    }

    /// The distance from 0.
    pub fn magnitude(self) -> Range {
        let zero = self.low.at < 0.0 && self.high.at > 0.0;
        let zero = zero.then_some(End::at(0.0));
        let ends = [self.low, self.high].map(|end| End { at: end.at.abs(), ..end });
        Range::of(&ends.into_iter().chain(zero).collect::<Vec<_>>(), self.nan)
    }

    /// −x
    pub fn negative(self) -> Range {
        let end = |end: End| End { at: -end.at, ..end };
        Range { low: end(self.high), high: end(self.low), nan: self.nan }
    }

    /// a + b
    pub fn plus(self, other: Range) -> Range {
        let opposite = |a: Range, b: Range| a.holds(f64::INFINITY) && b.holds(f64::NEG_INFINITY);
        let nan = if opposite(self, other) || opposite(other, self) { Nan::Some } else { Nan::Never };
        let end = |a: End, b: End, or: f64| {
            let at = a.at + b.at;
            // An infinity stays, whatever finite number is added.
            let reached = (a.reached && b.reached) || [a, b].iter().any(|end| end.at.is_infinite() && end.reached);
            if at.is_nan() { End::at(or) } else { End { at, reached } }
        };
        let (low, high) = (end(self.low, other.low, f64::NEG_INFINITY), end(self.high, other.high, f64::INFINITY));
        Range { low, high, nan: self.nan.max(other.nan) }.with(nan)
    }

    /// a × b
    pub fn times(self, other: Range) -> Range {
        let vanishes = |a: Range, b: Range| a.holds(0.0) && b.may_be_infinite();
        let nan = if vanishes(self, other) || vanishes(other, self) { Nan::Some } else { Nan::Never };
        let end = |a: End, b: End| {
            let is_zero = |end: End| end.at == 0.0;
            let reached = (a.reached && b.reached) || [a, b].iter().any(|&end| is_zero(end) && end.reached);
            // Products of what is near 0 and what is large lie between those of the other ends.
            End { at: if is_zero(a) || is_zero(b) { 0.0 } else { a.at * b.at }, reached }
        };
        let pairs = [(self.low, other.low), (self.low, other.high), (self.high, other.low), (self.high, other.high)];
        let ends = pairs.map(|(a, b)| end(a, b));
        Range::of(&ends, self.nan.max(other.nan)).with(nan)
    }

    /// x × x
    pub fn squared(self) -> Range {
        self.magnitude().rising(|x| x * x)
    }

    /// 1 / x; anything where x can have both signs.
    fn reciprocal(self) -> Range {
        let crosses = self.low.at < 0.0 && self.high.at > 0.0;
        if crosses || (self.low.at == 0.0 && self.high.at == 0.0) {
            return Range { nan: self.nan, ..if self.holds(0.0) { Range::NUMBERS } else { Range::FINITE } };
        }
        // Within one sign it falls; the end at 0 is one of ±∞.
        let sign = if self.low.at < 0.0 { -1.0 } else { 1.0 };
        let end = |end: End| {
            let at = if end.at == 0.0 { sign * f64::INFINITY } else { 1.0 / end.at };
            End { at, ..end }
        };
        // In f32 both zeros divide: 1 / −0 is −∞.
        let both = self.holds(0.0).then_some(End::at(-sign * f64::INFINITY));
        let ends: Vec<End> = [end(self.low), end(self.high)].into_iter().chain(both).collect();
        Range::of(&ends, self.nan)
    }

    /// a / b
    pub fn over(self, divisor: Range) -> Range {
        let both = |holds: fn(Range) -> bool| holds(self) && holds(divisor);
        let nan = if both(|range| range.holds(0.0)) || both(Range::may_be_infinite) { Nan::Some } else { Nan::Never };
        // A product would call 0 × (1 / 0) and ∞ × (1 / ∞) NaN as well; other products of those ends there are none.
        let quotient = self.times(divisor.reciprocal());
        Range { nan: self.nan.max(divisor.nan), ..quotient }.with(nan)
    }

    /// The sum of `count` of them.
    pub(crate) fn sum_of(self, count: u32) -> Range {
        let end = |end: End| End { at: end.at * f64::from(count), ..end };
        let nan = if self.holds(f64::INFINITY) && self.holds(f64::NEG_INFINITY) { Nan::Some } else { Nan::Never };
        Range { low: end(self.low), high: end(self.high), nan: self.nan }.with(nan)
    }

    pub(crate) fn without_infinities(self) -> Range {
        let end = |end: End| End { reached: end.reached && end.at.is_finite(), ..end };
        Range { low: end(self.low), high: end(self.high), nan: self.nan }
    }

    /// As f32 rounds it, with limits that are reached.
    pub(crate) fn computed(self) -> Range {
        let end = |end: End| End::at(f64::from(end.at as f32));
        Range { low: end(self.low), high: end(self.high), nan: self.nan }
    }
}
