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

/// A table whose lines are no longer than the screen, if one shows it: wrapped lines are no table.
pub(super) fn cut(table: &str, screen: Option<usize>) -> String {
    let Some(width) = screen else { return table.to_owned() };
    let cut = |line: &str| match line.char_indices().nth(width) {
        None => format!("{line}\n"),
        Some(_) => line.chars().take(width.saturating_sub(1)).chain(['…', '\n']).collect(),
    };
    table.lines().map(cut).collect()
}

/// A table whose last column is prose, of which nothing is cut off: on a screen it goes on below itself, or below the row
/// where little room is left beside it.
pub(super) fn prose_table(
    indent: &str,
    header: &[&str],
    rows: &[Vec<String>],
    screen: Option<usize>,
) -> String {
    const ROOM: usize = 30;
    let others = header.len().saturating_sub(1);
    let columns: Vec<&[String]> = rows.iter().map(|row| row.get(..others).unwrap_or_default()).collect();
    let left = table(indent, header.get(..others).unwrap_or_default(), &columns);
    let margin = left.lines().map(|line| line.chars().count()).max().unwrap_or_default() + 3;
    let beside = screen.is_none_or(|width| width >= margin + ROOM);
    let prose = rows.iter().map(|row| row.last().map_or("", String::as_str));
    let prose = header.last().copied().into_iter().chain(prose);
    let row = |(left, prose): (&str, &str)| {
        let (mut text, mut title) = match beside {
            true => (String::new(), format!("{left:<margin$}")),
            false => (format!("{left}\n"), format!("{indent}  ")),
        };
        for line in if prose.is_empty() { "-" } else { prose }.lines() {
            text.push_str(&fitted(&title, line, screen));
            title = " ".repeat(title.chars().count());
        }
        text
    };
    left.lines().zip(prose).map(row).collect()
}

/// A page whose lines are no longer than the screen, if one shows it: what is too long goes on below itself.
pub(super) fn folded(page: &str, screen: Option<usize>) -> String {
    let line = |line: &str| {
        let (title, text) = line.split_at(margin(line));
        fitted(title, text, screen)
    };
    page.lines().map(line).collect()
}

/// Where the text of a line begins: after its indentation, and after its title if it has one.
fn margin(line: &str) -> usize {
    const TITLES: usize = 16;
    let blanks = |from: usize| line.get(from..).unwrap_or_default().chars().take_while(|c| *c == ' ').count();
    let indent = blanks(0);
    let gap = line.get(indent..).and_then(|text| text.find("  ")).map(|gap| indent + gap);
    gap.map(|gap| gap + blanks(gap)).filter(|begin| *begin <= TITLES).unwrap_or(indent)
}

/// A line with a title as it is, or, if it is too long for the screen, on as many lines as it takes.
pub(super) fn fitted(title: &str, line: &str, screen: Option<usize>) -> String {
    match screen {
        Some(width) if title.chars().count() + line.chars().count() > width => paragraph(title, line, width),
        _ => format!("{}\n", format!("{title}{line}").trim_end()),
    }
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

    #[test]
    fn prose_goes_on_below_itself_or_below_its_row() {
        let rows = [["a", "one two three four five six seven eight"], ["b", "nine\nten"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let shown = |screen| prose_table("", &["NAME", "MESSAGE"], &rows, screen);
        assert_eq!(
            shown(None),
            "NAME   MESSAGE\na      one two three four five six seven eight\nb      nine\n       ten\n"
        );
        assert_eq!(
            shown(Some(40)),
            "NAME   MESSAGE\na      one two three four five six seven\n       eight\nb      nine\n       ten\n"
        );
        assert_eq!(
            shown(Some(36)),
            "NAME\n  MESSAGE\na\n  one two three four five six seven\n  eight\nb\n  nine\n  ten\n"
        );
    }

    #[test]
    fn pages_go_on_below_their_titles() {
        let page =
            "job a   Running for 3m   of 2\n  one two three\n  scaling     2 workers because it is so\n\n";
        assert_eq!(folded(page, None), page);
        assert_eq!(
            folded(page, Some(26)),
            "job a   Running for 3m of\n        2\n  one two three\n  scaling     2 workers\n              \
             because it\n              is so\n\n"
        );
    }

    #[test]
    fn tables_are_no_wider_than_the_screen() {
        assert_eq!(cut("abcd\nab\n", Some(3)), "ab…\nab\n");
        assert_eq!(cut("abcd\n", None), "abcd\n");
    }
}
