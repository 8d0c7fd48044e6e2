//! Formats against their definition.

use moe_contract::Format;

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
        let middle = ((low + high) / 2.0) as f32;
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
