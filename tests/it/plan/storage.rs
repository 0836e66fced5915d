//! Where checkpoints are to be kept, and what a job's status says of it.

use rayconcile::action::{Effect, EffectError, ErrorKind, Intent, IntentState};
use rayconcile::api::aws::{Market, Spot};
use rayconcile::api::ids::{CheckpointId, Digest, GroupNumber};
use rayconcile::api::job::Storage;
use rayconcile::api::record::CheckpointRecord;
use rayconcile::api::wire::{BlobKind, BlobReport};
use rayconcile::controller::status::job_status;
use rayconcile::plan::{Snapshot, plan};

use super::stories::{SMALL, Story, TWO_MACHINES};
use crate::simulate::key;

/// A job that trains, and has just saved what is only on the cluster.
struct Saving {
    snapshot: Snapshot,
}

impl Saving {
    fn new() -> Self {
        let mut story = Story::on(TWO_MACHINES);
        story.job("ada", SMALL);
        story.until(100);
        let mut snapshot = story.world.snapshot(&key("gpu"));
        let (_, agent) = snapshot.seen.agent.last.as_mut().unwrap();
        agent.jobs.values_mut().next().unwrap().blobs.push(BlobReport {
            kind: BlobKind::Checkpoint,
            id: CheckpointId { group: GroupNumber(0), number: 99 },
            digest: Digest("0123456789abcdef".to_owned()),
            size: 5,
            files: 1,
            steps: 7,
            save_ms: 1.0,
            at: 10.0,
        });
        Self { snapshot }
    }

    fn keep_in(&mut self, path: Option<&str>, url: Option<&str>) {
        let storage = Storage { path: path.map(str::to_owned), url: url.map(str::to_owned) };
        self.snapshot.jobs[0].job.spec.checkpoint.storage = storage;
    }

    /// Where a plan has the new checkpoint kept; what it intends is the next one's past.
    fn planned(&mut self) -> CheckpointRecord {
        self.snapshot.seed += 1;
        self.snapshot.intents = plan(&self.snapshot).intents;
        let fetched = |intent: &Intent| match &intent.effect {
            Effect::FetchCheckpoint { checkpoint, .. } => Some(checkpoint.clone()),
            _ => None,
        };
        let mut fetched = self.snapshot.intents.iter().filter_map(fetched);
        let only = fetched.next().unwrap();
        assert!(fetched.next().is_none(), "it is brought to one place");
        only
    }

    /// Nothing is on its way, and this is where the newest is.
    fn kept(&mut self, path: &str) {
        self.snapshot.jobs[0].record.checkpoints.clear();
        let checkpoint = self.planned();
        self.snapshot.intents.clear();
        self.snapshot.jobs[0].record.checkpoints =
            vec![CheckpointRecord { path: path.to_owned(), ..checkpoint }];
    }

    fn durable(&self) -> String {
        let (view, plan) = (&self.snapshot.jobs[0], plan(&self.snapshot));
        let report = &plan.report.jobs[&view.job.metadata.uid];
        let status = job_status(&self.snapshot, &view.job, &view.record, report);
        let found = status.conditions.iter().find(|condition| condition.kind == "CheckpointDurable").unwrap();
        format!("{:?} {}: {}", found.status, found.reason, found.message)
    }
}

#[test]
fn a_checkpoint_goes_where_the_manifest_says_now() {
    let mut job = Saving::new();
    let uid = job.snapshot.jobs[0].job.metadata.uid.clone();
    assert!(job.planned().path.starts_with("jobs/"));
    // A place that is refused is not asked again when the manifest names another.
    job.keep_in(None, Some("s3://taem/runs"));
    assert_eq!(
        job.planned().path,
        format!("s3://taem/runs/default/ada/{uid}/checkpoint-0-99-0123456789ab.tar")
    );
    job.keep_in(None, Some("s3://team"));
    assert_eq!(job.planned().path, format!("s3://team/default/ada/{uid}/checkpoint-0-99-0123456789ab.tar"));
    job.keep_in(Some("/efs/ckpt"), None);
    assert!(job.planned().path.starts_with("/efs/ckpt/default.ada."));
}

#[test]
fn a_job_says_where_its_checkpoints_are_and_why_they_are_not_safe() {
    let mut told = Vec::new();
    let mut job = Saving::new();
    job.snapshot.jobs[0].record.checkpoints.clear();
    told.push(job.durable());
    job.kept("jobs/default.ada/checkpoints/0.tar");
    told.push(job.durable());
    job.keep_in(Some("/efs/ckpt"), None);
    told.push(job.durable());
    job.keep_in(None, Some("s3://team/runs/"));
    told.push(job.durable());
    job.kept("s3://team/runs/default/ada/u/checkpoint-0-99-0123456789ab.tar");
    told.push(job.durable());

    job.snapshot.jobs[0].record.checkpoints[0].id.number = 98;
    job.planned();
    let fetch = |intent: &&mut Intent| matches!(intent.effect, Effect::FetchCheckpoint { .. });
    let mut fetching = job.snapshot.intents.clone();
    let intent = fetching.iter_mut().find(fetch).unwrap();
    let error = EffectError { kind: ErrorKind::Unavailable, message: "cannot write it: SlowDown".to_owned() };
    intent.state = IntentState::Failed { at: job.snapshot.now, error };
    job.snapshot.intents = fetching;
    told.push(job.durable());
    // While it is tried again.
    job.planned();
    assert_eq!(Some(&job.durable()), told.last());
    job.snapshot.jobs[0].record.checkpoints.clear();
    told.push(job.durable());

    job.kept("jobs/default.ada/checkpoints/0.tar");
    job.keep_in(None, None);
    job.snapshot.cluster.as_mut().unwrap().spec.worker_groups[0].market = Some(Market::Spot(Spot::default()));
    told.push(job.durable());
    insta::assert_snapshot!(told.join("\n"));
}
