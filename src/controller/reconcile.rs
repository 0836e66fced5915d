//! One round for one cluster: read, observe, plan, keep, and only then do.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::execute::{Context, clients, execute};
use super::observe::{Subject, Watch};
use super::{Controller, STORE_RETRY, crash_point, lock, status};
use crate::action::{Intent, IntentState};
use crate::api::aws::Market;
use crate::api::cluster::{Provider, WorkerGroup};
use crate::api::ids::{IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::observed::{Observed, Processes};
use crate::api::record::{Incarnation, NodeRecord};
use crate::api::shared::Shared;
use crate::plan::guards::Guards;
use crate::plan::snapshot::{JobView, Seen};
use crate::plan::{Plan, Snapshot, late_launches, plan};
use crate::provider::local::Local;
use crate::provider::{for_cluster, unavailable};
use crate::store::{DomainRows, JobRow, ObservationRow, StoreError, Tx};

impl Controller {
    /// Plans a cluster with its jobs and begins what is to be done; says when to plan it again at the latest.
    pub(super) async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        // Before reading: what ends in between is then read as settled, or once more as under way, never as lost.
        let in_flight = lock(&self.inner.in_flight).clone();
        let rows = self.rows(key).await?;
        let snapshot = self.snapshot(key, rows, in_flight).await;
        let plan = plan(&snapshot);
        let wake_at = plan.wake_at;
        let removed: Vec<Uid> = plan.removals.iter().map(|removal| removal.uid.clone()).collect();
        if !self.keep(snapshot, plan).await? {
            return Ok(Some(Timestamp::now()));
        }
        crash_point("kept");
        let rows = self.rows(key).await?;
        self.listen(key, &rows);
        self.pull_logs(key, &rows);
        removed.iter().for_each(|uid| self.forget_archive(uid));
        self.archive_logs(key, &rows);
        self.dispatch(key, rows);
        Ok(wake_at)
    }

    async fn rows(&self, key: &ObjectKey) -> Result<DomainRows, StoreError> {
        let key = key.clone();
        self.inner.store.read(move |tx| tx.domain(&key)).await
    }

    pub(super) async fn snapshot(
        &self,
        key: &ObjectKey,
        rows: DomainRows,
        in_flight: BTreeSet<IntentId>,
    ) -> Snapshot {
        let mut seen = self.observe(key, &rows).await;
        seen.archives = self.archiving(rows.jobs.iter().map(|row| &row.job.metadata.uid));
        let (seed, _) = Uuid::new_v4().as_u64_pair();
        Snapshot {
            now: Timestamp::now(),
            seed,
            key: key.clone(),
            cluster: rows.cluster,
            record: rows.record,
            jobs: self.views(rows.jobs),
            intents: rows.intents,
            in_flight,
            seen,
            settings: self.inner.settings,
            guards: Guards::default(),
        }
    }

    /// Jobs as plans see them.
    pub(super) fn views(&self, rows: Vec<JobRow>) -> Vec<JobView> {
        let views = rows.into_iter().map(|row| JobView {
            logs_behind: self.logs_behind(&row.job.metadata.uid),
            job: row.job,
            record: row.record,
        });
        views.collect()
    }

    async fn observe(&self, key: &ObjectKey, rows: &DomainRows) -> Seen {
        let mut seen = Seen::default();
        let local =
            rows.cluster.as_ref().is_some_and(|cluster| matches!(cluster.spec.provider, Provider::Local(_)));
        if local {
            seen.processes = self.processes(key, rows.record.nodes.values()).await;
        }
        if let Some(watch) = lock(&self.inner.watches).get(key) {
            let timeout =
                rows.cluster.as_ref().and_then(|cluster| cluster.spec.aws()).map(|aws| aws.join_timeout);
            let late = timeout.map(|timeout| late_launches(&rows.record, timeout, Timestamp::now()));
            watch.note_late(late.unwrap_or_default());
            seen.instances = watch.instances();
            seen.spot_prices = watch.spot_prices();
            seen.list_prices = watch.list_prices();
            (seen.agent, seen.agent_ended) = watch.agent();
            if let Some((_, processes)) = seen.processes.fresh() {
                watch.note_processes(processes);
            }
        }
        seen
    }

    async fn processes<'a>(
        &self,
        key: &ObjectKey,
        nodes: impl Iterator<Item = &'a Shared<NodeRecord>>,
    ) -> Observed<Processes> {
        let launches: Vec<IntentId> = nodes.map(|node| node.launch.clone()).collect();
        let (local, key) = (Local::new(self.inner.directories.clone()), key.clone());
        // The time before looking: what was started after it may not have been seen.
        let at = Timestamp::now();
        let looked = tokio::task::spawn_blocking(move || local.observe(&key, &launches)).await;
        let mut observed = Observed::default();
        match looked {
            Ok(Ok(processes)) => observed = Observed::seen(at, processes),
            Ok(Err(error)) => observed.fail(at, error.to_string()),
            Err(error) => observed.fail(at, error.to_string()),
        }
        observed
    }

    /// Writes a plan down, all of it or nothing; says which.
    async fn keep(&self, snapshot: Snapshot, plan: Plan) -> Result<bool, StoreError> {
        let work = move |tx: &Tx<'_>| match is_current(tx, &snapshot, &plan)? {
            true => keep(tx, &snapshot, &plan).map(|()| true),
            false => Ok(false),
        };
        self.inner.store.write(work).await
    }

    /// Listens to the cluster's agent where it now is.
    fn listen(&self, key: &ObjectKey, rows: &DomainRows) {
        let mut watches = lock(&self.inner.watches);
        let (Some(cluster), Some(incarnation)) = (&rows.cluster, &rows.record.incarnation) else {
            watches.remove(key);
            return;
        };
        let subject = Subject {
            incarnation: incarnation.id.clone(),
            agent: incarnation.agent.clone(),
            submission: rows.record.agent.as_ref().map(|agent| agent.submission.clone()),
        };
        let spot_types = spot_types(cluster);
        let list_types = list_types(cluster, incarnation);
        if let Some(watch) = watches.get(key).filter(|watch| watch.subject == subject) {
            watch.note_spot_types(spot_types);
            watch.note_list_types(list_types);
            return;
        }
        match clients(&self.inner.directories, key, &cluster.spec, incarnation) {
            Ok((dashboard, agent)) => {
                let aws =
                    cluster.spec.aws().map(|_| for_cluster(cluster, &self.inner.directories)).transpose();
                let cloud = aws.unwrap_or_else(|error| {
                    tracing::warn!(cluster = %key, %error, "its instances cannot be listed");
                    None
                });
                let queue = self.inner.queue.clone();
                let watch = Watch::start(key.clone(), subject, agent, dashboard, cloud, queue);
                if let Some(before) = watches.get(key) {
                    watch.take_over(before);
                }
                watch.note_spot_types(spot_types);
                watch.note_list_types(list_types);
                watches.insert(key.clone(), watch);
            }
            Err(error) => tracing::warn!(cluster = %key, %error, "the cluster cannot be listened to"),
        }
    }

    /// Begins every effect that is due and not under way.
    fn dispatch(&self, key: &ObjectKey, rows: DomainRows) {
        let now = Timestamp::now();
        let due: Vec<Intent> = rows
            .intents
            .iter()
            .filter(|intent| intent.state == IntentState::Pending && intent.not_before <= now)
            .filter(|intent| lock(&self.inner.in_flight).insert(intent.id.clone()))
            .cloned()
            .collect();
        if due.is_empty() {
            return;
        }
        let context = Arc::new(Context {
            directories: self.inner.directories.clone(),
            key: key.clone(),
            rows,
            controller: self.inner.id.clone(),
            lease_s: self.inner.settings.lease.millis / 1000,
        });
        for intent in due {
            self.inner.tasks.spawn(self.clone().carry_out(context.clone(), intent));
        }
    }

    async fn carry_out(self, context: Arc<Context>, intent: Intent) {
        let name = intent.effect.name();
        crash_point(&format!("before:{name}"));
        tracing::info!(cluster = %context.key, intent = %intent.id, effect = ?intent.effect, "begins");
        let done = AssertUnwindSafe(execute(&context, &intent)).catch_unwind().await;
        let result = done.unwrap_or_else(|_| Err(unavailable(format!("{name} panicked"))));
        crash_point(&format!("after:{name}"));
        let at = Timestamp::now();
        let state = match result {
            Ok(result) => {
                tracing::debug!(intent = %intent.id, effect = name, "done");
                IntentState::Done { at, result }
            }
            Err(error) => {
                tracing::warn!(cluster = %context.key, intent = %intent.id, effect = name, %error, "failed");
                IntentState::Failed { at, error }
            }
        };
        let id = intent.id.clone();
        // If this cannot be written the effect stays pending, and is done again: that is harmless.
        if let Err(error) = self.inner.store.write(move |tx| tx.settle_intent(&id, state)).await {
            tracing::error!(intent = %intent.id, %error, "what came of an effect could not be kept");
            tokio::time::sleep(STORE_RETRY).await;
        }
        crash_point(&format!("settled:{name}"));
        lock(&self.inner.in_flight).remove(&intent.id);
        self.inner.queue.wake(context.key.clone());
    }
}

