//! What a cluster would say in which everything goes well: its agent, and the bridges of its jobs.

use std::collections::BTreeMap;

use crate::api::document::{Desired, Document, GroupSpec};
use crate::api::ids::{CheckpointId, RayNodeId, Uid};
use crate::api::wire::{
    AgentState, BlobKind, BlobReport, BridgePhase, BridgeReport, GroupPhase, GroupReport, Outcome, PROTOCOL,
    RankReport, SlotReport,
};

/// An agent that has just begun.
pub(super) fn new_agent() -> AgentState {
    AgentState {
        protocol: PROTOCOL,
        ray_version: String::new(),
        instance: "outlook".to_owned(),
        version: 1,
        head: RayNodeId::from("outlook-head".to_owned()),
        nodes: Vec::new(),
        requested: None,
        jobs: BTreeMap::new(),
    }
}

/// A job's bridge, made when it is needed first.
pub(super) fn bridge<'a>(agent: &'a mut AgentState, job: &Uid) -> &'a mut BridgeReport {
    agent.jobs.entry(job.clone()).or_insert_with(|| BridgeReport {
        age_ms: 0.0,
        phase: BridgePhase::Active,
        bridge: "outlook".to_owned(),
        revision: None,
        slots: Vec::new(),
        groups: Vec::new(),
        blobs: Vec::new(),
        notices: Vec::new(),
        save_request: None,
        notes: Vec::new(),
        logs: Vec::new(),
        message: None,
    })
}

/// A checkpoint that was brought to the head.
pub(super) fn blob(id: CheckpointId) -> BlobReport {
    BlobReport {
        kind: BlobKind::Checkpoint,
        id,
        digest: Default::default(),
        size: 0,
        files: 0,
        steps: 0,
        save_ms: 0.0,
        at: 0.0,
    }
}

/// Does what a document says, as a bridge would.
pub(super) fn obey(agent: &mut AgentState, job: &Uid, document: &Document) {
    let bridge = bridge(agent, job);
    bridge.revision = Some(document.revision);
    let Desired::Run { group, activate } = &document.desired else {
        bridge.phase = BridgePhase::Idle;
        bridge.groups.iter_mut().for_each(end);
        bridge.slots.clear();
        return;
    };
    bridge.phase = BridgePhase::Active;
    for (id, slot) in &document.slots {
        if !bridge.slots.iter().any(|known| known.id == *id) {
            let (node, state) = (slot.ray.clone(), "Ready".to_owned());
            bridge.slots.push(SlotReport { id: id.clone(), node, state, message: None });
        }
    }
    for slot in bridge.slots.iter_mut().filter(|slot| slot.state == "Pending") {
        slot.state = "Ready".to_owned();
    }
    if !bridge.groups.iter().any(|known| known.number == group.number) {
        bridge.groups.push(prepared(group, document));
    }
    if *activate {
        bridge.groups.iter_mut().filter(|other| other.number != group.number).for_each(end);
        bridge.slots.retain(|slot| document.slots.contains_key(&slot.id));
    }
    let wanted = bridge.groups.iter_mut().find(|known| known.number == group.number);
    if let Some(wanted) = wanted.filter(|wanted| wanted.phase < GroupPhase::Running) {
        wanted.phase = if *activate { GroupPhase::Running } else { GroupPhase::Prepared };
        wanted.ranks.iter_mut().for_each(|rank| (rank.arrived, rank.joined) = (true, true));
        if *activate {
            wanted.times.insert("released".to_owned(), 0.0);
            (wanted.steps, wanted.first_step, wanted.last_step) = (1, Some(0.0), Some(0.0));
        }
    }
}

/// A group whose workers are where they can be switched to.
fn prepared(group: &GroupSpec, document: &Document) -> GroupReport {
    let ranks = group.ranks.iter().zip(0..).map(|(slot, rank)| RankReport {
        rank,
        slot: slot.clone(),
        node: document.slots.get(slot).map(|slot| slot.ray.clone()).unwrap_or_default(),
        pid: Some(1),
        arrived: true,
        joined: false,
        exit: None,
    });
    GroupReport {
        number: group.number,
        alone: None,
        phase: GroupPhase::Prepared,
        ranks: ranks.collect(),
        times: BTreeMap::new(),
        outcome: None,
        restored: group.restore,
        steps: 0,
        first_step: None,
        last_step: None,
        epoch: None,
        progress: None,
        batch_size: None,
        hints: None,
        hints_number: 0,
    }
}

/// A group that has made way, if it has not ended already.
fn end(group: &mut GroupReport) {
    if group.phase == GroupPhase::Ended {
        return;
    }
    let ran = group.phase >= GroupPhase::Running;
    group.phase = GroupPhase::Ended;
    group.times.insert("ended".to_owned(), 0.0);
    group.outcome = Some(if ran { Outcome::Stopped { saved: true } } else { Outcome::Superseded });
}
