//! Writing cells: text from the wire is escaped here, for all; signs, sparklines and styles; and what becomes of them on a
//! terminal without UTF-8 or without colour.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use crate::untrusted::Escaped;

use super::super::figures::Grade;

/// The sixteen colours of the terminal's own theme.
pub(super) const PLAIN: Style = Style::new();
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const MUTED: Style = Style::new().fg(Color::DarkGray);
pub(super) const GOOD: Style = Style::new().fg(Color::Green);
pub(super) const WARNING: Style = Style::new().fg(Color::Yellow);
pub(super) const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub(super) const UNKNOWN: Style = Style::new().fg(Color::Magenta);
pub(super) const MAINTENANCE: Style = Style::new().fg(Color::Blue);
pub(super) const SPARK: Style = Style::new().fg(Color::Blue);
pub(super) const SECOND: Style = Style::new().fg(Color::Cyan);
pub(super) const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
pub(super) const ALARM: Style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);

pub(super) fn of_grade(grade: Grade) -> Style {
    match grade {
        Grade::Waiting => MUTED,
        Grade::Fine => GOOD,
        Grade::Warning => WARNING,
        Grade::Bad => BAD,
    }
}

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// An interval without a sample.
pub(super) const NO_SAMPLE: char = '·';
/// An interval in which the daemon did not see.
pub(super) const NOT_SEEN: char = '/';

/// Columns that a text takes.
pub(super) fn width(text: &str) -> u16 {
    let columns = if text.is_ascii() { text.len() } else { Span::raw(text).width() };
    u16::try_from(columns).unwrap_or(u16::MAX)
}

/// Cells of the screen.
pub(super) struct Screen<'a> {
    pub(super) cells: &'a mut Buffer,
}

impl Screen<'_> {
    /// Writes text at a place, cut with `…` at `most` columns; returns the column after it.
    pub(super) fn put(&mut self, x: u16, y: u16, text: &str, style: Style, most: u16) -> u16 {
        let area = *self.cells.area();
        if y >= area.bottom() || x >= area.right() || most == 0 {
            return x;
        }
        let escaped = Escaped(text).to_string();
        let most = most.min(area.right() - x);
        let (end, _) = self.cells.set_stringn(x, y, &escaped, usize::from(most), style);
        if width(&escaped) <= most {
            return end;
        }
        self.cells[(x + most - 1, y)].set_symbol("…").set_style(style);
        x + most
    }

    /// Writes pieces one after another; returns the column after them.
    pub(super) fn pieces(&mut self, x: u16, y: u16, pieces: &[(&str, Style)], end: u16) -> u16 {
        pieces.iter().fold(x, |x, (text, style)| self.put(x, y, text, *style, end.saturating_sub(x)))
    }

    /// Writes text that ends before the column `end`; returns where it begins.
    pub(super) fn right(&mut self, end: u16, y: u16, text: &str, style: Style) -> u16 {
        let columns = width(&Escaped(text).to_string()).min(end);
        self.put(end - columns, y, text, style, columns);
        end - columns
    }

    /// The same between two columns: a text that is too long is cut at its end.
    pub(super) fn right_within(&mut self, x: u16, end: u16, y: u16, text: &str, style: Style) {
        let columns = width(&Escaped(text).to_string());
        let room = end.saturating_sub(x);
        if columns <= room {
            self.right(end, y, text, style);
        } else {
            self.put(x, y, text, style, room);
        }
    }

    /// A line from side to side.
    pub(super) fn rule(&mut self, y: u16) {
        let area = *self.cells.area();
        for x in area.left()..area.right() {
            if y < area.bottom() {
                self.cells[(x, y)].set_symbol("─").set_style(MUTED);
            }
        }
    }

    /// Empties a part of the screen.
    pub(super) fn clear(&mut self, area: Rect) {
        let area = area.intersection(*self.cells.area());
        for y in area.top()..area.bottom() {
            (area.left()..area.right()).for_each(|x| self.cells[(x, y)].reset());
        }
    }

    /// The style of a row.
    pub(super) fn style(&mut self, area: Rect, style: Style) {
        self.cells.set_style(area.intersection(*self.cells.area()), style);
    }

    /// What a terminal without UTF-8, or without colour, shows.
    pub(super) fn finish(&mut self, utf8: bool, colours: bool) {
        for cell in &mut self.cells.content {
            if !utf8 && !cell.symbol().is_ascii() {
                let first = cell.symbol().chars().next().unwrap_or(' ');
                cell.set_char(in_ascii(first));
            }
            if !colours {
                let alarm = if cell.bg == Color::Reset { Modifier::empty() } else { Modifier::REVERSED };
                let style = Style::reset().add_modifier(cell.modifier | alarm);
                cell.set_style(style);
            }
        }
    }

    /// Everything but the first rows, as what is no longer current.
    pub(super) fn mute_below(&mut self, y: u16) {
        let area = *self.cells.area();
        for y in y..area.bottom() {
            for x in area.left()..area.right() {
                let cell = &mut self.cells[(x, y)];
                cell.fg = Color::DarkGray;
                cell.modifier = Modifier::DIM;
            }
        }
    }
}

