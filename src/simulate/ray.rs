//! One Ray cluster, from its head's start to its end: its nodes, our agent, and the bridges. After `agent.py`.

use std::collections::{BTreeMap, BTreeSet};

use super::bridge::{Blob, Bridge};
use super::clock::Ms;
use super::env::{Env, Exit, RayEvent};
use super::floor::{Actor, Floor, Node};
use crate::action::{EffectError, ErrorKind};
use crate::api::document::Document;
use crate::api::ids::{Digest, RayNodeId, Uid};
use crate::api::observed::{LAUNCH_LABEL, NODE_LABEL};
use crate::api::wire::{
    AgentState, BridgePhase, BridgeReport, NoticeReport, PROTOCOL, RayNode, ResourceBundles,
};

/// How long an agent takes from its submission until it serves.
const AGENT_START_MS: (Ms, Ms) = (2_500, 5_000);
/// Beyond the lease, before what a dead bridge left is taken for dead.
const FENCE_MARGIN_MS: Ms = 2_000;

/// One Ray cluster.
pub(super) struct Ray {
    pub(super) floor: Floor,
    /// Whether its head lives.
    pub(super) up: bool,
    head: RayNodeId,
    submissions: BTreeMap<String, Submission>,
    agent: Option<Agent>,
    pub(super) bridges: BTreeMap<Uid, Bridge>,
    /// The jobs of which a directory is on the head, for a bridge was made, and not removed since: with what one that
    /// died has left in it.
    directories: BTreeMap<Uid, Vec<Blob>>,
    made: u64,
}

/// The Ray job that an agent is.
enum Submission {
    Starting,
    Serving,
    Ended(String),
}

/// The agent that serves.
struct Agent {
    submission: String,
    version: i64,
    /// Bridges that died while this agent followed them, and what it knows of that.
    dead: BTreeMap<Uid, Death>,
    /// The newest that was asked for, for each job: a revision, and whether its bridge was to be removed then.
    newest: BTreeMap<Uid, (u64, bool)>,
    /// What it has asked the autoscaler for.
    requested: Option<Vec<ResourceBundles>>,
}

/// What an agent knows of a bridge's death.
enum Death {
    /// Nothing yet: it shows what it heard last.
    Unnoticed(Box<BridgeReport>, Ms),
    Noticed,
}

impl Ray {
    pub(super) fn new(head: Node) -> Self {
        Self {
            head: head.id.clone(),
            floor: Floor::of(head),
            up: true,
            submissions: BTreeMap::new(),
            agent: None,
            bridges: BTreeMap::new(),
            directories: BTreeMap::new(),
            made: 0,
        }
    }

    // --- What happens in it --------------------------------------------------------------------------------------

    pub(super) fn happens(&mut self, event: RayEvent, env: &mut Env<'_>) {
        match event {
            RayEvent::SlotOpens(actor) => {
                self.floor.opens(actor, env);
                self.tell_owner(actor, env);
            }
            RayEvent::SlotLease(actor, since) => {
                self.floor.lease_over(actor, since, env);
                self.tell_owner(actor, env);
            }
            RayEvent::SlotEnds(actor) => {
                self.floor.end(actor, env);
                self.tell_owner(actor, env);
            }
            RayEvent::NodeMissed(node) => {
                self.floor.missed(&node, env);
                self.tell_all(env);
            }
            RayEvent::NodeBack(node) => {
                self.floor.back(&node, env);
                self.tell_all(env);
            }
            RayEvent::Arrives(actor, group) => {
                self.floor.arrives(actor, group);
                self.tell_owner(actor, env);
            }
            RayEvent::Exits(actor, group, exit) => {
                self.floor.exit(actor, group, exit, env.now);
                self.tell_owner(actor, env);
            }
            RayEvent::Group((job, number), group, event) => {
                if let Some(bridge) = self.bridges.get_mut(&job).filter(|bridge| bridge.id.1 == number) {
                    bridge.happens(group, event, &mut self.floor, env);
                }
            }
            RayEvent::Bridge((job, number)) => self.wake_bridge(&job, number, env),
            RayEvent::BridgeMissed((job, _)) => {
                if let Some(death) = self.agent.as_mut().and_then(|agent| agent.dead.get_mut(&job)) {
                    *death = Death::Noticed;
                }
            }
            RayEvent::AgentServes(submission) => self.agent_serves(submission, env),
        }
        if let Some(agent) = &mut self.agent {
            agent.version += 1;
        }
    }

