//! Where a number is, in the words of who wrote the layer.

use std::ops::Range;

use moe_contract::RankId;

use crate::reference::Handle;

/// What the rows and columns of an array are.
pub(crate) enum Naming<'n> {
    /// A row is a token; a column is called this.
    Tokens(&'static str),
    /// Rows of elements: of the experts, by what each rank keeps of the dispatch; without that, of the tokens.
    Rows(&'n [Handle]),
    /// Of a handle: a column is an entry of this array.
    Array(&'static str),
}

impl Naming<'_> {
    /// The rows of so many that hold something.
    pub fn written(&self, rank: RankId, rows: usize) -> Vec<Range<usize>> {
        let of_handle = |handles: &[Handle]| handles.get(rank.index()).map(|handle| handle.written.clone());
        let written = match self {
            Naming::Rows(handles) => of_handle(handles),
            Naming::Tokens(_) | Naming::Array(_) => None,
        };
        written.unwrap_or_else(|| std::iter::once(0..rows).collect())
    }

    pub fn row(&self, rank: RankId, row: usize) -> String {
        match self {
            Naming::Tokens(_) | Naming::Rows([]) => format!("{rank}, token {row}"),
            Naming::Rows(handles) => format!("{rank}, row {row} ({})", owner(handles.get(rank.index()), row)),
            Naming::Array(name) => format!("{rank}, entry {row} of {name}"),
        }
    }

    /// A number of a row.
    pub fn number(&self, rank: RankId, row: usize, column: usize) -> String {
        let row = self.row(rank, row);
        match self {
            Naming::Tokens(name) => format!("{row}, {name} {column}"),
            Naming::Rows(_) => format!("{row}, element {column}"),
            Naming::Array(_) => row,
        }
    }
}

/// Whose row it is.
fn owner(handle: Option<&Handle>, row: usize) -> String {
    let copies = handle.map_or(&[][..], |handle| &handle.copies);
    let found = copies.iter().find_map(|copy| {
        let pick = copy.rows.iter().position(|&place| place == Some(row))?;
        Some((copy, copy.picks[pick], copy.rows.iter().filter(|&&place| place == Some(row)).count()))
    });
    match found {
        Some((copy, expert, 1)) => format!("expert {expert}, token {} of {}", copy.token, copy.source),
        Some((copy, ..)) => format!("token {} of {}", copy.token, copy.source),
        None => "padding".into(),
    }
}
