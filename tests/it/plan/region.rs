//! EC2 and a Ray cluster, as far as a plan can tell: what a plan asks for has happened by the next.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rayconcile::action::{Effect, EffectError, EffectResult, ErrorKind, IntentState};
use rayconcile::api::aws::{AwsNetwork, MarketKind, Offering, TypeFacts};
use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::ids::{Digest, InstanceId, IntentId, RayNodeId, Uid};
use rayconcile::api::meta::{ObjectKey, ObjectMeta};
use rayconcile::api::object::{Object, RayCluster};
use rayconcile::api::observed::{CloudInstance, InstancePhase, Instances, LAUNCH_LABEL, Observed};
use rayconcile::api::record::{ClusterRecord, Incarnation, NodeState, digest_of};
use rayconcile::api::units::{Bytes, Span};
use rayconcile::api::wire::{AgentState, PROTOCOL, RayNode};
use rayconcile::plan::guards::Guards;
use rayconcile::plan::snapshot::{Machine, Seen, Settings};
use rayconcile::plan::{Plan, Snapshot, plan};

/// A head and three spot nodes, or on-demand ones while there is no spot, in two zones.
pub(super) const SPOT: &str = "
provider: {aws: {region: us-west-2, subnets: [subnet-a, subnet-b], iamInstanceProfile: ray}}
head: {instance: {types: [m5.large], image: {id: ami-1}}}
workerGroups:
  - name: gpu
    minNodes: 3
    maxNodes: 4
    market: {spot: {onDemandFallback: true}}
    template: {instance: {types: [g5.xlarge, g4dn.xlarge], image: {id: ami-1}}}
";

/// EC2 and a Ray cluster, as far as a plan can tell.
pub(super) struct Region {
    pub(super) snapshot: Snapshot,
    pub(super) instances: Instances,
    /// What EC2 answers to a launch, if not with an instance.
    pub(super) refuse: fn(&Offering) -> Option<ErrorKind>,
    /// Whether instances join Ray.
    pub(super) joins: bool,
    /// Whether replies to launches are lost, though they take place.
    pub(super) lost_replies: bool,
    /// Whether EC2 can be asked what there is.
    pub(super) visible: bool,
    /// Whether what is to end never does.
    pub(super) stuck: bool,
    /// What opening the cluster is answered with, if not with success.
    pub(super) closed: Option<ErrorKind>,
    /// How many seconds a round takes.
    pub(super) pace: i64,
    /// The launches whose instances are nodes of Ray, listed by EC2 or not.
    pub(super) joined: BTreeSet<IntentId>,
    pub(super) opened: Vec<String>,
    pub(super) launches: Vec<Offering>,
    pub(super) ended: Vec<InstanceId>,
    /// The nodes on which Ray starts nothing more.
    pub(super) drained: BTreeSet<RayNodeId>,
    pub(super) events: Vec<String>,
    pub(super) last: Option<Plan>,
}

pub(super) fn cluster(spec: &str) -> RayCluster {
    let value: serde_json::Value = serde_yaml::from_str(spec).unwrap();
    let mut spec: RayClusterSpec = serde_json::from_value(value).unwrap();
    spec.fill_defaults();
    let mut metadata = ObjectMeta::named("default", "gpu");
    metadata.uid = Uid::from("u1".to_owned());
    Object { metadata, spec, status: Default::default() }
}

fn facts(cpus: u32, gpus: u32, zones: &[&str]) -> TypeFacts {
    TypeFacts {
        cpus,
        gpus,
        memory: Bytes(16 << 30),
        architectures: BTreeSet::new(),
        spot: true,
        zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
    }
}

fn network(settings: Digest) -> AwsNetwork {
    let both = &["us-west-2a", "us-west-2b"][..];
    AwsNetwork {
        region: "us-west-2".to_owned(),
        subnets: vec![
            ("subnet-a".to_owned(), "us-west-2a".to_owned()),
            ("subnet-b".to_owned(), "us-west-2b".to_owned()),
        ],
        security_groups: vec!["sg-1".to_owned()],
        head_interface: "eni-1".to_owned(),
        head_address: "10.0.0.5".to_owned(),
        token_parameter: None,
        images: BTreeMap::new(),
        root_devices: BTreeMap::new(),
        types: BTreeMap::from([
            ("m5.large".to_owned(), facts(2, 0, both)),
            ("g5.xlarge".to_owned(), facts(4, 1, both)),
            ("g4dn.xlarge".to_owned(), facts(4, 1, both)),
            ("p9.large".to_owned(), facts(4, 1, both)),
        ]),
        settings,
        at: Timestamp::UNIX_EPOCH,
        spot_prices: BTreeMap::new(),
        list_prices: None,
        published: None,
    }
}

