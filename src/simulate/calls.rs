//! Effects while they are done: they take time, and what comes of them is not always known. After `execute.rs`.

use super::bridge::Blob;
use super::clock::{Ms, moment, timestamp};
use super::site::Machine;
use super::world::{Event, File, World};
use crate::action::{Effect, EffectError, EffectResult, ErrorKind, Intent, IntentState};
use crate::api::cluster::Provider;
use crate::api::document::Document;
use crate::api::ids::{CheckpointId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::record::{CheckpointRecord, Incarnation, JobRecord, LocalNetwork};
use crate::api::wire::BlobKind;

/// An effect that is being done.
pub(super) type CallId = u64;

/// How long the dashboard may take to come up, within one try to submit the agent.
const DASHBOARD_MS: Ms = 60_000;
/// How long after a call was given up it may still be done; EC2 does soon what it is asked for.
const LATEST_MS: Ms = 40_000;
const LATEST_ON_EC2_MS: Ms = 15_000;

/// An effect that is being done, with what was known when it was begun.
pub(super) struct Call {
    pub(super) key: ObjectKey,
    pub(super) intent: Intent,
    /// Which life of the controller waits for it.
    epoch: u32,
    begun: Ms,
    pub(super) incarnation: Option<Incarnation>,
    foreign: bool,
    /// The cluster, if it is on EC2.
    cloud: Option<Box<RayCluster>>,
    job: Option<JobRecord>,
    /// The agent that it was sent to, if the reply is given up before the effect takes place.
    late: Option<Option<String>>,
    fate: Fate,
}

/// What becomes of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is done, and that is known.
    Done,
    /// It is done, but the reply is lost.
    ReplyLost,
    /// It never gets there.
    Lost,
    /// It is given up, and takes place later.
    Late,
}

fn error(kind: ErrorKind, message: &str) -> EffectError {
    EffectError { kind, message: message.to_owned() }
}

impl World {
    /// Begins an effect.
    pub(super) fn begin(&mut self, key: &ObjectKey, intent: Intent) {
        let id = self.random.seed();
        let record = self.store.records.get(key);
        let incarnation = record.and_then(|record| record.incarnation.clone());
        let cluster = self.store.clusters.get(key);
        let foreign = cluster.is_some_and(|cluster| matches!(cluster.spec.provider, Provider::Existing(_)));
        let job = job_of(&intent.effect).and_then(|uid| self.store.jobs.get(uid));
        let job = job.map(|row| row.record.clone());
        let cloud = cluster.filter(|cluster| cluster.spec.aws().is_some()).cloned().map(Box::new);
        let outlives = asks_agent(&intent.effect) || (cloud.is_some() && asks_ec2(&intent.effect));
        let fate = match () {
            () if self.faulty(self.faults.lost_replies) => Fate::ReplyLost,
            () if self.faulty(self.faults.lost_calls) => Fate::Lost,
            () if outlives && self.faulty(self.faults.late_calls) => Fate::Late,
            () => Fate::Done,
        };
        self.transcript
            .say(self.now, || format!("begins {} ({fate:?})", super::tell::effect(&intent.effect)));
        let latest = if asks_ec2(&intent.effect) { LATEST_ON_EC2_MS } else { LATEST_MS };
        let slow = self.faulty(self.faults.slow_calls);
        let lands = match &intent.effect {
            _ if slow => self.random.between(3_000, 30_000),
            Effect::FetchCheckpoint { .. } | Effect::TerminateNode { .. } => self.random.between(50, 2_500),
            _ => self.random.between(20, 400),
        };
        let serving = incarnation
            .as_ref()
            .and_then(|incarnation| Some(self.sites.get(key)?.ray(&incarnation.id)?.serving()?.to_owned()));
        let late = (fate == Fate::Late).then_some(serving);
        let call = Call {
            key: key.clone(),
            intent,
            epoch: self.controller.epoch,
            begun: self.now,
            incarnation,
            foreign,
            cloud,
            job,
            late,
            fate,
        };
        let epoch = self.controller.epoch;
        self.calls.insert(id, call);
        let unknown = || Err(error(ErrorKind::Unavailable, "no reply"));
        match fate {
            Fate::Lost => {
                let at = self.now + self.random.between(1_000, 10_000);
                self.settles(epoch, id, at, unknown());
            }
            Fate::Late => {
                let given_up = self.now + self.random.between(1_000, 10_000);
                self.settles(epoch, id, given_up, unknown());
                let at = given_up + self.random.between(10, latest);
                self.queue.push(at, Event::Lands(id));
            }
            Fate::Done | Fate::ReplyLost => self.queue.push(self.now + lands, Event::Lands(id)),
        }
    }

