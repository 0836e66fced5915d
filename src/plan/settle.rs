//! What came of effects: results go into the records, failures are tried again or given up.

use super::draft::{Draft, more_trouble};
use super::guards::Guard;
use super::instances;
use super::nodes;
use super::offers;
use crate::action::{Effect, EffectError, EffectResult, ErrorKind, Intent, IntentState};
use crate::api::event::EventType;
use crate::api::ids::{NodeName, Uid};
use crate::api::record::{
    AgentRecord, ArtifactsRecord, Incarnation, JobRecord, NodeRecord, NodeState, digest_of,
};
use crate::api::shared::Shared;
use crate::api::units::Span;

/// After a cluster could not be opened or a node not launched, the longest wait until it is tried again.
const LONGEST_TROUBLE: Span = Span::from_secs(120);

/// How often a checkpoint may arrive spoilt before it is given up.
const TRIES_TO_FETCH: u32 = 4;

/// Takes in what came of the effects that are over.
pub(super) fn settle(draft: &mut Draft<'_>) {
    for intent in draft.take_settled() {
        match intent.state.clone() {
            IntentState::Pending => {}
            IntentState::Done { at, result } => done(draft, &intent, at, result),
            IntentState::Failed { at, error } => failed(draft, intent, at, &error),
        }
    }
}

fn job_record<'d>(draft: &'d mut Draft<'_>, uid: &Uid) -> Option<&'d mut JobRecord> {
    draft.jobs.iter_mut().find(|job| job.uid() == uid).map(|job| &mut job.record)
}

fn delivered(draft: &mut Draft<'_>, uid: &Uid) {
    let Some(job) = draft.jobs.iter_mut().find(|job| job.uid() == uid) else { return };
    job.record.delivered = true;
    let (job, found) = (job.job, !job.record.artifacts.is_empty());
    let (event_type, reason, message) = match &job.spec.artifacts.destination {
        Some(destination) if found => {
            (EventType::Normal, "ArtifactsDelivered", format!("its artifacts are in {destination}"))
        }
        _ => {
            let paths = job.spec.artifacts.paths.join(", ");
            (EventType::Warning, "NoArtifacts", format!("its program has left nothing that matches {paths}"))
        }
    };
    draft.job_event(job, event_type, reason, message);
}

