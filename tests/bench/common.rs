//! What the measurements share: settings from the environment, medians, manifests and results in files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{World, repository, within};

const PATIENCE: Duration = Duration::from_secs(600);

/// The words of a setting in the environment, or what it is by default.
pub(crate) fn words(name: &str, default: &[&str]) -> Vec<String> {
    match std::env::var(name) {
        Ok(text) if !text.trim().is_empty() => {
            text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
        _ => default.iter().map(|word| (*word).to_owned()).collect(),
    }
}

/// A number of the environment, if it is there.
pub(crate) fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok().filter(|text| !text.trim().is_empty())?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Waits until something can be had: longer than a test would, for nobody repeats a measurement gladly.
pub(crate) fn wait<T>(world: &World, what: &str, probe: impl Fn() -> Option<T>) -> T {
    within(PATIENCE, probe).unwrap_or_else(|| panic!("waited too long until {what}\n{}", world.state()))
}

/// The median, if there is anything.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The largest, if there is anything.
pub(crate) fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

/// A time for a table.
pub(crate) fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} s"))
}

/// A job of the measurements on the cluster `c`: `program` is its `workingDir`, `entrypoint` and `args`.
pub(crate) fn job(name: &str, program: &str, rest: &str) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\nspec:\n  \
         clusterRef: {{name: c}}\n  {program}\n  {rest}\n"
    )
}

/// The program `state.py` with these arguments.
pub(crate) fn state_program(arguments: &str) -> String {
    let directory = repository("tests/bench/jobs");
    format!("workingDir: {}\n  entrypoint: state.py\n  args: [{arguments}]", directory.display())
}

/// Keeps a result as `target/bench/NAME.md` and `.json`, and shows the table.
pub(crate) fn keep(name: &str, table: &str, result: &Value) {
    let directory = repository("target/bench");
    fs::create_dir_all(&directory).unwrap();
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    write(&directory.join(format!("{name}.md")), table);
    write(&directory.join(format!("{name}.json")), &format!("{result:#}\n"));
    println!("\n{table}");
}