    fn settles(&mut self, epoch: u32, id: CallId, at: Ms, result: Result<EffectResult, EffectError>) {
        let state = match result {
            Ok(result) => IntentState::Done { at: timestamp(at), result },
            Err(error) => IntentState::Failed { at: timestamp(at), error },
        };
        self.queue.push(at, Event::Replies(epoch, id, state));
    }

    /// The controller that waited for these is gone. What it did itself is done or not; what it had asked an agent
    /// for may still be done.
    pub(super) fn orphan_calls(&mut self) {
        // EC2 has got what it was asked for, or never does.
        let asked = |call: &Call| call.cloud.is_some() && asks_ec2(&call.intent.effect);
        let asked: Vec<CallId> =
            self.calls.iter().filter(|(_, call)| asked(call)).map(|(id, _)| *id).collect();
        for id in asked {
            if let (true, Some(call)) = (self.random.chance(0.5), self.calls.remove(&id)) {
                let _ = self.carry_out(&call);
            }
        }
        let random = &mut self.random;
        self.calls.retain(|_, call| asks_agent(&call.intent.effect) && !random.chance(0.5));
        for call in self.calls.values_mut() {
            let serving = call.incarnation.as_ref().and_then(|incarnation| {
                Some(self.sites.get(&call.key)?.ray(&incarnation.id)?.serving()?.to_owned())
            });
            call.late.get_or_insert(serving);
        }
    }

    /// An effect takes place.
    pub(super) fn land(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        if let Err(again) = self.hold(&call) {
            self.calls.insert(id, call);
            return self.queue.push(again, Event::Lands(id));
        }
        let result = self.carry_out(&call);
        if call.late.is_some() {
            self.transcript.say(self.now, || {
                format!("late: {} takes place: {result:?}", super::tell::effect(&call.intent.effect))
            });
        }
        let (result, replied) = match result {
            Ok((result, at)) => (Ok(result), at),
            Err(error) => (Err(error), self.now),
        };
        let epoch = call.epoch;
        let (fate, late) = (call.fate, call.late.is_some());
        self.calls.insert(id, call);
        if late {
            self.calls.remove(&id);
        } else if fate == Fate::ReplyLost {
            let at = replied + self.random.between(500, 10_000);
            self.settles(epoch, id, at, Err(error(ErrorKind::Unavailable, "no reply")));
        } else {
            let at = replied + self.random.between(1, 100);
            self.settles(epoch, id, at, result);
        }
    }

    /// What came of an effect is known.
    pub(super) fn reply(&mut self, epoch: u32, id: CallId, state: IntentState) {
        if epoch != self.controller.epoch {
            self.calls.remove(&id);
            return;
        }
        let Some(call) = self.calls.get(&id) else { return };
        let (key, intent) = (call.key.clone(), call.intent.clone());
        if call.late.is_none() {
            self.calls.remove(&id);
        }
        if let IntentState::Failed { error, .. } = &state {
            self.transcript
                .say(self.now, || format!("fails: {}: {error}", super::tell::effect(&intent.effect)));
        }
        self.store.settle(&intent.id, state);
        self.controller.in_flight.remove(&intent.id);
        self.wake(key, 0);
    }