    fn wake_bridge(&mut self, job: &Uid, number: u64, env: &mut Env<'_>) {
        let Some(bridge) = self.bridges.get_mut(job).filter(|bridge| bridge.id.1 == number) else { return };
        if bridge.closed(env.now) {
            self.bridges.remove(job);
            self.directories.remove(job);
        } else {
            bridge.advance(&mut self.floor, env);
        }
    }

    fn tell_owner(&mut self, actor: Actor, env: &mut Env<'_>) {
        let Some((job, number)) = self.floor.slots.get(&actor).map(|slot| slot.owner.clone()) else { return };
        if let Some(bridge) = self.bridges.get_mut(&job).filter(|bridge| bridge.id.1 == number) {
            bridge.advance(&mut self.floor, env);
        }
    }

    pub(super) fn tell_all(&mut self, env: &mut Env<'_>) {
        for bridge in self.bridges.values_mut() {
            bridge.advance(&mut self.floor, env);
        }
    }

    /// A node joins.
    pub(super) fn join(&mut self, node: Node) {
        self.floor.nodes.push(node);
    }

    /// Everything on a node ends at once.
    pub(super) fn lose_node(&mut self, node: usize, env: &mut Env<'_>) {
        let head = self.floor.nodes[node].id == self.head;
        self.floor.lose(node, env);
        if head {
            self.end(env);
        }
        self.tell_all(env);
    }

    /// The head has gone: the control service, the agent and the bridges with it.
    fn end(&mut self, env: &mut Env<'_>) {
        self.up = false;
        self.agent = None;
        for (_, bridge) in std::mem::take(&mut self.bridges) {
            self.floor.orphan(&bridge.id, env);
        }
    }

    /// A bridge dies.
    pub(super) fn kill_bridge(&mut self, job: &Uid, env: &mut Env<'_>) {
        let Some(bridge) = self.bridges.remove(job) else { return };
        self.floor.orphan(&bridge.id, env);
        self.directories.insert(job.clone(), bridge.left_blobs());
        if let Some(agent) = &mut self.agent {
            let last = bridge.describe(env.now);
            agent.dead.insert(job.clone(), Death::Unnoticed(Box::new(last), env.now));
            env.within(0, 2_000, RayEvent::BridgeMissed(bridge.id));
        }
    }

    /// Kills a worker of the group of a job that trains.
    pub(super) fn kill_worker(&mut self, job: &Uid, env: &mut Env<'_>) {
        let victims = self.bridges.get(job).and_then(Bridge::victims);
        let Some((group, actors)) = victims else { return };
        if let Some(actor) = env.random.pick(&actors).copied()
            && self.floor.reaches(actor)
        {
            self.floor.exit(actor, group, Exit::Signal("SIGKILL"), env.now);
            self.tell_owner(actor, env);
        }
    }

    /// Ends a slot of a job.
    pub(super) fn kill_slot(&mut self, job: &Uid, env: &mut Env<'_>) {
        let victims = self.bridges.get(job).and_then(Bridge::victims);
        if let Some(actor) = victims.and_then(|(_, actors)| env.random.pick(&actors).copied()) {
            self.floor.end(actor, env);
            self.tell_owner(actor, env);
        }
    }

    /// Somebody else tells a job's workers to end.
    pub(super) fn terminate_workers(&mut self, job: &Uid, env: &mut Env<'_>) {
        if let Some(bridge) = self.bridges.get_mut(job) {
            bridge.terminate(&mut self.floor, env);
        }
    }

    // --- The agent's Ray job -------------------------------------------------------------------------------------

    /// Submits the agent, unless it was submitted before.
    pub(super) fn submit(&mut self, submission: &str, env: &mut Env<'_>) {
        if !self.submissions.contains_key(submission) {
            self.submissions.insert(submission.to_owned(), Submission::Starting);
            env.within(AGENT_START_MS.0, AGENT_START_MS.1, RayEvent::AgentServes(submission.to_owned()));
        }
    }

    fn agent_serves(&mut self, submission: String, env: &mut Env<'_>) {
        let Some(state) = self.submissions.get_mut(&submission) else { return };
        if !self.up || !matches!(state, Submission::Starting) {
            return;
        }
        *state = Submission::Serving;
        env.say(|| "agent: it serves".to_owned());
        // It takes over from another, which ends, and follows the bridges that live.
        if let Some(older) = self.agent.take() {
            self.submissions.insert(older.submission, Submission::Ended("it lost its claim".to_owned()));
        }
        let (dead, newest, requested) = Default::default();
        self.agent = Some(Agent { submission, version: 0, dead, newest, requested });
    }

