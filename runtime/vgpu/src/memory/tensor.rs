//! Tensor maps: what `cuTensorMapEncodeTiled` makes, for `cp.async.bulk.tensor`.
//!
//! Invariants: a map that was made here describes a tensor that hardware takes; the 128 bytes of one are opaque to kernels, which change
//! them with `tensormap.replace` alone. Dimension 0 is the innermost one, whose elements are next to each other.

use super::Address;
use crate::ptx::ScalarType;

/// Bytes of a tensor map.
pub(crate) const MAP_BYTES: u32 = 128;

const MAGIC: [u8; 8] = *b"tiledmap";
const AT_ADDRESS: usize = 8;
const AT_ELEMENT: usize = 16;
const AT_RANK: usize = 17;
const AT_SWIZZLE: usize = 18;
const AT_FILL: usize = 19;
const AT_ELEMENT_STRIDES: usize = 20;
const AT_BOX: usize = 28;
const AT_DIMS: usize = 48;
const AT_STRIDES: usize = 88;

/// Type of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum TensorElement {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
}

/// All with their numbers in `tensormap.replace`.
const ELEMENTS: [(u8, TensorElement, ScalarType); 10] = [
    (0, TensorElement::U8, ScalarType::U8),
    (1, TensorElement::U16, ScalarType::U16),
    (2, TensorElement::U32, ScalarType::U32),
    (3, TensorElement::S32, ScalarType::S32),
    (4, TensorElement::U64, ScalarType::U64),
    (5, TensorElement::S64, ScalarType::S64),
    (6, TensorElement::F16, ScalarType::F16),
    (7, TensorElement::F32, ScalarType::F32),
    (9, TensorElement::F64, ScalarType::F64),
    (10, TensorElement::Bf16, ScalarType::Bf16),
];

impl TensorElement {
    fn code(self) -> u8 {
        ELEMENTS.iter().find(|(_, element, _)| *element == self).map_or(0, |(code, ..)| *code)
    }

    pub(crate) fn scalar(self) -> ScalarType {
        ELEMENTS.iter().find(|(_, element, _)| *element == self).map_or(ScalarType::U8, |(.., scalar)| *scalar)
    }

    fn bytes(self) -> u64 {
        self.scalar().bytes().into()
    }
}

/// In which order 16-byte chunks of a tile stand in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Swizzle {
    /// As they are in the tile.
    #[default]
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl Swizzle {
    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

    /// Bytes of a row that it permutes; none without.
    pub fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }

    /// Where a byte goes, by its address in shared memory: the number of its line of 128 bytes is added to the number of its chunk, bit by
    /// bit.
    pub(crate) fn place(self, address: u32) -> u32 {
        let chunks = self.span().map_or(1, |span| span / 16);
        address ^ (address >> 7 & (chunks - 1)) << 4
    }
}

/// What is read beyond the edges of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub enum OutOfBounds {
    #[default]
    Zero,
    /// A NaN; for floating-point elements.
    Nan,
}

/// A tensor in global memory, and the tile of it that a copy moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    pub element: TensorElement,
    /// Where element 0 is.
    pub address: Address,
    /// Elements along each of 1 to 5 dimensions, the innermost first.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next along every dimension but the innermost.
    pub strides: Vec<u64>,
    /// Elements of a tile along each dimension.
    pub tile: Vec<u32>,
    /// Of how many elements one is taken, along each dimension.
    pub element_strides: Vec<u32>,
    pub swizzle: Swizzle,
    pub out_of_bounds: OutOfBounds,
}

/// A tensor map that hardware does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tensor map: {0}")]
pub struct TensorMapError(pub String);

impl TensorMap {
    /// The 128 bytes that a kernel gets, as a parameter or in memory.
    ///
    /// # Errors
    /// When hardware would not take it.
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check().map_err(TensorMapError)?;
        let mut bytes = [0; MAP_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        put(&mut bytes, AT_ADDRESS, self.address.0);
        bytes[AT_ELEMENT] = self.element.code();
        bytes[AT_RANK] = self.dims.len() as u8 - 1;
        bytes[AT_SWIZZLE] = Swizzle::ALL.iter().position(|other| *other == self.swizzle).unwrap_or(0) as u8;
        bytes[AT_FILL] = u8::from(self.out_of_bounds == OutOfBounds::Nan);
        for (axis, dim) in self.dims.iter().enumerate() {
            put(&mut bytes, AT_DIMS + 8 * axis, *dim);
            put(&mut bytes, AT_BOX + 4 * axis, self.tile[axis]);
            bytes[AT_ELEMENT_STRIDES + axis] = self.element_strides[axis] as u8;
        }
        for (axis, stride) in self.strides.iter().enumerate() {
            put(&mut bytes, AT_STRIDES + 8 * axis, *stride);
        }
        Ok(bytes)
    }

