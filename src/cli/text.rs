//! How things are written for people: ages, tables, sizes.

use std::io::Write as _;

use jiff::{SignedDuration, Timestamp};

pub(super) use crate::api::words::duration;

/// How long ago something was.
pub(super) fn age(moment: Timestamp) -> String {
    duration(Timestamp::now().duration_since(moment))
}

/// How long ago something was, or a dash.
pub(super) fn maybe_age(moment: Option<Timestamp>) -> String {
    moment.map_or_else(|| "-".to_owned(), age)
}

/// Milliseconds: `0.35s`, `6.1s`, `2m5s`.
pub(super) fn millis(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{:.2}s", millis as f64 / 1000.0),
        10_000..60_000 => format!("{:.1}s", millis as f64 / 1000.0),
        _ => duration(SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))),
    }
}

/// Parts one after the other, with as many lines as it takes: the first begins with a title, the others are indented as
/// far. Nothing if there are no parts.
pub(super) fn wrapped(title: &str, parts: &[String], width: usize) -> String {
    let indent = title.chars().count();
    let (mut text, mut line) = (String::new(), title.to_owned());
    let mut empty = true;
    for part in parts {
        if !empty && line.chars().count() + 1 + part.chars().count() > width {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(part);
        empty = false;
    }
    if empty { String::new() } else { format!("{text}{line}\n") }
}

/// A text with a title, on as many lines as it takes: each of its own lines begins anew, as far to the right.
pub(super) fn paragraph(title: &str, text: &str, width: usize) -> String {
    let margin = " ".repeat(title.chars().count());
    let lines = text.lines().enumerate().map(|(number, line)| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        wrapped(if number == 0 { title } else { &margin }, &words, width)
    });
    lines.collect()
}

/// Rows as a table with aligned columns. An empty cell is a dash.
pub(super) fn table<R: AsRef<[String]>>(indent: &str, header: &[&str], rows: &[R]) -> String {
    let mut writer = tabwriter::TabWriter::new(Vec::new()).padding(3);
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(header.as_slice()).chain(rows.iter().map(AsRef::as_ref)) {
        let cells: Vec<&str> =
            row.iter().map(|cell| if cell.is_empty() { "-" } else { cell.as_str() }).collect();
        // Into memory: that does not fail.
        let _ = writeln!(writer, "{indent}{}", cells.join("\t"));
    }
    let text = writer.into_inner().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_on_as_many_lines_as_they_take() {
        let parts: Vec<String> = ["one,", "two and", "three"].map(str::to_owned).to_vec();
        assert_eq!(wrapped("a: ", &parts, 14), "a: one,\n   two and\n   three\n");
        assert_eq!(wrapped("a: ", &parts, 15), "a: one, two and\n   three\n");
        assert_eq!(wrapped("a: ", &[], 15), "");
    }

    #[test]
    fn tables_have_no_trailing_spaces_and_no_empty_cells() {
        let rows = [vec!["a".to_owned(), String::new()], vec!["long".to_owned(), "b".to_owned()]];
        assert_eq!(table("", &["NAME", "X"], &rows), "NAME   X\na      -\nlong   b\n");
    }
}
