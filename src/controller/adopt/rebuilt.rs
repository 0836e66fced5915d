//! What a lost state directory knew of a cluster, as far as the cluster shows it: its nodes and its jobs.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::aws::Offering;
use crate::api::cluster::{NodeTemplate, RayClusterSpec};
use crate::api::ids::{IntentId, NodeName};
use crate::api::keepsake::{JobKeepsake, Keepsakes};
use crate::api::meta::ObjectKey;
use crate::api::object::AdaptDLJob;
use crate::api::observed::LAUNCH_LABEL;
use crate::api::record::{ClusterRecord, Incarnation, JobRecord, NodeRecord, NodeState};
use crate::api::shared::Shared;
use crate::api::wire::{AgentState, RayNode};
use crate::provider::aws::{FoundCluster, FoundInstance};

/// The jobs whose bridges are on the cluster.
pub(super) fn jobs(
    keepsakes: Keepsakes,
    state: &AgentState,
    cluster: &ObjectKey,
    incarnation: &str,
    warnings: &mut Vec<String>,
) -> Vec<(AdaptDLJob, JobRecord)> {
    let mut jobs = Vec::new();
    for (uid, keepsake) in keepsakes {
        let keepsake: JobKeepsake = match serde_json::from_value(keepsake) {
            Ok(keepsake) => keepsake,
            Err(error) => {
                warnings.push(format!("what the cluster has kept of job {uid} is not understood: {error}"));
                continue;
            }
        };
        let (mut job, mut record) = keepsake.restore();
        let binding = record.binding.as_ref();
        if binding.is_none_or(|it| it.cluster != *cluster || it.incarnation != incarnation) {
            continue; // It has left since.
        }
        job.metadata.uid = uid;
        // Only what is newer than all that was sent is listened to.
        let revision = state.jobs.get(&job.metadata.uid).and_then(|bridge| bridge.revision);
        record.revision = record.revision.max(revision.unwrap_or(0));
        jobs.push((job, record));
    }
    jobs
}

/// What was decided for a cluster, as its instances show it. Those of other incarnations are none of its nodes.
pub(super) fn record(
    found: &FoundCluster,
    spec: &RayClusterSpec,
    incarnation: Incarnation,
    state: &AgentState,
    jobs: &[(AdaptDLJob, JobRecord)],
    now: Timestamp,
) -> ClusterRecord {
    let own = found
        .instances
        .iter()
        .filter(|instance| instance.incarnation == incarnation.id && instance.seen.phase.is_up());
    // They were launched as what their templates came to.
    let mut spec = spec.clone();
    if let Some(network) = &incarnation.aws {
        network.resolve(&mut spec.head);
        spec.worker_groups.iter_mut().for_each(|group| network.resolve(&mut group.template));
    }
    let mut nodes = BTreeMap::new();
    for instance in own {
        let (Some(name), Some(launch)) = (&instance.node, &instance.seen.launch) else { continue };
        // Of two with one name the other is no node: it is ended.
        nodes.entry(name.clone()).or_insert_with(|| node(name, launch, instance, &spec, state, now).into());
    }
    // Names are not used twice: those that the jobs remember are of nodes that may be gone.
    let groups = jobs.iter().flat_map(|(_, record)| &record.groups);
    let launched = groups.flat_map(|group| &group.nodes).chain(nodes.keys()).map(index).max().unwrap_or(0);
    ClusterRecord { incarnation: Some(incarnation), launched, nodes, ..ClusterRecord::default() }
}

fn node(
    name: &NodeName,
    launch: &IntentId,
    instance: &FoundInstance,
    spec: &RayClusterSpec,
    state: &AgentState,
    now: Timestamp,
) -> NodeRecord {
    let group = instance.group.as_deref();
    let template =
        spec.worker_groups.iter().find(|it| Some(it.name.as_str()) == group).map(|it| &it.template);
    let template = match group {
        None => Some(&spec.head),
        Some(_) => template,
    };
    let is_it =
        |node: &&RayNode| node.alive && node.labels.get(LAUNCH_LABEL).is_some_and(|label| *label == launch.0);
    let ray = state.nodes.iter().find(is_it).map(|node| node.id.clone());
    NodeRecord {
        group: instance.group.clone(),
        index: index(name),
        launch: launch.clone(),
        // Of a group that is not wanted any more it does not matter.
        template: template.cloned().unwrap_or_else(NodeTemplate::default).into(),
        offering: Some(Shared::from(Offering {
            instance_type: instance.seen.instance_type.clone(),
            subnet: instance.subnet.clone(),
            zone: instance.seen.zone.clone(),
            market: instance.seen.market,
            max_price: None,
            image: instance.image.clone(),
            root_device: None,
        })),
        instance: Some(instance.id.clone()),
        missing_since: None,
        ended: None,
        state: match ray {
            Some(_) => NodeState::Ready { since: instance.launched.unwrap_or(now) },
            None => NodeState::Launching { since: now },
        },
        ray,
        idle_since: None,
        notice: None,
    }
}

