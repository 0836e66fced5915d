//! Bringing the workers' output here, as it is written.

use crate::api::ids::{GroupNumber, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::AdaptDLJob;
use crate::api::wire::BridgeReport;
use crate::provider::ray::agent::AgentClient;
use crate::store::DomainRows;
use crate::store::logs::JobLogs;

use super::execute::{clients, pull_log};
use super::{Controller, lock};

/// How far one job's output has been brought here.
#[derive(Default)]
pub(super) struct Pull {
    /// Whether it is being brought at this moment.
    running: bool,
    /// Bytes that are still only on the cluster, as far as was known when last looked.
    behind: u64,
}

impl Controller {
    /// Bytes of a job's output that are still only on the cluster.
    pub(super) fn logs_behind(&self, uid: &Uid) -> u64 {
        lock(&self.inner.pulls).get(uid).map_or(0, |pull| pull.behind)
    }

    /// Begins to bring what the bridges of a cluster's jobs have and is not here yet.
    pub(super) fn pull_logs(&self, key: &ObjectKey, rows: &DomainRows) {
        let (Some(cluster), Some(incarnation)) = (&rows.cluster, &rows.record.incarnation) else { return };
        let state = lock(&self.inner.watches).get(key).map(|watch| watch.agent().0);
        let Some(state) = state.as_ref().and_then(|state| state.fresh().map(|(_, state)| state.clone()))
        else {
            return;
        };
        for row in &rows.jobs {
            let uid = row.job.metadata.uid.clone();
            let Some(bridge) = state.jobs.get(&uid) else {
                lock(&self.inner.pulls).remove(&uid);
                continue;
            };
            let logs = JobLogs::of_job(&self.inner.directories.state, &row.job);
            let behind = behind(&logs, bridge);
            let mut pulls = lock(&self.inner.pulls);
            let pull = pulls.entry(uid.clone()).or_default();
            pull.behind = behind.iter().map(|(_, from, end)| end - from).sum();
            if pull.running || behind.is_empty() {
                continue;
            }
            let Ok((_, agent)) = clients(&self.inner.directories, key, &cluster.spec, incarnation) else {
                continue;
            };
            pull.running = true;
            let urgent = row.record.document.as_ref().is_some_and(|document| document.slots.is_empty());
            let (controller, key, job) = (self.clone(), key.clone(), row.job.clone());
            self.inner.tasks.spawn(async move {
                controller.pull(&agent, &job, &logs, behind).await;
                if let Some(pull) = lock(&controller.inner.pulls).get_mut(&uid) {
                    pull.running = false;
                }
                // The rest of the output is what a job that has stopped is waiting for.
                if urgent {
                    controller.inner.queue.wake(key);
                }
            });
        }
    }

    async fn pull(&self, agent: &AgentClient, job: &AdaptDLJob, logs: &JobLogs, behind: Vec<Behind>) {
        let uid = &job.metadata.uid;
        for (worker, mut from, end) in behind {
            while from < end && !self.inner.stop.is_cancelled() {
                let piece = pull_log(agent, uid, worker.0, worker.1, from).await;
                let (position, bytes) = match piece {
                    Ok((_, bytes)) if bytes.is_empty() => break,
                    Ok(piece) => piece,
                    Err(error) => {
                        tracing::debug!(job = %uid, %error, "output cannot be brought here now");
                        return;
                    }
                };
                from = position + bytes.len() as u64;
                let (logs, length) = (logs.clone(), bytes.len() as u64);
                let kept = tokio::task::spawn_blocking(move || logs.append(worker, position, &bytes)).await;
                match kept {
                    Ok(Ok(lost)) => self.note_output(job, worker, length, lost).await,
                    Ok(Err(error)) => {
                        tracing::warn!(job = %uid, %error, "output cannot be kept");
                        return;
                    }
                    Err(_) => {}
                }
                if let Some(pull) = lock(&self.inner.pulls).get_mut(uid) {
                    pull.behind = pull.behind.saturating_sub(length);
                }
            }
        }
    }
}

/// A worker, from where its output is missing here, and to where the cluster has it.
type Behind = ((GroupNumber, u32), u64, u64);

fn behind(logs: &JobLogs, bridge: &BridgeReport) -> Vec<Behind> {
    let ends = bridge.logs.iter().map(|log| {
        let worker = (log.group, log.rank);
        let (_, here) = logs.range(worker).unwrap_or((0, u64::MAX));
        (worker, here, log.end)
    });
    ends.filter(|(_, from, end)| from < end).collect()
}
