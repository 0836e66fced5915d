//! What a plan comes to: the planner, again and again, in a world where everything that it asks for is done at once and
//! goes well. Nothing is touched by it.
//!
//! Where that world would have to say something that nobody knows, such as what EC2 offers before it was asked, it ends
//! there and says so. Programs make no progress in it, and nothing fails.

mod bridge;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::plan;
use super::report::Report;
use super::snapshot::Snapshot;
use crate::action::{Effect, EffectResult, Intent, IntentState};
use crate::api::cluster::Provider;
use crate::api::document::Document;
use crate::api::ids::{InstanceId, IntentId, NodeName, RayNodeId, Uid};
use crate::api::object::AnyObject;
use crate::api::observed::{CloudInstance, InstancePhase, LAUNCH_LABEL, LocalNode, Observed};
use crate::api::record::{GroupRecord, Incarnation, NodeRecord, NodeState, digest_of};
use crate::api::shared::Shared;
use crate::api::wire::{AgentState, RayNode};
use bridge::{blob, bridge, new_agent, obey};

/// How long one round takes.
const ROUND: SignedDuration = SignedDuration::from_secs(1);
/// A plan that has not come to rest after so many rounds never will.
const MOST_ROUNDS: usize = 400;

/// What a plan comes to.
pub struct Outlook {
    /// The world in the end.
    pub end: Snapshot,
    /// What the first plan says of itself.
    pub first: Report,
    /// What the last one does.
    pub last: Report,
    /// The nodes that were launched, by name.
    pub launched: BTreeMap<NodeName, Shared<NodeRecord>>,
    /// The nodes that were given back or ended, and why.
    pub given_back: BTreeMap<NodeName, String>,
    /// The groups that were wanted of each job.
    pub groups: BTreeMap<Uid, Vec<GroupRecord>>,
    /// Why no more can be said.
    pub unknown: Option<String>,
}

/// What comes of a snapshot within a time.
pub fn outlook(snapshot: &Snapshot, horizon: SignedDuration) -> Outlook {
    let mut world = World::new(snapshot.clone());
    let until = snapshot.now + horizon;
    let mut outlook = Outlook {
        end: snapshot.clone(),
        first: Report::default(),
        last: Report::default(),
        launched: BTreeMap::new(),
        given_back: BTreeMap::new(),
        groups: BTreeMap::new(),
        unknown: None,
    };
    for round in 0..MOST_ROUNDS {
        let calm = world.round(&mut outlook, round == 0);
        if world.unknown.is_some() || world.snapshot.now >= until {
            break;
        }
        match calm {
            Calm::No => world.snapshot.now += ROUND,
            Calm::Until(at) if at <= until => world.snapshot.now = at.max(world.snapshot.now + ROUND),
            Calm::Until(_) | Calm::ForEver => break,
        }
    }
    outlook.unknown = world.unknown.take();
    outlook.end = world.snapshot;
    outlook
}

/// Whether anything is left to be done.
enum Calm {
    No,
    Until(Timestamp),
    ForEver,
}

struct World {
    snapshot: Snapshot,
    unknown: Option<String>,
}

impl World {
    fn new(mut snapshot: Snapshot) -> Self {
        // What is under way is as good as done here.
        snapshot.in_flight.clear();
        snapshot.jobs.iter_mut().for_each(|view| view.logs_behind = 0);
        let mut world = Self { snapshot, unknown: None };
        let silent = world.snapshot.seen.agent.fresh().is_none();
        if world.snapshot.record.agent.is_some() && silent {
            let error = world.snapshot.seen.agent.error.as_ref();
            let why = error.map_or_else(|| "it was not asked yet".to_owned(), |(_, error)| error.clone());
            world.unknown = Some(format!("the cluster cannot be heard now: {why}"));
        }
        world
    }

    /// Plans, takes down what was decided, and does all of it.
    fn round(&mut self, outlook: &mut Outlook, first: bool) -> Calm {
        let joined = self.look();
        let snapshot = &mut self.snapshot;
        snapshot.seed = snapshot.seed.wrapping_add(1);
        let made = plan(snapshot);
        note_nodes(outlook, &snapshot.record.nodes, &made.record.nodes);
        for view in &snapshot.jobs {
            let uid = &view.job.metadata.uid;
            let known = view.record.groups.last().map(|group| group.number);
            let groups = made.jobs.get(uid).into_iter().flat_map(|record| &record.groups);
            let new = groups.filter(|group| Some(group.number) > known).map(|group| (**group).clone());
            outlook.groups.entry(uid.clone()).or_default().extend(new);
        }
        if first {
            outlook.first = made.report.clone();
        }
        outlook.last = made.report.clone();
        let mut changed = joined || snapshot.record != made.record || snapshot.intents != made.intents;
        snapshot.record = made.record;
        for view in &mut snapshot.jobs {
            if let Some(record) = made.jobs.get(&view.job.metadata.uid) {
                changed |= view.record != *record;
                view.record.clone_from(record);
            }
        }
        snapshot.intents = made.intents;
        for object in made.creations {
            if let AnyObject::Cluster(cluster) = object {
                snapshot.cluster = Some(*cluster);
                changed = true;
            }
        }
        for (_, key) in &made.deletions {
            let cluster = snapshot.cluster.as_mut().filter(|cluster| cluster.metadata.key() == *key);
            let now = snapshot.now;
            if let Some(cluster) = cluster {
                changed |= cluster.metadata.deletion_timestamp.replace(now).is_none();
            }
        }
        for removal in &made.removals {
            snapshot.jobs.retain(|view| view.job.metadata.uid != removal.uid);
            snapshot.cluster.take_if(|cluster| cluster.metadata.uid == removal.uid);
            changed = true;
        }
        changed |= self.act();
        match (changed, made.wake_at) {
            (true, _) => Calm::No,
            (false, Some(at)) => Calm::Until(at),
            (false, None) => Calm::ForEver,
        }
    }