    /// Submitting the agent waits for the dashboard; says when to look again.
    fn hold(&mut self, call: &Call) -> Result<(), Ms> {
        let Effect::SubmitAgent { .. } = &call.intent.effect else { return Ok(()) };
        let up = self.session(call).is_some_and(|(_, up)| up);
        let waiting = !up && self.now < call.begun + DASHBOARD_MS && call.late.is_none();
        if waiting { Err(self.now + 1_000) } else { Ok(()) }
    }

    /// The Ray cluster that a call goes to, and whether it answers.
    fn session(&mut self, call: &Call) -> Option<(String, bool)> {
        let incarnation = call.incarnation.as_ref()?;
        let now = self.now;
        let site = self.sites.get(&call.key)?;
        let session = site.session(&incarnation.id).to_owned();
        let up = site.rays.get(&session).is_some_and(|ray| ray.up);
        Some((session, up && (now >= site.cut_until || call.late.is_some())))
    }

    fn dashboard(&mut self, call: &Call) -> Result<String, EffectError> {
        let session = self.session(call).filter(|(_, up)| *up);
        session.map(|(session, _)| session).ok_or_else(|| error(ErrorKind::Unavailable, "out of reach"))
    }

    /// Where the agent is, if it can be asked.
    fn agent(&mut self, call: &Call) -> Result<String, EffectError> {
        let session = self.dashboard(call)?;
        let site = self.site(&call.key);
        let serving = site.rays.get(&session).and_then(|ray| ray.serving()).map(str::to_owned);
        let hangs = site.agent_hangs_until;
        let same = call.late.as_ref().is_none_or(|sent_to| *sent_to == serving);
        if serving.is_none() || !same || (self.now < hangs && call.late.is_none()) {
            return Err(error(ErrorKind::Unavailable, "the agent does not answer"));
        }
        Ok(session)
    }

    /// Does an effect; says what it gives, and when that is known.
    fn carry_out(&mut self, call: &Call) -> Result<(EffectResult, Ms), EffectError> {
        let key = &call.key;
        let mut at = self.now;
        if let Some(cluster) = &call.cloud
            && let Some(result) = self.carry_out_on_ec2(call, cluster)
        {
            return result.map(|result| (result, at));
        }
        match &call.intent.effect {
            Effect::OpenCluster { incarnation } => {
                let opened = self.open(call, incarnation)?;
                return Ok((EffectResult::Opened(Box::new(opened)), at));
            }
            Effect::CloseCluster { incarnation } => {
                self.site(key).rays.retain(|name, _| name != incarnation);
            }
            Effect::LaunchNode { .. } => self.launch(call)?,
            Effect::TerminateNode { launch, .. } => {
                self.check_termination(key, launch);
                self.end_machine(key, launch);
            }
            Effect::TerminateInstance { .. } => {}
            Effect::DrainNode { ray: node, .. } => {
                let session = self.agent(call)?;
                self.in_ray(key, &session, |ray, env| ray.drain(node, env)).unwrap_or(Ok(()))?;
            }
            Effect::RequestResources { bundles } => {
                let session = self.agent(call)?;
                self.in_ray(key, &session, |ray, _| ray.request(bundles.clone()));
                self.site(key).autoscale(&session, bundles);
                self.news(key);
            }
            Effect::SubmitAgent { submission } => {
                let session = self.dashboard(call)?;
                self.in_ray(key, &session, |ray, env| ray.submit(submission, env));
            }
            Effect::StopAgent { submission } => {
                let session = self.dashboard(call)?;
                self.in_ray(key, &session, |ray, _| ray.stop(submission));
            }
            Effect::SendDocument { job, revision } => self.send_document(call, job, *revision)?,
            Effect::SendCheckpoint { job, id } => self.send_checkpoint(call, job, *id)?,
            Effect::RemoveBridge { job, keep } => {
                let session = self.agent(call)?;
                let revision = call.job.as_ref().map_or(u64::MAX, |job| job.revision);
                let removed =
                    self.in_ray(key, &session, |ray, env| ray.delete_job(job, revision, *keep, env));
                at = removed.unwrap_or(Ok(at))?;
            }
            Effect::FetchCheckpoint { job, checkpoint } => self.fetch_checkpoint(call, job, checkpoint)?,
            Effect::FetchArtifacts { job, digest, .. } => {
                let session = self.agent(call)?;
                let found = self.in_ray(key, &session, |ray, _| ray.get_blob(job, digest).map(|_| ()));
                found.unwrap_or(Ok(()))?;
            }
            Effect::DeliverArtifacts { .. } => {}
            Effect::DropCheckpoint { job, id } => self.drop_checkpoint(call, job, *id),
        }
        Ok((EffectResult::Done, at))
    }

