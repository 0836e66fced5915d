//! Status, derived: from objects, records, observations and the plan's report. Pure, and the only writer of it.
//!
//! Nothing is claimed that was not observed: what cannot be seen is `Unknown`. Here jobs, in `cluster` clusters.

mod cluster;
mod cost;
mod durable;

use jiff::Timestamp;

use crate::api::condition::{Finding, Truth};
use crate::api::ids::NodeName;
use crate::api::meta::SOURCE_ERROR;
use crate::api::object::AdaptDLJob;
use crate::api::record::{GroupRecord, JobRecord, LastOutput};
use crate::api::status::{
    AdaptDLJobStatus, CheckpointStatus, GoodputStatus, GroupBefore, GroupStatus, JobPhase, Progress,
    WorkerStatus,
};
use crate::api::wire::{BridgePhase, BridgeReport, GroupPhase, GroupReport, RankReport};
use crate::api::words::{count, nodes};
use crate::goodput::{Hints, Placement};
use crate::plan::Snapshot;
use crate::plan::report::{JobReport, Waiting};
pub use cluster::cluster_status;

/// How many groups a status shows.
const HISTORY: usize = 20;
/// How fast the step rate follows: the weight of what was seen last.
const RATE_WEIGHT: f64 = 0.3;

/// The status of a job.
pub fn job_status(
    snapshot: &Snapshot,
    job: &AdaptDLJob,
    record: &JobRecord,
    report: &JobReport,
) -> AdaptDLJobStatus {
    let before = &job.status;
    let view = View::new(snapshot, job, record);
    let phase = view.phase();
    let message = view.message(phase, report);
    let running = view.running();
    let conditions = view.findings(report, &message).into_iter();
    let workers = running.map_or_else(Vec::new, |group| view.workers(group));
    let at_work =
        workers.iter().filter(|worker| matches!(worker.state.as_str(), "Training" | "Running")).count();
    AdaptDLJobStatus {
        observed_generation: job.metadata.generation,
        phase,
        phase_since: Some(since(before.phase == phase, before.phase_since, snapshot.now)),
        conditions: conditions
            .map(|finding| finding.condition(&before.conditions, job.metadata.generation, snapshot.now))
            .collect(),
        replicas: u32::try_from(at_work).unwrap_or(u32::MAX),
        desired_replicas: view.desired_replicas(report),
        scaling: report.scaling.clone().or_else(|| before.scaling.clone()),
        group: running.map(|group| group.number).or(record.groups.last().map(|group| group.number)),
        workers,
        progress: view.progress(before.progress.as_ref()),
        checkpoint: record.checkpoints.last().map(|checkpoint| CheckpointStatus {
            id: checkpoint.id,
            digest: checkpoint.digest.clone(),
            size: checkpoint.size,
            files: checkpoint.files,
            steps: checkpoint.steps,
            save_ms: checkpoint.save_ms,
            saved: checkpoint.saved,
        }),
        checkpoint_request: record.checkpoint_request.clone(),
        cost: record.costs.as_ref().map(|costs| cost::of_job(costs, snapshot.now)),
        failures: record.failures,
        start_time: record.started,
        completion_time: record.outcome.as_ref().map(|outcome| outcome.at),
        history: history(record),
        message,
    }
}

fn since(same: bool, before: Option<Timestamp>, now: Timestamp) -> Timestamp {
    before.filter(|_| same).unwrap_or(now)
}

/// A job, as far as it can be seen.
struct View<'a> {
    snapshot: &'a Snapshot,
    job: &'a AdaptDLJob,
    record: &'a JobRecord,
    /// What its bridge says now.
    bridge: Option<&'a BridgeReport>,
    /// Whether it has a bridge that should be heard but cannot be.
    blind: bool,
}

impl<'a> View<'a> {
    fn new(snapshot: &'a Snapshot, job: &'a AdaptDLJob, record: &'a JobRecord) -> Self {
        let agent = snapshot.seen.agent.fresh();
        let bound = record.binding.as_ref().is_some_and(|binding| binding.cluster == snapshot.key);
        let bridge = agent.filter(|_| bound).and_then(|(_, agent)| agent.jobs.get(&job.metadata.uid));
        let bridge = bridge.filter(|bridge| bridge.phase != BridgePhase::Dead);
        let known = record.binding.as_ref().is_some_and(|binding| binding.bridge.is_some());
        Self { snapshot, job, record, bridge, blind: bound && known && agent.is_none() }
    }

