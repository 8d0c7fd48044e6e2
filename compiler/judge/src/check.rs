//! One comparison over all ranks, and its first difference.

use std::borrow::{Borrow, Cow};

use moe_contract::{Element, RankId, ScaleElement};

use crate::place::Naming;
use crate::rows::Rows;

/// One comparison over all ranks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Check {
    /// What is compared.
    pub what: String,
    /// With what.
    pub against: &'static str,
    /// Numbers that were compared.
    pub compared: u64,
    /// How it is compared.
    pub criterion: Cow<'static, str>,
    /// The first difference; none if all is well.
    pub difference: Option<Difference>,
    /// A figure worth knowing.
    pub figure: Option<String>,
}

/// A number that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Difference {
    /// Where the first one is.
    pub place: String,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
    /// Numbers that differ, this one included.
    pub numbers: u64,
    /// What it looks like.
    pub hint: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {} instead of {}", self.place, self.found, self.expected)?;
        if self.numbers > 1 {
            write!(formatter, "; {} numbers differ", self.numbers)?;
        }
        match &self.hint {
            Some(hint) => write!(formatter, "; {hint}"),
            None => Ok(()),
        }
    }
}

pub(super) const BITWISE: &str = "bit for bit";

/// Whether one NaN is as good as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nans {
    /// They have bits like other numbers.
    Bits,
    /// Any is.
    Equal,
}

impl Check {
    pub(crate) fn new(
        what: impl Into<String>,
        against: &'static str,
        criterion: impl Into<Cow<'static, str>>,
    ) -> Check {
        Check { what: what.into(), against, compared: 0, criterion: criterion.into(), difference: None, figure: None }
    }

    /// Whether all is well.
    pub fn holds(&self) -> bool {
        self.difference.is_none()
    }

    /// Whether there was anything to compare.
    pub(crate) fn says_something(&self) -> bool {
        self.compared > 0 || !self.holds()
    }

    /// Numbers of every rank, bit for bit; `width` numbers are a row.
    pub(super) fn numbers<T: Number>(
        what: &str,
        against: &'static str,
        found: &[Vec<T>],
        expected: &[impl Borrow<Vec<T>>],
        width: usize,
        naming: &Naming,
    ) -> Check {
        let mut check = Check::new(what, against, BITWISE);
        check.all_numbers(found, expected, width, naming, Nans::Bits);
        check
    }

    /// Rows of every rank, bit for bit.
    pub(super) fn rows(
        what: &str,
        against: &'static str,
        found: &[Rows],
        expected: &[impl Borrow<Rows>],
        naming: &Naming,
    ) -> Check {
        let mut check = Check::new(what, against, BITWISE);
        check.ranks(found.len(), expected.len());
        for (rank, (found, expected)) in (0..).map(RankId).zip(found.iter().zip(expected)) {
            check.rows_of(rank, found, expected.borrow(), naming);
        }
        check
    }

    pub(super) fn all_numbers<T: Number>(
        &mut self,
        found: &[Vec<T>],
        expected: &[impl Borrow<Vec<T>>],
        width: usize,
        naming: &Naming,
        nans: Nans,
    ) {
        self.ranks(found.len(), expected.len());
        for (rank, (found, expected)) in (0..).map(RankId).zip(found.iter().zip(expected)) {
            self.numbers_of(rank, found, expected.borrow(), width, naming, nans);
        }
    }

    /// Whether there is something of each rank.
    pub(super) fn ranks(&mut self, found: usize, expected: usize) {
        if found != expected {
            self.differ("the run".into(), format!("results of {found} ranks"), format!("{expected} ranks"));
        }
    }

    /// Numbers of one rank.
    pub(super) fn numbers_of<T: Number>(
        &mut self,
        rank: RankId,
        found: &[T],
        expected: &[T],
        width: usize,
        naming: &Naming,
        nans: Nans,
    ) {
        self.compared += expected.len() as u64;
        if found.len() != expected.len() {
            let place = match naming {
                Naming::Array(name) => format!("{rank}, {name}"),
                _ => rank.to_string(),
            };
            let numbers = |count: usize| format!("{count} numbers");
            self.differ(place, numbers(found.len()), numbers(expected.len()));
            return;
        }
        for (place, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let both_nan = nans == Nans::Equal && found.is_nan() && expected.is_nan();
            if found.bits() != expected.bits() && !both_nan {
                let (row, column) = (place / width.max(1), place % width.max(1));
                let [found, expected] =
                    told([found, expected], |number| number.to_string(), |number| format!("{:#010x}", number.bits()));
                self.differ_at(|| naming.number(rank, row, column), found, expected);
            }
        }
    }