    /// Does what is EC2's to do.
    fn carry_out_on_ec2(
        &mut self,
        call: &Call,
        cluster: &RayCluster,
    ) -> Option<Result<EffectResult, EffectError>> {
        let uid = &cluster.metadata.uid;
        let done = match &call.intent.effect {
            Effect::OpenCluster { incarnation } => {
                let opened = self.open_on_ec2(cluster, incarnation);
                return Some(opened.map(|opened| EffectResult::Opened(Box::new(opened))));
            }
            Effect::CloseCluster { incarnation } => {
                self.site(&call.key).rays.retain(|name, _| name != incarnation);
                self.close_on_ec2(uid, incarnation)
            }
            Effect::LaunchNode { .. } => self.launch_on_ec2(call, cluster),
            Effect::TerminateNode { .. } => self.terminate_on_ec2(call, uid),
            Effect::TerminateInstance { instance } => self.end_stray(&call.key, uid, instance),
            _ => return None,
        };
        Some(done.map(|()| EffectResult::Done))
    }

    fn open(&mut self, call: &Call, id: &str) -> Result<Incarnation, EffectError> {
        let local = LocalNetwork {
            python: "python3".to_owned(),
            head: std::net::Ipv4Addr::new(127, 0, 0, 10),
            gcs_port: 6379,
            dashboard_port: 8265,
            client_port: 10001,
        };
        let reachable = self.now >= self.site(&call.key).cut_until;
        if call.foreign && !reachable {
            return Err(error(ErrorKind::Unavailable, "out of reach"));
        }
        Ok(Incarnation {
            id: id.to_owned(),
            since: timestamp(self.now),
            dashboard: "http://head:8265".to_owned(),
            agent: "http://head:8267".to_owned(),
            ray_version: "2.60.0".to_owned(),
            missing: Vec::new(),
            local: (!call.foreign).then_some(local),
            aws: None,
        })
    }

    fn launch(&mut self, call: &Call) -> Result<(), EffectError> {
        let Effect::LaunchNode { node, group, template, .. } = &call.intent.effect else { return Ok(()) };
        let (key, launch) = (&call.key, &call.intent.id);
        let incarnation =
            call.incarnation.as_ref().ok_or_else(|| error(ErrorKind::Rejected, "the cluster is not open"))?;
        let site = self.site(key);
        if site.machines.get(launch).is_some_and(|machine| site.lives(machine)) {
            return Ok(());
        }
        if site.hopeless && group.is_some() {
            return Err(error(ErrorKind::Rejected, "there is no capacity"));
        }
        if self.faulty(self.faults.rejected_launches) {
            return Err(error(ErrorKind::Rejected, "it cannot be started now"));
        }
        let sound = !self.faulty(self.faults.bad_machines);
        let now = self.now;
        let machine = Machine {
            name: node.clone(),
            incarnation: incarnation.id.clone(),
            head: group.is_none(),
            group: group.clone(),
            template: (**template).clone(),
            launched: now,
            sound,
            leader: true,
            node: None,
            life: None,
        };
        self.site(key).machines.insert(launch.clone(), machine);
        self.check_nodes(key, launch);
        if sound {
            let joins = self.now + self.random.between(3_000, 10_000);
            self.queue.push(joins, Event::Joins(key.clone(), launch.clone()));
        } else if self.random.chance(0.7) {
            let ends = self.now + self.random.between(500, 10_000);
            self.queue.push(ends, Event::LeaderEnds(key.clone(), launch.clone()));
        } // Or it runs, and never joins.
        Ok(())
    }

