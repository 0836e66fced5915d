//! The planner on EC2: what is asked for, what is done when it is not to be had, and that nothing is ever forgotten.

use std::collections::BTreeSet;

use rayconcile::action::ErrorKind;
use rayconcile::api::aws::MarketKind;
use rayconcile::api::ids::{InstanceId, IntentId};
use rayconcile::api::observed::InstancePhase;

use super::region::{Region, SPOT, cluster, instance, spot};

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
