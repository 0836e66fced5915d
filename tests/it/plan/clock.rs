//! A wall clock that jumps: nothing is begun, ended or deleted because of it, and nothing waits for it.

use jiff::{SignedDuration, Timestamp};
use rayconcile::action::IntentState;
use rayconcile::api::record::{NodeState, Trouble};
use rayconcile::plan::{Snapshot, plan};
use rayconcile::simulate::Fault;

use super::stories::{SMALL, Story, TWO_MACHINES};
use crate::simulate::key;

const HOURS: [i64; 4] = [-48, -6, 6, 48];

fn after(now: Timestamp, hours: i64) -> Timestamp {
    now + SignedDuration::from_hours(hours)
}

/// Sees that a snapshot of which nothing is to be done gives no more to do at other times.
fn nothing_happens(what: &str, snapshot: &Snapshot) {
    let rested = plan(snapshot);
    assert_eq!(rested.intents.len(), 0, "{what} is not at rest: {rested:#?}");
    for hours in HOURS {
        let now = after(snapshot.now, hours);
        let jumped = plan(&Snapshot { now, ..snapshot.clone() });
        let told = format!("{what}, {hours}h: {jumped:#?}");
        assert!(jumped.intents.is_empty() && jumped.events.is_empty(), "{told}");
        assert!(
            jumped.creations.is_empty() && jumped.deletions.is_empty() && jumped.removals.is_empty(),
            "{told}"
        );
        assert!(jumped.wake_at.is_none_or(|wake| wake > now), "{told}");
        for (uid, record) in &jumped.jobs {
            let before = &rested.jobs[uid];
            assert_eq!(
                (&record.groups, &record.document),
                (&before.groups, &before.document),
                "{what}, {hours}h"
            );
        }
        let states = |plan: &rayconcile::plan::Plan| {
            plan.record.nodes.iter().map(|(name, node)| (name.clone(), node.state.name())).collect::<Vec<_>>()
        };
        assert_eq!(states(&jumped), states(&rested), "{what}, {hours}h");
    }
}

#[test]
fn what_is_at_rest_stays_so_whatever_the_clock_says() {
    // It trains on both machines, so that no idle node is to be given back.
    let fixed =
        SMALL.replace("maxReplicas: 4", "scaling: {policy: Fixed, replicas: 4}, checkpoint: {interval: 30s}");
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", &fixed);
    story.until(200);
    nothing_happens("training", &story.world.snapshot(&key("gpu")));

    story.world.strike(Fault::WorkerKilled);
    story.until(400);
    nothing_happens("trained again", &story.world.snapshot(&key("gpu")));

    story.job("ada", &fixed.replace("scaling", "suspend: true, scaling"));
    story.until(900);
    nothing_happens("suspended", &story.world.snapshot(&key("gpu")));
}

#[test]
fn no_wait_gets_longer_when_the_clock_is_set_back() {
    let mut story = Story::on(TWO_MACHINES);
    story.world.exhaust(&key("gpu"), true);
    story.job("ada", SMALL);
    story.until(120);
    let mut snapshot = story.world.snapshot(&key("gpu"));
    let ahead = after(snapshot.now, 6);
    for intent in snapshot.intents.iter_mut().filter(|intent| intent.state == IntentState::Pending) {
        intent.not_before = ahead;
    }
    snapshot.record.trouble = Some(Trouble {
        count: 3,
        until: ahead,
        reason: "CannotLaunch".to_owned(),
        message: "full".to_owned(),
    });
    let head = snapshot.record.nodes.values_mut().find(|node| node.group.is_none()).unwrap();
    head.state = NodeState::Ready { since: ahead };
    let planned = plan(&snapshot);
    assert!(!planned.intents.is_empty(), "nothing is tried again: {planned:#?}");
    assert!(planned.intents.iter().all(|intent| intent.not_before <= snapshot.now), "{planned:#?}");
    assert!(planned.record.nodes.values().all(|node| node.state.since() <= snapshot.now), "{planned:#?}");
}
