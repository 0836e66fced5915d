//! Where checkpoints and output are to be kept, and what a job's status says of it.

use jiff::SignedDuration;
use rayconcile::action::{Effect, EffectError, ErrorKind, Intent, IntentState};
use rayconcile::api::aws::{Market, Spot};
use rayconcile::api::ids::{CheckpointId, Digest, GroupNumber, Uid};
use rayconcile::api::job::{Logs, Storage};
use rayconcile::api::meta::FORCE_DELETE;
use rayconcile::api::observed::Archiving;
use rayconcile::api::record::{CheckpointRecord, JobOutcome};
use rayconcile::api::status::JobPhase;
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
            digest: Digest::from("0123456789abcdef".to_owned()),
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

/// A job that has done its work and left its cluster, and whose output goes to S3.
struct Finished {
    snapshot: Snapshot,
}

impl Finished {
    fn new() -> Self {
        let mut snapshot = Saving::new().snapshot;
        let now = snapshot.now;
        let (_, agent) = snapshot.seen.agent.last.as_mut().unwrap();
        agent.jobs.clear();
        let view = &mut snapshot.jobs[0];
        view.job.spec.logs = Logs { url: Some("s3://team/runs/".to_owned()) };
        view.job.metadata.uid = Uid::from("u".to_owned());
        (view.record.binding, view.record.document) = (None, None);
        view.record.outcome = Some(JobOutcome {
            phase: JobPhase::Succeeded,
            reason: "Succeeded".to_owned(),
            message: "done".to_owned(),
            at: now,
            source: None,
        });
        Self { snapshot }
    }

    fn archiving(&mut self, behind: u64, error: Option<&str>) {
        let archiving = Archiving { behind, error: error.map(str::to_owned) };
        self.snapshot.seen.archives = [(Uid::from("u".to_owned()), archiving)].into();
    }

    fn delete(&mut self, forced: bool) {
        let metadata = &mut self.snapshot.jobs[0].job.metadata;
        metadata.deletion_timestamp = Some(self.snapshot.now);
        if forced {
            metadata.annotations.insert(FORCE_DELETE.to_owned(), "true".to_owned());
        }
    }

    /// Plans after some seconds; says what there is to say of the job, and whether it is let go.
    fn after(&mut self, seconds: i64) -> (String, bool) {
        self.snapshot.now += SignedDuration::from_secs(seconds);
        self.snapshot.seed += 1;
        let plan = plan(&self.snapshot);
        let uid = Uid::from("u".to_owned());
        self.snapshot.jobs[0].record = plan.jobs[&uid].clone();
        let view = &self.snapshot.jobs[0];
        let status = job_status(&self.snapshot, &view.job, &view.record, &plan.report.jobs[&uid]);
        let durable = status.conditions.iter().find(|condition| condition.kind == "LogsDurable").unwrap();
        let events = plan.events.iter().map(|event| format!("; {}: {}", event.reason, event.message));
        let told = format!(
            "{} ({}); {:?} {}: {}{}",
            status.phase,
            status.message,
            durable.status,
            durable.reason,
            durable.message,
            events.collect::<String>()
        );
        (told, plan.removals.iter().any(|removal| removal.uid == uid))
    }
}

#[test]
fn a_job_is_done_when_its_output_is_where_it_should_be() {
    let mut told = Vec::new();
    let mut job = Finished::new();
    told.push(job.after(1));
    job.archiving(2000, None);
    told.push(job.after(1));
    job.archiving(2000, Some("cannot write s3://team/runs/default/ada/u/group-0/rank-0/0.log: SlowDown"));
    told.push(job.after(1));
    job.archiving(0, None);
    told.push(job.after(1));
    // That was all of it, whatever is known after a restart.
    job.snapshot.seen.archives.clear();
    told.push(job.after(1));
    job.delete(false);
    told.push(job.after(1));
    let told: Vec<String> =
        told.iter().map(|(told, gone)| format!("{told}{}", if *gone { " GONE" } else { "" })).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn output_that_cannot_be_brought_away_is_not_waited_for_for_ever() {
    let error = "cannot write s3://team/runs/default/ada/u/group-0/rank-0/0.log: AccessDenied: no";
    let given_up = "LogsIncomplete: 2.0 KiB of its workers' output is not in s3://team/runs/default/ada/u but only in \
                    the state directory: cannot write s3://team/runs/default/ada/u/group-0/rank-0/0.log: AccessDenied: no";
    for deleted in [false, true] {
        let mut job = Finished::new();
        job.archiving(2048, Some(error));
        if deleted {
            job.delete(false);
        }
        for _ in 0..2 {
            let (told, gone) = job.after(60);
            assert!(told.starts_with("Stopping") && !told.contains("LogsIncomplete") && !gone, "{told}");
        }
        let (told, gone) = job.after(60);
        assert!(told.contains(given_up) && gone == deleted, "{told}");
        assert!(deleted || told.starts_with("Succeeded"), "{told}");
        assert!(!job.after(60).0.contains("LogsIncomplete"), "it is said once");
    }
    // By force it goes at once, and says what may be missing.
    let mut job = Finished::new();
    job.archiving(2048, Some(error));
    job.delete(true);
    let (told, gone) = job.after(1);
    assert!(told.contains(given_up) && gone, "{told}");
}
