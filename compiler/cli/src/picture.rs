//! The traffic matrix as a picture: bytes from each rank to each rank, one hue from light to dark, readable in light and dark pages
//! and without colour (every cell of a small matrix carries its number).

use svg::Document;
use svg::node::element::{Group, Rectangle, Style, Text};

const CELL: usize = 46;
const LEFT: usize = 74;
const TOP: usize = 84;
/// Larger matrices have cells without numbers.
const NUMBERS_UP_TO: usize = 32;

/// `bytes[from][to]` as SVG text.
pub fn traffic_matrix(title: &str, bytes: &[Vec<u64>]) -> String {
    let ranks = bytes.len();
    let cell = if ranks <= NUMBERS_UP_TO { CELL } else { 12 };
    let largest = bytes.iter().flatten().copied().max().unwrap_or(0).max(1);
    let (width, height) = (LEFT + ranks * cell + 24, TOP + ranks * cell + 40);
    let mut document = Document::new()
        .set("viewBox", (0, 0, width.max(460), height))
        .set("width", width.max(460))
        .set("height", height)
        .set("role", "img")
        .add(Style::new(
            "text{font:12px system-ui,sans-serif;fill:#1b1b1b}.title{font-size:16px;font-weight:600}\
             .axis{font-size:12px}.number{font-size:10px;text-anchor:middle}.paper{fill:#fff}\
             @media(prefers-color-scheme:dark){.paper{fill:#16181c}.ink{fill:#e8e8e8}}",
        ))
        .add(Rectangle::new().set("class", "paper").set("width", "100%").set("height", "100%"))
        .add(label(title, 16, 26, "title ink"))
        .add(label(
            &format!("bytes from rank (row) to rank (column); darkest = {}", human(largest)),
            16,
            46,
            "axis ink",
        ));
    for (from, row) in bytes.iter().enumerate() {
        if cell == CELL || from % 8 == 0 {
            document = document
                .add(label(&format!("rank {from}"), 16, TOP + from * cell + cell / 2 + 4, "axis ink"))
                .add(label(&from.to_string(), LEFT + from * cell + cell / 2, TOP - 8, "number ink"));
        }
        let mut cells = Group::new();
        for (to, &count) in row.iter().enumerate() {
            let share = count as f64 / largest as f64;
            let (x, y) = (LEFT + to * cell, TOP + from * cell);
            cells = cells.add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", y)
                    .set("width", cell - 1)
                    .set("height", cell - 1)
                    .set("fill", shade(share))
                    .add(svg::node::element::Title::new(format!("rank {from} to rank {to}: {count} bytes"))),
            );
            if cell == CELL {
                let ink = if share > 0.55 { "#ffffff" } else { "#1b1b1b" };
                cells = cells.add(
                    Text::new(human(count))
                        .set("class", "number")
                        .set("style", format!("fill:{ink}"))
                        .set("x", x + cell / 2)
                        .set("y", y + cell / 2 + 4),
                );
            }
        }
        document = document.add(cells);
    }
    document.to_string()
}

fn label(text: &str, x: usize, y: usize, class: &str) -> Text {
    Text::new(text).set("class", class).set("x", x).set("y", y)
}

/// From near white to dark blue.
fn shade(share: f64) -> String {
    let mix = |light: f64, dark: f64| (light + (dark - light) * share).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(236.0, 8.0), mix(243.0, 48.0), mix(250.0, 107.0))
}

/// A number of bytes in at most five characters, powers of ten.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.5 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown: Vec<_> = [0, 999, 1000, 12_340, 999_499, 999_500, 5_000_000_000].map(human).to_vec();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "12.3 kB", "999 kB", "1.0 MB", "5.0 GB"]);
    }

    #[test]
    fn every_link_is_in_the_picture() {
        let picture = traffic_matrix("dispatch", &[vec![0, 7000], vec![30, 0]]);
        assert!(picture.contains("rank 0 to rank 1: 7000 bytes"), "{picture}");
        assert!(picture.contains("rank 1 to rank 0: 30 bytes"), "{picture}");
        assert!(picture.contains("7.0 kB"), "{picture}");
    }
}
