//! Instances of EC2 that carry a cluster's mark and are no node of it: from a launch of which no reply came, or from a
//! state directory that is lost. They are ended. And whether all instances are known to be gone.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use rustc_hash::FxHashSet;

use super::draft::Draft;
use super::guards::Guard;
use super::report::Waiting;
use crate::action::Effect;
use crate::api::event::EventType;
use crate::api::ids::{InstanceId, IntentId};
use crate::api::observed::CloudInstance;
use crate::api::words::count_are;

/// How long an instance that nobody knows is looked at before it is ended.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);
/// How long after a launch EC2 may list its instance for the first time: mostly it is a second (SkyPilot issue 4443).
const LISTED_LATE: SignedDuration = SignedDuration::from_secs(30);
/// How often instances are listed.
const LISTING: SignedDuration = SignedDuration::from_secs(5);

/// Ends what is no node of the cluster.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let seen = &draft.snapshot.seen.instances;
    let Some((_, instances)) = seen.fresh() else {
        if let (Some((_, error)), Some(_)) = (&seen.error, &draft.record.incarnation) {
            let message = format!("EC2 cannot be asked which instances there are: {error}");
            draft.report.cluster.waiting.push(Waiting::blocked("CannotSeeInstances", message));
        }
        return;
    };
    let now = draft.now;
    let nodes: FxHashSet<&IntentId> = draft.record.nodes.values().map(|node| &node.launch).collect();
    let settled = draft.guarded(Guard::LaunchIsSettled);
    let is_known =
        |launch: &IntentId| nodes.contains(launch) || (draft.launch_is_unsettled(launch) && settled);
    let is_orphan = |instance: &CloudInstance| {
        !instance.phase.is_ending() && !instance.launch.as_ref().is_some_and(is_known)
    };
    let orphans: BTreeMap<InstanceId, String> = instances
        .iter()
        .filter(|(_, instance)| is_orphan(instance))
        .map(|(id, instance)| (id.clone(), instance.instance_type.clone()))
        .collect();
    draft.record.orphans.retain(|id, _| orphans.contains_key(id));
    for (id, instance_type) in orphans {
        let since = *draft.record.orphans.entry(id.clone()).or_insert(now);
        if !draft.is_due(since + PATIENCE) {
            continue;
        }
        let effect = Effect::TerminateInstance { instance: id.clone() };
        if draft.pending(&effect.target()).is_none() {
            let message = format!("instance {id} ({instance_type}) is no node of the cluster; it is ended");
            draft.cluster_event(EventType::Warning, "OrphanFound", message);
        }
        if draft.guarded(Guard::StraysAreEnded) {
            draft.intend(effect);
        }
    }
}

/// What keeps a cluster on EC2 from being closed: instances that have not ended, or that nobody could look for.
pub(super) fn obstacle(draft: &mut Draft<'_>) -> Option<String> {
    // What was never open has no instances.
    draft.record.incarnation.as_ref()?.aws.as_ref()?;
    let instances = &draft.snapshot.seen.instances;
    let Some((at, seen)) = instances.fresh() else {
        let error = instances.error.as_ref().map_or("they were not listed yet", |(_, error)| error.as_str());
        return Some(format!("instances cannot be seen: {error}"));
    };
    let left =
        seen.values().filter(|instance| instance.phase != crate::api::observed::InstancePhase::Terminated);
    let left = left.count();
    if left > 0 && draft.guarded(Guard::NothingIsLeft) {
        return Some(format!("{} being ended", count_are(left, "instance")));
    }
    let listed = draft.record.last_launch.map(|last| last + LISTED_LATE)?;
    if at >= listed {
        return None;
    }
    // A listing that shows nothing new wakes nobody.
    draft.wake(listed.max(draft.now + LISTING));
    Some("EC2 may still list an instance that was launched lately".to_owned())
}