/// The instance types of which a cluster may launch spot instances.
fn spot_types(cluster: &RayCluster) -> BTreeSet<String> {
    let spot = |group: &&WorkerGroup| matches!(group.market, Some(Market::Spot(_)));
    let groups = cluster.spec.worker_groups.iter().filter(spot);
    groups.filter_map(|group| group.template.instance.as_ref()).flat_map(|it| it.types.clone()).collect()
}

/// The instance types that are to be looked up in AWS's price list: all whose price the manifest does not say, when one
/// of them was not looked up for a day.
fn list_types(cluster: &RayCluster, incarnation: &Incarnation) -> BTreeSet<String> {
    let Some(aws) = cluster.spec.aws() else { return BTreeSet::new() };
    let groups = cluster.spec.worker_groups.iter().map(|group| &group.template);
    let templates = std::iter::once(&cluster.spec.head).chain(groups);
    let all = templates.filter_map(|template| template.instance.as_ref()).flat_map(|it| &it.types);
    let given = |name: &str| aws.prices.get(name).is_some_and(|price| price.on_demand.is_some());
    let types: BTreeSet<String> = all.filter(|name| !given(name)).cloned().collect();
    let listed = incarnation.aws.as_ref().and_then(|network| network.list_prices.as_ref());
    let known = listed.filter(|listed| listed.is_fresh(Timestamp::now()));
    let complete = known.is_some_and(|known| types.iter().all(|name| known.prices.contains_key(name)));
    if complete { BTreeSet::new() } else { types }
}

