//! Whether a job's checkpoints, and its output, are where nothing that can be expected takes them away.

use crate::action::{Effect, IntentState};
use crate::api::aws::Market;
use crate::api::condition::{Finding, Truth};
use crate::api::ids::CheckpointId;
use crate::api::object::AdaptDLJob;
use crate::api::observed::Archiving;
use crate::api::record::{JobRecord, LastOutput};
use crate::plan::Snapshot;

const KIND: &str = "CheckpointDurable";

/// What is to be said of a job's checkpoints.
///
/// Copies that the controller has outlive every node, but not the controller's disk. Where nodes are there to stay
/// that is enough; spot nodes are not, and then one lost machine, the controller's, is all that it takes.
pub(super) fn checkpoint_durable(snapshot: &Snapshot, job: &AdaptDLJob, record: &JobRecord) -> Finding {
    let newest = record.checkpoints.last();
    if let Some((id, error)) = not_kept(snapshot, job) {
        let before = match newest {
            Some(newest) => format!("the newest that is kept is {}", newest.id),
            None => "none is kept yet".to_owned(),
        };
        let message = format!("checkpoint {id} is still only on the cluster, {before}: {error}");
        return Finding::new(KIND, false, "NotKept", message);
    }
    let storage = &job.spec.checkpoint.storage;
    let none = if newest.is_some() { "" } else { "; there is none yet" };
    match (&storage.url, &storage.path) {
        (Some(url), _) => {
            // One that was kept before the manifest said so stays where it is.
            let there = format!("{}/", url.trim_end_matches('/'));
            let elsewhere = newest.filter(|newest| !newest.path.starts_with(&there));
            match elsewhere {
                Some(newest) => {
                    let message = format!("the newest checkpoint is in {} yet, not in {url}", newest.path);
                    Finding::new(KIND, false, "KeptElsewhere", message)
                }
                None => {
                    Finding::new(KIND, true, "ObjectStorage", format!("checkpoints are kept in {url}{none}"))
                }
            }
        }
        (None, Some(path)) => {
            let message = format!("checkpoints are kept in {path} of the controller's machine{none}");
            Finding::new(KIND, true, "Directory", message)
        }
        (None, None) if on_spot_nodes(snapshot) => {
            let message = "checkpoints are only in the controller's state directory, and its nodes are spot \
                           instances: give checkpoint.storage a url (s3://BUCKET/PREFIX), or a path on shared storage";
            Finding::new(KIND, false, "StateDirectoryOnly", message)
        }
        (None, None) => {
            let message = format!("checkpoints are kept in the controller's state directory{none}");
            Finding::new(KIND, true, "StateDirectory", message)
        }
    }
}

/// What is to be said of a job's output, if it goes to object storage.
pub(super) fn logs_durable(snapshot: &Snapshot, job: &AdaptDLJob, record: &JobRecord) -> Option<Finding> {
    const KIND: &str = "LogsDurable";
    let place = job.spec.logs_place(&job.metadata)?;
    let there =
        || Finding::new(KIND, true, "ObjectStorage", format!("its workers' output is kept in {place}"));
    if record.last_output == Some(LastOutput::Kept) {
        return Some(there());
    }
    Some(match snapshot.seen.archives.get(&job.metadata.uid) {
        None => Finding::new(KIND, Truth::Unknown, "NotLookedYet", "what is there was not looked at yet"),
        Some(Archiving { error: Some(error), .. }) => {
            let message = format!("the newest output is only in the controller's state directory: {error}");
            Finding::new(KIND, false, "NotKept", message)
        }
        Some(_) => there(),
    })
}

/// A checkpoint that could not be kept so far, and why.
fn not_kept<'a>(snapshot: &'a Snapshot, job: &AdaptDLJob) -> Option<(CheckpointId, &'a str)> {
    snapshot.intents.iter().find_map(|intent| {
        let Effect::FetchCheckpoint { job: of, checkpoint } = &intent.effect else { return None };
        let error = match &intent.state {
            IntentState::Failed { error, .. } => Some(&error.message),
            IntentState::Pending => intent.last_error.as_ref(),
            IntentState::Done { .. } => None,
        };
        (*of == job.metadata.uid).then_some((checkpoint.id, error?.as_str()))
    })
}

fn on_spot_nodes(snapshot: &Snapshot) -> bool {
    let groups = snapshot.cluster.iter().flat_map(|cluster| &cluster.spec.worker_groups);
    groups.into_iter().any(|group| matches!(group.market, Some(Market::Spot(_))))
}
