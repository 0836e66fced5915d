//! The slots that jobs have, or that were asked for, counted by node. They are counted anew only for a job whose
//! document or group has become another one since.

use std::cell::Ref;
use std::collections::BTreeMap;

use super::draft::{Draft, JobDraft};
use crate::api::ids::{GroupNumber, NodeName};

/// The slots on each node.
#[derive(Default)]
pub(super) struct Held {
    jobs: Vec<(Mark, BTreeMap<NodeName, u32>)>,
    nodes: BTreeMap<NodeName, BTreeMap<usize, u32>>,
}

/// What a job's slots follow from, beside what does not change while a plan is made.
#[derive(PartialEq, Eq)]
struct Mark {
    bound: bool,
    document: Option<u64>,
    running: Option<GroupNumber>,
}

impl Mark {
    fn of(draft: &Draft<'_>, job: &JobDraft<'_>) -> Self {
        let binding = job.record.binding.as_ref();
        Self {
            bound: binding.is_some_and(|binding| binding.cluster == draft.snapshot.key),
            document: job.record.document.as_ref().map(|document| document.revision),
            running: job.running_group().map(|group| group.number),
        }
    }
}

impl Held {
    /// How many slots each job has on a node.
    pub(super) fn on(&self, node: &NodeName) -> impl Iterator<Item = (usize, u32)> {
        self.nodes.get(node).into_iter().flatten().map(|(job, count)| (*job, *count))
    }

    /// How many slots there are on each node that has any.
    pub(super) fn by_node(&self) -> BTreeMap<NodeName, u32> {
        self.nodes.iter().map(|(node, jobs)| (node.clone(), jobs.values().sum())).collect()
    }

    fn refresh(&mut self, draft: &Draft<'_>) {
        for (index, job) in draft.jobs.iter().enumerate() {
            let mark = Mark::of(draft, job);
            if self.jobs.get(index).is_some_and(|(known, _)| *known == mark) {
                continue;
            }
            if let Some((_, before)) = self.jobs.get(index) {
                for node in before.keys() {
                    if let Some(jobs) = self.nodes.get_mut(node) {
                        jobs.remove(&index);
                    }
                }
                self.nodes.retain(|_, jobs| !jobs.is_empty());
            }
            let mut counts: BTreeMap<NodeName, u32> = BTreeMap::new();
            for (node, _) in job.slots(draft) {
                *counts.entry(node).or_default() += 1;
            }
            for (node, count) in &counts {
                self.nodes.entry(node.clone()).or_default().insert(index, *count);
            }
            match self.jobs.get_mut(index) {
                Some(known) => *known = (mark, counts),
                None => self.jobs.push((mark, counts)),
            }
        }
    }
}

impl Draft<'_> {
    /// The slots that there are, or were asked for, on each node.
    pub(super) fn held(&self) -> Ref<'_, Held> {
        self.held.borrow_mut().refresh(self);
        self.held.borrow()
    }
}
