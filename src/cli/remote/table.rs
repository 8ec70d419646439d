//! Tables and words for people.

use crate::cli::output::is_unseen;

/// Columns as wide as their widest cell, two blanks between them. Numbers, marked by `right`, stand at the right.
pub(in crate::cli) fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        let heading = headings.get(column).map_or(0, |heading| heading.chars().count());
        cells.chain([heading]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            if right.contains(&column) {
                line.push_str(&format!("{gap}{cell:>width$}"));
            } else {
                line.push_str(&format!("{gap}{cell:width$}"));
            }
        }
        format!("{}\n", line.trim_end())
    };
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let mut text = line(&headings);
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

/// `text` without what a terminal would obey, and without what would make it look like another text: client ids are what
/// devices say.
pub(in crate::cli) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || is_unseen(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Seconds in the largest two units.
pub(in crate::cli) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            vec!["ä".to_owned(), "5".to_owned()],
            vec!["long".to_owned(), "10".to_owned()],
        ];
        assert_eq!(table(&["ID", "N"], &[1], &rows), "ID     N\nä      5\nlong  10\n");
    }

    #[test]
    fn a_client_id_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{9b}");
    }

    #[test]
    fn a_client_id_cannot_turn_the_line_around_or_hide_a_part_of_itself() {
        assert_eq!(
            printable("a\u{202e}b\u{200b}c\u{2066}d\u{feff}"),
            "a\\u{202e}b\\u{200b}c\\u{2066}d\\u{feff}"
        );
        assert_eq!(printable("zähler-日本-עברית"), "zähler-日本-עברית");
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!(
            [59, 61, 3700, 90_000].map(age),
            ["59s", "1m01s", "1h01m", "1d01h"]
        );
    }
}
