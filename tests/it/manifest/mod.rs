//! The `manifest` room: from text to admitted objects.

use std::fs;
use std::path::{Path, PathBuf};

use rayconcile::manifest::{self, Loaded, Look, Problem, Source};

mod admission;
mod bad;
mod good;
mod hostile;
mod old;
mod packages;
mod properties;
mod schemas;
mod sources;

/// A narrow terminal without colour and without Unicode.
const PLAIN: Look = Look { width: 80, colour: false, unicode: false };

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is read from a text that stands in no directory.
fn read(text: &str) -> Loaded {
    manifest::read(vec![Source::new("test.yaml", text, None)], "default")
}

/// Problems as lines, with the name of a temporary directory left out.
fn lines(problems: &[Problem], directory: &Path) -> String {
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| match &problem.help {
            Some(help) => format!("{problem}\n  help: {help}"),
            None => problem.to_string(),
        })
        .collect();
    lines.join("\n").replace(directory.to_str().unwrap(), "DIR")
}

/// Writes files into a directory, and makes their directories.
fn write(directory: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
