//! EC2 as it is on a bad day: late, silent, refusing, taking back. Nothing is forgotten for that, nothing done twice, and
//! nothing asked for again and again.

use jiff::SignedDuration;
use rayconcile::action::{Effect, ErrorKind};
use rayconcile::api::aws::MarketKind;
use rayconcile::api::ids::{InstanceId, IntentId, NodeName, RayNodeId};
use rayconcile::api::observed::InstancePhase;
use rayconcile::api::record::NodeState;
use rayconcile::api::units::Span;
use rayconcile::plan::{late_launches, plan};

use super::region::{Region, SPOT, cluster, instance, spot};

fn removed(region: &Region) -> bool {
    !region.last.as_ref().unwrap().removals.is_empty()
}

fn events(region: &Region, reason: &str) -> usize {
    region.events.iter().filter(|event| event.starts_with(reason)).count()
}

#[test]
fn what_was_made_for_a_cluster_that_could_not_be_opened_is_found_again_and_removed() {
    let mut region = Region::new(SPOT);
    region.closed = Some(ErrorKind::Rejected);
    region.run(900);
    assert!(region.opened.len() > 2, "it was not tried again");
    region.opened.dedup();
    assert_eq!(region.opened.len(), 1, "each try made things of its own: {:?}", region.opened);
    region.delete();
    region.run(30);
    assert!(removed(&region) || region.snapshot.record.opening.is_none());
    assert!(region.opened.is_empty(), "it went without what was made for it: {:?}", region.opened);
}

#[test]
fn an_instance_that_is_listed_late_is_not_lost() {
    let mut region = Region::new(SPOT);
    region.run(60);
    // The launch of another takes two minutes to be answered; EC2 lists its instance only in the next round.
    region.terminate(|instance| instance.market == MarketKind::Spot && instance.zone == "us-west-2a");
    region.refuse = |_| Some(ErrorKind::Unavailable);
    region.run(120);
    region.refuse = |_| None;
    let launches = region.instances.len();
    while region.instances.len() == launches {
        region.round();
    }
    let new: Vec<InstanceId> = region
        .instances
        .iter()
        .filter(|(_, it)| {
            it.phase.is_up()
                && !region
                    .snapshot
                    .record
                    .nodes
                    .values()
                    .any(|node| node.instance.as_ref() == Some(&instance_id(&region, it)))
        })
        .map(|(id, _)| id.clone())
        .collect();
    let hidden: Vec<_> = new.iter().map(|id| (id.clone(), region.instances.remove(id).unwrap())).collect();
    region.round();
    region.instances.extend(hidden);
    region.run(60);
    assert_eq!(events(&region, "NodeNotStarted"), 0, "{:?}", region.events);
    assert_eq!(region.ready(), 4);
}

fn instance_id(region: &Region, wanted: &rayconcile::api::observed::CloudInstance) -> InstanceId {
    region.instances.iter().find(|(_, it)| *it == wanted).unwrap().0.clone()
}

#[test]
fn a_cluster_waits_for_instances_that_ec2_may_still_list() {
    let mut region = Region::new(SPOT);
    region.run(30);
    // A launch takes place, its reply is lost, and the cluster is deleted; EC2 lists the instance much later.
    region.snapshot.record.launched += 1;
    region.snapshot.record.last_launch = Some(region.now());
    region.delete();
    region.run(20);
    assert!(!removed(&region));
    let late = InstanceId::from("i-late".to_owned());
    let launch = IntentId::from("n-given-up".to_owned());
    region.instances.insert(late.clone(), instance(Some(launch), &spot("g5.xlarge", "us-west-2a")));
    region.run(300);
    assert_eq!(region.ended, [late]);
    assert!(region.up().is_empty() && region.snapshot.record.incarnation.is_none());
}

#[test]
fn an_older_listing_is_waited_for_with_patience() {
    let mut region = Region::new(SPOT);
    region.run(30);
    region.delete();
    while !region.snapshot.record.nodes.is_empty() {
        region.snapshot.record.last_launch = Some(region.now());
        region.round();
    }
    // What was launched last would be listed by now, but nobody has looked since.
    let mut snapshot = region.snapshot.clone();
    snapshot.now += SignedDuration::from_mins(1);
    let plan = plan(&snapshot);
    let waiting = &plan.report.cluster.waiting[0];
    assert!(waiting.message.starts_with("EC2 may still list"), "{waiting:?}");
    assert!(plan.wake_at.unwrap() > snapshot.now, "it is planned again and again");
}

