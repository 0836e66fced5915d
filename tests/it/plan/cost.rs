//! What clusters on EC2 cost: the limit is never passed, whatever replies are lost, and the bill is right.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use rayconcile::action::ErrorKind;
use rayconcile::api::aws::MarketKind;
use rayconcile::api::cost::{JobCosts, ListPrices};
use rayconcile::api::document::{Desired, Document, SlotKind, SlotSpec};
use rayconcile::api::ids::{InstanceId, IntentId, NodeName, RayNodeId, SlotId, Uid};
use rayconcile::api::job::{AdaptDLJobSpec, WorkerResources};
use rayconcile::api::meta::ObjectMeta;
use rayconcile::api::money::Money;
use rayconcile::api::object::Object;
use rayconcile::api::observed::{InstancePhase, Observed};
use rayconcile::api::record::{Binding, JobRecord};
use rayconcile::api::units::Span;
use rayconcile::plan::plan;
use rayconcile::plan::snapshot::JobView;

use super::region::{Region, cluster, instance, spot};

/// A head, and three spot nodes of which two can be paid for: the next would be 1.30 or 1.10 dollars an hour.
const LIMITED: &str = r#"
provider:
  aws:
    region: us-west-2
    subnets: [subnet-a, subnet-b]
    iamInstanceProfile: ray
    prices:
      m5.large: {onDemand: "0.10"}
      g5.xlarge: {onDemand: "1.00", spot: "0.40"}
      g4dn.xlarge: {onDemand: "0.50", spot: "0.20"}
maxHourlyCost: "1.00"
head: {instance: {types: [m5.large], image: {id: ami-1}}}
workerGroups:
  - name: gpu
    minNodes: 3
    maxNodes: 4
    market: {spot: {}}
    template: {instance: {types: [g5.xlarge, g4dn.xlarge], image: {id: ami-1}}}
"#;

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

impl Region {
    /// What EC2 charges for an hour of everything that has not ended.
    fn hourly(&self) -> Money {
        let left = self.instances.values().filter(|it| it.phase != InstancePhase::Terminated);
        left.map(|it| match (it.instance_type.as_str(), it.market) {
            ("m5.large", _) => money("0.10"),
            ("g5.xlarge", MarketKind::Spot) => money("0.40"),
            ("g4dn.xlarge", MarketKind::Spot) => money("0.20"),
            other => panic!("{other:?} has no price here"),
        })
        .sum()
    }

    fn spent(&self) -> Money {
        self.snapshot.record.costs.as_ref().unwrap().spent.at(self.now())
    }

    fn job(&mut self, name: &str, spec: &str) -> Uid {
        let spec: serde_json::Value = serde_yaml::from_str(spec).unwrap();
        let spec: AdaptDLJobSpec = serde_json::from_value(spec).unwrap();
        let mut metadata = ObjectMeta::named("default", name);
        metadata.uid = Uid::from(name.to_owned());
        let job = Object { metadata, spec, status: Default::default() };
        let uid = job.metadata.uid.clone();
        self.snapshot.jobs.push(JobView { job, record: JobRecord::default(), logs_behind: 0 });
        uid
    }
}

#[test]
fn nothing_is_launched_beyond_the_limit_and_no_hot_loop_tries() {
    let mut region = Region::new(LIMITED);
    region.run(1800);
    assert_eq!((region.ready(), region.launches.len(), region.hourly()), (3, 3, money("0.90")));
    let why = "MaxHourlyCost: g5.xlarge spot at $0.40/h would bring the cluster from $0.90/h to $1.30/h, more than its \
               maxHourlyCost of $1.00/h";
    assert_eq!(region.waiting(), [why]);
    let before = region.snapshot.record.clone();
    region.run(600);
    assert_eq!(region.snapshot.record, before, "what stays as it is need not be written again");
    // Now the cheaper one fits, to the cent.
    region.snapshot.cluster =
        Some(cluster(&LIMITED.replace("maxHourlyCost: \"1.00\"", "maxHourlyCost: 1.1")));
    region.run(30);
    assert_eq!((region.ready(), region.hourly()), (4, money("1.10")), "{:?}", region.waiting());
    // A limit that is lowered ends nothing.
    region.snapshot.cluster =
        Some(cluster(&LIMITED.replace("maxHourlyCost: \"1.00\"", "maxHourlyCost: 0.5")));
    region.run(120);
    assert_eq!(region.ready(), 4);
}

#[test]
fn what_may_be_paid_for_counts_until_it_is_known_to_have_ended() {
    let mut region = Region::new(LIMITED);
    region.run(60);
    region.stuck = true;
    region.terminate(|instance| instance.market == MarketKind::Spot);
    region.run(600);
    assert_eq!((region.launches.len(), region.hourly()), (3, money("0.90")), "they are not gone yet");
    region.stuck = false;
    region.lost_replies = true;
    for _ in 0..120 {
        region.round();
        assert!(region.hourly() <= money("1.00"), "{:#?}", region.instances);
    }
    region.lost_replies = false;
    region.run(60);
    assert_eq!((region.ready(), region.hourly()), (3, money("0.90")));
    // Nobody can say what there is: nothing is launched.
    region.visible = false;
    region.run(60);
    let launches = region.launches.len();
    region.terminate(|instance| instance.market == MarketKind::Spot);
    region.run(300);
    assert_eq!(region.launches.len(), launches);
}

