//! The planner on EC2: what is asked for, what is done when it is not to be had, and that nothing is ever forgotten.

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

impl Region {
    pub(super) fn new(spec: &str) -> Self {
        let span = Span::from_secs;
        let snapshot = Snapshot {
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
        };
        Self {
            snapshot,
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

#[test]
fn a_cluster_comes_from_nothing_and_rests() {
    let mut region = Region::new(SPOT);
    region.run(60);
    assert_eq!(region.ready(), 4, "{:#?}", region.snapshot.record.nodes);
    let head = &region.launches[0];
    assert_eq!((head.market, head.subnet.as_str()), (MarketKind::OnDemand, "subnet-a"));
    let zones: BTreeSet<&str> = region.launches[1..].iter().map(|offering| offering.zone.as_str()).collect();
    assert_eq!(zones.len(), 2, "one zone's end is every node's: {:?}", region.launches);
    assert!(
        region.launches[1..]
            .iter()
            .all(|it| it.market == MarketKind::Spot && it.instance_type == "g5.xlarge")
    );
    // What the manifest leaves open is what every type of the group has.
    let node = region.snapshot.record.nodes.values().find(|node| node.group.is_some()).unwrap();
    assert_eq!(node.template.resources.cpu.unwrap().0, 4000);
    assert_eq!(node.template.resources.gpu, Some(1));
    let before = region.snapshot.record.clone();
    region.run(600);
    assert_eq!(region.launches.len(), 4);
    assert_eq!(region.snapshot.record, before);
}

#[test]
fn what_is_out_rests_and_is_tried_by_one() {
    let mut region = Region::new(SPOT);
    region.refuse = |offering| (offering.instance_type == "g5.xlarge").then_some(ErrorKind::NoCapacity);
    region.run(120);
    assert_eq!(region.ready(), 4, "{:?}", region.launches);
    assert!(region.up().iter().all(|instance| instance.instance_type != "g5.xlarge"));
    let refused =
        |region: &Region| region.launches.iter().filter(|it| it.instance_type == "g5.xlarge").count();
    // All three were on their way when the first refusal came.
    assert!(refused(&region) <= 3, "{:?}", region.launches);
    let so_far = refused(&region);
    region.terminate(|instance| instance.instance_type == "g4dn.xlarge");
    region.run(100);
    assert_eq!(refused(&region), so_far, "it is asked for while it rests");
    // Rests are at most 3 minutes and a fifth at first.
    region.run(300);
    region.terminate(|instance| instance.instance_type == "g4dn.xlarge");
    region.run(30);
    let asked = refused(&region) - so_far;
    assert!((1..=2).contains(&asked), "one launch in each zone tries it: {asked}");
}

#[test]
fn without_spot_instances_there_are_others_or_none() {
    let mut region = Region::new(SPOT);
    region.refuse = |offering| (offering.market == MarketKind::Spot).then_some(ErrorKind::MarketLimit);
    region.run(120);
    assert_eq!(region.ready(), 4, "{:?}", region.launches);
    assert!(region.up().iter().all(|instance| instance.market == MarketKind::OnDemand));

    let mut strict = Region::new(&SPOT.replace("{onDemandFallback: true}", "{}"));
    strict.refuse = region.refuse;
    strict.run(1800);
    assert_eq!(strict.ready(), 1);
    assert!(
        strict.waiting().iter().any(|it| it.starts_with("NoCapacity: EC2 has none")),
        "{:?}",
        strict.waiting()
    );
    // Half an hour of it: no hot loop.
    assert!(strict.launches.len() < 12, "{} launches", strict.launches.len());
    strict.refuse = |_| None;
    strict.run(1900);
    assert_eq!(strict.ready(), 4);
}

#[test]
fn a_launch_without_a_reply_is_the_same_launch_again() {
    let mut region = Region::new(SPOT);
    region.run(30);
    region.terminate(|instance| instance.market == MarketKind::Spot);
    region.lost_replies = true;
    region.run(300);
    assert_eq!(region.up().len(), 4, "{:#?}", region.instances);
    region.lost_replies = false;
    region.run(60);
    assert_eq!((region.up().len(), region.ready()), (4, 4));
    assert!(region.ended.is_empty());
}

#[test]
fn a_changed_template_replaces_instances_one_by_one() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let workers = |region: &Region| -> BTreeSet<IntentId> {
        let nodes = region.snapshot.record.nodes.values().filter(|node| node.group.is_some());
        nodes.map(|node| node.launch.clone()).collect()
    };
    let before = workers(&region);
    let group = &mut region.snapshot.cluster.as_mut().unwrap().spec.worker_groups[0];
    group.template.labels.insert("disk".to_owned(), "new".to_owned());
    for _ in 0..60 {
        region.round();
        let paid = region.instances.values().filter(|it| it.phase != InstancePhase::Terminated).count();
        // The head and three nodes are wanted, and one more may be there.
        assert!(paid <= 5 && region.ready() >= 4, "{paid} instances, {} nodes", region.ready());
    }
    assert!(workers(&region).is_disjoint(&before), "{:#?}", region.snapshot.record.nodes);
    assert_eq!((region.up().len(), region.launches.len()), (4, 7));
}

#[test]
fn nothing_is_replaced_before_a_new_type_was_looked_up() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let group = &mut region.snapshot.cluster.as_mut().unwrap().spec.worker_groups[0];
    group.template.instance.as_mut().unwrap().types.push("g6.xlarge".to_owned());
    region.run(120);
    assert_eq!((region.ready(), region.launches.len()), (4, 4));
}

#[test]
fn what_is_nobodys_is_ended_and_what_is_not_ours_is_not() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let stray = InstanceId::from("i-stray".to_owned());
    region.instances.insert(
        stray.clone(),
        instance(Some(IntentId::from("n-of-a-lost-store".to_owned())), &spot("g5.xlarge", "us-west-2a")),
    );
    region.run(50);
    assert!(region.ended.is_empty(), "it was ended at first sight");
    region.visible = false;
    region.run(300);
    assert!(region.ended.is_empty(), "it was ended unseen");
    region.visible = true;
    region.run(30);
    assert_eq!(region.ended, [stray]);
    assert!(region.events.iter().any(|event| event.starts_with("OrphanFound")));
    assert_eq!(region.ready(), 4);
}