    /// The group that trains.
    fn running(&self) -> Option<&'a GroupReport> {
        let groups = self.bridge.map_or(&[][..], |bridge| &bridge.groups);
        groups.iter().find(|group| matches!(group.phase, GroupPhase::Running | GroupPhase::Stopping))
    }

    fn phase(&self) -> JobPhase {
        let delivered = self.record.delivered || self.job.spec.artifacts.destination.is_none();
        let written = self.job.spec.logs_place(&self.job.metadata).is_none()
            || matches!(self.record.last_output, Some(LastOutput::Kept | LastOutput::GivenUp));
        match &self.record.outcome {
            Some(outcome) if self.record.binding.is_none() => {
                return if written && (outcome.phase == JobPhase::Failed || delivered) {
                    outcome.phase
                } else {
                    JobPhase::Stopping
                };
            }
            Some(_) => return JobPhase::Stopping,
            None => {}
        }
        if self.job.metadata.is_deleting() {
            return JobPhase::Stopping;
        }
        if self.blind {
            return JobPhase::Unknown;
        }
        if self.job.spec.suspend {
            return if self.record.binding.is_none() { JobPhase::Suspended } else { JobPhase::Stopping };
        }
        let target = self.record.target().map(|group| group.number);
        match self.running() {
            Some(group) if Some(group.number) == target && group.phase == GroupPhase::Running => {
                JobPhase::Running
            }
            Some(_) if target.is_none() => JobPhase::Stopping,
            Some(_) => JobPhase::Rescaling,
            None if target.is_some() && self.target_is_starting() => JobPhase::Starting,
            None => JobPhase::Pending,
        }
    }

    fn target_is_starting(&self) -> bool {
        self.record.target().is_some_and(|group| group.outcome.is_none())
    }

    fn message(&self, phase: JobPhase, report: &JobReport) -> String {
        if let (true, Some(outcome)) = (phase.is_final(), &self.record.outcome) {
            return outcome.message.clone();
        }
        if let Some(waiting) = report.waiting.first() {
            return waiting.message.clone();
        }
        match self.running() {
            Some(group) => format!("group {} {}", group.number, doing(group)),
            None => String::new(),
        }
    }

    fn desired_replicas(&self, report: &JobReport) -> u32 {
        let stopped =
            self.record.outcome.is_some() || self.job.spec.suspend || self.job.metadata.is_deleting();
        match (&report.scaling, stopped) {
            (_, true) => 0,
            (Some(scaling), false) => scaling.replicas,
            (None, false) => self.job.status.desired_replicas,
        }
    }

    fn node_name(&self, rank: &RankReport, group: Option<&GroupRecord>) -> NodeName {
        let index = rank.rank as usize;
        let known = group.and_then(|group| group.nodes.get(index).cloned());
        known.unwrap_or_else(|| NodeName(rank.node.0.clone()))
    }

    fn workers(&self, group: &GroupReport) -> Vec<WorkerStatus> {
        let record = self.record.group(group.number);
        let workers = group.ranks.iter().map(|rank| WorkerStatus {
            rank: rank.rank,
            node: self.node_name(rank, record),
            pid: rank.pid,
            state: worker_state(rank, group).to_owned(),
        });
        workers.collect()
    }

    fn progress(&self, before: Option<&Progress>) -> Option<Progress> {
        // A cluster may have named any number.
        let sum = |steps: &mut dyn Iterator<Item = u64>| steps.fold(0, u64::saturating_add);
        let made = sum(&mut self.record.groups.iter().map(|group| group.steps));
        let lost = sum(&mut self.record.groups.iter().filter_map(|group| group.lost_steps));
        let steps = made.saturating_sub(lost);
        let last_step_time = self.record.groups.iter().rev().find_map(|group| group.last_step);
        if steps == 0 && before.is_none() {
            return None;
        }
        let group = self.running();
        let goodput = group.and_then(|group| self.goodput(group));
        let kept =
            |found: Option<u64>, old: fn(&Progress) -> Option<u64>| found.or_else(|| before.and_then(old));
        Some(Progress {
            steps,
            step_rate: group.and_then(|_| step_rate(before, steps, last_step_time)),
            epoch: kept(group.and_then(|group| group.epoch), |progress| progress.epoch),
            progress: group
                .and_then(|group| group.progress)
                .or_else(|| before.and_then(|progress| progress.progress)),
            batch_size: kept(group.and_then(|group| group.batch_size), |progress| progress.batch_size),
            goodput,
            last_step_time,
        })
    }

    fn goodput(&self, group: &GroupReport) -> Option<GoodputStatus> {
        let hints: Hints = serde_json::from_value(self.record.hints.as_ref()?.hints.clone()).ok()?;
        let mut nodes: Vec<_> = group.ranks.iter().map(|rank| &rank.node).collect();
        nodes.sort();
        nodes.dedup();
        let (nodes, replicas) = (u32::try_from(nodes.len()).ok()?, u32::try_from(group.ranks.len()).ok()?);
        let found = hints.predict(Placement::new(nodes, replicas)?)?;
        Some(GoodputStatus {
            throughput: found.throughput,
            efficiency: found.efficiency,
            goodput: found.goodput,
            speedup: hints.speedup_model()?.speedup(nodes, replicas),
        })
    }

    fn findings(&self, report: &JobReport, message: &str) -> Vec<Finding> {
        let mut findings = vec![
            accepted(self.job.metadata.annotations.get(SOURCE_ERROR)),
            self.scheduled(report),
            self.workers_ready(),
            self.checkpoint_fresh(),
            durable::checkpoint_durable(self.snapshot, self.job, self.record),
        ];
        findings.extend(durable::logs_durable(self.snapshot, self.job, self.record));
        findings.push(match self.phase() {
            // Suspended or finished, it waits for nothing.
            JobPhase::Suspended | JobPhase::Succeeded | JobPhase::Failed => converged(&[], false, message),
            _ => converged(&report.waiting, self.blind, message),
        });
        findings
    }

    fn scheduled(&self, report: &JobReport) -> Finding {
        if let Some(finding) = &report.scheduled {
            return finding.clone();
        }
        match self.record.target() {
            Some(group) => {
                let message = format!("group {} is placed on {}", group.number, nodes(&group.nodes));
                Finding::new("Scheduled", true, "Placed", message)
            }
            None => Finding::new("Scheduled", false, "NotWanted", "no workers are wanted now"),
        }
    }

    fn workers_ready(&self) -> Finding {
        if self.blind {
            return Finding::new(
                "WorkersReady",
                Truth::Unknown,
                "Unreachable",
                "the cluster cannot be heard",
            );
        }
        let Some(group) = self.running() else {
            return Finding::new("WorkersReady", false, "NoWorkers", "no group trains");
        };
        let waiting: Vec<String> = group
            .ranks
            .iter()
            .filter(|rank| worker_state(rank, group) != "Training")
            .map(|rank| format!("rank {} is {}", rank.rank, worker_state(rank, group).to_lowercase()))
            .collect();
        if waiting.is_empty() {
            Finding::new(
                "WorkersReady",
                true,
                "Training",
                format!("{} of group {} train", count(group.ranks.len(), "worker"), group.number),
            )
        } else {
            Finding::new("WorkersReady", false, "NotTraining", waiting.join(", "))
        }
    }

    fn checkpoint_fresh(&self) -> Finding {
        const KIND: &str = "CheckpointFresh";
        let interval = self.job.spec.checkpoint.interval;
        let running = self.record.groups.iter().rev().find_map(|group| group.timeline.get("released"));
        let saved = self.record.checkpoints.last().map(|checkpoint| checkpoint.saved);
        let newest = saved.max(running.copied());
        match (saved, newest) {
            _ if interval.millis == 0 => {
                Finding::new(KIND, true, "OnRescale", "checkpoints are only made when the job is rescaled")
            }
            (_, None) => Finding::new(KIND, true, "NothingToSave", "the job has not trained yet"),
            (saved, Some(newest)) => {
                let age = self.snapshot.now.duration_since(newest);
                // One interval to the next save, and as long again to make and fetch it.
                let fresh = age < interval.signed() * 2;
                // Not how long ago that was: every plan would write another status.
                let message = match saved {
                    Some(_) => format!("the newest durable checkpoint is of {newest:.0}"),
                    None => format!("there is no durable checkpoint, and training began at {newest:.0}"),
                };
                Finding::new(KIND, fresh, if fresh { "Fresh" } else { "Old" }, message)
            }
        }
    }
}

