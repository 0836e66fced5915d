//! A cluster on EC2 with its jobs as a planner sees it, in which everything that is asked for has happened by the next
//! plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use rayconcile::action::{Effect, EffectResult, IntentState};
use rayconcile::api::aws::{AwsNetwork, AwsProvider, MarketKind, Offering, TypeFacts};
use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::document::{Desired, Document, GroupSpec};
use rayconcile::api::ids::{Digest, InstanceId, IntentId, RayNodeId, Uid};
use rayconcile::api::meta::{ObjectKey, ObjectMeta};
use rayconcile::api::object::{AdaptDLJob, Object};
use rayconcile::api::observed::{CloudInstance, InstancePhase, Instances, LAUNCH_LABEL, Observed};
use rayconcile::api::record::{ClusterRecord, Incarnation, JobRecord, NodeState, digest_of};
use rayconcile::api::units::{Bytes, Span};
use rayconcile::api::wire::{
    AgentState, BridgePhase, BridgeReport, GroupPhase, GroupReport, Outcome, PROTOCOL, RankReport, RayNode,
    SlotReport,
};
use rayconcile::plan::guards::Guards;
use rayconcile::plan::report::Report;
use rayconcile::plan::snapshot::{JobView, Machine, Seen, Settings};
use rayconcile::plan::{Snapshot, plan};

/// Workers of each job; each fills a node.
pub(crate) const WORKERS: u32 = 16;

/// EC2, Ray and the jobs' bridges.
pub(crate) struct Region {
    snapshot: Snapshot,
    instances: Instances,
    agent: AgentState,
    quiet: bool,
    /// What the newest plan said.
    said: Report,
}