/// Whether the jobs that a plan changes are still as they were: one that is being moved is planned by two clusters.
fn is_current(tx: &Tx<'_>, snapshot: &Snapshot, plan: &Plan) -> Result<bool, StoreError> {
    let changed =
        |view: &&JobView| plan.jobs.get(&view.job.metadata.uid).is_some_and(|record| *record != view.record);
    let changed: Vec<&JobView> = snapshot.jobs.iter().filter(changed).collect();
    if changed.is_empty() {
        return Ok(true);
    }
    let rows = tx.domain(&snapshot.key)?;
    Ok(changed.iter().all(|view| {
        let row = rows.jobs.iter().find(|row| row.job.metadata.uid == view.job.metadata.uid);
        row.is_some_and(|row| row.record == view.record)
    }))
}

fn keep(tx: &Tx<'_>, snapshot: &Snapshot, plan: &Plan) -> Result<(), StoreError> {
    if plan.record != snapshot.record && snapshot.cluster.is_some() {
        tx.put_cluster_record(&snapshot.key, &plan.record)?;
    }
    for view in &snapshot.jobs {
        let uid = &view.job.metadata.uid;
        if let Some(record) = plan.jobs.get(uid).filter(|record| **record != view.record) {
            tx.put_job_record(uid, record)?;
        }
    }
    keep_intents(tx, snapshot, plan)?;
    for event in &plan.events {
        tx.record_event(event, snapshot.now)?;
    }
    keep_observations(tx, snapshot)?;
    keep_status(tx, snapshot, plan)?;
    for object in &plan.creations {
        tx.apply(object.clone(), None, Uid::from(Uuid::new_v4().to_string()), snapshot.now)?;
    }
    for (kind, key) in &plan.deletions {
        let job = snapshot.jobs.iter().find(|view| view.job.metadata.key() == *key);
        let record = job.and_then(|view| plan.jobs.get(&view.job.metadata.uid));
        let outcome = record.and_then(|record| record.outcome.as_ref());
        let said = outcome.and_then(|outcome| outcome.source.as_deref());
        tx.let_go(*kind, key, said, snapshot.now)?;
    }
    for removal in &plan.removals {
        if let Some((key, until)) = &removal.retire {
            tx.retire(&removal.uid, key, *until)?;
        }
        tx.remove(&removal.uid)?;
    }
    Ok(())
}