    /// Everything that can be seen is seen now, and whatever was begun goes on; says whether a node has joined.
    fn look(&mut self) -> bool {
        let now = self.snapshot.now;
        let pending = self.snapshot.intents.iter().filter(|intent| intent.state == IntentState::Pending);
        let waiting: BTreeSet<IntentId> = pending.map(|intent| intent.id.clone()).collect();
        let nodes = self.snapshot.record.nodes.iter();
        let joining = nodes.filter(|(_, node)| matches!(node.state, NodeState::Launching { .. }));
        let joining: Vec<(NodeName, Shared<NodeRecord>)> = joining
            .filter(|(_, node)| !waiting.contains(&node.launch))
            .map(|(name, node)| (name.clone(), node.clone()))
            .collect();
        let joined = joining.iter().filter(|(name, node)| self.join(name, node)).count() > 0;
        let told: Vec<(Uid, Document)> = self
            .snapshot
            .jobs
            .iter()
            .filter_map(|view| Some((view.job.metadata.uid.clone(), view.record.document.clone()?)))
            .collect();
        if let Some(agent) = self.agent() {
            for (uid, document) in told {
                if agent.jobs.get(&uid).is_some_and(|bridge| bridge.revision == Some(document.revision)) {
                    obey(agent, &uid, &document);
                }
            }
        }
        let seen = &mut self.snapshot.seen;
        renew(&mut seen.agent, now);
        renew(&mut seen.processes, now);
        renew(&mut seen.instances, now);
        joined
    }

    fn agent(&mut self) -> Option<&mut AgentState> {
        let agent = &mut self.snapshot.seen.agent;
        let answers = agent.error.is_none();
        agent.last.as_mut().filter(|_| answers).map(|(_, state)| state)
    }

    fn join(&mut self, name: &NodeName, node: &NodeRecord) -> bool {
        let (head, launch) = (node.group.is_none(), node.launch.clone());
        let Some(agent) = self.agent() else { return false };
        let is_it = |known: &RayNode| known.labels.get(LAUNCH_LABEL).is_some_and(|label| *label == launch.0);
        let new = !agent.nodes.iter().any(is_it);
        if new {
            agent.nodes.push(RayNode {
                id: RayNodeId::from(format!("outlook-{launch}")),
                address: name.to_string(),
                alive: true,
                draining: false,
                head,
                resources: BTreeMap::new(),
                labels: BTreeMap::from([(LAUNCH_LABEL.to_owned(), launch.to_string())]),
            });
        }
        new
    }

    /// Does all that is due; says whether anything was.
    fn act(&mut self) -> bool {
        let mut acted = false;
        for index in 0..self.snapshot.intents.len() {
            let (now, intent) = (self.snapshot.now, self.snapshot.intents[index].clone());
            if intent.state != IntentState::Pending || intent.not_before > now {
                continue;
            }
            let Some(result) = self.carry_out(&intent) else { continue };
            self.snapshot.intents[index].state = IntentState::Done { at: now, result };
            acted = true;
        }
        acted
    }