    /// Rows of one rank: their elements and their scales.
    fn rows_of(&mut self, rank: RankId, found: &Rows, expected: &Rows, naming: &Naming) {
        let (format, hidden) = (expected.format(), expected.hidden());
        let written = naming.written(rank, expected.count());
        let rows: usize = written.iter().map(ExactSizeIterator::len).sum();
        self.compared += rows as u64 * u64::from(hidden + format.scales_per_row(hidden));
        let form = |rows: &Rows| (rows.count(), rows.hidden(), rows.format());
        if form(found) != form(expected) {
            let name = |rows: &Rows| rows.format().name().unwrap_or("an unknown format");
            let told = |rows: &Rows| format!("{} rows of {} {}", rows.count(), rows.hidden(), name(rows));
            self.differ(rank.to_string(), told(found), told(expected));
            return;
        }
        for row in written.into_iter().flatten() {
            let first = self.difference.is_none();
            self.parts(
                found.row_bytes(row),
                expected.row_bytes(row),
                format.element.bytes(),
                |bytes| Stored::Element(format.element, bytes).to_string(),
                |column| naming.number(rank, row, column),
            );
            if let Some(scales) = format.scales {
                self.parts(
                    found.row_scales(row),
                    expected.row_scales(row),
                    scales.element.bytes(),
                    |bytes| Stored::Scale(scales.element, bytes).to_string(),
                    |place| format!("{}, scale {place}", naming.row(rank, row)),
                );
            }
            if let (true, Some(difference)) = (first, &mut self.difference) {
                difference.hint = other_row(found, expected, row).map(|other| {
                    let whole = if other.scales { "it is what belongs to" } else { "its elements are those of" };
                    format!("{whole} {}", naming.row(rank, other.row))
                });
            }
        }
    }

    /// Numbers of some bytes each, as they lie in memory.
    fn parts(
        &mut self,
        found: &[u8],
        expected: &[u8],
        bytes: u32,
        number: impl Fn(&[u8]) -> String,
        place: impl Fn(usize) -> String,
    ) {
        if found == expected {
            return;
        }
        let pairs = found.chunks_exact(bytes as usize).zip(expected.chunks_exact(bytes as usize)).enumerate();
        for (at, (found, expected)) in pairs.filter(|(_, (found, expected))| found != expected) {
            let [found, expected] = told([found, expected], &number, hexadecimal);
            self.differ_at(|| place(at), found, expected);
        }
    }

    /// A difference; the first is told.
    pub(crate) fn differ(&mut self, place: String, found: String, expected: String) {
        self.differ_at(|| place, found, expected);
    }

    fn differ_at(&mut self, place: impl FnOnce() -> String, found: String, expected: String) {
        match &mut self.difference {
            Some(difference) => difference.numbers += 1,
            None => self.difference = Some(Difference { place: place(), found, expected, numbers: 1, hint: None }),
        }
    }
}

/// A row that is another one's.
struct OtherRow {
    row: usize,
    /// Its scales too.
    scales: bool,
}

/// Which row of the same rank should be what was found in `row`. A row whose elements are all the same is nobody's in particular.
fn other_row(found: &Rows, expected: &Rows, row: usize) -> Option<OtherRow> {
    let bytes = found.row_bytes(row);
    let element = found.format().element.bytes() as usize;
    let mut elements = bytes.chunks_exact(element);
    let first = elements.next()?;
    if elements.all(|element| element == first) {
        return None;
    }
    let other = (0..expected.count()).find(|&other| other != row && expected.row_bytes(other) == bytes)?;
    Some(OtherRow { row: other, scales: found.row_scales(row) == expected.row_scales(other) })
}

/// Two numbers in words that differ.
fn told<T: std::marker::Copy>(numbers: [T; 2], words: impl Fn(T) -> String, bits: impl Fn(T) -> String) -> [String; 2] {
    let [found, expected] = numbers.map(&words);
    if found != expected {
        return [found, expected];
    }
    numbers.map(|number| format!("{} ({})", words(number), bits(number)))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().rev().fold("0x".into(), |text, byte| format!("{text}{byte:02x}"))
}

/// A number in memory; there are as many bytes as it has.
enum Stored<'s> {
    Element(Element, &'s [u8]),
    Scale(ScaleElement, &'s [u8]),
}

impl std::fmt::Display for Stored<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stored::Element(element, bytes) => element.decode(bytes).fmt(formatter),
            Stored::Scale(scale, bytes) => scale.decode(bytes).fmt(formatter),
        }
    }
}

/// A number as its bits.
pub(super) trait Number: Copy + ToString {
    fn bits(self) -> u32;
    fn is_nan(self) -> bool;
}

impl Number for f32 {
    fn bits(self) -> u32 {
        self.to_bits()
    }

    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

impl Number for i32 {
    fn bits(self) -> u32 {
        self.cast_unsigned()
    }

    fn is_nan(self) -> bool {
        false
    }
}
