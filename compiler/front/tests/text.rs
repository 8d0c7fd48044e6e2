//! Text for terminals: no line is wider than it may be, and nothing is lost.

use moe_front::text::{Column, Page, Screen, Table, harmless, plain, width, within, wrap, wrap_coloured};

#[test]
fn ascii_says_the_same_in_other_words() {
    assert_eq!(plain("2 × 3 µs ≤ … – “é”", true), "2 x 3 us <= ... - \"?\"");
    assert_eq!(plain("2 × 3 µs ≤ …", false), "2 × 3 µs ≤ …");
}

#[test]
fn below_something_every_character_keeps_its_columns() {
    for text in ["a × … é 漢字", "plain", "½"] {
        let shown = within(text, true);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(width(&shown), width(text), "{text}: {shown}");
    }
}

#[test]
fn a_terminal_is_told_nothing_by_a_file() {
    let hostile = "a\u{1b}[2J \u{9b}31m \u{202e} é\r\n";
    let shown = harmless(hostile.into());
    assert_eq!(shown, "a?[2J ¿31m \u{fffd} é\r\n");
    assert_eq!(shown.len(), hostile.len());
    assert_eq!(plain("a\u{1b}[31mb\u{7}\u{202e}c\td\n", false), "a\u{fffd}[31mb\u{fffd}\u{fffd}c\td\n");
    assert_eq!(plain("a\u{1b}[31mb", true), "a?[31mb");
}

#[test]
fn lines_are_as_wide_as_they_may_be_and_no_wider() {
    assert_eq!(wrap("  aa bb cc dd", 8, 4), ["  aa bb", "  cc dd"]);
    assert_eq!(wrap("aa bb cc dd", 8, 2), ["aa bb cc", "  dd"]);
    assert_eq!(wrap("an-endless-word and more", 8, 0), ["an-endless-word", "and more"]);
    assert_eq!(wrap("漢字 漢字", 6, 0), ["漢字", "漢字"]);
    assert_eq!(wrap("", 8, 2), [""]);
}

#[test]
fn a_colour_goes_on_in_the_next_line() {
    let shown = wrap_coloured("a \u{1b}[31mred word\u{1b}[0m end", 6, "| ");
    assert_eq!(shown, "a \u{1b}[31mred\u{1b}[0m\n| \u{1b}[31mword\u{1b}[0m\n| end");
    assert_eq!(wrap_coloured("a   b", 80, ""), "a   b");
}

fn shown(table: Table, columns: usize) -> String {
    let mut page = Page::default();
    page.table(table);
    page.show(&Screen { width: columns, prose: columns, ..Screen::ENDLESS })
}

fn matrix(columns: usize) -> Table {
    let row = |first: &str, number: usize| {
        std::iter::once(first.to_owned()).chain((0..columns).map(|column| (column * number).to_string())).collect()
    };
    Table::headed([row("to", 1), row("0", 100), row("1", 1000)])
}

#[test]
fn a_table_that_fits_is_as_it_is() {
    assert_eq!(shown(matrix(3), 80), "  to  0     1     2\n  0   0   100   200\n  1   0  1000  2000\n");
}

#[test]
fn a_matrix_is_cut_into_several_with_the_first_column_each() {
    assert_eq!(
        shown(matrix(4), 16),
        "  to  0     1\n  0   0   100\n  1   0  1000\n\n  to     2     3\n  0    200   300\n  1   2000  3000\n"
    );
}

#[test]
fn words_are_wrapped_below_each_other() {
    let mut table = Table::new([Column::words("what"), Column::numbers("how many"), Column::words("result")]);
    table.row(["experts' input".to_owned(), "12 kB".to_owned(), "equal in every single bit of it".to_owned()]);
    assert_eq!(
        shown(table.clone(), 44).lines().collect::<Vec<_>>(),
        [
            "  what            how many  result",
            "  experts' input     12 kB  equal in every",
            "                             single bit of",
            "                             it",
        ]
    );
    assert_eq!(
        shown(table, 24).lines().collect::<Vec<_>>(),
        ["  experts' input", "    how many: 12 kB;", "    result: equal in", "    every single bit of", "    it",]
    );
}
