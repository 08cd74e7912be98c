//! Plain tables: columns padded to their widest cell.

use std::fmt::Write;

/// A table with a header line; the first column is text, the others are numbers and align right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    /// Adds a row with as many cells as the header.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table's lines, each ending with a newline.
    pub fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                }
                .expect("writing to a string succeeds");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A number with its thousands apart, with decimals where they say something.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "unknown".to_owned();
    }
    if !value.is_finite() || (value.fract() != 0.0 && value.abs() < 1000.0) || value.abs() >= 1e15 {
        return format!("{value:.4}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

/// The change from `before` to `after` in percent.
pub fn change(before: f64, after: f64) -> String {
    if before == after {
        "0.0 %".to_owned()
    } else if before == 0.0 || before.is_nan() || after.is_nan() {
        "-".to_owned()
    } else {
        format!("{:+.1} %", (after / before - 1.0) * 100.0)
    }
}
