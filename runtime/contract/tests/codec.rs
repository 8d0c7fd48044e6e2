//! Formats against their definition.

use moe_contract::{Format, ScaleElement};
use proptest::prelude::*;

const FP8: Format = Format::FP8_F32_128;

fn bytes_of(format: Format, value: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    format.element.encode(value, &mut bytes);
    bytes
}

/// The definition of E4M3: sign, 4 bits of exponent with bias 7, 3 bits of fraction, one NaN per sign, no infinity.
fn e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude =
        if exponent == 0 { fraction / 8.0 * 2f64.powi(-6) } else { (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn fp8_codes_mean_what_the_format_says() {
    for code in 0..=255u8 {
        let value = FP8.element.decode(&[code]);
        if code & 0x7f == 0x7f {
            assert!(value.is_nan(), "{code:#x}");
        } else {
            assert_eq!(f64::from(value), e4m3(code), "{code:#x}");
            assert_eq!(bytes_of(FP8, value), [code], "{code:#x}");
        }
    }
}

#[test]
fn fp8_rounds_to_the_nearest_and_ties_to_even() {
    for code in 0..0x7eu8 {
        let (low, high) = (e4m3(code), e4m3(code + 1));
        let middle = f64::midpoint(low, high) as f32;
        let even = if code.is_multiple_of(2) { code } else { code + 1 };
        assert_eq!(bytes_of(FP8, middle), [even], "half way above {low}");
        assert_eq!(bytes_of(FP8, middle.next_down()), [code], "just below half way above {low}");
        assert_eq!(bytes_of(FP8, middle.next_up()), [code + 1], "just above half way above {low}");
        assert_eq!(bytes_of(FP8, -middle.next_up()), [0x80 | (code + 1)], "the same with a sign");
    }
    for large in [449.0, 464.0, 1e30, f32::INFINITY] {
        assert_eq!(bytes_of(FP8, large), [0x7e], "{large} saturates");
        assert_eq!(bytes_of(FP8, -large), [0xfe], "-{large} saturates");
    }
}

#[test]
fn sixteen_bit_formats_round_to_nearest_even() {
    // 1 + 2⁻⁸ is half way between 1 and 1 + 2⁻⁷, the next bf16; 1 + 3 × 2⁻⁸ between the next two.
    assert_eq!(bytes_of(Format::BF16, 1.003_906_3), [0x80, 0x3f]);
    assert_eq!(bytes_of(Format::BF16, 1.011_718_8), [0x82, 0x3f]);
    assert_eq!(bytes_of(Format::BF16, f32::MAX), [0x80, 0x7f], "rounds to infinity");
    // 1 + 2⁻¹¹ is half way between 1 and the next f16.
    assert_eq!(bytes_of(Format::F16, 1.000_488_3), [0x00, 0x3c]);
    assert_eq!(bytes_of(Format::F16, 65_520.0), [0x00, 0x7c], "rounds to infinity");
    assert_eq!(bytes_of(Format::F16, 2f32.powi(-24)), [0x01, 0x00], "the smallest subnormal");
}

#[test]
fn a_nan_becomes_the_canonical_one() {
    let nan = -f32::NAN;
    assert_eq!(bytes_of(Format::BF16, nan), [0xff, 0x7f]);
    assert_eq!(bytes_of(Format::F16, nan), [0xff, 0x7f]);
    assert_eq!(bytes_of(FP8, nan), [0x7f]);
}

#[test]
fn quantising_scales_each_128_elements_by_their_largest() {
    let mut values = vec![0.0; 256];
    (values[0], values[1], values[127]) = (1.0, -896.0, 3.25);
    let stored = FP8.store(&values);
    // 896 / 448 = 2: elements are halved; 1.625 is a number of the format. The second block is all zero: 1e-4 / 448.
    let scale = |block: usize| f32::from_le_bytes(stored.scales[4 * block..][..4].try_into().expect("4 bytes"));
    assert_eq!((scale(0), scale(1), stored.scales.len()), (2.0, 1e-4 / 448.0, 8));
    let elements = &stored.elements;
    assert_eq!((elements[0], elements[1], elements[127]), (0x30, 0xfe, 0x3d));
    assert!(elements[128..].iter().all(|&byte| byte == 0));
    assert_eq!(FP8.values(elements, &stored.scales), values);
}

fn scales(stored: &[u8]) -> Vec<f32> {
    stored.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
}

/// The block of an infinity has an infinite scale: its elements are zeros with their signs, NaN for the infinity itself, and whoever
/// multiplies by the scale gets NaN for all of them. A NaN has no part in the scale: the rest of its block keeps its numbers.
#[test]
fn infinity_takes_its_block_with_it_and_nan_does_not() {
    let mut values = vec![1.0; 256];
    (values[0], values[1], values[2]) = (f32::INFINITY, -1.0, f32::NAN);
    (values[128], values[129]) = (f32::NAN, -896.0);
    let stored = FP8.store(&values);
    assert_eq!(scales(&stored.scales), [f32::INFINITY, 2.0]);
    assert_eq!(stored.elements[..4], [0x7f, 0x80, 0x7f, 0x00]);
    assert_eq!(stored.elements[128..131], [0x7f, 0xfe, 0x30]);
    let read = FP8.values(&stored.elements, &stored.scales);
    assert!(read[..128].iter().all(|number| number.to_bits() == 0x7fff_ffff), "{read:?}");
    assert!(read[128].is_nan());
    assert_eq!(read[129..], values[129..]);
}

/// A number so large that its bf16 neighbours of the block vanish: no overflow on the way.
#[test]
fn the_largest_numbers_are_scaled_and_not_lost() {
    let mut values = vec![1.0; 128];
    (values[0], values[1]) = (3.389_531_4e38, -3.389_531_4e38);
    let stored = FP8.store(&values);
    assert_eq!(scales(&stored.scales), [3.389_531_4e38 / 448.0]);
    assert_eq!(stored.elements[..3], [0x7e, 0xfe, 0x00]);
    let read = FP8.values(&stored.elements, &stored.scales);
    assert!((read[0] / 3.389_531_4e38 - 1.0).abs() < 1e-6 && read[2] == 0.0, "{read:?}");
}

const UE8M0: Format = Format::FP8_UE8M0_128;
const MXFP8: Format = Format::MXFP8;

/// The OCP Microscaling specification: E8M0 has bias 127, no sign, no zero, no infinity, and one NaN, 0xff.
#[test]
fn ue8m0_bytes_are_powers_of_two() {
    for code in 0..255u8 {
        assert_eq!(f64::from(ScaleElement::Ue8m0.decode(&[code])), 2f64.powi(i32::from(code) - 127), "{code}");
    }
    assert!(ScaleElement::Ue8m0.decode(&[255]).is_nan());
}

/// A block with one number that is not zero: its scale, and its element.
fn of_one(format: Format, number: f32) -> (u8, u8) {
    let block = format.scales.expect("it has scales").block as usize;
    let mut values = vec![0.0; block];
    values[block - 1] = number;
    let stored = format.store(&values);
    assert_eq!((stored.scales.len(), stored.elements.len()), (1, block));
    assert!(stored.elements[..block - 1].iter().all(|&byte| byte == 0));
    (stored.scales[0], stored.elements[block - 1])
}

#[test]
fn a_power_of_two_is_rounded_up_and_no_further() {
    for format in [UE8M0, MXFP8] {
        // The least magnitude is between 448 × 2^−23 and 448 × 2^−22; beyond 2^119 there is no f32.
        for power in -22..=119 {
            let full = 448.0 * 2f32.powi(power);
            let code = (power + 127) as u8;
            assert_eq!(of_one(format, full), (code, 0x7e), "448 × 2^{power} is the largest element");
            assert_eq!(of_one(format, -full), (code, 0xfe), "−448 × 2^{power}");
            assert_eq!(of_one(format, full.next_up()), (code + 1, 0x76), "more is 224 of twice the scale");
            if power > -22 {
                assert_eq!(of_one(format, full.next_down()), (code, 0x7e), "less is still nearest to 448");
                assert_eq!(of_one(format, full * (225.0 / 448.0)), (code, 0x76), "225 is nearest to 224");
                assert_eq!(of_one(format, full / 2.0), (code - 1, 0x7e), "half of it has half the scale");
            }
        }
        assert_eq!(of_one(format, f32::MAX), (247, 0x78), "2^128 / 2^120 = 256");
        let top = format.values(&[0x78, 0x77], &[247]);
        assert_eq!(top, [f32::INFINITY, 240.0 * 2f32.powi(120)], "2^128 is no f32");
    }
}

/// 1e-4 / 448 is between 2^−23 and 2^−22.
#[test]
fn blocks_of_little_have_the_least_scale() {
    const LEAST: u8 = 127 - 22;
    for format in [UE8M0, MXFP8] {
        assert_eq!(of_one(format, 0.0), (LEAST, 0));
        assert_eq!(of_one(format, -0.0), (LEAST, 0x80));
        assert_eq!(of_one(format, f32::from_bits(1)), (LEAST, 0), "the smallest subnormal");
        assert_eq!(of_one(format, -f32::MIN_POSITIVE), (LEAST, 0x80));
        assert_eq!(of_one(format, 2f32.powi(-22)), (LEAST, 0x38), "1");
        assert_eq!(of_one(format, 2f32.powi(-31)), (LEAST, 0x01), "2^−9, the smallest element");
        assert_eq!(of_one(format, 2f32.powi(-32)), (LEAST, 0x00), "half of it ties to even");
        assert_eq!(of_one(format, 1e-4), (LEAST, 0x7d), "419.4 is nearest to 416");
    }
}

#[test]
fn a_power_of_two_for_infinity_is_nan() {
    for format in [UE8M0, MXFP8] {
        let block = format.scales.expect("it has scales").block as usize;
        let mut values = vec![1.0; 2 * block];
        (values[0], values[1], values[2]) = (f32::INFINITY, -1.0, f32::NAN);
        (values[block], values[block + 1]) = (f32::NAN, -896.0);
        let stored = format.store(&values);
        assert_eq!(stored.scales, [255, 128], "NaN, and 2");
        assert_eq!(stored.elements[..4], [0x7f, 0x80, 0x7f, 0x00]);
        assert_eq!(stored.elements[block..block + 3], [0x7f, 0xfe, 0x30]);
        let read = format.values(&stored.elements, &stored.scales);
        assert!(read[..block].iter().all(|number| number.to_bits() == 0x7fff_ffff), "{read:?}");
        assert!(read[block].is_nan());
        assert_eq!(read[block + 1..], values[block + 1..]);
    }
}

#[test]
fn every_block_of_a_row_has_its_own_power_of_two() {
    // Five blocks: the scales of a row are not whole words.
    let values: Vec<f32> = (0..5 * 32).map(|place| 2f32.powi(place / 32) * (1 + place % 7) as f32).collect();
    let stored = MXFP8.store(&values);
    // 7 × 2^b is at most 448 × 2^(b − 6).
    assert_eq!(stored.scales, [121, 122, 123, 124, 125]);
    assert_eq!((MXFP8.scales_per_row(160), MXFP8.scale_bytes(160)), (5, 5));
    assert_eq!(
        MXFP8.values(&stored.elements, &stored.scales),
        values,
        "powers of two lose nothing of small whole numbers"
    );
}

proptest! {
    /// The definition, in f64: the smallest power of two with which nothing is larger than the largest element.
    #[test]
    fn a_power_of_two_is_the_smallest_that_fits(
        fractions in proptest::collection::vec(-1.0..1.0f64, 32), power in -149..=127,
    ) {
        let numbers: Vec<f32> = fractions.iter().map(|fraction| (fraction * 2f64.powi(power)) as f32).collect();
        let stored = MXFP8.store(&numbers);
        let scale = 2f64.powi(i32::from(stored.scales[0]) - 127);
        let amax = numbers.iter().map(|number| f64::from(number.abs())).fold(1e-4, f64::max);
        prop_assert!(amax <= 448.0 * scale && (amax > 224.0 * scale || stored.scales[0] == 105), "{amax} {scale}");
        for (&code, &number) in stored.elements.iter().zip(&numbers) {
            let exact = f64::from(number) / scale;
            let error = (e4m3(code) - exact).abs();
            // Half a step: 2^−10 below 2^−6, else 1/16 of the power of two below.
            let half = if exact.abs() < 2f64.powi(-6) { 2f64.powi(-10) } else { 2f64.powf(exact.abs().log2().floor() - 4.0) };
            prop_assert!(error <= half, "{number} became {code:#x} with scale {scale}");
        }
    }
}
