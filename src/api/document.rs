//! The document that a job's bridge is told by: what should run, in which slots, and how far it may go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::{CheckpointId, Digest, GroupNumber, NodeName, RayNodeId, SlotId};
use super::job::{EnvVar, WorkerResources};
use super::shared::Shared;
use super::units::Span;

/// How many groups a bridge begins alone after the one that it was told; the same number is in the agent's `alone.py`.
pub const MOST_ALONE: u64 = 100;

/// What a bridge is told. Secrets are named in it and looked up when it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// A higher one replaces a lower one.
    pub revision: u64,
    /// What should be.
    pub desired: Desired,
    /// The slots that the wanted group uses.
    pub slots: Shared<BTreeMap<SlotId, SlotSpec>>,
    /// How long a group may take to save and leave.
    pub checkpoint_timeout: Span,
    /// How often the running group saves.
    pub checkpoint_interval: Span,
    /// How many checkpoints the bridge keeps.
    pub checkpoint_keep: u32,
    /// Where the manifest has them stored, which the nodes may share.
    #[serde(default)]
    pub checkpoint_path: Option<String>,
    /// What to keep of what rank 0 leaves behind.
    pub artifacts: Vec<String>,
    /// Nodes of which the provider says that nothing on them is alive.
    pub fenced: BTreeSet<RayNodeId>,
    /// When nothing of an earlier bridge can be alive any more.
    pub fence_until: Option<Timestamp>,
    /// How long a group may make no step before it is taken for hung; zero is for ever.
    #[serde(default)]
    pub progress_deadline: Span,
    /// The newest wish to have the job saved at once.
    #[serde(default)]
    pub save_request: Option<String>,
    /// Where slots ask whether their node will be taken away; `{address}` stands for the node's.
    #[serde(default)]
    pub metadata_endpoint: Option<String>,
    /// With fewer workers than this no group is begun while the controller is away.
    #[serde(default)]
    pub min_replicas: u32,
}

/// What should be of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Desired {
    /// A group should run.
    Run {
        /// The group.
        group: Shared<GroupSpec>,
        /// Whether it may be switched to as soon as it is prepared.
        activate: bool,
    },
    /// Nothing should run.
    Stop {
        /// How long the running group may take to save and leave.
        grace: Span,
    },
}

/// A group as the bridge is told of it. For one number it never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSpec {
    /// Its number.
    pub number: GroupNumber,
    /// The slots of its ranks.
    pub ranks: Vec<SlotId>,
    /// The program.
    pub program: Program,
    /// How far it is got ready beside a running group.
    pub prepare: Prepare,
    /// Whether its workers are forked from a process that has imported what they need.
    #[serde(default)]
    pub fork: bool,
    /// The newest checkpoint that the controller has, or had before a switch: there is at least this one.
    pub restore: Option<CheckpointId>,
}

/// What a worker runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// A Python script.
    pub entrypoint: Option<String>,
    /// Or a program.
    pub command: Option<Vec<String>>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment; values may be named only.
    pub env: Vec<EnvVar>,
    /// The directory that all workers see.
    pub share_path: Option<String>,
}

/// How far a group is got ready beside a running one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prepare {
    /// Its slots are reserved and its workers started.
    Full,
    /// Its slots are reserved.
    Slots,
    /// There is no room for it beside the running one.
    Nothing,
}

/// A slot as the bridge is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotSpec {
    /// The node it is on.
    pub node: NodeName,
    /// Ray's id of that node.
    pub ray: RayNodeId,
    /// What makes it usable for a group.
    pub kind: Shared<SlotKind>,
}

/// What makes a slot usable for a group: with another of these a new slot is needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotKind {
    /// What is reserved.
    pub resources: WorkerResources,
    /// Ray's runtime environment.
    pub runtime_env: Map<String, Value>,
    /// The package with the program.
    pub package: Option<Digest>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn bridges_begin_no_more_groups_alone_than_numbers_are_left_out() {
        let bridge = include_str!("../agent/rayconcile_agent/alone.py");
        assert!(bridge.contains(&format!("\nMOST_ALONE = {}\n", super::MOST_ALONE)));
    }
}
