//! Arithmetic that publications quote.

use moe_front::units::Microseconds;

/// Tokens of a day at `tokens` per step of `seconds`.
pub fn tokens_per_day(tokens: u64, seconds: f64) -> f64 {
    tokens as f64 / seconds * 86_400.0
}

/// GPU hours for 10^12 tokens on `gpus` that take `seconds` for a step of `tokens`.
pub fn gpu_hours_per_trillion(tokens: u64, seconds: f64, gpus: u32) -> f64 {
    1e12 / tokens as f64 * seconds / 3600.0 * f64::from(gpus)
}

/// The least time of one dispatch and combine in decoding: (bytes out + bytes back) × tokens × experts × hidden / rate
/// ("Insights into DeepSeek-V3", arXiv:2505.09343, section 2.3.2, with 1 and 2 bytes an element).
pub fn decode_bound(
    bytes_per_element: f64,
    tokens: u32,
    experts: u32,
    hidden: u32,
    bytes_per_second: f64,
) -> Microseconds {
    let bytes = bytes_per_element * f64::from(tokens) * f64::from(experts) * f64::from(hidden);
    Microseconds(bytes / bytes_per_second * 1e6)
}