/// The how-many-eth launch it was, which a worker's name ends with; the head is the first.
fn index(name: &NodeName) -> u64 {
    name.0.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::aws::MarketKind;
    use crate::api::ids::{Digest, GroupNumber, InstanceId, RayNodeId, Uid};
    use crate::api::meta::ObjectMeta;
    use crate::api::observed::{CloudInstance, InstancePhase, LAUNCH_LABEL};
    use crate::api::record::{Binding, GroupReason, GroupRecord};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn instance(number: u32, node: &str, group: Option<&str>, incarnation: &str) -> FoundInstance {
        FoundInstance {
            id: InstanceId::from(format!("i-{number}")),
            node: Some(node.into()),
            group: group.map(str::to_owned),
            incarnation: incarnation.to_owned(),
            subnet: "subnet-a".to_owned(),
            image: "ami-1".to_owned(),
            launched: Some(at(50)),
            seen: CloudInstance {
                launch: Some(IntentId::from(format!("launch-{number}"))),
                phase: InstancePhase::Running,
                instance_type: "m5.large".to_owned(),
                zone: "us-west-2a".to_owned(),
                market: MarketKind::Spot,
                address: None,
                reason: String::new(),
            },
        }
    }

    fn incarnation() -> Incarnation {
        Incarnation {
            id: "r2".to_owned(),
            since: at(50),
            dashboard: String::new(),
            agent: String::new(),
            ray_version: String::new(),
            missing: Vec::new(),
            local: None,
            aws: None,
        }
    }

    fn spec() -> RayClusterSpec {
        serde_json::from_value(json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a"]}},
            "workerGroups": [{"name": "spot", "maxNodes": 8, "template": {"resources": {"cpu": "2"}}}],
        }))
        .unwrap()
    }

    fn state(jobs: Value) -> AgentState {
        let labels = json!({LAUNCH_LABEL: "launch-2"});
        let node = json!({"id": "n2", "address": "a", "alive": true, "draining": false, "head": false, "labels": labels});
        serde_json::from_value(
            json!({"protocol": 3, "instance": "a", "version": 1, "head": "h", "nodes": [node], "jobs": jobs}),
        )
        .unwrap()
    }

    fn kept(incarnation: &str) -> Value {
        let spec = serde_json::from_value(json!({"command": ["train"]})).unwrap();
        let job = AdaptDLJob { metadata: ObjectMeta::named("team", "far"), spec, status: Default::default() };
        let group = GroupRecord::new(
            GroupNumber(4),
            at(60),
            (GroupReason::Started, String::new()),
            Digest::default(),
            vec!["gpu-spot-9".into()],
            Shared::default(),
            0,
        );
        let record = JobRecord {
            binding: Some(Binding {
                cluster: ObjectKey::new("team", "gpu"),
                incarnation: incarnation.to_owned(),
                bridge: Some(("b".to_owned(), at(70))),
            }),
            revision: 3,
            sent: Some((3, at(70))),
            groups: vec![group.into()],
            ..JobRecord::default()
        };
        serde_json::to_value(JobKeepsake::of(&job, &record)).unwrap()
    }

    #[test]
    fn nodes_are_what_their_instances_say_and_keep_their_launch() {
        let mut ending = instance(4, "gpu-spot-8", Some("spot"), "r2");
        ending.seen.phase = InstancePhase::ShuttingDown;
        let found = FoundCluster {
            region: "us-west-2".to_owned(),
            uid: Uid::from("u-1"),
            key: None,
            incarnations: BTreeSet::new(),
            instances: vec![
                instance(1, "gpu-head", None, "r2"),
                instance(2, "gpu-spot-3", Some("spot"), "r2"),
                instance(3, "gpu-spot-7", Some("spot"), "r1"),
                ending,
            ],
            shared: BTreeMap::new(),
        };
        let record = record(&found, &spec(), incarnation(), &state(json!({})), &[], at(100));
        let names: Vec<&str> = record.nodes.keys().map(|name| name.0.as_str()).collect();
        assert_eq!(names, ["gpu-head", "gpu-spot-3"], "none of another incarnation, and none that ends");
        let worker = &record.nodes[&NodeName::from("gpu-spot-3")];
        assert_eq!((worker.launch.0.as_str(), worker.index, record.launched), ("launch-2", 3, 3));
        assert_eq!(worker.template, spec().worker_groups[0].template);
        assert_eq!(
            (&worker.ray, &worker.state),
            (&Some(RayNodeId::from("n2")), &NodeState::Ready { since: at(50) })
        );
        // The agent has not seen it: it may still join.
        let head = &record.nodes[&NodeName::from("gpu-head")];
        assert_eq!((&head.group, &head.state), (&None, &NodeState::Launching { since: at(100) }));
    }

    #[test]
    fn jobs_go_on_where_the_bridge_is() {
        let keepsakes = Keepsakes::from([
            (Uid::from("j-1"), kept("r2")),
            (Uid::from("j-2"), kept("r1")),
            (Uid::from("j-3"), json!({"spec": 1})),
        ]);
        let told = state(json!({"j-1": {"ageMs": 0.0, "phase": "Active", "revision": 5}}));
        let mut warnings = Vec::new();
        let jobs = jobs(keepsakes, &told, &ObjectKey::new("team", "gpu"), "r2", &mut warnings);
        let [(job, adopted)] = jobs.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((job.metadata.uid.0.as_str(), job.metadata.name.as_str()), ("j-1", "far"));
        assert_eq!((adopted.revision, adopted.sent, adopted.next_group()), (5, None, GroupNumber(5)));
        assert_eq!(adopted.binding.as_ref().unwrap().bridge, None);
        assert!(warnings.len() == 1 && warnings[0].contains("job j-3 is not understood"), "{warnings:?}");
        // Names of nodes that jobs remember are not used again.
        let found = FoundCluster {
            region: String::new(),
            uid: Uid::from("u-1"),
            key: None,
            incarnations: BTreeSet::new(),
            instances: Vec::new(),
            shared: BTreeMap::new(),
        };
        assert_eq!(record(&found, &spec(), incarnation(), &told, &jobs, at(100)).launched, 9);
    }
}
