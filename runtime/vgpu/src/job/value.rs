//! Elements of memory, and values in a job file.

use serde::Deserialize;

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of Rust")]
pub enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
    /// The address of a place in a buffer.
    Pointer,
    /// A tensor map.
    TensorMap,
}

/// A number in a job file.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Number {
    Integer(i64),
    Float(f64),
}

/// A value in a job file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number of the type that is wanted.
    Number(Number),
    /// A buffer, or a place in it: `name` or `name+16`, in bytes.
    Place(String),
    /// A number with its type, for a field of a struct.
    Typed {
        /// Its type.
        #[serde(rename = "type")]
        element: Element,
        value: Box<Value>,
    },
    /// A struct by value: its fields, each at a multiple of its size.
    Struct(Vec<Value>),
}

impl Element {
    pub fn bytes(self) -> u64 {
        match self {
            Element::U8 | Element::I8 => 1,
            Element::U16 | Element::I16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::I32 | Element::F32 => 4,
            Element::U64 | Element::I64 | Element::F64 | Element::Pointer => 8,
            Element::TensorMap => 128,
        }
    }

    /// The bytes of a number.
    ///
    /// # Errors
    /// When the type does not have it.
    pub fn encode(self, number: Number) -> Result<Vec<u8>, String> {
        let float = match number {
            Number::Integer(value) => value as f64,
            Number::Float(value) => value,
        };
        let range: Option<(i128, i128)> = match self {
            Element::U8 => Some((0, 0xff)),
            Element::I8 => Some((-0x80, 0x7f)),
            Element::U16 => Some((0, 0xffff)),
            Element::I16 => Some((-0x8000, 0x7fff)),
            Element::U32 => Some((0, u32::MAX.into())),
            Element::I32 => Some((i32::MIN.into(), i32::MAX.into())),
            Element::I64 => Some((i64::MIN.into(), i64::MAX.into())),
            Element::U64 | Element::Pointer => Some((i64::MIN.into(), i64::MAX.into())),
            Element::F16 | Element::Bf16 | Element::F32 | Element::F64 => None,
            Element::TensorMap => return Err("a tensor map is no number: give its `tensor`".into()),
        };
        Ok(match (range, number) {
            (Some((least, most)), Number::Integer(value)) if (least..=most).contains(&value.into()) => {
                value.to_le_bytes()[..self.bytes() as usize].to_vec()
            }
            (Some((least, most)), _) => return Err(format!("{float} is no integer from {least} to {most}")),
            (None, _) => match self {
                Element::F16 => half::f16::from_f64(float).to_le_bytes().to_vec(),
                Element::Bf16 => half::bf16::from_f64(float).to_le_bytes().to_vec(),
                Element::F32 => (float as f32).to_le_bytes().to_vec(),
                _ => float.to_le_bytes().to_vec(),
            },
        })
    }

    /// An element as a number, for comparisons and reports; none of an integer that no f64 holds exactly, or of an address.
    pub fn decode(self, bytes: &[u8]) -> Option<f64> {
        let mut wide = [0; 8];
        wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
        let bits = u64::from_le_bytes(wide);
        let unused = 64 - 8 * self.bytes() as u32;
        let signed = (bits << unused).cast_signed() >> unused;
        let exact = |value: i128| (value.abs() <= 1 << 53).then_some(value as f64);
        match self {
            Element::U8 | Element::U16 | Element::U32 | Element::U64 => exact(bits.into()),
            Element::I8 | Element::I16 | Element::I32 | Element::I64 => exact(signed.into()),
            Element::F16 => Some(half::f16::from_bits(bits as u16).to_f64()),
            Element::Bf16 => Some(half::bf16::from_bits(bits as u16).to_f64()),
            Element::F32 => Some(f32::from_bits(bits as u32).into()),
            Element::F64 => Some(f64::from_bits(bits)),
            Element::Pointer | Element::TensorMap => None,
        }
    }

    /// An element in words.
    pub fn told(self, bytes: &[u8]) -> String {
        match self.decode(bytes) {
            Some(value) => value.to_string(),
            None => format!("0x{}", bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_of_a_type_are_refused() {
        assert_eq!(Element::U8.encode(Number::Integer(255)), Ok(vec![255]));
        assert_eq!(Element::I16.encode(Number::Integer(-2)), Ok(vec![0xfe, 0xff]));
        assert_eq!(Element::Bf16.encode(Number::Float(1.5)), Ok(vec![0xc0, 0x3f]));
        assert!(Element::U8.encode(Number::Integer(256)).is_err());
        assert!(Element::I32.encode(Number::Float(1.5)).is_err());
        assert_eq!(Element::I32.decode(&(-7i32).to_le_bytes()), Some(-7.0));
        assert_eq!(Element::F16.decode(&[0, 0x3c]), Some(1.0));
    }
}