#[test]
fn instances_that_are_no_nodes_count_too() {
    let mut region = Region::new(LIMITED);
    let stray =
        instance(Some(IntentId::from("n-of-a-lost-store".to_owned())), &spot("g5.xlarge", "us-west-2a"));
    region.instances.insert(InstanceId::from("i-stray".to_owned()), stray);
    region.run(50);
    assert_eq!((region.ready(), region.hourly()), (2, money("0.90")), "{:?}", region.waiting());
    // It is ended after a minute.
    region.run(60);
    assert_eq!((region.ready(), region.hourly()), (3, money("0.90")), "{:?}", region.waiting());
}

#[test]
fn a_price_that_is_not_known_is_never_taken_for_nothing() {
    let spec =
        LIMITED.replace("[g5.xlarge, g4dn.xlarge]", "[p9.large]").replace("{spot: {}}", "{onDemand: {}}");
    let mut region = Region::new(&spec);
    region.run(300);
    assert_eq!(region.launches.len(), 1);
    let why = "MaxHourlyCost: with maxHourlyCost nothing is launched while the price of p9.large on-demand is not known: \
               say it in provider.aws.prices, as p9.large: {onDemand: \"...\"}";
    assert_eq!(region.waiting(), [why]);
    // Without a limit it is launched, and said to be in no sum.
    region.snapshot.cluster = Some(cluster(&spec.replace("maxHourlyCost: \"1.00\"", "")));
    region.run(60);
    let costs = region.snapshot.record.costs.clone().unwrap();
    assert_eq!((region.ready(), costs.spent.per_hour), (4, money("0.10")));
    assert_eq!(costs.unpriced, BTreeSet::from(["p9.large on-demand".to_owned()]));
    // With a limit again, nobody can say how far it is.
    region.snapshot.cluster = Some(cluster(&spec.replace("p9.large]", "g5.xlarge]")));
    region.run(60);
    assert_eq!(region.launches.len(), 4);
}

#[test]
fn without_capacity_and_without_money_the_one_that_ends_by_itself_is_told() {
    let mut region = Region::new(&LIMITED.replace("\"1.00\"", "\"0.35\""));
    region.refuse = |offering| (offering.instance_type == "g4dn.xlarge").then_some(ErrorKind::NoCapacity);
    region.run(600);
    assert!(region.waiting().iter().all(|it| it.starts_with("NoCapacity")), "{:?}", region.waiting());
    assert!(region.launches.len() < 8, "{} launches", region.launches.len());
}

