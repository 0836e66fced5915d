//! Names, labels and annotations, as Kubernetes has them.

use std::path::Path as FilePath;

use serde_json::{Map, Value};

use super::finding::Finding;
use super::path::Path;
use super::words::quoted;
use crate::api::meta::name_problem;

/// How much of a script's name is in a job's: with `job-` before it and a suffix after it, a name has 63 characters.
const LONGEST_OF_SCRIPT: usize = 53;

/// Checks what a manifest gives as metadata. What is no text is left to the schema.
pub(super) fn metadata(metadata: &Map<String, Value>) -> Vec<Finding> {
    let at = Path::of("metadata");
    let mut findings = Vec::new();
    for field in ["name", "namespace"] {
        if let Some(Value::String(text)) = metadata.get(field) {
            findings.extend(name(text, at.key(field)));
        }
    }
    let texts = |field: &str| {
        let entries = metadata.get(field).and_then(Value::as_object).into_iter().flatten();
        entries
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect::<Vec<_>>()
    };
    for (key, value) in texts("labels") {
        findings.extend(label(&key, &value, &at.key("labels")));
    }
    for (key, _) in texts("annotations") {
        findings.extend(label_key(&key, &at.key("annotations")));
    }
    findings
}

/// Why a text cannot be a name, and a name that it could be.
pub(super) fn name(text: &str, path: Path) -> Option<Finding> {
    let problem = name_problem(text)?;
    let finding = Finding::new(path, format!("{problem}, found {}", quoted(text)));
    let tame: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .collect();
    let tame = tame.trim_matches(['-', '.']);
    Some(finding.help_if(name_problem(tame).is_none().then(|| format!("{tame} would do"))))
}

/// What tells a name that is made up from others: as in Kubernetes, no word comes of it.
pub fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect()
}

/// A name from a script's: `train_cifar.py` becomes `train-cifar`. There is room in it for a suffix.
pub fn name_of_script(script: &FilePath) -> String {
    let stem = script.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let tame = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = stem.chars().map(tame).take(LONGEST_OF_SCRIPT).collect();
    match name.trim_matches('-') {
        "" => "job".to_owned(),
        name if name.starts_with(|c: char| c.is_ascii_digit()) => format!("job-{name}"),
        name => name.to_owned(),
    }
}

/// Why a label cannot be one.
pub(super) fn label(key: &str, value: &str, labels: &Path) -> Option<Finding> {
    label_key(key, labels).or_else(|| {
        let rule = "must be empty, or at most 63 letters, digits, `-`, `_` and `.`, beginning and ending \
                    with a letter or digit";
        let bad = !value.is_empty() && !is_label_name(value);
        bad.then(|| Finding::new(labels.key(key), format!("{rule}, found {}", quoted(value))))
    })
}

/// Why the key of a label or annotation cannot be one.
fn label_key(key: &str, labels: &Path) -> Option<Finding> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_domain = |prefix: &str| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| part.len() <= 63 && is_label_name(part) && !part.contains('_'))
    };
    let message = if !is_label_name(name) {
        "a key must be at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or \
         digit"
    } else if !prefix.is_none_or(is_domain) {
        "what stands before the `/` of a key must be a domain, such as example.com"
    } else {
        return None;
    };
    Some(Finding::new(labels.key(key), message).at_key())
}

fn is_label_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(text.chars().next())
        && edge(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_in_kubernetes() {
        let ok = |key: &str, value: &str| label(key, value, &Path::default()).is_none();
        for (key, value) in
            [("a", ""), ("app.kubernetes.io/name", "x_1.y-Z"), ("A", "0"), (&"k".repeat(63), "v")]
        {
            assert!(ok(key, value), "{key}: {value}");
        }
        for (key, value) in [
            ("", ""),
            ("-a", ""),
            ("a", "b c"),
            ("a", "_"),
            ("/a", ""),
            ("a/b/c", ""),
            ("a_b/c", ""),
            (&"k".repeat(64), ""),
        ] {
            assert!(!ok(key, value), "{key}: {value}");
        }
    }

    #[test]
    fn a_bad_name_comes_with_a_good_one() {
        let help = |text: &str| name(text, Path::default()).map(|finding| finding.help);
        assert_eq!(help("cifar-10"), None);
        assert_eq!(help("Cifar_10"), Some(Some("cifar-10 would do".to_owned())));
        assert_eq!(help(""), Some(None));
    }
}
