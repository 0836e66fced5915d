//! What every object carries: its name, its labels, and what the store has to say about it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::Uid;

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Annotation: the directory or repository that a watched object comes from.
pub const SOURCE: &str = "rayconcile.dev/source";
/// Annotation: the file, relative to its source, that a watched object comes from.
pub const SOURCE_FILE: &str = "rayconcile.dev/source-file";
/// Annotation: what is wrong with the file that a watched object comes from; the object is its last good state.
pub const SOURCE_ERROR: &str = "rayconcile.dev/source-error";
/// Annotation: what the file said that a watched object was last made from, in short: another one is a change of the
/// file, and the same one with another object a change by hand.
pub const SOURCE_DIGEST: &str = "rayconcile.dev/source-digest";
/// Annotation: `"false"` keeps an object whose file has gone.
pub const PRUNE: &str = "rayconcile.dev/prune";
/// Annotation: whatever cannot be reached is given up when the object is deleted.
pub const FORCE_DELETE: &str = "rayconcile.dev/force-delete";
/// Annotation: a name for the wish to have the job saved now; a new one is a new wish.
pub const CHECKPOINT_NOW: &str = "rayconcile.dev/checkpoint-now";
/// Label of the cluster that exists only because a job without `clusterRef` needs one.
pub const BUILT_IN: &str = "rayconcile.dev/built-in";
/// Finalizer: what the object stands for must be ended before the object goes.
pub const FINALIZER: &str = "rayconcile.dev/graceful-stop";

/// A namespace and a name: what tells objects of one kind apart at any one time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object's metadata. A manifest gives name, namespace, labels and annotations; the rest is the store's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The object's name: lower-case letters, digits, `-` and `.`, as in Kubernetes.
    pub name: String,
    /// The namespace it lives in.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Labels, by which objects are selected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, which are not for selecting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Given by the store, once.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schemars(with = "String")]
    pub uid: Uid,
    /// Counts the changes of `spec`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Changes with every change of the object.
    #[serde(default, skip_serializing_if = "is_zero", with = "as_string")]
    #[schemars(with = "String")]
    pub resource_version: u64,
    /// When the store first saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it was asked to go. It stays until its finalizers are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub deletion_timestamp: Option<Timestamp>,
    /// What must happen before it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Who has set which fields through the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub managed_fields: Vec<ManagedFields>,
}

/// The fields that somebody has set, as Kubernetes keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedFields {
    /// Who: the name that a client gives itself.
    pub manager: String,
    /// How.
    pub operation: ManagedBy,
    /// The version of the kind that the fields are of.
    pub api_version: String,
    /// When last.
    pub time: Timestamp,
    /// How the fields are written: always `FieldsV1`.
    pub fields_type: String,
    /// The fields: a tree with `f:NAME` for each, and nothing in its leaves.
    pub fields_v1: serde_json::Value,
}

/// How fields were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManagedBy {
    /// By server-side apply: what is left out next time goes.
    Apply,
    /// By any other change.
    Update,
}

impl ObjectMeta {
    /// Metadata of a new object that only has a name.
    pub fn named(namespace: &str, name: &str) -> Self {
        Self { name: name.to_owned(), namespace: namespace.to_owned(), ..Self::default() }
    }

    /// The object's namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// The name of the directory with the object's files.
    pub fn directory(&self) -> String {
        directory_name(&self.key(), &self.uid)
    }

    /// Whether it was asked to go.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The directory that it comes from, if it comes from one.
    pub fn source(&self) -> Option<&str> {
        self.annotations.get(SOURCE).map(String::as_str)
    }
}

/// The name of the directory with an object's files: for people the name, for certainty the uid.
pub fn directory_name(key: &ObjectKey, Uid(uid): &Uid) -> String {
    format!("{}.{}.{}", key.namespace, key.name, uid.get(..8).unwrap_or(uid))
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

fn is_empty(uid: &Uid) -> bool {
    uid.0.is_empty()
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives a reference
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Kubernetes writes resource versions as strings.
mod as_string {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Why a text cannot be a name, as Kubernetes has it (RFC 1123 subdomain, here up to 63 characters, for names
/// become parts of others), or `None` if it can.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() > 63 {
        Some("must be at most 63 characters long")
    } else if !name.chars().all(inner) || !edge(name.chars().next()) || !edge(name.chars().last()) {
        Some("must be lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit")
    } else {
        None
    }
}
