//! What a change of objects comes to: what `diff` asks a controller, and what it answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::ObjectKey;
use super::money::Money;
use super::object::Kind;

/// A change that is thought of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Proposal {
    /// The objects that would be applied.
    pub objects: Vec<Value>,
    /// Those that would be deleted.
    pub deletions: Vec<ObjectName>,
}

/// An object, by its kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    #[serde(flatten)]
    pub key: ObjectKey,
}

/// What would come of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Review {
    /// What would become of each object.
    pub objects: Vec<ObjectReview>,
    /// What would be done, cluster by cluster; those are left out on which nothing would.
    pub clusters: Vec<ClusterReview>,
}

/// What would become of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReview {
    /// Which.
    #[serde(flatten)]
    pub name: ObjectName,
    /// What would be done to it.
    pub change: ChangeKind,
    /// What is stored of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What would be done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It would be made.
    Created,
    /// It would be another.
    Configured,
    /// Nothing.
    Unchanged,
    /// It would be asked to go.
    Deleted,
    /// It would be refused.
    Refused,
}

/// A number that is one now, and another in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// Now.
    pub before: T,
    /// In the end.
    pub after: T,
}

/// What would be done on a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReview {
    /// Namespace and name.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// Its worker nodes.
    pub nodes: Change<u32>,
    /// What an hour of it costs, in US dollars, if it is on EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<Change<Money>>,
    /// What is in it at a price that is not known, such as `p9.large on-demand`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
    /// The nodes that would be launched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launched: Vec<NodeReview>,
    /// The nodes that would be given back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_back: Vec<NodeReview>,
    /// What would be waited for in the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// Why no more can be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// What would become of its jobs; those are left out for which nothing would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobReview>,
}

/// A node that would be launched or given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReview {
    /// Its name.
    pub name: String,
    /// What it is, such as `g5.xlarge on-demand us-west-2a`, or what it offers.
    pub what: String,
    /// What an hour of it costs, in US dollars, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Money>,
    /// Why it would be given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What would become of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReview {
    /// Namespace and name.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// Its workers.
    pub workers: Change<u32>,
    /// Its new groups of workers, one after the other, and why they come to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupReview>,
    /// Why it would have so many workers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scaling: String,
    /// What it would wait for in the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
}

/// A new group of workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupReview {
    /// Workers of the group before it.
    pub from: u32,
    /// Its workers.
    pub to: u32,
    /// Why, as a word: `Started`, `Scaled`, `SpecChanged` and so on.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}