    /// The agent ends.
    pub(super) fn kill_agent(&mut self, why: &str) -> bool {
        let Some(agent) = self.agent.take() else { return false };
        self.submissions.insert(agent.submission, Submission::Ended(why.to_owned()));
        true
    }

    /// Stops the Ray job that an agent is.
    pub(super) fn stop(&mut self, submission: &str) {
        if self.agent.as_ref().is_some_and(|agent| agent.submission == submission) {
            self.agent = None;
        }
        if let Some(state) = self.submissions.get_mut(submission) {
            *state = Submission::Ended("it was stopped".to_owned());
        }
    }

    /// Why an agent's Ray job has ended, if it has.
    pub(super) fn has_ended(&self, submission: &str) -> Option<String> {
        match self.submissions.get(submission) {
            None => Some("its Ray job is not there".to_owned()),
            Some(Submission::Ended(why)) => Some(why.clone()),
            Some(_) => None,
        }
    }

    /// Which agent serves.
    pub(super) fn serving(&self) -> Option<&str> {
        self.agent.as_ref().map(|agent| agent.submission.as_str())
    }

    /// Everything the agent observes.
    pub(super) fn state(&self, now: Ms) -> Option<AgentState> {
        let agent = self.agent.as_ref()?;
        let living = self.bridges.iter().map(|(job, bridge)| {
            let mut report = bridge.describe(now);
            report.notices = self.notices(&report, now);
            (job.clone(), report)
        });
        let dead = agent.dead.iter().map(|(job, death)| (job.clone(), describe_death(death, now)));
        Some(AgentState {
            ray_version: "2.60.0".to_owned(),
            protocol: PROTOCOL,
            instance: agent.submission.clone(),
            version: agent.version,
            head: self.head.clone(),
            nodes: self.floor.nodes.iter().map(describe_node).collect(),
            requested: agent.requested.clone(),
            jobs: dead.chain(living).collect(),
        })
    }

    /// What the slots of a bridge have learnt of their nodes.
    fn notices(&self, report: &BridgeReport, now: Ms) -> Vec<NoticeReport> {
        let nodes: BTreeSet<&RayNodeId> = report.slots.iter().map(|slot| &slot.node).collect();
        let nodes = nodes.into_iter().filter_map(|id| self.floor.node(id)).filter(|node| node.alive);
        let notices = nodes.filter_map(|node| {
            let (kind, deadline) = node.notice?;
            let action = deadline.map_or("", |_| "terminate").to_owned();
            let deadline_ms = deadline.map(|at| at as f64 - now as f64);
            Some(NoticeReport { node: node.id.clone(), kind, action, deadline_ms })
        });
        notices.collect()
    }

    /// The autoscaler is asked for something else.
    pub(super) fn request(&mut self, bundles: Vec<ResourceBundles>) {
        if let Some(agent) = &mut self.agent {
            agent.requested = Some(bundles);
            agent.version += 1;
        }
    }

    // --- What the agent is asked -------------------------------------------------------------------------------

    /// Refuses a call that is older than what was asked before: it was given up, and something newer is under way.
    fn ask(&mut self, job: &Uid, call: (u64, bool)) -> Result<&mut Agent, EffectError> {
        let agent = self.agent.as_mut().ok_or_else(|| unavailable("no agent answers"))?;
        let newest = agent.newest.entry(job.clone()).or_default();
        if call < *newest {
            return Err(unavailable("it was asked for something newer before"));
        }
        *newest = call;
        Ok(agent)
    }

    /// A job's bridge, which is made if there is none.
    fn bridge(&mut self, job: &Uid, env: &Env<'_>) -> Result<&mut Bridge, EffectError> {
        // What was meant for one that has died, maybe long ago, is not for another.
        if self.agent.as_ref().is_some_and(|agent| agent.dead.contains_key(job)) {
            return Err(unavailable("its bridge has died and has not been removed"));
        }
        Ok(self.bridges.entry(job.clone()).or_insert_with(|| {
            self.made += 1;
            // Whatever a bridge left that was never removed may still train.
            let left = self.directories.insert(job.clone(), Vec::new());
            let fence = if left.is_some() { env.lease + FENCE_MARGIN_MS } else { 0 };
            let mut bridge = Bridge::new((job.clone(), self.made), fence);
            left.into_iter().flatten().for_each(|blob| bridge.add_blob(blob));
            bridge
        }))
    }

