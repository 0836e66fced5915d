//! Rules that several fields share.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::path::Path;
use super::words::quoted;
use crate::api::bucket::BucketAddress;
use crate::api::job::{EnvVar, ValueSource};
use crate::api::units::Span;

/// Longer durations are mistakes, and would overflow dates.
const MAX_SPAN: Span = Span::from_secs(3650 * 86_400);

/// Resources that Ray has fields for.
const RESERVED: [&str; 4] = ["CPU", "GPU", "memory", "object_store_memory"];

/// Ray counts resources in ten-thousandths, and has no more than this of any.
const GRAIN: f64 = 0.0001;
const MAX_QUANTITY: f64 = 1e14;

/// A file or directory of this machine, as far as its name goes.
pub(super) fn host_path(text: &str, path: Path) -> Option<Finding> {
    let (message, help) = if text.is_empty() {
        ("must not be empty".to_owned(), None)
    } else if text.contains("://") {
        let help = "give a path of this machine";
        (format!("must be a path, found {}", quoted(text)), Some(help))
    } else if text.starts_with('~') {
        (format!("must be a path, found {}", quoted(text)), Some("`~` is not expanded; write the path out"))
    } else if text.contains('\0') {
        ("must be a path, and none has a NUL".to_owned(), None)
    } else {
        return None;
    };
    Some(Finding::new(path, message).help_if(help))
}

/// A place in object storage.
pub(super) fn bucket_address(text: &str, path: Path) -> Option<Finding> {
    match text.parse::<BucketAddress>() {
        Err(error) => Some(Finding::new(path, format!("{error}, found {}", quoted(text)))),
        Ok(_) if cfg!(not(feature = "s3")) => {
            Some(Finding::new(path, "this rayconcile was built without S3 (its feature `s3`)"))
        }
        Ok(_) => None,
    }
}

/// A length of time that a calendar can add.
pub(super) fn span(span: Span, path: Path) -> Option<Finding> {
    (span > MAX_SPAN).then(|| Finding::new(path, format!("must be at most {MAX_SPAN}, found {span}")))
}

/// A length of time that is not nothing.
pub(super) fn positive(length: Span, path: Path) -> Option<Finding> {
    match length.millis {
        0 => Some(Finding::new(path, "must be more than 0s")),
        _ => span(length, path),
    }
}

/// Where a value is found: exactly one of its fields is given.
pub(super) fn value_source(source: &ValueSource, at: &Path) -> Option<Finding> {
    match (&source.env, &source.file) {
        (None, None) => Some(Finding::new(at.clone(), "must have `env` or `file`").at_key()),
        (Some(_), Some(_)) => {
            let finding = Finding::new(at.key("file"), "must not be given beside `env`").at_key();
            Some(finding.also(at.key("env"), "the other one"))
        }
        (Some(name), None) => variable(name, at.key("env")),
        (None, Some(file)) => host_path(file, at.key("file")),
    }
}

/// The names of environment variables: each can be one, is here once, and is none of those that are `reserved`.
pub(super) fn variable_names(
    env: &[EnvVar],
    at: &Path,
    reserved: impl Fn(&str, Path) -> Option<Finding>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, EnvVar { name, .. }) in env.iter().enumerate() {
        let path = at.item(index).key("name");
        findings.extend(variable(name, path.clone()).or_else(|| reserved(name, path.clone())));
        if let Some(first) = seen.insert(name.as_str(), path.clone()) {
            let message = format!("is here twice: {}", quoted(name));
            findings.push(Finding::new(path, message).also(first, "here first"));
        }
    }
    findings
}

/// No program can be given a NUL.
pub(super) fn no_nul(text: &str, path: Path) -> Option<Finding> {
    text.contains('\0').then(|| Finding::new(path, "must not have a NUL in it"))
}

/// The name of an environment variable.
pub(super) fn variable(name: &str, path: Path) -> Option<Finding> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let good = name.chars().all(inner) && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    let rule = "must be letters, digits, `_`, `-` and `.`, not beginning with a digit";
    (!good).then(|| Finding::new(path, format!("{rule}, found {}", quoted(name))))
}

/// Ray's custom resources. A node can only offer `whole` ones.
pub(super) fn custom(resources: &BTreeMap<String, f64>, at: &Path, whole: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, quantity) in resources {
        let path = at.key(name);
        if RESERVED.contains(&name.as_str()) {
            let help = match name.as_str() {
                "object_store_memory" => "a node has objectStoreMemory for it".to_owned(),
                name => format!("`resources` has a field for it: {}", name.to_lowercase()),
            };
            findings
                .push(Finding::new(path, "is no custom resource, but one of Ray's own").at_key().help(help));
        } else if name.is_empty() {
            findings.push(Finding::new(path, "a resource needs a name").at_key());
        } else if !(0.0..=MAX_QUANTITY).contains(quantity) {
            findings
                .push(Finding::new(path, format!("must be from 0 to {MAX_QUANTITY:e}, found {quantity}")));
        } else if whole && quantity.fract() != 0.0 {
            findings.push(Finding::new(path, format!("must be a whole number, found {quantity}")));
        } else if *quantity > 0.0 && *quantity < GRAIN {
            findings.push(Finding::new(path, format!("must be 0 or at least {GRAIN}, found {quantity}")));
        }
    }
    findings
}
