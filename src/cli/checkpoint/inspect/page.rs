//! A checkpoint, and how two differ, for people.

use serde_json::Value;

use super::super::super::printer::Printer;
use super::super::super::text::{age, cut, table};
use super::{Subject, relative};
use crate::api::units::Bytes;
use crate::api::words::count;
use crate::inspect::{Diff, TensorChange};

const BOLD: &str = "1";

/// More values than this are only counted.
const MOST_VALUES: usize = 60;
/// The shortest that a name becomes to make room for the rest.
const SHORTEST: usize = 16;
/// The longest text of a value.
const LONGEST: usize = 60;

/// A checkpoint.
pub(super) fn checkpoint(printer: Printer, subject: &Subject) -> String {
    let checkpoint = &subject.checkpoint;
    let mut text = format!("{}   {}\n", printer.tint(BOLD, &subject.name), about(subject));
    let titles: Vec<(String, String)> =
        checkpoint.training.iter().map(|(name, value)| (title(name), shown(value))).collect();
    let width = titles.iter().map(|(title, _)| title.len()).max().unwrap_or_default();
    text.extend(titles.iter().map(|(title, value)| format!("  {title:width$}   {value}\n")));

    let files: Vec<Vec<String>> = checkpoint
        .files
        .iter()
        .map(|file| {
            let digest = file.sha256.get(..12).unwrap_or_default().to_owned();
            vec![file.name.clone(), Bytes(file.size).rounded(), file.format.word().to_owned(), digest]
        })
        .collect();
    text.push_str(&rows(printer, &["FILE", "SIZE", "FORMAT", "SHA-256"], files));
    for file in &checkpoint.files {
        if let Some(problem) = &file.problem {
            text.push_str(&format!("{}: {problem}\n", file.name));
        }
    }

    let values = checkpoint.values.iter().take(MOST_VALUES);
    let values: Vec<Vec<String>> = values.map(|(name, value)| vec![name.clone(), shown(value)]).collect();
    if !values.is_empty() {
        text.push_str(&rows(printer, &["VALUE", "IS"], values));
    }
    if checkpoint.values.len() > MOST_VALUES {
        let more = checkpoint.values.len() - MOST_VALUES;
        text.push_str(&format!("and {more} more, which `-o json` has\n"));
    }

    let mut problems = String::new();
    let tensors = checkpoint.tensors.iter().map(|tensor| {
        let numbers = match tensor.stats() {
            Ok(stats) => [number(stats.norm), stats.nan.to_string(), stats.inf.to_string()],
            Err(problem) => {
                problems.push_str(&format!("{}: {problem}\n", tensor.name));
                Default::default()
            }
        };
        [vec![tensor.name.clone(), tensor.dtype.name(), tensor.shape_text()], numbers.to_vec()].concat()
    });
    let tensors: Vec<Vec<String>> = tensors.collect();
    if !tensors.is_empty() {
        text.push_str(&rows(printer, &["TENSOR", "TYPE", "SHAPE", "NORM", "NAN", "INF"], tensors));
    }
    text + &problems
}

/// What is known of where a checkpoint comes from.
fn about(subject: &Subject) -> String {
    let checkpoint = &subject.checkpoint;
    let size = Bytes(checkpoint.files.iter().map(|file| file.size).sum()).rounded();
    let files = format!("{}, {size}", count(checkpoint.files.len(), "file"));
    let group = checkpoint.group.map_or_else(String::new, |group| format!("group {group}, "));
    match &subject.record {
        None => format!("{group}{files}"),
        Some(record) => format!(
            "{group}{}, {files}\n  saved {} ago, SHA-256 of the archive {}",
            count(record.steps, "step"),
            age(record.saved),
            record.digest.short()
        ),
    }
}