#[test]
fn the_bill_is_right_across_ends_price_changes_and_restarts() {
    let spec =
        LIMITED.replace(r#"g5.xlarge: {onDemand: "1.00", spot: "0.40"}"#, r#"g5.xlarge: {onDemand: "1.00"}"#);
    let mut region = Region::new(&spec.replace("maxHourlyCost: \"1.00\"", "").replace(", g4dn.xlarge]", "]"));
    let say = |region: &mut Region, price: &str| {
        let zones = ["us-west-2a", "us-west-2b"].map(|zone| (zone.to_owned(), money(price)));
        let prices = BTreeMap::from([("g5.xlarge".to_owned(), BTreeMap::from(zones))]);
        region.snapshot.seen.spot_prices = Observed::seen(region.now(), prices);
    };
    let five = SignedDuration::from_secs(5);
    let (mut expected, mut price) = (Money::default(), "0.40");
    say(&mut region, price);
    for round in 0..2000 {
        match round {
            700 => price = "0.80",
            1000 => region.terminate(|instance| instance.market == MarketKind::Spot),
            // A controller that has just started knows what is in the store.
            1200 => {
                let text = serde_json::to_string(&region.snapshot.record).unwrap();
                region.snapshot.record = serde_json::from_str(&text).unwrap();
                region.snapshot.seen = Default::default();
            }
            _ => {}
        }
        if round == 700 {
            say(&mut region, price);
        }
        region.round();
        for up in region.up() {
            let market = up.market == MarketKind::Spot;
            expected += money(if market { price } else { "0.10" }).over(five);
        }
    }
    // Each change is seen a round or two later.
    let (spent, allowed) = (region.spent(), money("2.5").over(five + five + five));
    let difference = spent.less(expected) + expected.less(spent);
    assert!(difference < allowed, "{spent} instead of {expected}");
    let saved = region.snapshot.record.costs.as_ref().unwrap().saved.at(region.now());
    assert!(saved > money("1") && saved < spent, "{saved} of {spent}");

    region.delete();
    region.run(120);
    assert!(region.up().is_empty());
    let spent = region.spent();
    region.run(3600);
    assert_eq!(region.spent(), spent, "what has ended costs nothing");
}

/// A job with slots on nodes, of which its bridge has been told.
fn with_slots(region: &Region, nodes: &[&NodeName]) -> JobRecord {
    let slot = |node: &NodeName| SlotSpec {
        node: node.clone(),
        ray: RayNodeId::from(String::new()),
        kind: SlotKind {
            resources: WorkerResources::default(),
            runtime_env: Default::default(),
            package: None,
        }
        .into(),
    };
    let slots = nodes.iter().enumerate().map(|(index, node)| (SlotId::from(format!("s{index}")), slot(node)));
    let document = Document {
        revision: 1,
        desired: Desired::Stop { grace: Span::from_secs(60) },
        slots: slots.collect::<BTreeMap<_, _>>().into(),
        checkpoint_timeout: Span::from_secs(60),
        checkpoint_interval: Span::from_secs(60),
        checkpoint_keep: 2,
        checkpoint_path: None,
        artifacts: Vec::new(),
        fenced: BTreeSet::new(),
        fence_until: None,
        progress_deadline: Span::from_secs(0),
        save_request: None,
        metadata_endpoint: None,
        min_replicas: 1,
    };
    let incarnation = region.snapshot.record.incarnation.as_ref().unwrap().id.clone();
    let binding = Binding { cluster: region.snapshot.key.clone(), incarnation, bridge: None };
    JobRecord { revision: 1, document: Some(document), binding: Some(binding), ..JobRecord::default() }
}

#[test]
fn a_job_pays_its_share_of_the_nodes_it_is_on() {
    let mut region = Region::new(LIMITED);
    region.run(60);
    let nodes = region.snapshot.record.nodes.clone();
    let workers: Vec<&NodeName> =
        nodes.iter().filter(|(_, node)| node.group.is_some()).map(|(name, _)| name).collect();
    let (one, two) = (workers[0], workers[1]);
    for (name, slots) in [("most", vec![one, one, one, two]), ("least", vec![one]), ("none", vec![])] {
        region.job(name, "{clusterRef: {name: gpu}, entrypoint: main.py, suspend: true}");
        let record = with_slots(&region, &slots);
        region.snapshot.jobs.last_mut().unwrap().record = record;
    }
    let made = plan(&region.snapshot);
    let costs = |name: &str| made.jobs[&Uid::from(name.to_owned())].costs.clone();
    let per_hour = |costs: Option<JobCosts>| costs.map(|costs| costs.spent.per_hour);
    // Three quarters of one, and all of the other.
    assert_eq!(per_hour(costs("most")), Some(money("0.70")));
    assert_eq!((per_hour(costs("least")), costs("none")), (Some(money("0.10")), None));
}

#[test]
fn jobs_run_on_what_can_be_paid_for() {
    let mut region = Region::new(&LIMITED.replace("minNodes: 3", "minNodes: 0"));
    let spec = "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 4, resources: {gpu: 1}, \
                scaling: {policy: Fixed, replicas: 4}}";
    let uid = region.job("ada", spec);
    region.run(300);
    let last = region.last.as_ref().unwrap();
    let group = last.jobs[&uid].groups.last().unwrap();
    assert_eq!((group.nodes.len(), region.hourly()), (2, money("0.90")), "{:?}", last.report.jobs[&uid]);
    assert!(region.waiting().iter().any(|it| it.starts_with("MaxHourlyCost: ")), "{:?}", region.waiting());
}

#[test]
fn the_price_list_goes_before_the_table_and_is_kept() {
    let spec =
        LIMITED.replace("      m5.large: {onDemand: \"0.10\"}\n", "").replace("minNodes: 3", "minNodes: 0");
    let mut region = Region::new(&spec);
    region.run(60);
    let hourly = |region: &Region| region.snapshot.record.costs.as_ref().unwrap().spent.per_hour;
    assert_eq!(hourly(&region), money("0.096"), "as in the table");
    let say = |region: &mut Region, prices: &[(&str, Option<&str>)]| {
        let prices = prices.iter().map(|(name, price)| ((*name).to_owned(), price.map(money)));
        let listed = ListPrices { at: region.now(), prices: prices.collect() };
        region.snapshot.seen.list_prices = Observed::seen(region.now(), listed);
        region.run(10);
    };
    say(&mut region, &[("m5.large", Some("0.111")), ("g5.xlarge", None)]);
    assert_eq!(hourly(&region), money("0.111"));
    // A controller that has just started knows what is in the store.
    let text = serde_json::to_string(&region.snapshot.record).unwrap();
    region.snapshot.record = serde_json::from_str(&text).unwrap();
    region.snapshot.seen = Default::default();
    region.run(10);
    assert_eq!(hourly(&region), money("0.111"));
    // What was not asked again may still be paid for; what the list has no more is as in the table.
    say(&mut region, &[("g5.xlarge", Some("1"))]);
    assert_eq!(hourly(&region), money("0.111"));
    say(&mut region, &[("m5.large", None)]);
    assert_eq!(hourly(&region), money("0.096"));
    // What cannot be asked changes nothing.
    say(&mut region, &[("m5.large", Some("0.2"))]);
    let now = region.now();
    region.snapshot.seen.list_prices.fail(now, "no".to_owned());
    region.run(10);
    assert_eq!(hourly(&region), money("0.2"));
}