impl Region {
    /// A cluster that has so many nodes, idle or not, and so many jobs.
    pub(crate) fn new(nodes: u32, jobs: u32) -> Self {
        let group = |name: &str| {
            json!({
                "name": name, "minNodes": nodes / 2, "maxNodes": nodes / 2, "market": {"spot": {}},
                "template": {"instance": {"types": ["g5.xlarge", "g4dn.xlarge"], "image": {"id": "ami-1"}}},
            })
        };
        let mut spec: RayClusterSpec = read(json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a"], "iamInstanceProfile": "ray"}},
            "head": {"instance": {"types": ["m5.large"], "image": {"id": "ami-1"}}},
            "workerGroups": [group("a"), group("b")],
        }));
        spec.fill_defaults();
        let snapshot = Snapshot {
            now: "2026-11-28T00:00:00Z".parse().unwrap(),
            seed: 1,
            key: ObjectKey::new("default", "big"),
            cluster: Some(Object { metadata: named("big"), spec, status: Default::default() }),
            record: ClusterRecord::default(),
            jobs: (0..jobs).map(job).collect(),
            intents: Vec::new(),
            in_flight: BTreeSet::new(),
            seen: Seen::default(),
            settings: Settings {
                lease: Span::from_secs(20),
                built_in_idle: Span::from_secs(60),
                join_timeout: Span::from_secs(60),
                machine: Machine { cpus: 1, gpus: 0, memory: Bytes(1 << 30) },
            },
            guards: Guards::default(),
        };
        let agent = AgentState {
            protocol: PROTOCOL,
            ray_version: String::new(),
            instance: "agent".to_owned(),
            version: 1,
            head: RayNodeId::from("head".to_owned()),
            nodes: Vec::new(),
            requested: None,
            jobs: BTreeMap::new(),
        };
        Self { snapshot, instances: Instances::new(), agent, quiet: false, said: Report::default() }
    }

    /// What a plan is made from now.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Plans, and does what is wanted; says how long the plan took on a CPU, in milliseconds.
    pub(crate) fn round(&mut self) -> f64 {
        self.snapshot.now += SignedDuration::from_secs(2);
        self.snapshot.seed += 1;
        self.look();
        let begun = on_cpu();
        let made = plan(&self.snapshot);
        let taken = on_cpu() - begun;
        self.quiet = made.intents.is_empty() && made.record == self.snapshot.record;
        self.said = made.report;
        for view in &mut self.snapshot.jobs {
            view.record = made.jobs[&view.job.metadata.uid].clone();
        }
        self.snapshot.record = made.record;
        self.snapshot.intents = made.intents;
        for index in 0..self.snapshot.intents.len() {
            self.carry_out(index);
        }
        taken
    }

    /// Goes on until all is as wanted; gives the times of all plans but the last, which had nothing to do.
    pub(crate) fn settle(&mut self) -> Vec<f64> {
        let mut times = Vec::new();
        for _ in 0..2000 {
            let taken = self.round();
            if self.is_quiet() {
                return times;
            }
            times.push(taken);
        }
        panic!("it does not come to rest: {:#?}, intents: {:#?}", self.said, self.snapshot.intents)
    }

    /// Whether nothing is to be done, and all jobs have their workers.
    pub(crate) fn is_quiet(&self) -> bool {
        let ready = |state: &NodeState| matches!(state, NodeState::Ready { .. });
        let whole = |job: &JobRecord| {
            job.target().is_some_and(|group| group.nodes.len() == WORKERS as usize && group.outcome.is_none())
        };
        self.quiet
            && self.snapshot.record.nodes.values().all(|node| ready(&node.state))
            && self.snapshot.jobs.iter().all(|view| whole(&view.record))
    }

    /// EC2 takes so many instances at once, from all over the cluster.
    pub(crate) fn lose(&mut self, count: u32) {
        let head = MarketKind::OnDemand;
        let mut up: Vec<_> =
            self.instances.values_mut().filter(|it| it.market != head && it.phase.is_up()).collect();
        let step = up.len() / count as usize;
        up.iter_mut().step_by(step).take(count as usize).for_each(|it| it.phase = InstancePhase::Terminated);
        self.quiet = false;
    }

    fn look(&mut self) {
        let now = self.snapshot.now;
        self.agent.nodes = self.instances.values().filter(|it| it.phase.is_up()).map(ray_node).collect();
        let alive: BTreeSet<&RayNodeId> = self.agent.nodes.iter().map(|node| &node.id).collect();
        for view in &self.snapshot.jobs {
            let Some(document) = &view.record.document else { continue };
            let bridge = self.agent.jobs.entry(view.job.metadata.uid.clone()).or_insert_with(bridge);
            follow(bridge, document, &alive);
        }
        self.snapshot.seen.instances = Observed::seen(now, self.instances.clone());
        if self.snapshot.record.agent.is_some() {
            self.snapshot.seen.agent = Observed::seen(now, self.agent.clone());
        }
    }

    fn carry_out(&mut self, index: usize) {
        let intent = &mut self.snapshot.intents[index];
        let at = self.snapshot.now;
        let cluster = self.snapshot.cluster.as_ref().and_then(|cluster| cluster.spec.aws());
        let published = self.snapshot.cluster.as_ref().map(|cluster| digest_of(&cluster.spec));
        let settings = cluster.map(AwsProvider::digest).unwrap_or_default();
        let mut result = EffectResult::Done;
        match &intent.effect {
            Effect::OpenCluster { incarnation } => {
                result = EffectResult::Opened(Box::new(Incarnation {
                    id: incarnation.clone(),
                    since: at,
                    dashboard: "http://10.0.0.5:8265".to_owned(),
                    agent: "http://10.0.0.5:8267".to_owned(),
                    ray_version: String::new(),
                    missing: Vec::new(),
                    local: None,
                    aws: Some(network(settings, published)),
                }));
            }
            Effect::LaunchNode { offering: Some(offering), .. } => {
                let id = InstanceId::from(format!("i-{:06}", self.instances.len()));
                self.instances.insert(id, instance(&intent.id, offering));
            }
            Effect::TerminateNode { launch, .. } => {
                let own = self.instances.values_mut().find(|it| it.launch.as_ref() == Some(launch));
                own.unwrap().phase = InstancePhase::Terminated;
            }
            _ => {}
        }
        intent.state = IntentState::Done { at, result };
    }
}

/// How long this thread has been on a CPU, in milliseconds: what else the machine does is not counted.
pub(crate) fn on_cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn named(name: &str) -> ObjectMeta {
    let mut metadata = ObjectMeta::named("default", name);
    metadata.uid = Uid::from(format!("uid-of-{name}"));
    metadata
}

fn job(number: u32) -> JobView {
    let spec = read(json!({
        "clusterRef": {"name": "big"}, "entrypoint": "main.py", "minReplicas": 1, "maxReplicas": WORKERS,
        "resources": {"cpu": 1, "gpu": 1}, "scaling": {"policy": "Fixed", "replicas": WORKERS},
    }));
    let job: AdaptDLJob =
        Object { metadata: named(&format!("job-{number:04}")), spec, status: Default::default() };
    JobView { job, record: JobRecord::default(), logs_behind: 0 }
}