fn done(draft: &mut Draft<'_>, intent: &Intent, at: jiff::Timestamp, result: EffectResult) {
    match &intent.effect {
        Effect::OpenCluster { .. } => {
            if let EffectResult::Opened(incarnation) = result {
                // That nodes cannot be launched is over when one has joined.
                draft.record.trouble.take_if(|trouble| trouble.reason == "CannotOpen");
                draft.record.opening = None;
                let since =
                    draft.record.incarnation.as_ref().map_or(incarnation.since, |before| before.since);
                draft.record.incarnation = Some(Incarnation { since, ..*incarnation });
            }
        }
        Effect::CloseCluster { .. } => {
            draft.record.incarnation = None;
            draft.record.opening = None;
            draft.record.agent = None;
            draft.record.ending = false;
        }
        Effect::LaunchNode { node, offering, .. } => {
            if let Some(offering) = offering {
                offers::granted(draft, offering);
            }
            launch_is_over(draft, node, at);
        }
        Effect::TerminateNode { node, launch, .. } => {
            let seen = draft.guarded(Guard::EndIsSeen);
            let record = draft.record.nodes.get_mut(node).filter(|record| record.launch == *launch);
            match record {
                // An instance takes a while to end, and what is on it may live until then.
                Some(record) if record.offering.is_some() && seen => record.ended = Some(at),
                Some(_) => nodes::forget(draft, node),
                None => {}
            }
        }
        Effect::TerminateInstance { instance } => {
            // It is listed as it was for a moment: that is no reason to end it again.
            draft.record.orphans.insert(instance.clone(), at);
        }
        Effect::DrainNode { .. } | Effect::SendCheckpoint { .. } | Effect::RequestResources { .. } => {}
        Effect::SendDocument { job, revision } => {
            if let Some(record) = job_record(draft, job) {
                record.sent = Some((*revision, at));
            }
        }
        Effect::SubmitAgent { submission } => {
            draft.record.agent =
                Some(AgentRecord { submission: submission.clone(), since: at, answered: false });
        }
        Effect::StopAgent { .. } => draft.record.agent = None,
        Effect::RemoveBridge { job, .. } => {
            if let Some(record) = job_record(draft, job) {
                record.binding = None;
                record.document = None;
                record.spoilt.clear();
                // What was asked of that bridge, and may still arrive, is older than whatever comes now.
                record.revision += 1;
            }
        }
        Effect::FetchCheckpoint { job, checkpoint } => {
            if let Some(record) = job_record(draft, job) {
                record.checkpoints.retain(|other| other.id != checkpoint.id);
                record.checkpoints.push(checkpoint.clone());
                record.checkpoints.sort_by_key(|checkpoint| checkpoint.id);
            }
        }
        Effect::FetchArtifacts { job, group, digest, .. } => {
            if let Some(record) = job_record(draft, job) {
                record.artifacts.retain(|other| other.group != *group);
                record.artifacts.push(ArtifactsRecord { group: *group, digest: digest.clone() });
                record.artifacts.sort_by_key(|artifacts| artifacts.group);
            }
        }
        Effect::DeliverArtifacts { job } => delivered(draft, job),
        Effect::DropCheckpoint { job, id } => {
            if let Some(record) = job_record(draft, job) {
                record.checkpoints.retain(|checkpoint| checkpoint.id != *id);
            }
        }
    }
}

/// What was seen of a node before this moment says nothing about its processes: one that is wanted gone may have come to
/// be just now.
fn launch_is_over(draft: &mut Draft<'_>, node: &NodeName, at: jiff::Timestamp) {
    let Some(record) = draft.record.nodes.get_mut(node) else { return };
    let cloud = record.offering.is_some();
    record.missing_since = None;
    match &mut record.state {
        NodeState::Launching { since } => *since = at,
        NodeState::Terminating { since, .. } if cloud => *since = at,
        _ => {}
    }
    if cloud {
        draft.record.last_launch = Some(at);
    }
}

