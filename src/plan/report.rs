//! What a plan says of itself: what is being done, what is waited for, and why nothing is done if nothing is.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::api::condition::Finding;
use crate::api::ids::{NodeName, Uid};
use crate::api::status::ScalingStatus;

/// What a plan says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Of the cluster.
    pub cluster: ClusterReport,
    /// Of the jobs.
    pub jobs: BTreeMap<Uid, JobReport>,
}

/// What a plan says of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterReport {
    /// What is being done or waited for, in the order of importance. Empty: converged.
    pub waiting: Vec<Waiting>,
    /// How many worker nodes are wanted.
    pub desired_nodes: u32,
    /// Workers on each node.
    pub workers: FxHashMap<NodeName, u32>,
}

/// What a plan says of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobReport {
    /// What is being done or waited for, in the order of importance. Empty: converged.
    pub waiting: Vec<Waiting>,
    /// How many workers it should have, and why.
    pub scaling: Option<ScalingStatus>,
    /// What is wrong with its place: it has none, or none for all its workers.
    pub scheduled: Option<Finding>,
}

/// Something that is being done or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// A word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Whether only a person, or time, can help.
    pub blocked: bool,
}

impl Waiting {
    /// Something that goes on by itself.
    pub fn going_on(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocked: false }
    }

    /// Something that does not go on by itself.
    pub fn blocked(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), blocked: true }
    }
}