    fn send_document(&mut self, call: &Call, job: &Uid, revision: u64) -> Result<(), EffectError> {
        let record = call.job.as_ref().ok_or_else(|| error(ErrorKind::Rejected, "the job is not there"))?;
        let told = record.document.as_ref().filter(|document| document.revision == revision);
        let Some(told) = told else { return Ok(()) }; // A newer one has taken its place.
        let fence = told.fence_until.map_or(0, |until| moment(until).saturating_sub(self.now));
        let session = self.agent(call)?;
        let told: &Document = told;
        self.in_ray(&call.key, &session, |ray, env| ray.put_document(job, told, fence, env)).unwrap_or(Ok(()))
    }

    fn send_checkpoint(&mut self, call: &Call, job: &Uid, id: CheckpointId) -> Result<(), EffectError> {
        let record = call.job.as_ref().ok_or_else(|| error(ErrorKind::Rejected, "the job is not there"))?;
        let checkpoint = record.checkpoints.iter().find(|checkpoint| checkpoint.id == id);
        let checkpoint =
            checkpoint.ok_or_else(|| error(ErrorKind::Rejected, "there is no such checkpoint"))?;
        let session = self.agent(call)?;
        let file = self.files.get(&checkpoint.path);
        let file = file.ok_or_else(|| error(ErrorKind::Unreadable, "the file is not there"))?;
        if !file.good {
            return Err(error(ErrorKind::Unreadable, "it does not match its digest"));
        }
        let blob = Blob {
            kind: BlobKind::Checkpoint,
            id,
            digest: checkpoint.digest.clone(),
            steps: checkpoint.steps,
            at: self.now,
            good: true,
        };
        let revision = record.revision;
        self.in_ray(&call.key, &session, |ray, env| ray.put_checkpoint(job, revision, blob, env))
            .unwrap_or(Ok(()))
    }

    fn fetch_checkpoint(
        &mut self,
        call: &Call,
        job: &Uid,
        checkpoint: &CheckpointRecord,
    ) -> Result<(), EffectError> {
        if self.files.contains_key(&checkpoint.path) {
            return Ok(());
        }
        let session = self.agent(call)?;
        let found =
            self.in_ray(&call.key, &session, |ray, _| ray.get_blob(job, &checkpoint.digest).map(|_| ()));
        found.unwrap_or(Ok(()))?;
        self.files.insert(checkpoint.path.clone(), File { good: true });
        Ok(())
    }

    fn drop_checkpoint(&mut self, call: &Call, job: &Uid, id: CheckpointId) {
        let checkpoints = call.job.as_ref().map_or(&[][..], |record| &record.checkpoints);
        let Some(dropped) = checkpoints.iter().find(|checkpoint| checkpoint.id == id) else { return };
        if checkpoints.iter().any(|other| other.id != id && other.path == dropped.path) {
            return;
        }
        self.check_drop(job, id);
        self.files.remove(&dropped.path);
    }
}

fn job_of(effect: &Effect) -> Option<&Uid> {
    match effect {
        Effect::SendDocument { job, .. }
        | Effect::SendCheckpoint { job, .. }
        | Effect::RemoveBridge { job, .. }
        | Effect::FetchCheckpoint { job, .. }
        | Effect::FetchArtifacts { job, .. }
        | Effect::DeliverArtifacts { job }
        | Effect::DropCheckpoint { job, .. } => Some(job),
        _ => None,
    }
}

/// Whether an effect on EC2 is one call, which can still be done when nobody waits for it any more.
fn asks_ec2(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::LaunchNode { .. } | Effect::TerminateNode { .. } | Effect::TerminateInstance { .. }
    )
}

/// Whether an effect is asked of an agent, so that it can happen long after nobody waits for it any more.
fn asks_agent(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::SendDocument { .. }
            | Effect::SendCheckpoint { .. }
            | Effect::RemoveBridge { .. }
            | Effect::DrainNode { .. }
            | Effect::RequestResources { .. }
    )
}
