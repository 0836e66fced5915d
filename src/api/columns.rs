//! Tables of objects: the columns that `rayconcile get` and `kubectl get` show, and what is in them.

use jiff::Timestamp;

use super::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use super::words::duration;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub name: &'static str,
    /// Whether it is only shown when there is room for more (`-o wide`).
    pub wide: bool,
    /// What is in it.
    pub description: &'static str,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self { name, wide: false, description }
    }

    /// A column for which there is not always room.
    pub const fn wide(name: &'static str, description: &'static str) -> Self {
        Self { wide: true, ..Self::new(name, description) }
    }
}

const JOB: [Column; 9] = [
    Column::new("Name", "The job's name."),
    Column::new("Phase", "Its state in a word."),
    Column::new("Workers", "Workers at work, of those that should be."),
    Column::new("Step", "Training steps so far."),
    Column::new("Epoch", "The epoch, counted from 0."),
    Column::new("Checkpoint", "The age of the newest durable checkpoint."),
    Column::new("Age", "How long ago it was created."),
    Column::wide("Cluster", "The cluster that it refers to."),
    Column::wide("Message", "Its state in a sentence."),
];

const CLUSTER: [Column; 6] = [
    Column::new("Name", "The cluster's name."),
    Column::new("Phase", "Its state in a word."),
    Column::new("Nodes", "Worker nodes that are ready, of those that should be."),
    Column::new("Age", "How long ago it was created."),
    Column::wide("Dashboard", "The address of Ray's dashboard."),
    Column::wide("Message", "Its state in a sentence."),
];

/// The columns of a kind's table.
pub const fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::AdaptDLJob => &JOB,
        Kind::RayCluster => &CLUSTER,
    }
}

/// What is in the columns of an object's kind. What is not known is empty.
pub fn row(object: &AnyObject, now: Timestamp) -> Vec<String> {
    match object {
        AnyObject::Job(job) => job_row(job, now),
        AnyObject::Cluster(cluster) => cluster_row(cluster, now),
    }
}

fn job_row(job: &AdaptDLJob, now: Timestamp) -> Vec<String> {
    let status = &job.status;
    let progress = status.progress.as_ref();
    let cluster = job.spec.cluster_ref.as_ref().map_or("local", |reference| reference.name.as_str());
    vec![
        job.metadata.name.clone(),
        status.phase.to_string(),
        format!("{}/{}", status.replicas, status.desired_replicas),
        progress.map_or_else(String::new, |progress| progress.steps.to_string()),
        progress.and_then(|progress| progress.epoch).map_or_else(String::new, |epoch| epoch.to_string()),
        age(status.checkpoint.as_ref().map(|checkpoint| checkpoint.saved), now),
        age(job.metadata.creation_timestamp, now),
        cluster.to_owned(),
        first_line(&status.message),
    ]
}

fn cluster_row(cluster: &RayCluster, now: Timestamp) -> Vec<String> {
    let status = &cluster.status;
    vec![
        cluster.metadata.name.clone(),
        status.phase.to_string(),
        format!("{}/{}", status.ready_nodes, status.desired_nodes),
        age(cluster.metadata.creation_timestamp, now),
        status.dashboard.clone().unwrap_or_default(),
        first_line(&status.message),
    ]
}

/// How long ago something was.
pub fn age(moment: Option<Timestamp>, now: Timestamp) -> String {
    moment.map_or_else(String::new, |moment| duration(now.duration_since(moment)))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
