//! Tokens that cannot be routed, and how a kernel says so.
//!
//! Invariant: the first fault of a token is kept, in the order of [`moe_gate::interpret`]; one token of a launch gets into the status, the
//! first one that reaches it. Noting a fault is a branch that no sound token takes.

use moe_contract::{Fault as Reported, status};

use super::warp::{Distribution, Warp};
use crate::device::{F32, Global, Pointer, Pred, U32, U64, Value, Variable};

/// What is wrong with the token, the same on all its lanes.
pub(super) struct Fault<'k> {
    code: Variable<'k, U32>,
    /// The third and the fourth word of the status.
    details: [Variable<'k, U32>; 2],
}

/// In the place of a detail: nothing is known. It is written as all ones.
const UNKNOWN: u32 = u32::MAX;

impl<'k> Fault<'k> {
    /// Of a token that is sound so far.
    pub fn none(warp: &Warp<'k>) -> Fault<'k> {
        let zero = warp.k.u32(0);
        let variable = || warp.k.variable(zero);
        Fault { code: variable(), details: [variable(), variable()] }
    }

    /// Whether the token has one.
    pub fn found(&self) -> Value<'k, Pred> {
        let code = self.code.get();
        code.differs(code.builder().u32(status::FINE as u32))
    }

    /// Where `condition` holds, the token has this fault, unless it has another one. On all lanes of a token the same.
    fn note(&self, warp: &Warp<'k>, condition: Value<'k, Pred>, fault: Reported, details: [Value<'k, U32>; 2]) {
        let new = condition & !self.found();
        self.code.set(warp.k.u32(fault.code() as u32).when(new, self.code.get()));
        for (variable, detail) in self.details.iter().zip(details) {
            variable.set(detail.when(new, variable.get()));
        }
    }

    /// A NaN in the logits is a fault, at the lowest expert that has one. Gives the logits with 0 in its place.
    pub fn nan_logit(
        &self,
        warp: &Warp<'k>,
        logits: &[Value<'k, F32>],
        over: &Distribution<'k>,
    ) -> Vec<Value<'k, F32>> {
        let k = warp.k;
        let places: Vec<Variable<'k, F32>> = logits.iter().map(|&logit| k.variable(logit)).collect();
        // A place without an element holds the logit of another expert.
        k.when(warp.any_of_warp(some_nan(logits)), || {
            let none = k.u32(u32::MAX);
            let experts = over.existing(|index| logits[index].is_nan()).zip(0..);
            let experts = experts.map(|(nan, index)| (over.first + index).when(nan, none));
            let expert = warp.smallest_id(experts.reduce(|a, b| a.min(b)).expect("a lane has experts"));
            self.note(warp, expert.differs(none), Reported::GateNan, [expert, k.u32(0)]);
            replace_nan(&places);
        });
        places.into_iter().map(Variable::get).collect()
    }

    /// A NaN among these numbers is a fault. Gives the numbers with 0 in its place.
    pub fn nan(&self, warp: &Warp<'k>, numbers: &[Value<'k, F32>], over: &Distribution<'k>) -> Vec<Value<'k, F32>> {
        let k = warp.k;
        let places: Vec<Variable<'k, F32>> = numbers.iter().map(|&number| k.variable(number)).collect();
        k.when(warp.any_of_warp(some_nan(numbers)), || {
            let own = over.existing(|index| numbers[index].is_nan()).reduce(|a, b| a | b);
            let token = warp.any(own.expect("a lane has elements"));
            self.note(warp, token, Reported::GateNan, [k.u32(UNKNOWN), k.u32(0)]);
            replace_nan(&places);
        });
        places.into_iter().map(Variable::get).collect()
    }

    /// A token id without a row in a table is a fault. Gives the row to read instead.
    pub fn token_id(&self, warp: &Warp<'k>, id: Value<'k, U32>, vocabulary: u32) -> Value<'k, U32> {
        let k = warp.k;
        let rows = k.u32(vocabulary);
        let bad = id.at_least(rows);
        k.when(warp.any_of_warp(bad), || {
            self.note(warp, bad, Reported::TokenIdOutOfRange, [rows, id]);
        });
        k.u32(0).when(bad, id)
    }

    /// A pick that is no expert is a fault. Gives an expert to go on with.
    pub fn out_of_range(
        &self,
        warp: &Warp<'k>,
        pick: Value<'k, U32>,
        over: &Distribution<'k>,
        experts: u32,
    ) -> Value<'k, U32> {
        let k = warp.k;
        let bad = pick.at_least(k.u32(experts));
        k.when(warp.any_of_warp(bad), || {
            let none = k.u32(u32::MAX);
            let position = warp.smallest_id(over.first.when(bad, none));
            let value = pick.of_lane(warp.base + position);
            self.note(warp, position.differs(none), Reported::PickOutOfRange, [position, value]);
        });
        k.u32(0).when(bad, pick)
    }

    /// A pick that an earlier one of the token equals is a fault.
    pub fn twice(&self, warp: &Warp<'k>, pick: Value<'k, U32>, repeats: Value<'k, Pred>, over: &Distribution<'k>) {
        let k = warp.k;
        k.when(warp.any_of_warp(repeats), || {
            let none = k.u32(u32::MAX);
            let expert = warp.smallest_id(pick.when(repeats, none));
            let position = warp.smallest_id(over.first.when(repeats & pick.equals(expert), none));
            self.note(warp, expert.differs(none), Reported::PickTwice, [position, expert]);
        });
    }

    /// Writes it to the status of the launch, if that has none.
    pub fn report(
        &self,
        warp: &Warp<'k>,
        token: Value<'k, U32>,
        live: Value<'k, Pred>,
        words: Pointer<'k, Global, U64>,
    ) {
        let k = warp.k;
        let (ok, found) = (k.u64(status::FINE), self.found() & live);
        k.when(warp.any_of_warp(found), || {
            k.when(found & warp.place.equals(k.u32(0)), || {
                let before = words.compare_and_swap_relaxed_sys(ok, self.code.get().wide());
                k.when(before.equals(ok), || {
                    let unknown = k.u32(UNKNOWN);
                    let [first, second] = self.details.map(Variable::get);
                    words.at_constant(1).store(token.wide());
                    words.at_constant(2).store(k.u64(u64::MAX).when(first.equals(unknown), first.wide()));
                    words.at_constant(3).store(second.wide());
                });
            });
        });
    }
}

/// Whether a lane holds a NaN.
fn some_nan<'k>(numbers: &[Value<'k, F32>]) -> Value<'k, Pred> {
    let pair = |pair: &[Value<'k, F32>]| pair[0].either_is_nan(pair[pair.len() - 1]);
    numbers.chunks(2).map(pair).reduce(|a, b| a | b).expect("a lane has elements")
}

/// 0 in the place of NaN, so that a token with a fault still chooses as many experts as any other.
fn replace_nan(places: &[Variable<'_, F32>]) {
    for place in places {
        let number = place.get();
        place.set(number.builder().f32(0.0).when(number.is_nan(), number));
    }
}
