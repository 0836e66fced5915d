//! Naming objects on the command line: `KIND NAME`, `KIND/NAME`, or a job's name alone.

use anyhow::Result;

use super::{ExitStatus, Hinted, wrong};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::client::{Client, ClientError};
use crate::manifest::closest;

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

/// An object; if it is not there, with the one that was probably meant.
pub(super) async fn found(client: &Client, kind: Kind, key: &ObjectKey) -> Result<AnyObject> {
    match client.get(kind, key).await {
        Err(error) if error.is_not_found() => Err(missing(client, kind, key, error).await),
        other => Ok(other?),
    }
}

/// The error that an object is not there, with what was probably meant instead.
pub(super) async fn missing(
    client: &Client,
    kind: Kind,
    key: &ObjectKey,
    error: ClientError,
) -> anyhow::Error {
    let all = client.list(kind, None, None).await.unwrap_or_default();
    let keys: Vec<ObjectKey> = all.iter().map(AnyObject::key).collect();
    let elsewhere = keys.iter().find(|known| known.name == key.name).map(|known| known.namespace.clone());
    let here = keys.iter().filter(|known| known.namespace == key.namespace);
    let near = closest(&key.name, here.map(|known| known.name.as_str()));
    let hint = match (near, elsewhere) {
        (_, Some(namespace)) => format!("there is one in namespace {namespace}: -n {namespace}"),
        (Some(name), None) => format!("did you mean {name}?"),
        (None, None) => return error.into(),
    };
    Hinted { message: error.to_string(), hint, status: ExitStatus::Failure }.into()
}
