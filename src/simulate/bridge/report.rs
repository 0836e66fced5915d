//! What a bridge reports: `report.py`.

use super::group::Seen;
use super::{Bridge, GroupNumber};
use crate::api::wire::{BlobReport, BridgeReport, GroupReport, SlotReport};
use crate::simulate::clock::Ms;

/// How large every blob is.
const BLOB_BYTES: u64 = 1 << 20;

impl Bridge {
    /// Its whole state, as the controller reads it.
    pub(in crate::simulate) fn describe(&self, now: Ms) -> BridgeReport {
        let slots = self.slots.iter().map(|(id, slot)| {
            let (state, message) = slot.describe();
            SlotReport { id: id.clone(), node: slot.spec.ray.clone(), state: state.to_owned(), message }
        });
        let blobs = self.blobs.iter().map(|blob| BlobReport {
            kind: blob.kind,
            id: blob.id,
            digest: blob.digest.clone(),
            size: BLOB_BYTES,
            files: 2,
            steps: blob.steps,
            save_ms: 5.0,
            at: age(now, blob.at),
        });
        BridgeReport {
            age_ms: 0.0,
            phase: self.phase,
            bridge: self.name(),
            revision: self.document.as_ref().map(|document| document.revision),
            slots: slots.collect(),
            groups: self.groups.keys().filter_map(|number| self.describe_group(*number, now)).collect(),
            blobs: blobs.collect(),
            notices: Vec::new(),
            save_request: None,
            notes: self.notes.clone(),
            logs: Vec::new(),
            message: None,
        }
    }

    /// What tells it from the job's other bridges.
    pub(in crate::simulate) fn name(&self) -> String {
        format!("bridge-{}", self.id.1)
    }

    fn describe_group(&self, number: GroupNumber, now: Ms) -> Option<GroupReport> {
        let seen: Seen<'_> = self.seen(number)?;
        let group = seen.group;
        let training = group.training.filter(|training| training.first_step <= now);
        let last_step = training.map(|training| training.stopped.unwrap_or(now).max(training.first_step));
        Some(GroupReport {
            number,
            alone: group.alone,
            phase: group.phase,
            ranks: seen.describe_ranks(),
            times: group.times.iter().map(|(event, at)| ((*event).to_owned(), age(now, *at))).collect(),
            outcome: group.outcome.clone(),
            restored: group.restored.as_ref().map(|(id, _)| *id),
            steps: training.map_or(0, |training| training.steps(now)),
            first_step: training.map(|training| age(now, training.first_step)),
            last_step: last_step.map(|at| age(now, at)),
            epoch: None,
            progress: None,
            batch_size: None,
            hints: group.hints.as_ref().map(|(hints, _)| hints.clone()),
            hints_number: group.hints.as_ref().map_or(0, |(_, number)| *number),
        })
    }
}

fn age(now: Ms, at: Ms) -> f64 {
    now.saturating_sub(at) as f64
}