fn network(settings: Digest, published: Option<Digest>) -> AwsNetwork {
    let zone = "us-west-2a".to_owned();
    let facts = |cpus, gpus| TypeFacts {
        cpus,
        gpus,
        memory: Bytes(16 << 30),
        architectures: BTreeSet::new(),
        spot: true,
        zones: BTreeSet::from([zone.clone()]),
    };
    AwsNetwork {
        region: "us-west-2".to_owned(),
        subnets: vec![("subnet-a".to_owned(), zone.clone())],
        security_groups: vec!["sg-1".to_owned()],
        head_interface: "eni-1".to_owned(),
        head_address: "10.0.0.5".to_owned(),
        token_parameter: None,
        images: BTreeMap::new(),
        root_devices: BTreeMap::new(),
        types: BTreeMap::from([
            ("m5.large".to_owned(), facts(2, 0)),
            ("g5.xlarge".to_owned(), facts(4, 1)),
            ("g4dn.xlarge".to_owned(), facts(4, 1)),
        ]),
        settings,
        spot_prices: BTreeMap::new(),
        list_prices: None,
        at: Timestamp::UNIX_EPOCH,
        published,
    }
}

fn instance(launch: &IntentId, offering: &Offering) -> CloudInstance {
    CloudInstance {
        launch: Some(launch.clone()),
        phase: InstancePhase::Running,
        instance_type: offering.instance_type.clone(),
        zone: offering.zone.clone(),
        market: offering.market,
        address: None,
        reason: String::new(),
    }
}

fn ray_node(instance: &CloudInstance) -> RayNode {
    let launch = instance.launch.clone().unwrap();
    RayNode {
        id: RayNodeId::from(format!("ray-{launch}")),
        address: "10.0.0.9".to_owned(),
        alive: true,
        draining: false,
        head: false,
        resources: BTreeMap::new(),
        labels: BTreeMap::from([(LAUNCH_LABEL.to_owned(), launch.to_string())]),
    }
}

fn bridge() -> BridgeReport {
    BridgeReport {
        age_ms: 0.0,
        phase: BridgePhase::Active,
        bridge: "b".to_owned(),
        revision: None,
        slots: Vec::new(),
        groups: Vec::new(),
        blobs: Vec::new(),
        notices: Vec::new(),
        save_request: None,
        notes: Vec::new(),
        logs: Vec::new(),
        message: None,
    }
}

/// A bridge does what it is told: a new group trains at once, and one that has lost a node has ended.
fn follow(bridge: &mut BridgeReport, document: &Document, alive: &BTreeSet<&RayNodeId>) {
    bridge.revision = Some(document.revision);
    if let Desired::Run { group, .. } = &document.desired
        && bridge.groups.iter().all(|known| known.number != group.number)
    {
        let slot = |(id, slot): (&_, &rayconcile::api::document::SlotSpec)| SlotReport {
            id: Clone::clone(id),
            node: slot.ray.clone(),
            state: "Ready".to_owned(),
            message: None,
        };
        bridge.slots = document.slots.iter().map(slot).collect();
        bridge.groups = vec![trains(group, document)];
    }
    if let Desired::Stop { .. } = document.desired {
        bridge.slots.clear();
        for group in bridge.groups.iter_mut().filter(|group| group.outcome.is_none()) {
            group.phase = GroupPhase::Ended;
            group.outcome = Some(Outcome::Stopped { saved: false });
        }
    }
    bridge.slots.retain(|slot| alive.contains(&slot.node));
    for group in bridge.groups.iter_mut().filter(|group| group.outcome.is_none()) {
        if group.ranks.iter().any(|rank| !alive.contains(&rank.node)) {
            group.phase = GroupPhase::Ended;
            group.outcome = Some(Outcome::Lost { message: "a node is lost".to_owned() });
        }
    }
}

fn trains(group: &GroupSpec, document: &Document) -> GroupReport {
    let ranks = group.ranks.iter().zip(0..).map(|(slot, rank)| RankReport {
        rank,
        slot: slot.clone(),
        node: document.slots[slot].ray.clone(),
        pid: None,
        arrived: true,
        joined: true,
        exit: None,
    });
    GroupReport {
        number: group.number,
        alone: None,
        phase: GroupPhase::Running,
        ranks: ranks.collect(),
        times: BTreeMap::from([("released".to_owned(), 1.0)]),
        outcome: None,
        restored: None,
        steps: 10,
        first_step: Some(1.0),
        last_step: Some(0.0),
        epoch: None,
        progress: None,
        batch_size: None,
        hints: None,
        hints_number: 0,
    }
}
