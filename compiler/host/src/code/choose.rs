//! Selecting the largest: which positions hold the k largest keys, ascending, ties to the lowest.
//!
//! Nothing is sorted. A *threshold* that at least k keys reach is the k-th largest of the maxima of a few buckets, by counting for each
//! maximum how many are larger: no branches, and hardly more than k keys reach it. Those are written down in ascending position, and
//! the exact k-th largest of them is found in the same way. If many keys reach the threshold (ties), bisection over the bits of a key
//! finds it instead.
//!
//! Keys hold no NaN, and −∞ in the padding.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use moe_gate::math::Arithmetic;

use super::emit::{Address, Emitter, Step};
use super::layout::{LANES, Layout, NUMBER, REGISTER};

/// Picks up to which the k-th largest is found by counting: its code grows with the square.
const MOST_COUNTED: u32 = 32;
/// Registers of a word of the bitmap.
const WORD_REGISTERS: u32 = 16;

/// Numbers that a list of `count` ids takes in memory.
pub(crate) fn list_bytes(count: u32) -> u32 {
    // One more: code without branches writes beyond the last one.
    (count + 1) * NUMBER
}

/// Keys that reach the threshold, in ascending position.
struct Candidates {
    /// i32 each.
    positions: Address,
    /// f32 each.
    keys: Address,
    count: Value,
}

