//! Tables that fit the screen.
//!
//! A table that is too wide has its heads and its words wrapped; where that is not enough, a table of numbers is cut into several below each
//! other, each with the first column, and any other becomes one paragraph a row. No row is ever torn by the terminal.

use std::fmt;

use super::{Screen, plain, width, wrap};

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    head: String,
    numbers: bool,
}

impl Column {
    /// Words, which may be wrapped.
    pub fn words(head: impl Into<String>) -> Column {
        Column { head: head.into(), numbers: false }
    }

    /// Numbers with their units, which are not.
    pub fn numbers(head: impl Into<String>) -> Column {
        Column { head: head.into(), numbers: true }
    }
}

/// Rows of cells.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// Blanks before a row, and between columns.
const INDENT: usize = 2;
/// Lines of a row, beyond which a table of words is no table any more.
const TALLEST: usize = 4;

impl Table {
    /// A table with heads and no rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// One of which the first row are the heads; the first column is words, the others are numbers.
    pub fn headed(rows: impl IntoIterator<Item = Vec<String>>) -> Table {
        let mut rows = rows.into_iter();
        let heads = rows.next().unwrap_or_default().into_iter().enumerate();
        let columns = heads.map(|(index, head)| Column { head, numbers: index > 0 }).collect();
        Table { columns, rows: rows.collect() }
    }

    /// One without heads; the first column is words, the others are numbers.
    pub fn bare(rows: Vec<Vec<String>>) -> Table {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let columns = (0..columns).map(|index| Column { head: String::new(), numbers: index > 0 }).collect();
        Table { columns, rows }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn show(&self, screen: &Screen, text: &mut String) {
        let shown = |cell: &String| plain(cell, screen.ascii).into_owned();
        let columns = self.columns.iter().map(|column| Column { head: shown(&column.head), ..*column }).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(shown).collect()).collect();
        let table = Table { columns, rows };
        let all: Vec<usize> = (0..table.columns.len()).collect();
        if let Some(widths) = table.fit(&all, screen.width) {
            table.lines(&all, &widths, text);
        } else if let Some(groups) = table.groups(screen.width) {
            for (place, (group, widths)) in groups.iter().enumerate() {
                if place > 0 {
                    text.push('\n');
                }
                table.lines(group, widths, text);
            }
        } else {
            table.paragraphs(screen.width.min(screen.prose), text);
        }
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(move |row| row.get(column)).map(String::as_str)
    }

    /// Columns that a column wants, and the fewest that it can do with.
    fn wanted(&self, column: usize) -> (usize, usize) {
        let Column { head, numbers } = &self.columns[column];
        let most = self.cells(column).chain([head.as_str()]).map(width).max().unwrap_or(0);
        let longest = |text: &str| text.split(' ').map(width).max().unwrap_or(0);
        let least = match numbers {
            true => self.cells(column).map(width).chain([longest(head)]).max().unwrap_or(0),
            false => {
                // A column of single words is tall and says little.
                const NARROW: usize = 12;
                self.cells(column).chain([head.as_str()]).map(longest).max().unwrap_or(0).max(NARROW.min(most))
            }
        };
        (most, least)
    }

    /// The width of each of some columns, if they fit side by side.
    fn fit(&self, group: &[usize], room: usize) -> Option<Vec<usize>> {
        let wanted: Vec<(usize, usize)> = group.iter().map(|&column| self.wanted(column)).collect();
        let gaps = INDENT * group.len();
        let mut widths: Vec<usize> = wanted.iter().map(|&(_, least)| least).collect();
        let mut spare = room.checked_sub(gaps + widths.iter().sum::<usize>())?;
        // The columns that lack least get all they want first, the others share what is left.
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by_key(|&place| wanted[place].0 - wanted[place].1);
        for (served, &place) in order.iter().enumerate() {
            let share = spare / (order.len() - served);
            let more = share.min(wanted[place].0 - wanted[place].1);
            widths[place] += more;
            spare -= more;
        }
        let tallest = self.rows.iter().map(|row| self.height(row, group, &widths)).max().unwrap_or(0);
        (tallest <= TALLEST).then_some(widths)
    }

    fn height(&self, row: &[String], group: &[usize], widths: &[usize]) -> usize {
        let cells =
            group.iter().zip(widths).filter_map(|(&column, &width)| Some(wrap(row.get(column)?, width, 1).len()));
        cells.max().unwrap_or(0)
    }

    /// The columns of a table of numbers in groups that fit, each with the first column.
    fn groups(&self, room: usize) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
        if self.columns.len() < 3 || !self.columns[1..].iter().all(|column| column.numbers) {
            return None;
        }
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for column in 1..self.columns.len() {
            let with = groups.last().map(|(group, _)| [&group[..], &[column]].concat());
            match with.and_then(|group| Some((self.fit(&group, room)?, group))) {
                Some((widths, group)) => *groups.last_mut()? = (group, widths),
                None => {
                    let group = vec![0, column];
                    let widths = self.fit(&group, room)?;
                    groups.push((group, widths));
                }
            }
        }
        Some(groups)
    }

    /// Heads and rows of some columns.
    fn lines(&self, group: &[usize], widths: &[usize], text: &mut String) {
        let heads: Vec<String> = self.columns.iter().map(|column| column.head.clone()).collect();
        if heads.iter().any(|head| !head.is_empty()) {
            self.line(&heads, group, widths, true, text);
        }
        self.rows.iter().for_each(|row| self.line(row, group, widths, false, text));
    }

    fn line(&self, row: &[String], group: &[usize], widths: &[usize], is_head: bool, text: &mut String) {
        let cells: Vec<Vec<String>> = group
            .iter()
            .zip(widths)
            .map(|(&column, &width)| {
                let hang = usize::from(!self.columns[column].numbers && !is_head);
                wrap(row.get(column).map_or("", String::as_str), width, hang)
            })
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let mut line = String::new();
            for ((&column, &room), cell) in group.iter().zip(widths).zip(&cells) {
                // Heads stand on what they name.
                let skipped = if is_head { height - cell.len() } else { 0 };
                let part = at.checked_sub(skipped).and_then(|at| cell.get(at)).map_or("", String::as_str);
                let blanks = " ".repeat(room.saturating_sub(width(part)));
                line.push_str(&" ".repeat(INDENT));
                match self.columns[column].numbers {
                    true => line.extend([&blanks, part]),
                    false => line.extend([part, &blanks]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }

    /// One paragraph a row: its first cell, and what the others say under their heads.
    fn paragraphs(&self, room: usize, text: &mut String) {
        for row in &self.rows {
            let mut cells = row.iter().zip(&self.columns).map(|(cell, column)| (cell.as_str(), column.head.as_str()));
            let title = cells.next().map_or("", |(cell, _)| cell);
            let said = cells.filter(|(cell, _)| !cell.is_empty());
            let said: Vec<String> = said
                .map(|(cell, head)| if head.is_empty() { cell.to_owned() } else { format!("{head}: {cell}") })
                .collect();
            for line in wrap(&format!("  {title}"), room, 4).into_iter().chain(wrap(
                &format!("    {}", said.join("; ")),
                room,
                4,
            )) {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.show(&Screen::ENDLESS, &mut text);
        f.write_str(&text)
    }
}
