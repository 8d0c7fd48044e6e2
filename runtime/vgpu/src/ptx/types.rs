//! Scalar types of PTX. A type's width is that of the value in a register: `.b8` to `.b128`, packed pairs included.

/// A fundamental or packed type, as written after the dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum ScalarType {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F32x2,
    F64,
    Tf32,
    E4m3x2,
    E5m2x2,
    E2m1x2,
    E2m3x2,
    E3m2x2,
    Ue8m0x2,
}

impl ScalarType {
    /// The type with this name, without the dot.
    pub fn from_name(name: &str) -> Option<ScalarType> {
        use ScalarType::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            "tf32" => Tf32,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            "e2m1x2" => E2m1x2,
            "e2m3x2" => E2m3x2,
            "e3m2x2" => E3m2x2,
            "ue8m0x2" => Ue8m0x2,
            _ => return None,
        })
    }

    /// Width of a value in bytes (a predicate has none and answers 0).
    pub fn bytes(self) -> u32 {
        use ScalarType::*;
        match self {
            Pred => 0,
            B8 | U8 | S8 | E2m1x2 => 1,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 | E2m3x2 | E3m2x2 | Ue8m0x2 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 => 4,
            B64 | U64 | S64 | F32x2 | F64 => 8,
            B128 => 16,
        }
    }

    /// Signed integer types, whose narrow loads and conversions extend the sign.
    pub fn is_signed(self) -> bool {
        use ScalarType::*;
        matches!(self, S8 | S16 | S32 | S64)
    }

    /// Floating-point types, packed ones included.
    pub fn is_float(self) -> bool {
        use ScalarType::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | F32 | F32x2 | F64 | Tf32) || self.is_narrow_pair()
    }

    /// Pairs of floats of at most 8 bits, which only conversions know: no register has such a type.
    pub fn is_narrow_pair(self) -> bool {
        use ScalarType::*;
        matches!(self, E4m3x2 | E5m2x2 | E2m1x2 | E2m3x2 | E3m2x2 | Ue8m0x2)
    }
}
