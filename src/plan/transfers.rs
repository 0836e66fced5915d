//! Checkpoints and artifacts: fetched while the cluster has them, kept while they are needed, delivered at success.

use jiff::SignedDuration;

use super::draft::{Draft, JobDraft};
use super::guards::Guard;
use super::output;
use super::report::Waiting;
use super::snapshot::Removal;
use crate::action::Effect;
use crate::api::bucket::BucketAddress;
use crate::api::event::EventType;
use crate::api::ids::{CheckpointId, Digest};
use crate::api::meta::{FORCE_DELETE, ObjectMeta};
use crate::api::object::Kind;
use crate::api::record::CheckpointRecord;
use crate::api::status::JobPhase;
use crate::api::units::{Bytes, Span};
use crate::api::wire::{BlobKind, BlobReport, BridgeReport};

/// How long the checkpoints and logs of a deleted job are kept: long enough to notice a mistake.
const RETENTION: Span = Span::from_secs(7 * 24 * 3600);

/// Plans what is brought and what is dropped, and lets finished and deleted jobs go.
pub(super) fn plan(draft: &mut Draft<'_>) {
    for index in 0..draft.jobs.len() {
        fetch(draft, index);
        drop_surplus(draft, index);
        deliver(draft, index);
        output::await_last(draft, index);
        let_go(draft, index);
    }
}

/// Fetches the newest checkpoint and all artifacts that are only on the cluster.
fn fetch(draft: &mut Draft<'_>, index: usize) {
    let job = &draft.jobs[index];
    let Some(bridge) = job.living_bridge() else { return };
    let (uid, heard) = (job.uid().clone(), job.heard_at);
    let durable = job.record.checkpoints.last().map(|checkpoint| checkpoint.id);
    if let Some(newest) =
        job.checkpoints_of(bridge).max_by_key(|blob| blob.id).filter(|blob| Some(blob.id) > durable)
    {
        let age = SignedDuration::from_millis((newest.at + bridge.age_ms).clamp(0.0, 1e12) as i64);
        let known = draft.pending(&crate::action::Target::Checkpoint(uid.clone(), newest.id));
        let path = draft.checkpoint_path(index, newest.id, &newest.digest);
        // The age differs from report to report; the intent keeps what it began with, while that is still wanted.
        let checkpoint = match known.map(|intent| intent.effect.clone()) {
            Some(Effect::FetchCheckpoint { checkpoint, .. }) if checkpoint.path == path => checkpoint,
            _ => CheckpointRecord {
                id: newest.id,
                digest: newest.digest.clone(),
                size: Bytes(newest.size),
                files: newest.files,
                steps: newest.steps,
                save_ms: newest.save_ms,
                saved: heard - age,
                path,
            },
        };
        draft.intend(Effect::FetchCheckpoint { job: uid.clone(), checkpoint });
    }
    let fetched = |group| draft.jobs[index].record.artifacts.iter().any(|artifacts| artifacts.group == group);
    let missing: Vec<_> = bridge
        .blobs
        .iter()
        .filter(|blob| blob.kind == BlobKind::Artifacts && !fetched(blob.id.group))
        .map(|blob| (blob.id.group, blob.digest.clone(), Bytes(blob.size)))
        .collect();
    for (group, digest, size) in missing {
        draft.intend(Effect::FetchArtifacts { job: uid.clone(), group, digest, size });
    }
}

/// Drops the oldest checkpoints beyond those the manifest wants kept.
fn drop_surplus(draft: &mut Draft<'_>, index: usize) {
    let job = &draft.jobs[index];
    let keep = job.job.spec.checkpoint.keep.max(2) as usize;
    let surplus = job.record.checkpoints.len().saturating_sub(keep);
    let oldest_first = job.record.checkpoints.iter().map(|checkpoint| checkpoint.id);
    let dropped: Vec<_> = if draft.guarded(Guard::NewestAreKept) {
        oldest_first.take(surplus).collect()
    } else {
        oldest_first.rev().take(surplus).collect()
    };
    let uid = job.uid().clone();
    for id in dropped {
        draft.intend(Effect::DropCheckpoint { job: uid.clone(), id });
    }
}