    /// What bytes in memory say; none if they are no tensor map.
    pub(crate) fn decode(bytes: &[u8]) -> Result<TensorMap, String> {
        let Some(bytes) = bytes.first_chunk::<{ MAP_BYTES as usize }>().filter(|bytes| bytes[..8] == MAGIC) else {
            return Err("this is no tensor map".into());
        };
        let rank = usize::from(bytes[AT_RANK] & 7) + 1;
        let long = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let word = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes);
        if rank > 5 {
            return Err(format!("a tensor has from 1 to 5 dimensions, not {rank}"));
        }
        let Some((_, element, _)) = ELEMENTS.iter().find(|(code, ..)| *code == bytes[AT_ELEMENT]) else {
            return Err(format!("elements of type {} are not known here", bytes[AT_ELEMENT]));
        };
        let Some(swizzle) = Swizzle::ALL.get(usize::from(bytes[AT_SWIZZLE])) else {
            return Err(format!("swizzle mode {} is not known here", bytes[AT_SWIZZLE]));
        };
        let map = TensorMap {
            element: *element,
            address: Address(long(AT_ADDRESS)),
            dims: (0..rank).map(|axis| long(AT_DIMS + 8 * axis)).collect(),
            strides: (1..rank).map(|axis| long(AT_STRIDES + 8 * (axis - 1))).collect(),
            tile: (0..rank).map(|axis| word(AT_BOX + 4 * axis)).collect(),
            element_strides: (0..rank).map(|axis| bytes[AT_ELEMENT_STRIDES + axis].into()).collect(),
            swizzle: *swizzle,
            out_of_bounds: if bytes[AT_FILL] == 1 { OutOfBounds::Nan } else { OutOfBounds::Zero },
        };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), String> {
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return Err(format!("a tensor has from 1 to 5 dimensions, not {rank}"));
        }
        let counts = [("tile", self.tile.len(), rank), ("element_strides", self.element_strides.len(), rank)];
        for (what, found, needed) in counts.into_iter().chain([("strides", self.strides.len(), rank - 1)]) {
            if found != needed {
                return Err(format!("{rank} dimensions have {needed} `{what}`, here are {found}"));
            }
        }
        let within = |what: &str, found: u64, least: u64, most: u64| {
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(format!("{what} is from {least} to {most}, not {found}"))
        };
        if !self.address.0.is_multiple_of(16) {
            return Err(format!("the address of the tensor is a multiple of 16, not {}", self.address));
        }
        for dim in &self.dims {
            within("a dimension", *dim, 1, 1 << 32)?;
        }
        for stride in &self.strides {
            within("a stride", *stride, 16, (1 << 40) - 16)?;
            if !stride.is_multiple_of(16) {
                return Err(format!("a stride is a multiple of 16 bytes, not {stride}"));
            }
        }
        for extent in &self.tile {
            within("a dimension of a tile", u64::from(*extent), 1, 256)?;
        }
        for stride in &self.element_strides {
            within("an element stride", u64::from(*stride), 1, 8)?;
        }
        let row = u64::from(self.tile[0]) * self.element.bytes();
        if !row.is_multiple_of(16) {
            return Err(format!("a row of a tile has a multiple of 16 bytes, not {row}"));
        }
        if let Some(span) = self.swizzle.span().filter(|span| row > u64::from(*span)) {
            return Err(format!("a row of a tile has at most the {span} bytes of its swizzle, not {row}"));
        }
        let scalar = self.element.scalar();
        if self.out_of_bounds == OutOfBounds::Nan && !scalar.is_float() {
            return Err("only floating-point elements can be NaN".into());
        }
        Ok(())
    }

    /// Elements of a tile along a dimension, as they are in shared memory. Along the innermost one all are taken.
    fn taken(&self, axis: usize) -> u64 {
        let stride = if axis == 0 { 1 } else { self.element_strides[axis] };
        self.tile[axis].div_ceil(stride).into()
    }

    /// Bytes of a tile in shared memory.
    pub(crate) fn tile_bytes(&self) -> u64 {
        (0..self.dims.len()).map(|axis| self.taken(axis)).product::<u64>() * self.element.bytes()
    }

    /// A tile full of what is read beyond the edges.
    pub(crate) fn empty_tile(&self) -> Vec<u8> {
        let width = self.element.bytes() as usize;
        let mut element = vec![0; width];
        if self.out_of_bounds == OutOfBounds::Nan {
            element.fill(0xff);
            element[width - 1] = 0x7f;
        }
        element.repeat(self.tile_bytes() as usize / width)
    }

    /// The parts of a tile that are in the tensor, each in one chunk of 16 bytes if it is swizzled: address, place in the tile, bytes. The
    /// tile is at an offset in shared memory.
    pub(crate) fn pieces(&self, coordinates: &[i32], offset: u32) -> Vec<Piece> {
        let width = self.element.bytes();
        let row_bytes = self.taken(0) * width;
        let rows = (1..self.dims.len()).map(|axis| self.taken(axis)).product::<u64>();
        let first = i64::from(coordinates[0]);
        // Of the innermost dimension, the elements that are inside.
        let start = (-first).clamp(0, self.taken(0).cast_signed()).cast_unsigned();
        let end = (self.dims[0].cast_signed() - first).clamp(0, self.taken(0).cast_signed()).cast_unsigned();
        let mut pieces = Vec::new();
        for row in 0..rows {
            let mut rest = row;
            let mut address = self.address.0;
            let mut inside = start < end;
            for (axis, coordinate) in coordinates.iter().enumerate().skip(1) {
                let at = rest % self.taken(axis) * u64::from(self.element_strides[axis]);
                rest /= self.taken(axis);
                let at = i64::from(*coordinate) + at.cast_signed();
                inside &= (0..self.dims[axis].cast_signed()).contains(&at);
                address = address.wrapping_add_signed(at.wrapping_mul(self.strides[axis - 1].cast_signed()));
            }
            if !inside {
                continue;
            }
            let address = address.wrapping_add_signed(first * width.cast_signed());
            let mut at = start * width;
            while at < end * width {
                let next =
                    if self.swizzle == Swizzle::None { end * width } else { ((at / 16 + 1) * 16).min(end * width) };
                let in_tile = (row * row_bytes + at) as u32;
                let place = self.swizzle.place(offset + in_tile) - offset;
                pieces.push(Piece { address: address + at, place, bytes: (next - at) as u32 });
                at = next;
            }
        }
        pieces
    }
}