#[test]
fn an_orphan_is_ended_once() {
    let mut region = Region::new(SPOT);
    region.run(60);
    region.pace = 1;
    let stray = InstanceId::from("i-stray".to_owned());
    let launch = IntentId::from("n-of-a-lost-store".to_owned());
    region.instances.insert(stray.clone(), instance(Some(launch), &spot("g5.xlarge", "us-west-2a")));
    for _ in 0..75 {
        region.round();
        // EC2 lists it as running for a while yet.
        region.instances.get_mut(&stray).unwrap().phase = InstancePhase::Running;
    }
    assert_eq!(region.ended.len(), 1, "{:?}", region.ended);
    assert_eq!(events(&region, "OrphanFound"), 1);
}

#[test]
fn what_ec2_takes_back_is_no_failure_of_the_group() {
    let mut region = Region::new(SPOT);
    region.run(20);
    region.joins = false;
    for _ in 0..4 {
        region.run(20);
        for instance in region.instances.values_mut() {
            if instance.market == MarketKind::Spot && instance.phase.is_up() {
                instance.phase = InstancePhase::Terminated;
                instance.reason = "Server.SpotInstanceTermination: Spot instance termination".to_owned();
            }
        }
    }
    assert!(region.snapshot.record.failing_groups.is_empty(), "{:?}", region.waiting());
    // That type in that zone rests: what is launched next is something else.
    let asked = |kind: &str| {
        let spot = region.launches.iter().filter(|it| it.market == MarketKind::Spot);
        spot.filter(|it| it.instance_type == kind).count()
    };
    assert!(asked("g5.xlarge") <= 4 && asked("g4dn.xlarge") > 0, "{:?}", region.launches);
}

#[test]
fn what_does_not_join_is_told_of_with_what_it_has_printed() {
    let spec = SPOT.replace("iamInstanceProfile: ray", "joinTimeout: 2m");
    let mut region = Region::new(&spec);
    region.run(60);
    region.terminate(|instance| instance.market == MarketKind::Spot && instance.zone == "us-west-2b");
    region.joins = false;
    let ready = region.ready();
    let mut asked = 0;
    while events(&region, "NodeNotJoined") == 0 {
        let timeout = Span::from_secs(120);
        for launch in late_launches(&region.snapshot.record, timeout, region.now()) {
            asked += 1;
            let launched =
                region.instances.values_mut().find(|it| it.launch.as_ref() == Some(&launch)).unwrap();
            launched.reason = "its console ends with\nno route to the head".to_owned();
        }
        region.round();
    }
    assert!((1..=8).contains(&asked), "only what has little time left is asked: {asked}");
    let told = "it did not join within 2m; its console ends with\nno route to the head";
    assert!(region.events.iter().any(|event| event.contains(told)), "{:?}", region.events);
    assert!(region.waiting().iter().any(|waiting| waiting.contains(told)), "{:?}", region.waiting());
    assert!(region.ready() <= ready);
}

#[test]
fn an_instance_whose_ray_was_started_again_is_replaced() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let (name, node) = region.snapshot.record.nodes.iter().find(|(_, node)| node.group.is_some()).unwrap();
    let name = name.clone();
    // As if it had joined under another id: what was on it then may still be alive.
    assert!(matches!(node.state, NodeState::Ready { .. }));
    region.snapshot.record.nodes.get_mut(&name).unwrap().ray = Some(RayNodeId::from("before".to_owned()));
    region.run(60);
    assert!(!region.snapshot.record.nodes.contains_key(&name), "{:?}", region.waiting());
    assert_eq!(region.ready(), 4);
}

#[test]
fn that_instances_cannot_be_seen_is_said() {
    let mut region = Region::new(SPOT);
    region.run(60);
    assert!(region.waiting().is_empty(), "{:?}", region.waiting());
    region.visible = false;
    region.run(30);
    assert!(
        region.waiting()[0].starts_with("CannotSeeInstances: EC2 cannot be asked"),
        "{:?}",
        region.waiting()
    );
}

#[test]
fn a_launch_that_comes_to_nothing_makes_way_for_what_is_wanted_now() {
    let mut region = Region::new(SPOT);
    region.run(20);
    region.refuse = |offering| (offering.instance_type == "g5.xlarge").then_some(ErrorKind::Unavailable);
    region.terminate(|instance| instance.market == MarketKind::Spot);
    region.run(60);
    region.snapshot.cluster = Some(cluster(&SPOT.replace("[g5.xlarge, g4dn.xlarge]", "[g4dn.xlarge]")));
    region.run(300);
    assert_eq!(region.ready(), 4, "{:?} {:#?}", region.waiting(), region.snapshot.record.nodes);
}