fn keep_intents(tx: &Tx<'_>, snapshot: &Snapshot, plan: &Plan) -> Result<(), StoreError> {
    for intent in &plan.intents {
        let before = snapshot.intents.iter().find(|before| before.id == intent.id);
        // One that is under way may have been settled since the snapshot: it is not to be overwritten.
        if before != Some(intent) && !snapshot.in_flight.contains(&intent.id) {
            tx.put_intent(intent)?;
        }
    }
    for before in &snapshot.intents {
        if !plan.intents.iter().any(|intent| intent.id == before.id) {
            tx.remove_intent(&before.id)?;
        }
    }
    Ok(())
}

fn keep_status(tx: &Tx<'_>, snapshot: &Snapshot, plan: &Plan) -> Result<(), StoreError> {
    if let Some(cluster) = &snapshot.cluster {
        let status = status::cluster_status(snapshot, cluster, &plan.record, &plan.report.cluster);
        if status != cluster.status {
            write_status(tx, &cluster.metadata.uid, &status)?;
        }
    }
    for view in &snapshot.jobs {
        let uid = &view.job.metadata.uid;
        let elsewhere = plan.jobs.get(uid).and_then(|record| record.binding.as_ref());
        // A job that is being moved is told of by the cluster that it still is on.
        if elsewhere.is_some_and(|binding| binding.cluster != snapshot.key) {
            continue;
        }
        if let (Some(record), Some(report)) = (plan.jobs.get(uid), plan.report.jobs.get(uid)) {
            let status = status::job_status(snapshot, &view.job, record, report);
            // Most are as they were read a moment ago, and are not read again for that.
            if status != view.job.status {
                write_status(tx, uid, &status)?;
            }
        }
    }
    Ok(())
}

fn write_status(tx: &Tx<'_>, uid: &Uid, status: &impl serde::Serialize) -> Result<(), StoreError> {
    let status =
        serde_json::to_value(status).map_err(|source| StoreError::Malformed { what: "status", source })?;
    tx.set_status(uid, status).map(|_| ())
}

/// Keeps what was last observed, in outline: for people, and for a controller that has not looked yet.
fn keep_observations(tx: &Tx<'_>, snapshot: &Snapshot) -> Result<(), StoreError> {
    if snapshot.cluster.is_none() {
        return Ok(());
    }
    let agent = outline(
        "agent",
        &snapshot.seen.agent,
        |agent| json!({"instance": agent.instance, "nodes": agent.nodes.len(), "jobs": agent.jobs.len()}),
    );
    let processes = outline(
        "processes",
        &snapshot.seen.processes,
        |processes| json!({"nodes": processes.values().filter(|node| node.leader.is_some()).count()}),
    );
    let instances = outline(
        "instances",
        &snapshot.seen.instances,
        |instances| json!({"running": instances.values().filter(|instance| instance.phase.is_up()).count()}),
    );
    let before = tx.observations(&snapshot.key)?;
    for row in [agent, processes, instances].into_iter().flatten() {
        let known = before.iter().find(|known| known.source == row.source);
        let same = known.is_some_and(|known| {
            known.body == row.body
                && known.complete == row.complete
                && row.at.duration_since(known.at).as_secs() < 30
        });
        if !same {
            tx.put_observation(&snapshot.key, &row)?;
        }
    }
    Ok(())
}

fn outline<T>(source: &str, observed: &Observed<T>, body: impl Fn(&T) -> Value) -> Option<ObservationRow> {
    let row = |at, complete, body| ObservationRow { source: source.to_owned(), at, complete, body };
    match (&observed.error, &observed.last) {
        (Some((since, error)), _) => Some(row(*since, false, json!({"error": error}))),
        (None, Some((at, value))) => Some(row(*at, true, body(value))),
        (None, None) => None,
    }
}
