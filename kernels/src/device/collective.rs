//! What a thread is, and what a warp or a CTA does together. All as LLVM intrinsics: they are convergent.

use melior::ir::attribute::DenseI64ArrayAttribute;
use melior::ir::{Identifier, Type};

use super::Builder;
use super::value::{Element, F32, Pred, U32, U64, Value};

const ALL_LANES: u32 = u32::MAX;

impl Builder {
    fn register(&self, name: &str) -> Value<'_, U32> {
        let raw = self.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], Some(U32::mlir(self.context())));
        Value::new(self, raw.expect("it has a result"))
    }

    /// Index of the thread in its CTA.
    pub fn thread(&self) -> Value<'_, U32> {
        self.register("tid.x")
    }

    /// Index of the CTA.
    pub fn cta(&self) -> Value<'_, U32> {
        self.register("ctaid.x")
    }

    pub fn ctas(&self) -> Value<'_, U32> {
        self.register("nctaid.x")
    }

    /// Index of the thread in its warp (CTAs are one-dimensional).
    pub fn lane(&self) -> Value<'_, U32> {
        self.thread() & 31
    }

    /// Index of the warp in its CTA.
    pub fn warp(&self) -> Value<'_, U32> {
        self.thread() >> 5
    }

    /// Nanoseconds.
    pub fn global_timer(&self) -> Value<'_, U64> {
        let raw = self.inline("mov.u64 $0, %globaltimer;", "=l,~{memory}", &[], Some(U64::mlir(self.context())));
        Value::new(self, raw.expect("it has a result"))
    }

    /// All threads of the CTA have arrived; what they wrote before is visible to all of them after.
    pub fn cta_barrier(&self) {
        let zero = self.integer(32, 0);
        self.intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", &[zero], None);
    }

    /// Whether `condition` holds in any thread of the CTA; a [`Builder::cta_barrier`] as well.
    pub fn cta_any<'k>(&'k self, condition: Value<'k, Pred>) -> Value<'k, Pred> {
        let zero = self.integer(32, 0);
        let truth = Some(Pred::mlir(self.context()));
        let raw = self.intrinsic("llvm.nvvm.barrier.cta.red.or.aligned.all", &[zero, condition.raw], truth);
        Value::new(self, raw.expect("it has a result"))
    }

    /// Lets other threads run for about so many nanoseconds.
    pub fn pause(&self, nanoseconds: u32) {
        let time = self.u32(nanoseconds);
        self.inline("nanosleep.u32 $0;", "r,~{memory}", &[time.raw], None);
    }

    /// Holds in one lane of the warp, the same one each time. All lanes run it.
    pub fn elected(&self) -> Value<'_, Pred> {
        let all = self.u32(ALL_LANES);
        let pair = Type::parse(self.context(), "!llvm.struct<(i32, i1)>").expect("a struct of known types");
        let raw = self.intrinsic("llvm.nvvm.elect.sync", &[all.raw], Some(pair)).expect("it has a result");
        let place =
            (Identifier::new(self.context(), "position"), DenseI64ArrayAttribute::new(self.context(), &[1]).into());
        let extract = self.operation("llvm.extractvalue", &[raw], Some(Pred::mlir(self.context())));
        Value::new(self, self.result(extract.add_attributes(&[place])))
    }

    /// All lanes have arrived; what they wrote before is visible to all of them after.
    pub fn warp_barrier(&self) {
        let all = self.u32(ALL_LANES);
        self.intrinsic("llvm.nvvm.bar.warp.sync", &[all.raw], None);
    }

    /// A bit for each lane where `condition` holds.
    pub fn ballot<'k>(&'k self, condition: Value<'k, Pred>) -> Value<'k, U32> {
        let all = self.u32(ALL_LANES);
        let word = Some(U32::mlir(self.context()));
        let raw = self.intrinsic("llvm.nvvm.vote.ballot.sync", &[all.raw, condition.raw], word);
        Value::new(self, raw.expect("it has a result"))
    }

    /// Lanes below this one, as bits.
    pub fn lanes_below(&self) -> Value<'_, U32> {
        (self.u32(1) << self.lane()) - 1
    }

    fn shuffle<'k>(&'k self, kind: &str, value: Value<'k, U32>, by: Value<'k, U32>, clamp: u32) -> Value<'k, U32> {
        let (all, clamp) = (self.u32(ALL_LANES), self.u32(clamp));
        let word = Some(U32::mlir(self.context()));
        let operands = [all.raw, value.raw, by.raw, clamp.raw];
        let raw = self.intrinsic(&format!("llvm.nvvm.shfl.sync.{kind}.i32"), &operands, word);
        Value::new(self, raw.expect("it has a result"))
    }
}

impl<'k> Value<'k, U32> {
    /// The value of the lane whose number differs in the bits of `distance`.
    pub fn of_lane_xor(self, distance: u32) -> Value<'k, U32> {
        self.builder.shuffle("bfly", self, self.builder.u32(distance), 31)
    }

    /// The value of a lane.
    pub fn of_lane(self, lane: Value<'k, U32>) -> Value<'k, U32> {
        self.builder.shuffle("idx", self, lane, 31)
    }

    /// The value of the lane `distance` below; the lane's own value where there is none.
    pub fn of_lane_below(self, distance: u32) -> Value<'k, U32> {
        self.builder.shuffle("up", self, self.builder.u32(distance), 0)
    }

    /// A bit for each lane that has the same value.
    pub fn same_lanes(self) -> Value<'k, U32> {
        let all = self.builder.u32(ALL_LANES);
        let word = Some(U32::mlir(self.builder.context()));
        let raw = self.builder.intrinsic("llvm.nvvm.match.any.sync.i32", &[all.raw, self.raw], word);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// The largest value of the warp.
    pub fn warp_max(self) -> Value<'k, U32> {
        let all = self.builder.u32(ALL_LANES);
        let word = Some(U32::mlir(self.builder.context()));
        let raw = self.builder.intrinsic("llvm.nvvm.redux.sync.umax", &[self.raw, all.raw], word);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// The sum of the warp.
    pub fn warp_sum(self) -> Value<'k, U32> {
        let all = self.builder.u32(ALL_LANES);
        let word = Some(U32::mlir(self.builder.context()));
        let raw = self.builder.intrinsic("llvm.nvvm.redux.sync.add", &[self.raw, all.raw], word);
        Value::new(self.builder, raw.expect("it has a result"))
    }
}

impl<'k> Value<'k, U64> {
    /// The value of a lane.
    pub fn of_lane(self, lane: Value<'k, U32>) -> Value<'k, U64> {
        let low = self.low_word().of_lane(lane).wide();
        let high = (self >> 32).low_word().of_lane(lane).wide();
        low | (high << 32)
    }
}

impl<'k> Value<'k, F32> {
    /// The value of the lane whose number differs in the bits of `distance`.
    pub fn of_lane_xor(self, distance: u32) -> Value<'k, F32> {
        self.bits().of_lane_xor(distance).bits_to_f32()
    }

    /// The value of a lane.
    pub fn of_lane(self, lane: Value<'k, U32>) -> Value<'k, F32> {
        self.bits().of_lane(lane).bits_to_f32()
    }
}
