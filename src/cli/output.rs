//! What a verb writes: its result to stdout, which `kubectl apply -f -` may read, and all else to stderr.

use std::fmt::Display;
use std::io::Write;

use super::error::Error;

/// Spaces between two columns.
const GAP: usize = 3;

/// What an offline verb says of the sets that it takes or makes.
pub(super) const UNCHECKED: &str = "the API server has not checked the sidecars: kubectl sidecarset plan asks it";

pub(super) fn write(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::Write(error.to_string()))
}

/// Writes a line to stderr.
pub(super) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The same as kubectl prints the warnings of the API server.
pub(super) fn warn(line: impl Display) {
    note(format_args!("Warning: {line}"));
}

/// Rows under their headings, every column as wide as its longest cell.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let headings = headings.map(str::to_owned);
    let lines: Vec<&[String; N]> = std::iter::once(&headings).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = width + GAP));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["log-agent".to_owned(), "x".to_owned()], ["é".to_owned(), String::new()]];
        assert_eq!(table(["SET", "RESULT"], &rows), "SET         RESULT\nlog-agent   x\né\n");
    }
}
