//! Naming objects on the command line: `KIND NAME`, `KIND/NAME`, or a job's name alone.

use anyhow::Result;

use super::wrong;
use crate::api::meta::ObjectKey;
use crate::api::object::Kind;

/// The kind that a word means.
pub(super) fn kind(word: &str) -> Result<Kind> {
    Kind::from_word(word)
        .ok_or_else(|| wrong(format!("there is no kind {word:?}; there are jobs and clusters")))
}

/// The objects that words name, all of one kind: `job a b`, or `job/a cluster/b`, or, without a kind, jobs.
pub(super) fn objects(words: &[String], namespace: &str) -> Result<Vec<(Kind, ObjectKey)>> {
    let key = |name: &str| ObjectKey::new(namespace, name);
    let (first, rest) = words.split_first().ok_or_else(|| wrong("which object? name it as KIND/NAME"))?;
    if words.iter().any(|word| word.contains('/')) {
        let pair = |word: &String| {
            let (kind_word, name) = word
                .split_once('/')
                .ok_or_else(|| wrong(format!("{word:?} names no kind; write KIND/{word}")))?;
            Ok((kind(kind_word)?, key(name)))
        };
        return words.iter().map(pair).collect();
    }
    match Kind::from_word(first) {
        Some(kind) if !rest.is_empty() => Ok(rest.iter().map(|name| (kind, key(name))).collect()),
        Some(kind) => Err(wrong(format!("which {kind}? name it after the kind"))),
        None => Ok(words.iter().map(|name| (Kind::AdaptDLJob, key(name))).collect()),
    }
}

/// The one object that words name.
pub(super) fn object(words: &[String], namespace: &str) -> Result<(Kind, ObjectKey)> {
    let mut found = objects(words, namespace)?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(wrong("only one object can be named here")),
    }
}

/// An object's name as `-o name` prints it.
pub(super) fn name(kind: Kind, key: &ObjectKey) -> String {
    format!("{}/{}", kind.singular(), key.name)
}