/// How two checkpoints differ.
pub(super) fn diff(printer: Printer, before: &Subject, after: &Subject, diff: &Diff) -> String {
    let mut text = format!("--- {}\n+++ {}\n", before.name, after.name);
    let side = |value: &Option<Value>| value.as_ref().map_or_else(|| "(none)".to_owned(), shown);
    let values: Vec<Vec<String>> = diff
        .values
        .iter()
        .map(|change| {
            vec![change.name.clone(), format!("{} → {}", side(&change.before), side(&change.after))]
        })
        .collect();
    if !values.is_empty() {
        text.push_str(&rows(printer, &["VALUE", "CHANGE"], values));
    }
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    for tensor in &diff.tensors {
        let name = tensor.name.clone();
        match &tensor.change {
            TensorChange::Numbers { difference, norm } => numbers.push(vec![
                name,
                number(difference.norm),
                relative(difference.norm, *norm).map_or_else(String::new, number),
                number(difference.largest),
                difference.elements.to_string(),
                difference.not_finite.to_string(),
            ]),
            TensorChange::OnlyBefore(kind) => others.push(vec![name, format!("only in the first: {kind}")]),
            TensorChange::OnlyAfter(kind) => others.push(vec![name, format!("only in the second: {kind}")]),
            TensorChange::Kind(a, b) => others.push(vec![name, format!("{a} → {b}")]),
            TensorChange::Unread(problem) => others.push(vec![name, problem.clone()]),
        }
    }
    if !others.is_empty() {
        text.push_str(&rows(printer, &["TENSOR", "CHANGE"], others));
    }
    if !numbers.is_empty() {
        let header = ["TENSOR", "L2", "RELATIVE", "LARGEST", "ELEMENTS", "NAN/INF"];
        text.push_str(&rows(printer, &header, numbers));
    }
    let alike =
        format!("{} and {} are alike", count(diff.same_tensors, "tensor"), count(diff.same_values, "value"));
    text.push_str(&format!("\n{alike}.\n"));
    text
}

/// A table below a blank line. On a screen names give way, in their middle, so that all columns are seen.
fn rows(printer: Printer, header: &[&str], mut rows: Vec<Vec<String>>) -> String {
    if let Some(screen) = printer.screen() {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(header.get(column).map(|cell| cell.len())).max().unwrap_or_default() + 3
        };
        let others: usize = (1..header.len()).map(width).sum();
        let room = screen.saturating_sub(others).max(SHORTEST);
        for name in rows.iter_mut().filter_map(|row| row.first_mut()) {
            *name = shortened(name, room);
        }
    }
    format!("\n{}", cut(&table("", header, &rows), printer.screen()))
}

fn shortened(name: &str, room: usize) -> String {
    let length = name.chars().count();
    if length <= room {
        return name.to_owned();
    }
    let head = (room - 1) / 2;
    let tail = name.chars().skip(length - (room - 1 - head));
    name.chars().take(head).chain(['…']).chain(tail).collect()
}

/// `gradientNorm` as `gradient norm`.
fn title(name: &str) -> String {
    let parts =
        name.chars().flat_map(|c| c.is_uppercase().then_some(' ').into_iter().chain(c.to_lowercase()));
    parts.collect()
}

/// A value on one line.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(some) if some.is_f64() => some.as_f64().map_or_else(|| some.to_string(), number),
        Value::Array(items) => {
            let item = |item: &Value| if item.is_string() { item.to_string() } else { shown(item) };
            format!("[{}]", items.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    };
    let text = text.replace(char::is_control, " ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A number with six digits that say something.
fn number(number: f64) -> String {
    const DIGITS: i32 = 6;
    let size = number.abs();
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        let text = format!("{number:.*e}", DIGITS as usize - 2);
        return match text.split_once('e') {
            Some((digits, exponent)) => format!("{}e{exponent}", short(digits)),
            None => text,
        };
    }
    let before = if size == 0.0 { 0 } else { size.log10().floor() as i32 + 1 };
    short(&format!("{number:.*}", (DIGITS - before).max(0) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let shown = [0.0, 2.5, 0.000_495_123_4, 1e-8, 123_456.789, 1.0e9, -31.059_04].map(number);
        assert_eq!(shown, ["0", "2.5", "0.000495123", "1e-8", "123457", "1e9", "-31.059"]);
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shortened("encoder.layers.11.weight", 16), "encoder…1.weight");
        assert_eq!(shortened("weight", 16), "weight");
    }
}
