//! Conditions: what is known of an object, what is not, and since when.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a condition holds; "I do not know" is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One aspect of an object's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect: `Accepted`, `Scheduled`, `Converged` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: Truth,
    /// Why, as a word that programs may compare.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// The generation this was said of.
    pub observed_generation: u64,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

/// A condition before it is known when it began.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which aspect.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Truth,
    /// Why, as a word.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

impl Finding {
    /// A finding from its parts.
    pub fn new(
        kind: &'static str,
        status: impl Into<Truth>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status: status.into(), reason, message: message.into() }
    }

    /// The condition, which began now unless `before` already had the same status.
    pub fn condition(self, before: &[Condition], generation: u64, now: Timestamp) -> Condition {
        let same = before.iter().find(|old| old.kind == self.kind && old.status == self.status);
        Condition {
            kind: self.kind.to_owned(),
            status: self.status,
            reason: self.reason.to_owned(),
            message: self.message,
            observed_generation: generation,
            last_transition_time: same.map_or(now, |old| old.last_transition_time),
        }
    }
}