/// Bytes of a tensor, and where they are in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub address: u64,
    pub place: u32,
    pub bytes: u32,
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: impl Into<Field<N>>) {
    bytes[at..at + N].copy_from_slice(&value.into().0);
}

struct Field<const N: usize>([u8; N]);

impl From<u64> for Field<8> {
    fn from(value: u64) -> Self {
        Field(value.to_le_bytes())
    }
}

impl From<u32> for Field<4> {
    fn from(value: u32) -> Self {
        Field(value.to_le_bytes())
    }
}

/// A field of a tensor map, those of a dimension by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapField {
    Address,
    Rank,
    BoxDim(u8),
    GlobalDim(u8),
    GlobalStride(u8),
    ElementStride(u8),
    Element,
    Interleave,
    Swizzle,
    Atomicity,
    Fill,
}

/// Changes a field of a map as `tensormap.replace` does.
pub(crate) fn replace(bytes: &mut [u8; MAP_BYTES as usize], field: MapField, value: u64) {
    match field {
        MapField::Address => put(bytes, AT_ADDRESS, value),
        // It counts from zero.
        MapField::Rank => bytes[AT_RANK] = value as u8,
        MapField::BoxDim(axis) => put(bytes, AT_BOX + 4 * usize::from(axis), value as u32),
        MapField::GlobalDim(axis) => put(bytes, AT_DIMS + 8 * usize::from(axis), value),
        MapField::GlobalStride(axis) => put(bytes, AT_STRIDES + 8 * usize::from(axis), value),
        MapField::ElementStride(axis) => bytes[AT_ELEMENT_STRIDES + usize::from(axis)] = value as u8,
        MapField::Element => bytes[AT_ELEMENT] = value as u8,
        MapField::Swizzle => bytes[AT_SWIZZLE] = value as u8,
        MapField::Fill => bytes[AT_FILL] = value as u8,
        // Only the modes that are numbered 0 are known here, and the decoder sees to that.
        MapField::Interleave | MapField::Atomicity => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            element: TensorElement::F16,
            address: Address(0x4000),
            dims: vec![100, 7, 3],
            strides: vec![208, 1456],
            tile: vec![64, 4, 2],
            element_strides: vec![1, 2, 1],
            swizzle: Swizzle::Bytes128,
            out_of_bounds: OutOfBounds::Nan,
        }
    }

    #[test]
    fn bytes_hold_every_field() {
        let bytes = map().encode().unwrap();
        assert_eq!(TensorMap::decode(&bytes), Ok(map()));
        let mut changed = bytes;
        for (field, value) in [
            (MapField::Address, 0x9990),
            (MapField::Rank, 1),
            (MapField::BoxDim(1), 5),
            (MapField::GlobalDim(0), 99),
            (MapField::GlobalStride(0), 416),
            (MapField::ElementStride(1), 3),
            (MapField::Element, 10),
            (MapField::Swizzle, 0),
            (MapField::Fill, 0),
        ] {
            replace(&mut changed, field, value);
        }
        let expected = TensorMap {
            element: TensorElement::Bf16,
            address: Address(0x9990),
            dims: vec![99, 7],
            strides: vec![416],
            tile: vec![64, 5],
            element_strides: vec![1, 3],
            swizzle: Swizzle::None,
            out_of_bounds: OutOfBounds::Zero,
        };
        assert_eq!(TensorMap::decode(&changed), Ok(expected));
        assert!(TensorMap::decode(&[0; 128]).is_err());
    }

    #[test]
    fn what_hardware_refuses_is_refused() {
        let refused = |change: fn(&mut TensorMap)| {
            let mut map = map();
            change(&mut map);
            map.encode().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|map| map.tile[0] = 72),
            "a tensor map: a row of a tile has at most the 128 bytes of its swizzle, not 144"
        );
        assert_eq!(
            refused(|map| map.tile[0] = 63),
            "a tensor map: a row of a tile has a multiple of 16 bytes, not 126"
        );
        assert_eq!(refused(|map| map.tile[1] = 257), "a tensor map: a dimension of a tile is from 1 to 256, not 257");
        assert_eq!(refused(|map| map.strides[1] = 1000), "a tensor map: a stride is a multiple of 16 bytes, not 1000");
        assert_eq!(refused(|map| map.element_strides[2] = 9), "a tensor map: an element stride is from 1 to 8, not 9");
        assert_eq!(
            refused(|map| map.address = Address(8)),
            "a tensor map: the address of the tensor is a multiple of 16, not 0x0000000000000008"
        );
        assert_eq!(
            refused(|map| map.element = TensorElement::U16),
            "a tensor map: only floating-point elements can be NaN"
        );
        assert_eq!(refused(|map| map.strides.clear()), "a tensor map: 3 dimensions have 2 `strides`, here are 0");
        assert_eq!(refused(|map| map.dims.clear()), "a tensor map: a tensor has from 1 to 5 dimensions, not 0");
    }

    /// The chunk of 16 bytes in which each chunk of eight lines of 128 bytes is put, line after line, as the PTX ISA draws it.
    #[test]
    fn chunks_are_where_the_tables_say() {
        let chunks = |swizzle: Swizzle, line: u32| -> Vec<u32> {
            (0..8).map(|chunk| swizzle.place(line * 128 + chunk * 16) % 128 / 16).collect()
        };
        assert_eq!(chunks(Swizzle::Bytes32, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chunks(Swizzle::Bytes32, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(chunks(Swizzle::Bytes32, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chunks(Swizzle::Bytes64, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(chunks(Swizzle::Bytes64, 2), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(chunks(Swizzle::Bytes64, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(chunks(Swizzle::Bytes64, 4), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chunks(Swizzle::Bytes128, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chunks(Swizzle::Bytes128, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(chunks(Swizzle::Bytes128, 2), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(chunks(Swizzle::Bytes128, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(chunks(Swizzle::Bytes128, 5), [5, 4, 7, 6, 1, 0, 3, 2]);
        assert_eq!(chunks(Swizzle::Bytes128, 7), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(Swizzle::Bytes128.place(1024 + 3 * 128 + 5), 1024 + 3 * 128 + 3 * 16 + 5);
    }
}