    /// Does one thing; nothing if nobody knows what would come of it.
    fn carry_out(&mut self, intent: &Intent) -> Option<EffectResult> {
        let now = self.snapshot.now;
        match &intent.effect {
            Effect::OpenCluster { incarnation } => {
                return self.open(incarnation).map(|opened| EffectResult::Opened(Box::new(opened)));
            }
            Effect::CloseCluster { .. } | Effect::StopAgent { .. } => {
                self.snapshot.seen.agent = Observed::default();
            }
            Effect::SubmitAgent { .. } => self.snapshot.seen.agent = Observed::seen(now, new_agent()),
            Effect::LaunchNode { offering, group, .. } => {
                let seen = &mut self.snapshot.seen;
                if let Some(offering) = offering {
                    let instance = CloudInstance {
                        launch: Some(intent.id.clone()),
                        phase: InstancePhase::Running,
                        instance_type: offering.instance_type.clone(),
                        zone: offering.zone.clone(),
                        market: offering.market,
                        address: None,
                        reason: String::new(),
                    };
                    let instances = seen.instances.last.get_or_insert_default();
                    instances.1.insert(InstanceId::from(format!("outlook-{}", intent.id)), instance);
                } else {
                    let gcs = group.is_none();
                    let process =
                        LocalNode { leader: Some((1, 1)), raylet: true, gcs, ..LocalNode::default() };
                    let processes = seen.processes.last.get_or_insert_default();
                    processes.1.insert(intent.id.clone(), process);
                }
            }
            Effect::DrainNode { ray, .. } => {
                let nodes = self.agent().map(|agent| &mut agent.nodes);
                let drained = nodes.into_iter().flatten().filter(|node| node.id == *ray);
                drained.for_each(|node| node.draining = true);
            }
            Effect::TerminateNode { launch, .. } => self.end(launch),
            Effect::TerminateInstance { instance } => {
                if let Some((_, instances)) = &mut self.snapshot.seen.instances.last
                    && let Some(instance) = instances.get_mut(instance)
                {
                    instance.phase = InstancePhase::Terminated;
                }
            }
            Effect::RequestResources { bundles } => {
                if let Some(agent) = self.agent() {
                    agent.requested = Some(bundles.clone());
                }
            }
            Effect::SendDocument { job, .. } => {
                let view = self.snapshot.jobs.iter().find(|view| view.job.metadata.uid == *job);
                if let Some(document) = view.and_then(|view| view.record.document.clone())
                    && let Some(agent) = self.agent()
                {
                    obey(agent, job, &document);
                }
            }
            Effect::SendCheckpoint { job, id } => {
                if let Some(agent) = self.agent() {
                    bridge(agent, job).blobs.push(blob(*id));
                }
            }
            Effect::RemoveBridge { job, .. } => {
                if let Some(agent) = self.agent() {
                    agent.jobs.remove(job);
                }
            }
            Effect::FetchCheckpoint { .. }
            | Effect::FetchArtifacts { .. }
            | Effect::DeliverArtifacts { .. }
            | Effect::DropCheckpoint { .. } => {}
        }
        Some(EffectResult::Done)
    }

    /// Where the cluster is, as far as a plan needs to know.
    fn open(&mut self, id: &str) -> Option<Incarnation> {
        let cluster = self.snapshot.cluster.as_ref()?;
        match &cluster.spec.provider {
            Provider::Local(_) => Some(Incarnation {
                id: id.to_owned(),
                since: self.snapshot.now,
                dashboard: String::new(),
                agent: String::new(),
                ray_version: String::new(),
                missing: Vec::new(),
                local: None,
                aws: None,
            }),
            Provider::Existing(_) => {
                let why = "which nodes the cluster has is known when it has been reached";
                self.unknown = Some(why.to_owned());
                None
            }
            Provider::Aws(aws) => {
                let opened = self.snapshot.record.incarnation.clone();
                let opened = opened.filter(|opened| {
                    opened.aws.as_ref().is_some_and(|network| super::offers::is_known(&cluster.spec, network))
                });
                let settings = aws.digest();
                let published = Some(digest_of(&cluster.spec));
                if opened.is_none() {
                    let why = "what EC2 offers is asked when the cluster is opened";
                    self.unknown = Some(why.to_owned());
                }
                opened.map(|mut opened| {
                    if let Some(network) = &mut opened.aws {
                        (network.settings, network.published) = (settings, published);
                    }
                    opened
                })
            }
        }
    }

    /// Ends whatever was started for a launch.
    fn end(&mut self, launch: &IntentId) {
        let seen = &mut self.snapshot.seen;
        if let Some((_, processes)) = &mut seen.processes.last {
            processes.remove(launch);
        }
        if let Some((_, instances)) = &mut seen.instances.last {
            let its = instances.values_mut().filter(|instance| instance.launch.as_ref() == Some(launch));
            its.for_each(|instance| instance.phase = InstancePhase::Terminated);
        }
        if let Some(agent) = self.agent() {
            agent.nodes.retain(|node| node.labels.get(LAUNCH_LABEL).is_none_or(|label| *label != launch.0));
        }
    }
}

fn renew<T>(observed: &mut Observed<T>, now: Timestamp) {
    if let (Some((at, _)), None) = (&mut observed.last, &observed.error) {
        *at = now;
    }
}

/// Notes what a plan does with nodes.
fn note_nodes(
    outlook: &mut Outlook,
    before: &BTreeMap<NodeName, Shared<NodeRecord>>,
    after: &BTreeMap<NodeName, Shared<NodeRecord>>,
) {
    for (name, node) in after {
        let known = before.get(name);
        if known.is_none() {
            outlook.launched.insert(name.clone(), node.clone());
        }
        let wanted = known.is_none_or(|known| known.state.is_wanted());
        if let (true, NodeState::Draining { cause, .. } | NodeState::Terminating { cause, .. }) =
            (wanted, &node.state)
        {
            outlook.given_back.insert(name.clone(), cause.clone());
        }
    }
}