#[test]
fn what_is_not_seen_is_not_gone() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let launches = region.launches.len();
    region.visible = false;
    region.run(1200);
    assert_eq!((region.ready(), region.launches.len()), (4, launches));
    region.visible = true;
    // One listing without it says nothing.
    let (id, one) = region.instances.iter().find(|(_, it)| it.market == MarketKind::Spot).unwrap();
    let (id, one) = (id.clone(), one.clone());
    region.instances.remove(&id);
    region.run(20);
    region.instances.insert(id.clone(), one);
    region.run(120);
    assert_eq!((region.ready(), region.launches.len()), (4, launches));
    // An instance that has ended is replaced, and nothing else is.
    region.instances.get_mut(&id).unwrap().phase = InstancePhase::Terminated;
    region.instances.get_mut(&id).unwrap().reason = "Server.SpotInstanceTermination".to_owned();
    region.run(60);
    assert_eq!((region.ready(), region.launches.len()), (4, launches + 1));
    assert!(
        region.events.iter().any(|event| event.contains("Server.SpotInstanceTermination")),
        "{:?}",
        region.events
    );
}

#[test]
fn a_group_whose_nodes_never_join_is_paused() {
    let spec = SPOT.replace("iamInstanceProfile: ray", "joinTimeout: 2m");
    let mut region = Region::new(&spec);
    region.run(30);
    region.terminate(|instance| instance.market == MarketKind::Spot);
    // The head has joined before.
    region.joins = false;
    let launches = region.launches.len();
    region.run(3000);
    let tried = region.launches.len() - launches;
    assert!(tried <= 9, "{tried} launches in 50 minutes");
    assert!(region.waiting().iter().any(|it| it.contains("paused after 3 nodes")), "{:?}", region.waiting());
    region.run(30);
    let paused = region.launches.len();
    region.joins = true;
    let spec = spec.replace("[g5.xlarge, g4dn.xlarge]", "[g4dn.xlarge]");
    region.snapshot.cluster = Some(cluster(&spec));
    region.run(120);
    assert!(region.launches.len() > paused, "another template is tried at once");
    assert_eq!(region.ready(), 4, "{:?}", region.waiting());
}

#[test]
fn a_cluster_goes_only_when_every_instance_has_ended() {
    let mut region = Region::new(SPOT);
    region.run(60);
    region.stuck = true;
    region.delete();
    region.run(300);
    let removed = |region: &Region| !region.last.as_ref().unwrap().removals.is_empty();
    assert!(!removed(&region) && region.snapshot.record.incarnation.is_some());
    // The head goes last: through it the workers are seen.
    assert!(region.up().iter().all(|instance| instance.market == MarketKind::OnDemand));
    region.stuck = false;
    region.visible = false;
    region.run(120);
    assert!(!removed(&region), "it went though nobody could look");
    region.visible = true;
    for _ in 0..24 {
        region.round();
        if removed(&region) {
            break;
        }
    }
    assert!(removed(&region), "{:?}", region.waiting());
}