/// A sign of ours on a terminal without UTF-8.
fn in_ascii(c: char) -> char {
    match c {
        '✓' => '+',
        '▲' => '!',
        '✕' => 'x',
        '×' => 'x',
        '…' => '.',
        '─' | '▃' => '-',
        '│' => '|',
        '▾' => 'v',
        '▴' => '^',
        '·' | '\u{2800}' => ' ',
        '▁' => '.',
        '▂' => ':',
        '▄' => '=',
        '▅' => '+',
        '▆' => '*',
        '▇' | '█' => '#',
        '\u{2801}'..='\u{28ff}' => '*',
        _ => '?',
    }
}

/// A sparkline of so many columns: eight heights from 0, or from the least value where `from_least` is set.
pub(super) fn spark(points: &[Option<f64>], columns: usize, from_least: bool, missing: char) -> String {
    if points.is_empty() || columns == 0 {
        return String::new();
    }
    // As many points for each column as can be, the last one at the right.
    let columns = columns.min(points.len());
    let groups: Vec<Option<f64>> = (0..columns)
        .map(|column| {
            let group = &points[column * points.len() / columns..(column + 1) * points.len() / columns];
            let known: Vec<f64> = group.iter().flatten().copied().filter(|value| value.is_finite()).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
        .collect();
    let values = || groups.iter().flatten().copied();
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    let least = values().fold(f64::INFINITY, f64::min);
    let floor = if from_least || least < 0.0 { least } else { 0.0 };
    let height = |value: f64| {
        let share = if most > floor {
            (value - floor) / (most - floor)
        } else if value == 0.0 {
            0.0
        } else {
            0.5
        };
        BLOCKS[((share * 7.0).round() as usize).min(7)]
    };
    groups.iter().map(|group| group.map_or(missing, height)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_begin_at_0_and_show_what_is_missing() {
        let points = |values: &[f64]| -> Vec<Option<f64>> {
            values.iter().map(|value| (*value >= 0.0).then_some(*value)).collect()
        };
        for (values, columns, from_least, expected) in [
            (&[][..], 8, false, ""),
            (&[0.0, 0.0], 8, false, "▁▁"),
            (&[5.0, 5.0], 8, false, "██"),
            (&[0.0, 7.0, -1.0, 3.0], 8, false, "▁█·▄"),
            (&[90.0, 100.0, 95.0], 8, true, "▁█▅"),
            (&[1.0, 1.0, 7.0, 7.0, -1.0, -1.0], 3, false, "▂█·"),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 2, false, "▄█"),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 4, false, "▃▄▆█"),
        ] {
            assert_eq!(spark(&points(values), columns, from_least, NO_SAMPLE), expected, "{values:?}");
        }
    }

    #[test]
    fn text_is_escaped_cut_and_turned_into_ascii() {
        let mut cells = Buffer::empty(Rect::new(0, 0, 10, 2));
        let mut screen = Screen { cells: &mut cells };
        assert_eq!(screen.put(0, 0, "a\u{1b}[2Jbcdefgh", WARNING, 8), 8);
        assert_eq!(screen.right(10, 1, "✓ ü▁", ALARM), 6);
        screen.finish(false, false);
        let row = |y: u16| (0..10).map(|x| cells[(x, y)].symbol().to_string()).collect::<String>();
        assert_eq!((row(0).as_str(), row(1).as_str()), ("a\\u{1b}.  ", "      + ?."));
        assert_eq!((cells[(0, 0)].fg, cells[(7, 1)].modifier.contains(Modifier::REVERSED)), (Color::Reset, true));
    }
}
