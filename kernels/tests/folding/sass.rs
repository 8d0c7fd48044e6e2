//! Constants that straight-line machine code stores.
//!
//! Invariant: a register whose value is not certain has none. An instruction that is not known here takes it away from whatever it could write.

use std::collections::HashMap;

/// By offset from the pointer that was passed, for every 32-bit word, the constant that is stored there.
pub fn stored(sass: &str) -> HashMap<usize, u32> {
    let mut registers: HashMap<String, u32> = HashMap::new();
    let mut found = HashMap::new();
    for line in sass.lines() {
        let Some((_, code)) = line.trim().split_once("*/") else { continue };
        let code = code.split(';').next().unwrap_or_default().trim();
        let Some((name, operands)) = code.split_once(' ') else { continue };
        let operands: Vec<&str> = operands.split(", ").map(str::trim).collect();
        if name.starts_with("STG") {
            let (Some(place), Some(value)) = (operands.first().and_then(|place| offset(place)), operands.get(1)) else {
                continue;
            };
            let words = if name.contains(".128") {
                4
            } else if name.contains(".64") {
                2
            } else {
                1
            };
            for word in 0..words {
                if let Some(value) = constant(&registers, &behind(value, word)) {
                    found.insert(place + 4 * word, value);
                }
            }
            continue;
        }
        let Some(&target) = operands.first() else { continue };
        let value = match (name, &operands[1..]) {
            ("MOV" | "UMOV" | "MOV.32I", [value]) | ("IMAD.MOV.U32" | "IMAD.MOV", [_, _, value]) => {
                constant(&registers, value)
            }
            (name, ["-RZ", "RZ", high, low]) if name.starts_with("HFMA2") && !name.contains("BF16") => {
                half(high).zip(half(low)).map(|(high, low)| u32::from(high) << 16 | u32::from(low))
            }
            ("CS2R.32", ["SRZ"]) => Some(0),
            _ => None,
        };
        if name == "CS2R" && operands.get(1) == Some(&"SRZ") {
            registers.insert(target.to_owned(), 0);
            registers.insert(behind(target, 1), 0);
            continue;
        }
        match value {
            Some(value) => {
                registers.insert(target.to_owned(), value);
            }
            // Up to four words are written at once.
            None => registers.retain(|known, _| (0..4).all(|word| *known != behind(target, word))),
        }
    }
    found
}

/// `[R2+0x8]`, `desc[UR4][R2.64+0x8]`
fn offset(place: &str) -> Option<usize> {
    let inner = place.rsplit('[').next()?.strip_suffix(']')?;
    match inner.split_once('+') {
        None => Some(0),
        Some((_, offset)) => usize::from_str_radix(offset.strip_prefix("0x")?, 16).ok(),
    }
}

fn constant(registers: &HashMap<String, u32>, operand: &str) -> Option<u32> {
    if matches!(operand, "RZ" | "URZ") {
        return Some(0);
    }
    match operand.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => registers.get(operand.trim_end_matches(".reuse")).copied(),
    }
}

/// The register so many words behind one; RZ is zero however wide.
fn behind(register: &str, words: usize) -> String {
    let digits = register.find(|c: char| c.is_ascii_digit());
    match digits.and_then(|at| Some((&register[..at], register[at..].parse::<usize>().ok()?))) {
        Some((kind, number)) => format!("{kind}{}", number + words),
        None => register.to_owned(),
    }
}

/// A constant of f16, as nvdisasm prints it; NaN has no bits there.
fn half(text: &str) -> Option<u16> {
    match text {
        "+INF" | "INF" => return Some(0x7c00),
        "-INF" => return Some(0xfc00),
        _ => {}
    }
    text.parse::<f64>().ok().filter(|value| !value.is_nan()).map(|value| half::f16::from_f64(value).to_bits())
}
