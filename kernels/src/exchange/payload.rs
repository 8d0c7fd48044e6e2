//! Payloads: chunks of 16 bytes to f32 and back, and rows on their way into the format that is sent.

use moe_bundle::Payload;
use moe_bundle::limits::SCALE_BLOCK;

use super::row::Piece;
use crate::device::{Builder, Chunk, F32, Global, Pointer, U8, U16, U32, U64, Value};

/// Elements of a 16-byte chunk.
pub(super) fn per_chunk(payload: Payload) -> u32 {
    16 / payload.element_bytes()
}

/// The numbers of a chunk, ascending; none of the formats used here has scales.
pub(super) fn numbers<'k>(payload: Payload, chunk: Value<'k, Chunk>) -> Vec<Value<'k, F32>> {
    let words = chunk.words();
    match payload {
        Payload::Bf16 => words.into_iter().flat_map(Value::bf16_numbers).collect(),
        Payload::F16 => words.into_iter().flat_map(Value::f16_numbers).collect(),
        Payload::F32 => words.into_iter().map(Value::bits_to_f32).collect(),
        Payload::Fp8E4m3ScaleF32Per128 => unreachable!("combine has no scales: a limit of the exchange"),
    }
}

/// The chunk of the nearest elements.
pub(super) fn chunk<'k>(k: &'k Builder, payload: Payload, numbers: &[Value<'k, F32>]) -> Value<'k, Chunk> {
    let pair = |word: usize| [numbers[2 * word], numbers[2 * word + 1]];
    let word = |word: usize| match payload {
        Payload::Bf16 => k.bf16_pair(pair(word)),
        Payload::F16 => k.f16_pair(pair(word)),
        Payload::F32 => numbers[word].bits(),
        Payload::Fp8E4m3ScaleF32Per128 => unreachable!("combine has no scales: a limit of the exchange"),
    };
    k.chunk([0, 1, 2, 3].map(word))
}

/// A piece of a row as it is sent.
pub(super) struct Sending<'k> {
    pub piece: Piece<'k>,
    pub chunk: Value<'k, Chunk>,
    pub scale: Option<Scale<'k>>,
}

/// The scale of the block that a piece belongs to.
pub(super) struct Scale<'k> {
    pub value: Value<'k, F32>,
    /// Which block of the row.
    pub block: Value<'k, U64>,
}

/// Loads pieces of a row in the source format and converts them: all loads come first.
pub(super) fn load<'k>(
    k: &'k Builder,
    payload: Payload,
    row: Pointer<'k, Global, U8>,
    pieces: &[Piece<'k>],
) -> Vec<Sending<'k>> {
    if payload.source() == payload {
        let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(row.cast())).collect();
        let sending = |(&piece, chunk)| Sending { piece, chunk, scale: None };
        return pieces.iter().zip(chunks).map(sending).collect();
    }
    let pairs: Vec<[Value<Chunk>; 2]> = pieces.iter().map(|piece| piece.group_from(row.cast())).collect();
    pieces.iter().zip(pairs).map(|(&piece, pair)| quantise(k, piece, pair)).collect()
}

/// 16 elements of a lane to fp8; the 8 lanes of a block find its largest element together. All lanes run it.
fn quantise<'k>(k: &'k Builder, piece: Piece<'k>, pair: [Value<'k, Chunk>; 2]) -> Sending<'k> {
    const LEAST_AMAX: f32 = 1e-4;
    const E4M3_MAX: f32 = 448.0;
    let lanes = SCALE_BLOCK / per_chunk(Payload::Fp8E4m3ScaleF32Per128);
    let numbers: Vec<Value<F32>> = pair.into_iter().flat_map(|chunk| numbers(Payload::Bf16, chunk)).collect();
    let mut amax = numbers.iter().fold(k.f32(LEAST_AMAX), |amax, number| amax.larger_number(number.abs()));
    let mut distance = 1;
    while distance < lanes {
        amax = amax.larger_number(amax.of_lane_xor(distance));
        distance *= 2;
    }
    let multiplier = k.f32(E4M3_MAX) / amax;
    let bytes = |pair: &[Value<'k, F32>]| k.e4m3_pair([pair[0] * multiplier, pair[1] * multiplier]);
    let halves: Vec<Value<U16>> = numbers.chunks(2).map(bytes).collect();
    let word = |word: usize| -> Value<'k, U32> { halves[2 * word].wide() | (halves[2 * word + 1].wide() << 16) };
    let scale = Scale { value: amax / k.f32(E4M3_MAX), block: piece.number() >> u64::from(lanes.trailing_zeros()) };
    Sending { piece, chunk: k.chunk([0, 1, 2, 3].map(word)), scale: Some(scale) }
}

impl<'k> Sending<'k> {
    /// Stores the piece in a row, and its scale, once per block, in the row's scales.
    pub fn store(&self, k: &'k Builder, row: Pointer<'k, Global, U8>, scales: Pointer<'k, Global, F32>) {
        self.piece.when_active(|| {
            self.piece.place_in::<Chunk>(row.cast()).store(self.chunk);
            if let Some(Scale { value, block }) = &self.scale {
                let lanes = SCALE_BLOCK / per_chunk(Payload::Fp8E4m3ScaleF32Per128);
                k.when((k.lane() & (lanes - 1)).equals(k.u32(0)), || scales.bytes(*block * 4u64).cast().store(*value));
            }
        });
    }
}

/// Pieces of which a lane holds the bytes at a time: as many as its registers allow, which are fewer in a larger CTA.
pub(super) fn in_flight(threads: u32) -> u32 {
    if threads > 512 { 2 } else { 4 }
}

/// Pieces of which a lane holds the sums in f32 at a time.
pub(super) fn sums_in_flight(threads: u32) -> u32 {
    match threads {
        ..=256 => 4,
        257..=768 => 2,
        _ => 1,
    }
}
