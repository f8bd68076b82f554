//! Tables that fit the width of the terminal, and their colours.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Row};
use crossterm::style::{Color, Stylize};

use super::Scheme;
use super::text::printable;

/// The settings of colours: whether there are any, and which one headings have.
#[derive(Clone, Copy)]
pub struct Paint {
    on: bool,
    heading: Option<Color>,
}

/// The meaning of a text's colour.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Warning,
    Bad,
    Faint,
    Heading,
}

impl Paint {
    pub fn new(on: bool, scheme: Option<Scheme>) -> Self {
        let heading = scheme.and_then(|scheme| match scheme {
            Scheme::Rounded | Scheme::Double => None,
            Scheme::Yellow => Some(Color::Yellow),
            Scheme::Blue => Some(Color::Blue),
            Scheme::Cyan => Some(Color::Cyan),
            Scheme::Green => Some(Color::Green),
            Scheme::Magenta => Some(Color::Magenta),
            Scheme::Red => Some(Color::Red),
        });
        Self { on, heading }
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    pub fn apply(&self, tone: Tone, text: &str) -> String {
        if !self.on {
            return text.to_owned();
        }
        let colour = |colour| text.with(colour).to_string();
        match tone {
            Tone::Good => colour(Color::Green),
            Tone::Warning => colour(Color::Yellow),
            Tone::Bad => colour(Color::Red),
            Tone::Faint => text.dim().to_string(),
            Tone::Heading => self.heading.map_or_else(|| text.bold().to_string(), colour),
        }
    }
}

/// Rows under a heading, or pairs without one.
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Rows that are shown in one tone.
    tones: Vec<Option<Tone>>,
    /// Whether long texts go on in the next line, rather than being cut.
    wrap: bool,
}

impl Table {
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new(), tones: Vec::new(), wrap: false }
    }

    /// Names and values, in full.
    pub fn pairs() -> Self {
        Self { heading: Vec::new(), rows: Vec::new(), tones: Vec::new(), wrap: true }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>, tone: Option<Tone>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
        self.tones.push(tone);
    }

    /// The text, no line longer than `width`.
    pub fn render(&self, width: usize, paint: &Paint) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX));
        if !self.heading.is_empty() {
            table.set_header(&self.heading);
        }
        for cells in &self.rows {
            // A cut text is known by its end; what a line break would tear apart stays in one line.
            let cells = cells.iter().map(|cell| cell.replace('\n', " "));
            let mut row = Row::from(cells);
            if !self.wrap {
                row.max_height(1);
            }
            table.add_row(row);
        }
        table.set_truncation_indicator("…");
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        let headings = usize::from(!self.heading.is_empty());
        let painted = lines.iter().enumerate().map(|(number, line)| {
            let tone = match number.checked_sub(headings) {
                None => Some(Tone::Heading),
                Some(_) if self.wrap => None,
                Some(row) => self.tones.get(row).copied().flatten(),
            };
            tone.map_or_else(|| line.clone(), |tone| paint.apply(tone, line))
        });
        painted.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { on: false, heading: None };

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut table = Table::new(&["USER", "STATUS"]);
        table.row(["john".to_owned(), "eating ".repeat(40)], None);
        table.row(["a\u{1b}b".to_owned(), "short".to_owned()], None);
        let text = table.render(40, &PLAIN);
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains('…') && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn pairs_are_shown_in_full() {
        let mut table = Table::pairs();
        table.row(["status".to_owned(), "eating ".repeat(20)], None);
        let text = table.render(40, &PLAIN);
        assert_eq!(text.matches("eating").count(), 20, "{text}");
    }
}