fn deliver(draft: &mut Draft<'_>, index: usize) {
    let job = &draft.jobs[index];
    let record = &job.record;
    let succeeded = record.outcome.as_ref().is_some_and(|outcome| outcome.phase == JobPhase::Succeeded);
    let wanted = job.job.spec.artifacts.destination.is_some() && !record.delivered;
    if !succeeded || !wanted || record.binding.is_some() {
        return;
    }
    let uid = job.uid().clone();
    let target = crate::action::Target::Delivery(uid.clone());
    let error = draft.pending(&target).and_then(|intent| intent.last_error.clone());
    draft.intend(Effect::DeliverArtifacts { job: uid });
    let waiting = match error {
        Some(error) => Waiting::blocked("CannotDeliver", error),
        None => Waiting::going_on("Delivering", "its artifacts are being put where the manifest wants them"),
    };
    draft.jobs[index].wait_first(waiting);
}

/// Lets a job go when nothing of it is left to be done: when it was deleted, or has been finished for long enough.
fn let_go(draft: &mut Draft<'_>, index: usize) {
    let job = draft.jobs[index].job;
    if job.metadata.is_deleting() && job.metadata.annotations.contains_key(FORCE_DELETE) {
        abandon(draft, index);
    }
    let record = &draft.jobs[index].record;
    if record.binding.is_some() || output::is_awaited(draft, index) {
        return;
    }
    if job.metadata.is_deleting() {
        let retire = Some((job.metadata.key(), draft.now + RETENTION.signed()));
        draft.removals.push(Removal { uid: job.metadata.uid.clone(), retire });
        return;
    }
    let ended = record.outcome.as_ref().map(|outcome| outcome.at);
    if let Some(limit) = job.spec.ttl_after_finished.zip(ended).map(|(ttl, at)| at + ttl.signed())
        && draft.is_due(limit)
    {
        draft.deletions.push((Kind::AdaptDLJob, job.metadata.key()));
    }
}

/// Gives up what cannot be reached, because a person said so, and says what may remain.
fn abandon(draft: &mut Draft<'_>, index: usize) {
    let Some(binding) = draft.jobs[index].record.binding.take() else { return };
    draft.jobs[index].record.document = None;
    let job = draft.jobs[index].job;
    let message = format!("deleted by force: workers may remain on cluster {}", binding.cluster);
    draft.job_event(job, EventType::Warning, "ForceDeleted", message);
}

impl JobDraft<'_> {
    /// The checkpoints that a bridge has, but for those that are known to be spoilt.
    pub(super) fn checkpoints_of<'r>(
        &self,
        bridge: &'r BridgeReport,
    ) -> impl Iterator<Item = &'r BlobReport> {
        let checkpoints = bridge.blobs.iter().filter(|blob| blob.kind == BlobKind::Checkpoint);
        checkpoints.filter(|blob| !self.record.spoilt.contains(&blob.id))
    }
}

impl Draft<'_> {
    /// Where a checkpoint is kept: where the manifest says, or else, as a relative path, in the state directory.
    fn checkpoint_path(&self, index: usize, id: CheckpointId, digest: &Digest) -> String {
        let job = self.jobs[index].job;
        if let Some(Ok(place)) =
            job.spec.checkpoint.storage.url.as_ref().map(|url| url.parse::<BucketAddress>())
        {
            let ObjectMeta { namespace, name, uid, .. } = &job.metadata;
            return place
                .join(&format!("{namespace}/{name}/{uid}/checkpoint-{id}-{}.tar", digest.short()))
                .to_string();
        }
        let directory = match &job.spec.checkpoint.storage.path {
            Some(path) => format!("{}/{}", path.trim_end_matches('/'), job.metadata.directory()),
            None => format!("jobs/{}/checkpoints", job.metadata.directory()),
        };
        format!("{directory}/{digest}.tar")
    }
}
