//! The wish to have a job saved at once: said once, granted once, whatever becomes of bridges and annotations.

use rayconcile::action::Effect;
use rayconcile::api::ids::{CheckpointId, GroupNumber};
use rayconcile::api::meta::CHECKPOINT_NOW;
use rayconcile::api::record::{CheckpointRequest, JobRecord};
use rayconcile::api::wire::{BridgeReport, SaveRequestReport};
use rayconcile::plan::{Plan, Snapshot, plan};
use rayconcile::simulate::Fault;

use super::stories::{SMALL, Story, TWO_MACHINES};
use crate::simulate::key;

/// A job that trains, and what is planned for it.
struct Wishing {
    snapshot: Snapshot,
}

impl Wishing {
    fn new() -> Self {
        let mut story = Story::on(TWO_MACHINES);
        story.job("ada", SMALL);
        story.until(100);
        Self { snapshot: story.world.snapshot(&key("gpu")) }
    }

    fn wish(&mut self, wish: Option<&str>) {
        let annotations = &mut self.snapshot.jobs[0].job.metadata.annotations;
        annotations.remove(CHECKPOINT_NOW);
        annotations.extend(wish.map(|wish| (CHECKPOINT_NOW.to_owned(), wish.to_owned())));
    }

    fn bridge(&mut self) -> &mut BridgeReport {
        let (_, agent) = self.snapshot.seen.agent.last.as_mut().unwrap();
        agent.jobs.values_mut().next().unwrap()
    }

    /// What the bridge says of a wish, having taken everything that it was told.
    fn report(&mut self, wish: &str, checkpoint: Option<CheckpointId>) {
        let revision = self.record().revision;
        self.bridge().revision = Some(revision);
        self.bridge().save_request = Some(SaveRequestReport { id: wish.to_owned(), checkpoint });
    }

    fn record(&self) -> JobRecord {
        self.snapshot.jobs[0].record.clone()
    }

    /// Plans, and keeps what was decided.
    fn plan(&mut self) -> Plan {
        let made = plan(&self.snapshot);
        self.snapshot.jobs[0].record = made.jobs.values().next().unwrap().clone();
        made
    }

    fn told(&self) -> Option<String> {
        self.record().document.unwrap().save_request
    }
}

fn request(wish: &str, checkpoint: Option<CheckpointId>) -> Option<CheckpointRequest> {
    Some(CheckpointRequest { id: wish.to_owned(), checkpoint })
}

#[test]
fn a_wish_is_said_once_and_what_comes_of_it_is_remembered() {
    let saved = Some(CheckpointId { group: GroupNumber(0), number: 7 });
    let mut job = Wishing::new();
    let before = job.record().revision;
    job.wish(Some("w1"));
    let planned = job.plan();
    let sends = |plan: &Plan| {
        plan.intents.iter().filter(|it| matches!(it.effect, Effect::SendDocument { .. })).count()
    };
    assert_eq!((sends(&planned), job.told().as_deref(), job.record().revision), (1, Some("w1"), before + 1));

    job.report("w1", None);
    assert_eq!(sends(&job.plan()), 0);
    assert_eq!(job.record().checkpoint_request, request("w1", None));
    job.report("w1", saved);
    assert_eq!(sends(&job.plan()), 0, "that it was granted is no news to the bridge");
    assert_eq!(job.record().checkpoint_request, request("w1", saved));

    // Neither that it is taken back nor a bridge that knows nothing of it changes that.
    job.wish(None);
    assert_eq!((sends(&job.plan()), job.record().revision), (0, before + 1));
    job.wish(Some("w1"));
    job.report("w1", None);
    assert_eq!(sends(&job.plan()), 0);
    assert_eq!(job.record().checkpoint_request, request("w1", saved));

    // Another is another.
    job.wish(Some("w2"));
    assert_eq!((sends(&job.plan()), job.told().as_deref()), (1, Some("w2")));
    job.report("w2", None);
    let _ = job.plan();
    assert_eq!(job.record().checkpoint_request, request("w2", None));
}

#[test]
fn another_bridge_is_not_told_of_what_was_granted() {
    for granted in [false, true] {
        let mut job = Wishing::new();
        job.wish(Some("w"));
        let _ = job.plan();
        job.report("w", granted.then_some(CheckpointId { group: GroupNumber(0), number: 7 }));
        let _ = job.plan();
        // A group that ends by itself is followed by another, in a new document.
        job.snapshot.jobs[0].job.spec.args = vec!["--other".to_owned()];
        let _ = job.plan();
        assert_eq!(job.told().as_deref(), if granted { None } else { Some("w") });
    }
}

#[test]
fn a_durable_checkpoint_that_is_spoilt_is_told_of_and_the_one_before_it_is_used() {
    for fault in [Fault::FileSpoils, Fault::FileGone] {
        let frequent = SMALL.replace("maxReplicas", "checkpoint: {interval: 20s}, maxReplicas");
        let mut story = Story::on(TWO_MACHINES);
        story.job("ada", &frequent);
        story.until(150);
        story.job("ada", &frequent.replace("maxReplicas", "suspend: true, maxReplicas"));
        story.until(220);
        let kept: Vec<CheckpointId> =
            story.world.job(&key("ada")).unwrap().checkpoints.iter().map(|it| it.id).collect();
        assert!(kept.len() >= 2, "{kept:?}");
        story.world.strike(fault);
        story.job("ada", &frequent);
        story.until(300);
        let record = story.world.job(&key("ada")).unwrap();
        let resumed = record.groups.last().unwrap();
        assert_eq!(resumed.restored, Some(kept[kept.len() - 2]), "{fault:?}: {}", story.world.transcript());
        assert!(resumed.steps > 0 && record.failures == 0);
        let told = story.world.transcript();
        let event = format!("checkpoint {} cannot be used", kept[kept.len() - 1]);
        assert!(told.contains("CheckpointUnreadable") && told.contains(&event), "{told}");
    }
}