/// What a worker does, in a word.
fn worker_state(rank: &RankReport, group: &GroupReport) -> &'static str {
    if rank.exit.is_some() {
        "Exited"
    } else if rank.pid.is_none() {
        "Starting"
    } else if group.phase == GroupPhase::Stopping {
        "Saving"
    } else if rank.joined || (rank.arrived && group.steps > 0) {
        "Training"
    } else if rank.arrived {
        "Joining"
    } else {
        // It may be importing, or it may be a program that does not use AdaptDL: it cannot be told from outside.
        "Running"
    }
}

/// What a group's workers do: no more than can be seen.
fn doing(group: &GroupReport) -> String {
    let in_state = |state| group.ranks.iter().filter(|rank| worker_state(rank, group) == state).count();
    let (all, training) = (group.ranks.len(), in_state("Training"));
    if training == all {
        format!("trains with {}", count(all, "worker"))
    } else if training + in_state("Running") == all {
        format!("runs with {}", count(all, "worker"))
    } else {
        format!("has {training} of {} training", count(all, "worker"))
    }
}

fn accepted(error: Option<&String>) -> Finding {
    match error {
        Some(error) => Finding::new(
            "Accepted",
            false,
            "InvalidManifest",
            format!("the last good manifest is in force; {error}"),
        ),
        None => Finding::new("Accepted", true, "Valid", "the manifest is valid"),
    }
}

