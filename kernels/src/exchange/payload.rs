//! Rows of a format: chunks of 16 bytes to f32 and back, and rows on their way into the format that is sent.
//!
//! Invariant: [`moe_contract::format`] says what the numbers of a row stand for; here is how kernels compute them, once for each element
//! and each kind of scale.

use moe_contract::format::LEAST_AMAX;
use moe_contract::{Element, Format, ScaleElement, Scales};

use super::link::Place;
use super::row::Piece;
use crate::device::{Builder, Chunk, F32, Global, Pointer, U8, U16, U64, Value};

/// Elements of a 16-byte chunk.
fn per_chunk(element: Element) -> u32 {
    16 / element.bytes()
}

/// The numbers of a chunk without scales, ascending.
pub(super) fn numbers(format: Format, chunk: Value<'_, Chunk>) -> Vec<Value<'_, F32>> {
    let words = chunk.words();
    match format.element {
        Element::Bf16 => words.into_iter().flat_map(Value::bf16_numbers).collect(),
        Element::F16 => words.into_iter().flat_map(Value::f16_numbers).collect(),
        Element::F32 => words.into_iter().map(Value::bits_to_f32).collect(),
        Element::E4m3 | Element::E2m1 => {
            unreachable!("its rows have scales, and combine has none: a limit of the exchange")
        }
    }
}

/// The chunk of the nearest elements.
pub(super) fn chunk<'k>(k: &'k Builder, format: Format, numbers: &[Value<'k, F32>]) -> Value<'k, Chunk> {
    let pair = |place: usize| [numbers[2 * place], numbers[2 * place + 1]];
    let word = |word: usize| match format.element {
        Element::Bf16 => k.bf16_pair(pair(word)),
        Element::F16 => k.f16_pair(pair(word)),
        Element::F32 => numbers[word].bits(),
        Element::E4m3 => {
            let halves: [Value<U16>; 2] = [2 * word, 2 * word + 1].map(|half| k.e4m3_pair(pair(half)));
            halves[0].wide() | (halves[1].wide() << 16)
        }
        Element::E2m1 => unreachable!("it is only planned with: a limit of the exchange"),
    };
    k.chunk([0, 1, 2, 3].map(word))
}

/// A piece of a row as it is sent.
pub(super) struct Sending<'k> {
    piece: Piece<'k>,
    chunk: Value<'k, Chunk>,
    scale: Option<Scale<'k>>,
}

/// The scale of the block that a piece belongs to.
struct Scale<'k> {
    value: ScaleValue<'k>,
    /// Which block of the row.
    block: Value<'k, U64>,
    /// Lanes that share the block; a power of two.
    lanes: u32,
}

#[derive(Clone, Copy)]
enum ScaleValue<'k> {
    F32(Value<'k, F32>),
    Byte(Value<'k, U8>),
}

/// Loads pieces of a row in the source format and converts them: all loads come first.
pub(super) fn load<'k>(
    k: &'k Builder,
    format: Format,
    row: Pointer<'k, Global, U8>,
    pieces: &[Piece<'k>],
) -> Vec<Sending<'k>> {
    let Some(scales) = format.scales else {
        let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(row.cast())).collect();
        let sending = |(&piece, chunk)| Sending { piece, chunk, scale: None };
        return pieces.iter().zip(chunks).map(sending).collect();
    };
    // A chunk of bytes is made from two of bf16.
    let pairs: Vec<[Value<Chunk>; 2]> = pieces.iter().map(|piece| piece.group_from(row.cast())).collect();
    pieces.iter().zip(pairs).map(|(&piece, pair)| quantise(k, format, scales, piece, pair)).collect()
}

/// The elements of a lane to a format with scales; the lanes of a block find its largest element together. All lanes run it.
fn quantise<'k>(
    k: &'k Builder,
    format: Format,
    scales: Scales,
    piece: Piece<'k>,
    pair: [Value<'k, Chunk>; 2],
) -> Sending<'k> {
    let lanes = scales.block / per_chunk(format.element);
    let given: Vec<Value<F32>> = pair.into_iter().flat_map(|chunk| numbers(format.source(), chunk)).collect();
    let mut amax = given.iter().fold(k.f32(LEAST_AMAX), |amax, number| amax.larger_number(number.abs()));
    let mut distance = 1;
    while distance < lanes {
        amax = amax.larger_number(amax.of_lane_xor(distance));
        distance *= 2;
    }
    let (value, multiplier) = scale(k, format.element, scales.element, amax);
    let scaled: Vec<Value<F32>> = given.into_iter().map(|number| number * multiplier).collect();
    let scale = Scale { value, block: piece.number() >> u64::from(lanes.trailing_zeros()), lanes };
    Sending { piece, chunk: chunk(k, format, &scaled), scale: Some(scale) }
}

/// What is stored for a block, and what its elements are multiplied with.
fn scale<'k>(
    k: &'k Builder,
    element: Element,
    scale: ScaleElement,
    amax: Value<'k, F32>,
) -> (ScaleValue<'k>, Value<'k, F32>) {
    const MANTISSA: u32 = 23;
    // The exponent field of infinity, and the largest whose inverse is one or zero.
    const ENDS: u32 = 254;
    let largest = k.f32(element.largest());
    match scale {
        ScaleElement::F32 => (ScaleValue::F32(amax / largest), largest / amax),
        ScaleElement::Ue8m0 => {
            // One more in the exponent unless the mantissa is zero: rounded up.
            let exponent = ((amax / largest).bits() + ((1 << MANTISSA) - 1)) >> MANTISSA;
            let inverse = k.u32(ENDS) - exponent.min(k.u32(ENDS));
            (ScaleValue::Byte(exponent.low_byte()), (inverse << MANTISSA).bits_to_f32())
        }
        ScaleElement::E4m3 => unreachable!("it is only planned with: a limit of the exchange"),
    }
}

impl<'k> Sending<'k> {
    /// Stores the piece in a row of a peer, and its scale, once per block, in the row's scales.
    pub fn store(&self, k: &'k Builder, row: Place<'k>, scales: Place<'k>) {
        self.piece.when_active(|| {
            row.store_piece(self.piece, self.chunk);
            if let Some(Scale { value, block, lanes }) = &self.scale {
                k.when((k.lane() & (lanes - 1)).equals(k.u32(0)), || match *value {
                    ScaleValue::F32(value) => scales.store_wide(*block, value),
                    ScaleValue::Byte(value) => scales.store_wide(*block, value),
                });
            }
        });
    }
}

/// Pieces of which a lane holds the bytes at a time: as many as its registers allow, which are fewer in a larger CTA.
pub(super) fn in_flight(threads: u32) -> u32 {
    match threads {
        ..=512 => 4,
        513..=768 => 2,
        _ => 1,
    }
}

/// Pieces of which a lane holds the sums in f32 at a time.
pub(super) fn sums_in_flight(threads: u32) -> u32 {
    match threads {
        ..=256 => 4,
        257..=768 => 2,
        _ => 1,
    }
}
