//! How a vector of a program lies in memory.
//!
//! Invariant: every row (a group of experts; other vectors have one row) begins at a multiple of four numbers, so that a register of
//! four lanes never holds parts of two groups. The *position* of an element counts the padding, its *index* does not.

/// Bytes of a number.
pub(crate) const NUMBER: u32 = 4;
/// Numbers of a register.
pub(crate) const LANES: u32 = 4;
/// Bytes of a register.
pub(crate) const REGISTER: u32 = NUMBER * LANES;

/// Rows of equal width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub rows: u32,
    /// Elements of a row.
    pub width: u32,
}

impl Layout {
    /// Registers of a row.
    pub(crate) fn row_registers(self) -> u32 {
        self.width.div_ceil(LANES)
    }

    /// Registers of all rows.
    pub(crate) fn registers(self) -> u32 {
        self.rows * self.row_registers()
    }

    /// Numbers from a row to the next.
    pub(crate) fn stride(self) -> u32 {
        self.row_registers() * LANES
    }

    /// Lanes of the last register of a row that hold an element; 0 when all do.
    pub(crate) fn tail(self) -> u32 {
        self.width % LANES
    }

    pub(crate) fn elements(self) -> u32 {
        self.rows * self.width
    }

    /// Whether position and index are the same.
    pub(crate) fn is_packed(self) -> bool {
        self.rows == 1 || self.tail() == 0
    }

    /// The position of an element.
    pub(crate) fn position(self, index: u32) -> u32 {
        index / self.width * self.stride() + index % self.width
    }

    /// One row of it.
    pub(crate) fn row(self) -> Layout {
        Layout { rows: 1, width: self.width }
    }

    /// A bit for each of the positions `64 × word ..`: whether it is an element.
    pub(crate) fn elements_of_word(self, word: u32) -> u64 {
        let is_element = |position: u32| position < self.registers() * LANES && position % self.stride() < self.width;
        (0..64).filter(|bit| is_element(64 * word + bit)).fold(0, |bits, bit| bits | 1 << bit)
    }
}