    /// Tells a job's bridge what is wanted.
    pub(super) fn put_document(
        &mut self,
        job: &Uid,
        document: &Document,
        fence: Ms,
        env: &mut Env<'_>,
    ) -> Result<(), EffectError> {
        self.ask(job, (document.revision, false))?;
        self.bridge(job, env)?;
        if let Some(bridge) = self.bridges.get_mut(job) {
            bridge.apply(document, fence, &mut self.floor, env);
        }
        Ok(())
    }

    /// Puts a checkpoint on the head, for a job's bridge to begin from.
    pub(super) fn put_checkpoint(
        &mut self,
        job: &Uid,
        revision: u64,
        blob: Blob,
        env: &mut Env<'_>,
    ) -> Result<(), EffectError> {
        self.ask(job, (revision, false))?;
        self.bridge(job, env)?.add_blob(blob);
        Ok(())
    }

    /// Ends a job's bridge; says when it is done.
    pub(super) fn delete_job(
        &mut self,
        job: &Uid,
        revision: u64,
        keep: bool,
        env: &mut Env<'_>,
    ) -> Result<Ms, EffectError> {
        let agent = self.ask(job, (revision, true))?;
        agent.dead.remove(job);
        let Some(bridge) = self.bridges.get_mut(job) else {
            if !keep {
                self.directories.remove(job);
            }
            return Ok(env.now);
        };
        let until = bridge.shut_down(&mut self.floor, env);
        let number = bridge.id.1;
        if until > env.now {
            env.after(until - env.now, RayEvent::Bridge((job.clone(), number)));
        } else {
            self.wake_bridge(job, number, env);
        }
        Ok(until)
    }

    /// A blob on the head, if it can be read.
    pub(super) fn get_blob(&self, job: &Uid, digest: &Digest) -> Result<&Blob, EffectError> {
        self.agent.as_ref().ok_or_else(|| unavailable("no agent answers"))?;
        let blob = self.bridges.get(job).and_then(|bridge| bridge.blob(digest));
        let blob = blob
            .ok_or_else(|| EffectError { kind: ErrorKind::NotFound, message: "no such blob".to_owned() })?;
        let spoilt =
            || EffectError { kind: ErrorKind::Unreadable, message: "it did not arrive whole".to_owned() };
        blob.good.then_some(blob).ok_or_else(spoilt)
    }

    /// Has Ray start nothing more on a node.
    pub(super) fn drain(&mut self, node: &RayNodeId, env: &mut Env<'_>) -> Result<(), EffectError> {
        self.agent.as_ref().ok_or_else(|| unavailable("no agent answers"))?;
        if *node == self.head {
            return Err(rejected("the head is not drained"));
        }
        if let Some(index) = self.floor.index(node).filter(|index| self.floor.nodes[*index].alive) {
            self.floor.drain(index, env);
            self.tell_all(env);
        }
        Ok(())
    }
}

fn describe_death(death: &Death, now: Ms) -> BridgeReport {
    match death {
        Death::Unnoticed(report, at) => {
            BridgeReport { age_ms: now.saturating_sub(*at) as f64, ..(**report).clone() }
        }
        Death::Noticed => BridgeReport {
            age_ms: 0.0,
            phase: BridgePhase::Dead,
            bridge: String::new(),
            revision: None,
            slots: Vec::new(),
            groups: Vec::new(),
            blobs: Vec::new(),
            notices: Vec::new(),
            save_request: None,
            notes: Vec::new(),
            logs: Vec::new(),
            message: Some("the actor has died".to_owned()),
        },
    }
}

fn describe_node(node: &Node) -> RayNode {
    let labels = node.launch.iter().flat_map(|(name, launch)| {
        [(NODE_LABEL.to_owned(), name.to_string()), (LAUNCH_LABEL.to_owned(), launch.to_string())]
    });
    RayNode {
        id: node.id.clone(),
        address: node.address.clone(),
        alive: node.alive,
        draining: node.draining,
        head: node.head,
        resources: node.resources.clone(),
        labels: labels.collect(),
    }
}

fn unavailable(message: &str) -> EffectError {
    EffectError { kind: ErrorKind::Unavailable, message: message.to_owned() }
}

fn rejected(message: &str) -> EffectError {
    EffectError { kind: ErrorKind::Rejected, message: message.to_owned() }
}