/// A world with a cluster, of which nothing was seen yet.
pub(super) fn snapshot(spec: &str) -> Snapshot {
    let span = Span::from_secs;
    Snapshot {
        now: "2026-11-28T00:00:00Z".parse().unwrap(),
        seed: 1,
        key: ObjectKey::new("default", "gpu"),
        cluster: Some(cluster(spec)),
        record: ClusterRecord::default(),
        jobs: Vec::new(),
        intents: Vec::new(),
        in_flight: BTreeSet::new(),
        seen: Seen::default(),
        settings: Settings {
            lease: span(20),
            built_in_idle: span(60),
            join_timeout: span(60),
            machine: Machine { cpus: 1, gpus: 0, memory: Bytes(1 << 30) },
        },
        guards: Guards::default(),
    }
}

impl Region {
    pub(super) fn new(spec: &str) -> Self {
        Self {
            snapshot: snapshot(spec),
            instances: Instances::new(),
            refuse: |_| None,
            joins: true,
            lost_replies: false,
            visible: true,
            stuck: false,
            closed: None,
            pace: 5,
            joined: BTreeSet::new(),
            opened: Vec::new(),
            launches: Vec::new(),
            ended: Vec::new(),
            drained: BTreeSet::new(),
            events: Vec::new(),
            last: None,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.snapshot.now
    }

    /// Plans, keeps and does, every five seconds, for so long.
    pub(super) fn run(&mut self, seconds: i64) {
        for _ in 0..seconds / self.pace {
            self.round();
        }
    }

    pub(super) fn round(&mut self) {
        self.snapshot.now += SignedDuration::from_secs(self.pace);
        self.snapshot.seed += 1;
        if !self.stuck {
            self.settle();
        }
        self.look();
        let made = plan(&self.snapshot);
        self.snapshot.record = made.record.clone();
        self.snapshot.intents = made.intents.clone();
        for view in &mut self.snapshot.jobs {
            view.record = made.jobs[&view.job.metadata.uid].clone();
        }
        self.events.extend(made.events.iter().map(|event| format!("{}: {}", event.reason, event.message)));
        for index in 0..self.snapshot.intents.len() {
            let intent = &self.snapshot.intents[index];
            if intent.state == IntentState::Pending && intent.not_before <= self.now() {
                self.carry_out(index);
            }
        }
        self.last = Some(made);
    }

    pub(super) fn look(&mut self) {
        let now = self.now();
        let seen = &mut self.snapshot.seen;
        match self.visible {
            true => seen.instances = Observed::seen(now, self.instances.clone()),
            false => seen.instances.fail(now, "expired credentials".to_owned()),
        }
        let submitted = self.snapshot.record.agent.is_some();
        for instance in self.instances.values() {
            let Some(launch) = instance.launch.clone() else { continue };
            match instance.phase.is_up() {
                true if self.joins => _ = self.joined.insert(launch),
                true => {}
                false => _ = self.joined.remove(&launch),
            }
        }
        let node = |launch: &IntentId| {
            let id = RayNodeId::from(format!("ray-{launch}"));
            RayNode {
                draining: self.drained.contains(&id),
                id,
                address: "10.0.0.9".to_owned(),
                alive: true,
                head: false,
                resources: BTreeMap::new(),
                labels: BTreeMap::from([(LAUNCH_LABEL.to_owned(), launch.to_string())]),
            }
        };
        let nodes: Vec<RayNode> = self.joined.iter().map(node).collect();
        if !submitted {
            seen.agent = Observed::default();
            return;
        }
        let head = RayNodeId::from("head".to_owned());
        let (instance, jobs) = ("agent".to_owned(), BTreeMap::new());
        let state = AgentState {
            protocol: PROTOCOL,
            ray_version: String::new(),
            instance,
            version: 1,
            head,
            nodes,
            requested: None,
            jobs,
        };
        seen.agent = Observed::seen(now, state);
    }

    pub(super) fn carry_out(&mut self, index: usize) {
        let (id, effect) = {
            let intent = &mut self.snapshot.intents[index];
            intent.attempts += 1;
            (intent.id.clone(), intent.effect.clone())
        };
        let at = self.now();
        let settings = self.snapshot.cluster.as_ref().unwrap().spec.aws().unwrap().digest();
        let result = match effect {
            Effect::OpenCluster { incarnation } if self.closed.is_some() => {
                self.opened.push(incarnation);
                Err(self.closed.unwrap())
            }
            Effect::OpenCluster { incarnation } => Ok(EffectResult::Opened(Box::new(Incarnation {
                id: incarnation,
                since: at,
                dashboard: "http://10.0.0.5:8265".to_owned(),
                agent: "http://10.0.0.5:8267".to_owned(),
                ray_version: String::new(),
                missing: Vec::new(),
                local: None,
                aws: Some(AwsNetwork {
                    published: self.snapshot.cluster.as_ref().map(|cluster| digest_of(&cluster.spec)),
                    ..network(settings)
                }),
            }))),
            Effect::LaunchNode { offering, .. } => self.launch(&id, offering.unwrap()),
            // EC2 may list it later.
            Effect::TerminateNode { launch, since, .. }
                if at.duration_since(since) < SignedDuration::from_mins(1)
                    && !self.instances.values().any(|it| it.launch.as_ref() == Some(&launch)) =>
            {
                Err(ErrorKind::Unavailable)
            }
            Effect::TerminateNode { launch, .. } => {
                self.terminate(|instance| instance.launch.as_ref() == Some(&launch));
                Ok(EffectResult::Done)
            }
            Effect::DrainNode { ray, .. } => {
                self.drained.insert(ray);
                Ok(EffectResult::Done)
            }
            Effect::TerminateInstance { instance } => {
                self.ended.push(instance.clone());
                self.instances.get_mut(&instance).unwrap().phase = InstancePhase::ShuttingDown;
                Ok(EffectResult::Done)
            }
            Effect::CloseCluster { incarnation } => {
                self.opened.retain(|open| *open != incarnation);
                Ok(EffectResult::Done)
            }
            _ => Ok(EffectResult::Done),
        };
        self.snapshot.intents[index].state = match result {
            Ok(result) => IntentState::Done { at, result },
            Err(kind) => {
                IntentState::Failed { at, error: EffectError { kind, message: format!("{kind:?}") } }
            }
        };
    }

    pub(super) fn launch(
        &mut self,
        launch: &IntentId,
        offering: Offering,
    ) -> Result<EffectResult, ErrorKind> {
        self.launches.push(offering.clone());
        if let Some(kind) = (self.refuse)(&offering) {
            return Err(kind);
        }
        let known = self.instances.values().any(|instance| instance.launch.as_ref() == Some(launch));
        if !known {
            let id = InstanceId::from(format!("i-{}", self.instances.len()));
            self.instances.insert(id, instance(Some(launch.clone()), &offering));
        }
        if self.lost_replies { Err(ErrorKind::Unavailable) } else { Ok(EffectResult::Done) }
    }

    pub(super) fn terminate(&mut self, which: impl Fn(&CloudInstance) -> bool) {
        for instance in self.instances.values_mut().filter(|instance| which(instance)) {
            instance.phase = InstancePhase::ShuttingDown;
        }
    }

    pub(super) fn up(&self) -> Vec<&CloudInstance> {
        self.instances.values().filter(|instance| instance.phase.is_up()).collect()
    }

    pub(super) fn ready(&self) -> usize {
        let nodes = self.snapshot.record.nodes.values();
        nodes.filter(|node| matches!(node.state, NodeState::Ready { .. })).count()
    }

    pub(super) fn waiting(&self) -> Vec<String> {
        let report = &self.last.as_ref().unwrap().report.cluster;
        report.waiting.iter().map(|waiting| format!("{}: {}", waiting.reason, waiting.message)).collect()
    }

    /// EC2 ends what it was told to end.
    pub(super) fn settle(&mut self) {
        let ending = self.instances.values_mut().filter(|it| it.phase == InstancePhase::ShuttingDown);
        ending.for_each(|instance| instance.phase = InstancePhase::Terminated);
    }

    pub(super) fn delete(&mut self) {
        self.snapshot.cluster.as_mut().unwrap().metadata.deletion_timestamp = Some(self.now());
    }
}

pub(super) fn instance(launch: Option<IntentId>, offering: &Offering) -> CloudInstance {
    CloudInstance {
        launch,
        phase: InstancePhase::Running,
        instance_type: offering.instance_type.clone(),
        zone: offering.zone.clone(),
        market: offering.market,
        address: None,
        reason: String::new(),
    }
}

pub(super) fn spot(instance_type: &str, zone: &str) -> Offering {
    Offering {
        instance_type: instance_type.to_owned(),
        subnet: String::new(),
        zone: zone.to_owned(),
        market: MarketKind::Spot,
        max_price: None,
        image: "ami-1".to_owned(),
        root_device: None,
    }
}
