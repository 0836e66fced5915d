//! Events: single facts in an object's life, for people.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::Uid;
use super::meta::ObjectKey;
use super::object::Kind;

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something that should not be, even if it was dealt with.
    Warning,
}

/// What kind of thing an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A Ray cluster.
    RayCluster,
    /// A training job.
    AdaptDLJob,
    /// A watched directory or repository. It is no object, and has no namespace: its events are in the default one.
    Source,
}

impl Subject {
    /// As `involvedObject.kind` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RayCluster => Kind::RayCluster.name(),
            Self::AdaptDLJob => Kind::AdaptDLJob.name(),
            Self::Source => "Source",
        }
    }
}

impl From<Kind> for Subject {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::RayCluster => Self::RayCluster,
            Kind::AdaptDLJob => Self::AdaptDLJob,
        }
    }
}

/// An event before it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewEvent {
    /// The object's kind.
    pub kind: Subject,
    /// The object.
    pub object: ObjectKey,
    /// The object's uid; empty if it never was one.
    pub uid: Uid,
    /// Whether somebody should look.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// What happened, as a word.
    pub reason: String,
    /// What happened, for a person.
    pub message: String,
}

/// An event as it is stored. The same event again raises `count` and `last_seen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Grows with every event that is stored or seen again.
    pub version: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: NewEvent,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_seen: Timestamp,
    /// When last.
    pub last_seen: Timestamp,
}