fn failed(draft: &mut Draft<'_>, intent: Intent, at: jiff::Timestamp, error: &EffectError) {
    let (name, message) = (intent.effect.name(), error.message.clone());
    if let Effect::LaunchNode { node, offering: Some(_), .. } = &intent.effect {
        launch_is_over(draft, node, at);
    }
    match (&intent.effect, error.kind) {
        (
            Effect::LaunchNode { node, offering: Some(offering), .. },
            ErrorKind::NoCapacity | ErrorKind::SubnetFull | ErrorKind::MarketLimit,
        ) => {
            offers::refused(draft, offering, error.kind, &message, &intent.id, at);
            draft.cluster_event(EventType::Warning, "NoCapacity", message);
            abandon(draft, node, intent.attempts);
        }
        (Effect::LaunchNode { node, offering: Some(_), .. }, ErrorKind::Unavailable)
            if !draft.guarded(Guard::LaunchIsRepeated) =>
        {
            draft.record.nodes.remove(node);
        }
        // One group's launches are no other's matter.
        (
            Effect::LaunchNode { node, group: Some(group), template, offering: Some(_), .. },
            ErrorKind::Rejected | ErrorKind::NotFound,
        ) => {
            instances::refuse_group(draft, group.clone(), digest_of(template), at, message.clone());
            draft.cluster_event(EventType::Warning, "CannotLaunch", message);
            abandon(draft, node, intent.attempts);
        }
        // What runs goes on, and what can be launched as it is known is launched.
        (Effect::OpenCluster { .. }, _) if draft.record.incarnation.is_some() => {
            if intent.attempts == 1 {
                draft.cluster_event(EventType::Warning, "CannotOpen", message.clone());
            }
            draft.retry(intent, at, message);
        }
        // Refused by the cluster or the machine: said, and tried again with patience, from the beginning.
        (Effect::OpenCluster { .. }, _)
        | (Effect::LaunchNode { .. }, ErrorKind::Rejected | ErrorKind::NotFound) => {
            let reason = if name == "OpenCluster" { "CannotOpen" } else { "CannotLaunch" };
            let trouble = more_trouble(draft.record.trouble.as_ref(), at, LONGEST_TROUBLE, reason, &message);
            draft.record.trouble = Some(trouble);
            draft.cluster_event(EventType::Warning, reason, message);
            if let Effect::LaunchNode { node, .. } = &intent.effect {
                draft.record.nodes.remove(node);
            }
        }
        // What was to be fetched is not there any more: a newer one is, or will be.
        (Effect::FetchCheckpoint { .. } | Effect::FetchArtifacts { .. }, ErrorKind::NotFound) => {}
        // It may have been spoilt on its way; if it arrives so again and again it was spoilt before.
        (Effect::FetchCheckpoint { job, checkpoint }, ErrorKind::Unreadable)
            if intent.attempts >= TRIES_TO_FETCH =>
        {
            let (uid, id) = (job.clone(), checkpoint.id);
            if let Some(record) = job_record(draft, &uid) {
                record.spoilt.insert(id);
            }
            let message = format!("checkpoint {id} is given up: {message}; the one before it is used");
            warn_job(draft, &uid, "CheckpointUnreadable", message);
        }
        // A checkpoint of ours that cannot be read: the one before it is used.
        (Effect::SendCheckpoint { job, id }, ErrorKind::Unreadable) => {
            let (uid, id) = (job.clone(), *id);
            if let Some(record) = job_record(draft, &uid) {
                record.checkpoints.retain(|checkpoint| checkpoint.id != id);
            }
            warn_job(
                draft,
                &uid,
                "CheckpointUnreadable",
                format!("checkpoint {id} cannot be used: {message}"),
            );
        }
        (effect, _) => {
            if intent.attempts == 1
                && let Some(uid) = job_of(effect)
            {
                warn_job(draft, &uid, &format!("{name}Failed"), message.clone());
            }
            draft.retry(intent, at, message);
        }
    }
}

/// A node whose launch was refused. Where EC2 was asked before, and no reply came, that may come true yet: until it would
/// be listed a worker is one that is to end. Of heads there are never two, for there is one interface.
fn abandon(draft: &mut Draft<'_>, node: &NodeName, attempts: u32) {
    let (now, doubted) = (draft.now, attempts > 1 && draft.guarded(Guard::RefusalIsDoubted));
    let worker = |record: &&mut Shared<NodeRecord>| record.offering.is_some() && record.group.is_some();
    match draft.record.nodes.get_mut(node).filter(worker) {
        Some(record) if doubted => {
            record.state = NodeState::Terminating { since: now, cause: "its launch was refused".to_owned() };
        }
        _ => _ = draft.record.nodes.remove(node),
    }
}

fn warn_job(draft: &mut Draft<'_>, uid: &Uid, reason: &str, message: String) {
    if let Some(job) = draft.jobs.iter().find(|job| job.uid() == uid).map(|job| job.job) {
        draft.job_event(job, EventType::Warning, reason, message);
    }
}

/// The job whose user should know when an effect fails.
fn job_of(effect: &Effect) -> Option<Uid> {
    match effect {
        Effect::FetchCheckpoint { job, .. } | Effect::FetchArtifacts { job, .. } => Some(job.clone()),
        Effect::DeliverArtifacts { job } | Effect::DropCheckpoint { job, .. } => Some(job.clone()),
        Effect::SendDocument { job, .. } => Some(job.clone()),
        _ => None,
    }
}
