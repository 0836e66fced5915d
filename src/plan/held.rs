//! The slots that jobs have, or that were asked for, counted by node. They are counted anew only for a job whose
//! document has become another one since.

use std::cell::Ref;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::draft::{Draft, JobDraft};
use crate::api::ids::NodeName;

/// The slots on each node.
#[derive(Default)]
pub(super) struct Held {
    jobs: Vec<(Mark, Counts)>,
    /// For each node that has any, the jobs in their order: mostly one, or a few.
    nodes: FxHashMap<NodeName, SmallVec<[(usize, u32); 2]>>,
}

/// How many slots a job has on each node where it has any, by the nodes' names.
type Counts = Vec<(NodeName, u32)>;

/// What a job's slots follow from, beside what does not change once the world was taken in: which group runs, and what the
/// bridge says. It is looked at for every job whenever one wants room.
#[derive(PartialEq, Eq)]
struct Mark {
    bound: bool,
    document: Option<u64>,
}

impl Mark {
    fn of(draft: &Draft<'_>, job: &JobDraft<'_>) -> Self {
        let binding = job.record.binding.as_ref();
        Self {
            bound: binding.is_some_and(|binding| binding.cluster == draft.snapshot.key),
            document: job.record.document.as_ref().map(|document| document.revision),
        }
    }
}

impl Held {
    /// How many slots each job has on a node.
    pub(super) fn on(&self, node: &NodeName) -> impl Iterator<Item = (usize, u32)> {
        self.nodes.get(node).into_iter().flatten().copied()
    }

    /// How many slots there are on a node.
    pub(super) fn count(&self, node: &NodeName) -> u32 {
        self.on(node).map(|(_, count)| count).sum()
    }

    /// How many slots a job has on each node where it has any.
    pub(super) fn of(&self, job: usize) -> &[(NodeName, u32)] {
        &self.jobs[job].1
    }

    /// How many slots there are on each node that has any.
    pub(super) fn by_node(&self) -> FxHashMap<NodeName, u32> {
        self.nodes.keys().map(|node| (node.clone(), self.count(node))).collect()
    }

    fn refresh(&mut self, draft: &Draft<'_>) {
        for (index, job) in draft.jobs.iter().enumerate() {
            let mark = Mark::of(draft, job);
            if self.jobs.get(index).is_some_and(|(known, _)| *known == mark) {
                continue;
            }
            if let Some((_, before)) = self.jobs.get(index) {
                for (node, _) in before {
                    if let Some(jobs) = self.nodes.get_mut(node) {
                        jobs.retain(|(job, _)| *job != index);
                        if jobs.is_empty() {
                            self.nodes.remove(node);
                        }
                    }
                }
            }
            let slots = job.slots(draft);
            let nodes = slots.chunk_by(|(one, _), (other, _)| one == other);
            let counts: Counts =
                nodes.map(|slots| (NodeName::from(slots[0].0), slots.len() as u32)).collect();
            for (node, count) in &counts {
                let jobs = self.nodes.entry(node.clone()).or_default();
                let place = jobs.partition_point(|(job, _)| *job < index);
                jobs.insert(place, (index, *count));
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