impl Emitter<'_> {
    /// Writes the positions of the `count` largest of `keys` to `list`.
    pub(crate) fn choose(&mut self, keys: Address, layout: Layout, count: u32, list: Address) {
        let registers = layout.registers();
        // Twice as many buckets as picks.
        let buckets = (2 * count).div_ceil(LANES);
        let is_counted = count <= MOST_COUNTED;
        let is_exact = is_counted && registers <= buckets.max(2);
        let threshold = if is_exact {
            let all: Vec<Value> = (0..registers).map(|n| self.load(keys, Step::of(n * REGISTER))).collect();
            self.kth_largest(&all, count)
        } else if is_counted {
            let maxima = self.bucket_maxima(keys, registers, buckets);
            self.kth_largest(&maxima, count)
        } else {
            self.float(f32::NEG_INFINITY)
        };
        let filled = if is_counted { buckets } else { 0 };
        let candidates = self.candidates(keys, layout, threshold, filled);
        let exact =
            if is_exact { self.first_lane(threshold) } else { self.refine(&candidates, threshold, count, filled) };
        self.take(&candidates, exact, count, list);
    }

    /// The maxima of `buckets × 4` disjoint sets of keys.
    fn bucket_maxima(&mut self, keys: Address, registers: u32, buckets: u32) -> Vec<Value> {
        let maxima: Vec<_> = (0..buckets).map(|_| self.register(f32::NEG_INFINITY)).collect();
        let rounds = registers / buckets;
        let take = |e: &mut Self, bucket: u32, step: Step| {
            let key = e.load(keys, step);
            e.update(maxima[bucket as usize], |e, old| e.larger(key, old));
        };
        self.repeat(rounds, buckets * REGISTER, 1, &mut |e, step| {
            for bucket in 0..buckets {
                let step = Step { fixed: step.fixed + (bucket * REGISTER) as i32, ..step };
                take(e, bucket, step);
            }
        });
        (rounds * buckets..registers).for_each(|n| take(self, n % buckets, Step::of(n * REGISTER)));
        maxima.into_iter().map(|maximum| self.b.use_var(maximum)).collect()
    }

    /// The `count`-th largest of all lanes, in all lanes: the smallest of those to which fewer than `count` are larger.
    fn kth_largest(&mut self, registers: &[Value], count: u32) -> Value {
        let rotations = [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]];
        let rotated: Vec<Value> = registers
            .iter()
            .flat_map(|&register| rotations.map(|lanes| self.shuffle(register, register, lanes)))
            .collect();
        let limit = self.integer(-(count as i32));
        let mut smallest = self.float(f32::INFINITY);
        let infinity = smallest;
        for &register in registers {
            // A mask is −1 in each lane where it holds.
            let mut larger = self.integer(0);
            for &other in &rotated {
                let is_larger = self.compare(FloatCC::LessThan, register, other);
                larger = self.b.ins().iadd(larger, is_larger);
            }
            let is_among = self.b.ins().icmp(IntCC::SignedGreaterThan, larger, limit);
            let number = self.select(is_among, register, infinity);
            smallest = self.smaller(number, smallest);
        }
        self.across(smallest, Self::smaller)
    }

    /// All keys that reach the threshold. The first `filled` registers of keys are −∞ where there are fewer.
    fn candidates(&mut self, keys: Address, layout: Layout, threshold: Value, filled: u32) -> Candidates {
        let most = (layout.registers().max(filled)) * REGISTER;
        let found = Candidates { positions: self.allocate(most), keys: self.allocate(most), count: threshold };
        let lowest = self.float(f32::NEG_INFINITY);
        (0..filled).for_each(|n| self.store(lowest, found.keys, Step::of(n * REGISTER)));
        let next = self.counter(0);
        let registers = layout.registers();
        let word = |e: &mut Self, step: Step, number: Option<u32>, registers: u32| {
            let mut bits = e.bits_of_word(keys, step, threshold, registers);
            if let Some(number) = number {
                let elements = layout.elements_of_word(number) as i64;
                let elements = e.index(elements);
                bits = e.b.ins().band(bits, elements);
            }
            let word_keys = e.address(keys, step);
            let first = match step.running {
                Some(running) => {
                    let number = e.b.ins().ushr_imm_u(running, 2);
                    e.b.ins().iadd_imm_s(number, i64::from(step.fixed / 4))
                }
                None => e.index(i64::from(step.fixed / 4)),
            };
            e.each_bit(bits, &mut |e, bit| {
                let distance = e.element(bit);
                let key = e.load_as(types::F32, word_keys, distance);
                let position = e.b.ins().iadd(first, bit);
                let position = e.b.ins().ireduce(types::I32, position);
                let place = e.b.use_var(next);
                let distance = e.element(place);
                e.store(position, found.positions, distance);
                e.store(key, found.keys, distance);
                let place = e.b.ins().iadd_imm_s(place, 1);
                e.b.def_var(next, place);
            });
        };
        let word_bytes = WORD_REGISTERS * REGISTER;
        let (whole, rest) = (registers / WORD_REGISTERS, registers % WORD_REGISTERS);
        if layout.tail() == 0 {
            self.repeat(whole, word_bytes, 1, &mut |e, step| word(e, step, None, WORD_REGISTERS));
        } else {
            (0..whole).for_each(|n| word(self, Step::of(n * word_bytes), Some(n), WORD_REGISTERS));
        }
        if rest > 0 {
            let number = (layout.tail() > 0).then_some(whole);
            word(self, Step::of(whole * word_bytes), number, rest);
        }
        Candidates { count: self.b.use_var(next), ..found }
    }

    /// A bit for each of up to 64 keys: whether it reaches the threshold.
    fn bits_of_word(&mut self, keys: Address, step: Step, threshold: Value, registers: u32) -> Value {
        let mut bits = None;
        for sixteen in 0..registers.div_ceil(4) {
            let masks: Vec<Value> = (0..4)
                .map(|n| {
                    let register = sixteen * 4 + n;
                    if register >= registers {
                        return self.integer(0);
                    }
                    let step = Step { fixed: step.fixed + (register * REGISTER) as i32, ..step };
                    let key = self.load(keys, step);
                    self.compare(FloatCC::LessThanOrEqual, threshold, key)
                })
                .collect();
            let low = self.b.ins().snarrow(masks[0], masks[1]);
            let high = self.b.ins().snarrow(masks[2], masks[3]);
            let bytes = self.b.ins().snarrow(low, high);
            let part = self.b.ins().vhigh_bits(types::I32, bytes);
            let part = self.b.ins().uextend(types::I64, part);
            let part = self.b.ins().ishl_imm_u(part, i64::from(16 * sixteen));
            bits = Some(match bits {
                Some(bits) => self.b.ins().bor(bits, part),
                None => part,
            });
        }
        bits.unwrap_or_else(|| self.index(0))
    }

    /// Runs `body` for each bit that is set, ascending.
    pub(crate) fn each_bit(&mut self, bits: Value, body: &mut dyn FnMut(&mut Self, Value)) {
        let left = self.b.declare_var(types::I64);
        self.b.def_var(left, bits);
        self.repeat_while(&mut |e| e.b.use_var(left), &mut |e| {
            let now = e.b.use_var(left);
            let bit = e.b.ins().ctz(now);
            body(e, bit);
            let without_one = e.b.ins().iadd_imm_s(now, -1);
            let rest = e.b.ins().band(now, without_one);
            e.b.def_var(left, rest);
        });
    }

    /// The exact `count`-th largest of the candidates, which are at least `count`.
    fn refine(&mut self, candidates: &Candidates, threshold: Value, count: u32, filled: u32) -> Value {
        let exact = self.b.declare_var(types::F32);
        let (few, many, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let limit = i64::from(filled * LANES);
        let is_few = self.b.ins().icmp_imm_s(IntCC::UnsignedLessThanOrEqual, candidates.count, limit);
        self.b.ins().brif(is_few, few, &[], many, &[]);

        self.b.switch_to_block(few);
        if filled > 0 {
            let all: Vec<Value> = (0..filled).map(|n| self.load(candidates.keys, Step::of(n * REGISTER))).collect();
            let number = self.kth_largest(&all, count);
            let number = self.first_lane(number);
            self.b.def_var(exact, number);
        } else {
            let number = self.first_lane(threshold);
            self.b.def_var(exact, number);
        }
        self.b.ins().jump(after, &[]);

        self.b.switch_to_block(many);
        self.b.set_cold_block(many);
        let number = self.bisect(candidates, threshold, count);
        self.b.def_var(exact, number);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
        self.b.use_var(exact)
    }

    /// The `count`-th largest candidate, by halving an interval of keys: as integers, numbers have the order of their values when the
    /// magnitude bits of negative ones are inverted.
    fn bisect(&mut self, candidates: &Candidates, threshold: Value, count: u32) -> Value {
        let ordered = |e: &mut Self, bits: Value| {
            let sign = e.b.ins().sshr_imm_u(bits, 31);
            let flip = e.b.ins().band_imm_u(sign, 0x7fff_ffff);
            e.b.ins().bxor(bits, flip)
        };
        let number = |e: &mut Self, key: Value| {
            let key = e.b.ins().ireduce(types::I32, key);
            let bits = ordered(e, key);
            e.b.ins().bitcast(types::F32, MemFlagsData::new(), bits)
        };
        let first = self.first_lane(threshold);
        let bits = self.b.ins().bitcast(types::I32, MemFlagsData::new(), first);
        let key = ordered(self, bits);
        let key = self.b.ins().sextend(types::I64, key);
        // At least `count` reach the lower end, fewer the upper end.
        let (lower, upper) = (self.counter(0), self.counter(i64::from(f32::INFINITY.to_bits()) + 1));
        self.b.def_var(lower, key);
        self.repeat_while(
            &mut |e| {
                let (low, high) = (e.b.use_var(lower), e.b.use_var(upper));
                let distance = e.b.ins().isub(high, low);
                e.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, distance, 1)
            },
            &mut |e| {
                let (low, high) = (e.b.use_var(lower), e.b.use_var(upper));
                let sum = e.b.ins().iadd(low, high);
                let middle = e.b.ins().sshr_imm_u(sum, 1);
                let limit = number(e, middle);
                let reached = e.count_candidates(candidates, FloatCC::GreaterThanOrEqual, limit);
                let enough = e.b.ins().icmp_imm_s(IntCC::UnsignedGreaterThanOrEqual, reached, i64::from(count));
                let low = e.b.ins().select(enough, middle, low);
                let high = e.b.ins().select(enough, high, middle);
                e.b.def_var(lower, low);
                e.b.def_var(upper, high);
            },
        );
        let key = self.b.use_var(lower);
        number(self, key)
    }

    fn count_candidates(&mut self, candidates: &Candidates, condition: FloatCC, limit: Value) -> Value {
        let count = self.counter(0);
        self.repeat_times(candidates.count, &mut |e, number| {
            let distance = e.element(number);
            let key = e.load_as(types::F32, candidates.keys, distance);
            let holds = e.b.ins().fcmp(condition, key, limit);
            let holds = e.b.ins().uextend(types::I64, holds);
            e.update(count, |e, old| e.b.ins().iadd(old, holds));
        });
        self.b.use_var(count)
    }

    /// Writes the candidates larger than the k-th largest, and as many of those equal to it as are wanting.
    fn take(&mut self, candidates: &Candidates, exact: Value, count: u32, list: Address) {
        let larger = self.count_candidates(candidates, FloatCC::GreaterThan, exact);
        let wanting = self.counter(i64::from(count));
        self.update(wanting, |e, all| e.b.ins().isub(all, larger));
        let next = self.counter(0);
        self.repeat_times(candidates.count, &mut |e, number| {
            let distance = e.element(number);
            let key = e.load_as(types::F32, candidates.keys, distance);
            let position = e.load_as(types::I32, candidates.positions, distance);
            let is_larger = e.b.ins().fcmp(FloatCC::GreaterThan, key, exact);
            let is_equal = e.b.ins().fcmp(FloatCC::Equal, key, exact);
            let left = e.b.use_var(wanting);
            let some_left = e.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, left, 0);
            let takes_equal = e.b.ins().band(is_equal, some_left);
            let takes = e.b.ins().bor(is_larger, takes_equal);
            let place = e.b.use_var(next);
            let distance = e.element(place);
            e.store(position, list, distance);
            let takes = e.b.ins().uextend(types::I64, takes);
            let place = e.b.ins().iadd(place, takes);
            e.b.def_var(next, place);
            let takes_equal = e.b.ins().uextend(types::I64, takes_equal);
            let left = e.b.ins().isub(left, takes_equal);
            e.b.def_var(wanting, left);
        });
    }
}