#[test]
fn a_refusal_of_one_group_is_not_anothers() {
    let two = format!(
        "{SPOT}  - {{name: cpu, minNodes: 1, maxNodes: 1, template: {{instance: {{types: [m5.large], image: {{id: ami-2}}}}}}}}\n"
    );
    let mut region = Region::new(&two);
    region.refuse = |offering| (offering.image == "ami-2").then_some(ErrorKind::Rejected);
    region.run(120);
    assert_eq!(region.ready(), 4, "{:?}", region.waiting());
    assert!(
        region.waiting().iter().any(|it| it.starts_with("GroupFailing: group cpu: ")),
        "{:?}",
        region.waiting()
    );
    let refused = region.launches.iter().filter(|it| it.image == "ami-2").count();
    assert!(refused < 10, "{refused} launches in two minutes");
}

#[test]
fn a_change_of_what_the_nodes_share_is_looked_up_again() {
    let mut region = Region::new(SPOT);
    region.run(60);
    let before = region.snapshot.record.incarnation.clone().unwrap();
    region.snapshot.cluster =
        Some(cluster(&SPOT.replace("iamInstanceProfile: ray", "access: {controllerCidr: 10.0.0.0/8}")));
    region.run(30);
    let after = region.snapshot.record.incarnation.clone().unwrap();
    assert_eq!((after.id, after.since), (before.id, before.since));
    assert_ne!(after.aws.unwrap().settings, before.aws.unwrap().settings);
    assert_eq!((region.ready(), region.launches.len()), (4, 4));
    let opens = |region: &Region| {
        region.snapshot.intents.iter().filter(|it| matches!(it.effect, Effect::OpenCluster { .. })).count()
    };
    region.snapshot.now += SignedDuration::from_secs(60);
    region.run(30);
    assert_eq!(opens(&region), 0);
}

#[test]
fn what_cannot_be_looked_up_again_is_said_and_keeps_nothing_from_going_on() {
    let mut region = Region::new(SPOT);
    region.run(60);
    region.closed = Some(ErrorKind::Unavailable);
    region.snapshot.cluster = Some(cluster(&SPOT.replace("minNodes: 3", "minNodes: 4")));
    region.run(120);
    assert_eq!(region.ready(), 5, "{:?}", region.waiting());
    assert!(region.waiting().iter().any(|it| it.starts_with("CannotOpen")), "{:?}", region.waiting());
    // A few tries, with more and more patience.
    assert!((2..12).contains(&region.opened.len()), "{} tries", region.opened.len());
    region.closed = None;
    region.run(60);
    assert!(region.waiting().is_empty(), "{:?}", region.waiting());
}

#[test]
fn a_launch_that_is_refused_after_one_without_a_reply_may_still_come_true() {
    let mut region = Region::new(&SPOT.replace("maxNodes: 4", "maxNodes: 3"));
    region.run(60);
    let (id, launch) = {
        let spot = region.instances.iter().find(|(_, it)| it.market == MarketKind::Spot);
        spot.map(|(id, it)| (id.clone(), it.launch.clone())).unwrap()
    };
    region.refuse = |_| Some(ErrorKind::Unavailable);
    region.terminate(|instance| instance.launch == launch);
    let asked = region.launches.len();
    while region.launches.len() == asked {
        region.round();
    }
    let (lost, _) = launching(&region).unwrap();
    region.refuse = |_| Some(ErrorKind::NoCapacity);
    while launching(&region).is_some_and(|(name, _)| name == lost) {
        region.round();
    }
    // It was refused; what was asked for before comes true.
    let node = region.snapshot.record.nodes[&lost].clone();
    assert!(matches!(node.state, NodeState::Terminating { .. }), "{node:?}");
    let late = InstanceId::from("i-late".to_owned());
    region
        .instances
        .insert(late.clone(), instance(Some(node.launch.clone()), node.offering.as_ref().unwrap()));
    region.refuse = |_| None;
    for _ in 0..60 {
        region.round();
        let workers = region.instances.iter().filter(|(other, it)| {
            it.market == MarketKind::Spot && it.phase != InstancePhase::Terminated && **other != id
        });
        assert!(workers.count() <= 3, "{:#?}", region.instances);
    }
    assert_eq!(region.instances[&late].phase, InstancePhase::Terminated);
    assert_eq!((region.ready(), region.up().len()), (4, 4), "{:?}", region.waiting());
}

fn launching(region: &Region) -> Option<(NodeName, IntentId)> {
    let mut nodes = region.snapshot.record.nodes.iter();
    let found = nodes.find(|(_, node)| matches!(node.state, NodeState::Launching { .. }));
    found.map(|(name, node)| (name.clone(), node.launch.clone()))
}