fn converged(waiting: &[Waiting], blind: bool, message: &str) -> Finding {
    match waiting.first() {
        _ if blind => Finding::new("Converged", Truth::Unknown, "Unreachable", message),
        Some(waiting) => Finding::new("Converged", false, waiting.reason, waiting.message.clone()),
        None => Finding::new("Converged", true, "AsWanted", "what is there is what is wanted"),
    }
}

fn step_rate(before: Option<&Progress>, steps: u64, last: Option<Timestamp>) -> Option<f64> {
    let (before, last) = (before?, last?);
    let elapsed = last.duration_since(before.last_step_time?).as_secs_f64();
    if elapsed < 0.5 || steps < before.steps {
        return before.step_rate;
    }
    let rate = (steps - before.steps) as f64 / elapsed;
    Some(before.step_rate.map_or(rate, |old| old + (rate - old) * RATE_WEIGHT))
}

fn history(record: &JobRecord) -> Vec<GroupStatus> {
    let shown = record.groups.len().saturating_sub(HISTORY);
    let before = |index: usize| {
        let mut before = record.groups[..index].iter().rev().map(|before| &**before);
        before.find(|before| has_trained(before))
    };
    let lost = |group: &GroupRecord| group.outcome.as_ref().is_some_and(|outcome| outcome.kind == "Lost");
    let groups = record.groups.iter().enumerate().skip(shown).map(|(index, group)| GroupStatus {
        number: group.number,
        created: group.created,
        reason: format!("{:?}", group.reason),
        message: group.message.clone(),
        from_replicas: group.from_replicas,
        replicas: u32::try_from(group.nodes.len()).unwrap_or(u32::MAX),
        nodes: group.nodes.clone(),
        before: before(index).map(describe_before),
        restored: group.restored,
        timeline: group.timeline.clone(),
        downtime_ms: group.downtime_ms,
        lost_steps: group.lost_steps,
        estimated: group.lost_steps.is_some() && before(index).is_some_and(lost),
        outcome: group.outcome.as_ref().map(|outcome| match outcome.message.lines().next() {
            Some(message) if !message.is_empty() => {
                format!("{}: {}", outcome.kind, message.trim_start_matches([',', ' ']))
            }
            _ => outcome.kind.clone(),
        }),
    });
    groups.collect()
}

/// Whether a group was let train; others gave way before they began.
fn has_trained(group: &GroupRecord) -> bool {
    group.timeline.contains_key("released")
}

fn describe_before(group: &GroupRecord) -> GroupBefore {
    let way = |event: &str| matches!(event, "signalled" | "saved" | "ended");
    let timeline = group.timeline.iter().filter(|(event, _)| way(event));
    GroupBefore {
        number: group.number,
        nodes: group.nodes.clone(),
        timeline: timeline.map(|(event, at)| (event.clone(), *at)).collect(),
    }
}
