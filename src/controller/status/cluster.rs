//! The status of a cluster.

use std::collections::HashMap;

use super::{accepted, converged, cost, since};
use crate::api::cluster::Provider;
use crate::api::condition::{Finding, Truth};
use crate::api::ids::{NodeName, RayNodeId};
use crate::api::meta::SOURCE_ERROR;
use crate::api::object::RayCluster;
use crate::api::record::{ClusterRecord, NodeState, Notice};
use crate::api::status::{ClusterPhase, InstanceStatus, NodeStatus, RayClusterStatus};
use crate::api::words::count_are;
use crate::cost::Prices;
use crate::plan::report::{ClusterReport, Waiting};
use crate::plan::snapshot::Seen;
use crate::plan::{Capacity, Snapshot};

/// The status of a cluster.
pub fn cluster_status(
    snapshot: &Snapshot,
    cluster: &RayCluster,
    record: &ClusterRecord,
    report: &ClusterReport,
) -> RayClusterStatus {
    let before = &cluster.status;
    let seen = &snapshot.seen;
    let phase = cluster_phase(cluster, record, seen);
    let nodes = node_statuses(cluster, record, report, seen);
    let ready = nodes.iter().filter(|node| node.group.is_some() && node.state == "Ready").count();
    let foreign = matches!(cluster.spec.provider, Provider::Existing(_));
    let message = report.waiting.first().map(|waiting| waiting.message.clone()).unwrap_or_default();
    let blind = phase == ClusterPhase::Unknown;
    let findings = [
        accepted(cluster.metadata.annotations.get(SOURCE_ERROR)),
        provisioned(record, report),
        head_ready(phase, seen),
        converged(&report.waiting, blind, &message),
    ];
    let generation = cluster.metadata.generation;
    let incarnation = record.incarnation.as_ref();
    let network = incarnation.and_then(|incarnation| incarnation.aws.as_ref());
    RayClusterStatus {
        observed_generation: generation,
        phase,
        message,
        phase_since: Some(since(before.phase == phase, before.phase_since, snapshot.now)),
        conditions: findings
            .into_iter()
            .map(|finding| finding.condition(&before.conditions, generation, snapshot.now))
            .collect(),
        dashboard: incarnation.map(|incarnation| incarnation.dashboard.clone()),
        ray_version: ray_version(record, seen),
        ready_nodes: u32::try_from(ready).unwrap_or(u32::MAX),
        desired_nodes: if foreign { u32::try_from(ready).unwrap_or(u32::MAX) } else { report.desired_nodes },
        nodes,
        cost: record.costs.as_ref().map(|costs| cost::of_cluster(costs, network, seen, snapshot.now)),
    }
}

/// Ray's version, as found when the cluster was opened, or, where only the head knows it, as its agent says.
fn ray_version(record: &ClusterRecord, seen: &Seen) -> Option<String> {
    let opened = record.incarnation.as_ref().map(|incarnation| &incarnation.ray_version);
    let told = seen.agent.last.as_ref().map(|(_, agent)| &agent.ray_version);
    opened.into_iter().chain(told).find(|version| !version.is_empty()).cloned()
}

fn cluster_phase(cluster: &RayCluster, record: &ClusterRecord, seen: &Seen) -> ClusterPhase {
    let there = record.incarnation.is_some() || !record.nodes.is_empty();
    if cluster.metadata.is_deleting() {
        return ClusterPhase::Stopping;
    }
    if cluster.spec.suspend {
        return if there { ClusterPhase::Stopping } else { ClusterPhase::Suspended };
    }
    let answered = record.agent.as_ref().is_some_and(|agent| agent.answered);
    match (seen.agent.fresh(), &record.trouble) {
        (Some(_), _) if record.incarnation.is_some() && !record.ending => ClusterPhase::Ready,
        (_, Some(trouble)) if trouble.count > 1 || !there => ClusterPhase::Failed,
        _ if answered && !record.ending => ClusterPhase::Unknown,
        _ if there => ClusterPhase::Starting,
        _ => ClusterPhase::Pending,
    }
}

fn provisioned(record: &ClusterRecord, report: &ClusterReport) -> Finding {
    const KIND: &str = "Provisioned";
    if let Some(trouble) = &record.trouble {
        let reason = if trouble.reason == "CannotOpen" { "CannotOpen" } else { "CannotLaunch" };
        return Finding::new(KIND, false, reason, trouble.message.clone());
    }
    let missing = |waiting: &&Waiting| {
        waiting.blocked && matches!(waiting.reason, "NoCapacity" | "MaxHourlyCost" | "GroupFailing")
    };
    if let Some(blocked) = report.waiting.iter().find(missing) {
        return Finding::new(KIND, false, blocked.reason, blocked.message.clone());
    }
    let Some(incarnation) = &record.incarnation else {
        return Finding::new(KIND, false, "NotOpened", "nothing is there yet");
    };
    if let Some(blind) = report.waiting.iter().find(|waiting| waiting.reason == "CannotSeeInstances") {
        return Finding::new(KIND, Truth::Unknown, "CannotSeeInstances", blind.message.clone());
    }
    let refused = |waiting: &&Waiting| waiting.blocked && waiting.reason == "CannotOpen";
    if let Some(refused) = report.waiting.iter().find(refused) {
        return Finding::new(KIND, false, "CannotOpen", refused.message.clone());
    }
    let launching =
        record.nodes.values().filter(|node| matches!(node.state, NodeState::Launching { .. })).count();
    if launching > 0 {
        let message = format!("{} being started", count_are(launching, "node"));
        return Finding::new(KIND, false, "StartingNodes", message);
    }
    if !incarnation.missing.is_empty() {
        let missing = incarnation.missing.join(" and ");
        let message = format!(
            "the cluster's Python has no {missing}; jobs that do not bring it in runtimeEnv.pip will fail to import it"
        );
        return Finding::new(KIND, true, "PackagesMissing", message);
    }
    Finding::new(KIND, true, "AllNodes", format!("{} wanted", count_are(report.desired_nodes, "worker node")))
}

fn head_ready(phase: ClusterPhase, seen: &Seen) -> Finding {
    const KIND: &str = "HeadReady";
    match (phase, &seen.agent.error) {
        (ClusterPhase::Ready, _) => Finding::new(KIND, true, "Answers", "the agent on the head answers"),
        (ClusterPhase::Unknown, Some((at, error))) => {
            Finding::new(KIND, Truth::Unknown, "Unreachable", format!("not heard since {at:.0}: {error}"))
        }
        (ClusterPhase::Unknown, None) => Finding::new(KIND, Truth::Unknown, "NotHeard", "not heard yet"),
        _ => Finding::new(KIND, false, "NotStarted", "there is no agent on a head yet"),
    }
}

/// With the moment itself: what is left of it would be another with every status.
fn describe_notice(notice: &Notice) -> String {
    let words = notice.kind.words();
    notice.deadline.map_or_else(|| words.to_owned(), |at| format!("{words}: {} at {at:.0}", notice.action))
}

fn node_statuses(
    cluster: &RayCluster,
    record: &ClusterRecord,
    report: &ClusterReport,
    seen: &Seen,
) -> Vec<NodeStatus> {
    let alive =
        seen.agent.fresh().map_or(&[][..], |(_, agent)| &agent.nodes).iter().filter(|node| node.alive);
    let workers = |name: &NodeName| report.workers.get(name).copied().unwrap_or(0);
    if matches!(cluster.spec.provider, Provider::Existing(_)) {
        let nodes = alive.map(|node| {
            let name = NodeName::from(node.address.clone());
            NodeStatus {
                group: (!node.head).then(|| "existing".to_owned()),
                state: if node.draining { "Draining" } else { "Ready" }.to_owned(),
                since: None,
                address: Some(node.address.clone()),
                pid: None,
                instance: None,
                capacity: Capacity::of_ray(node).describe(),
                workers: workers(&name),
                notice: record.notices.get(&node.id).map(describe_notice),
                name,
            }
        });
        let mut nodes: Vec<NodeStatus> = nodes.collect();
        nodes.sort_by(|one, other| {
            (one.group.is_some(), &one.name).cmp(&(other.group.is_some(), &other.name))
        });
        return nodes;
    }
    let addresses: HashMap<&RayNodeId, &String> = alive.map(|node| (&node.id, &node.address)).collect();
    let processes = seen.processes.fresh().map(|(_, processes)| processes);
    let instances = seen.instances.fresh().map(|(_, instances)| instances);
    let network = record.incarnation.as_ref().and_then(|incarnation| incarnation.aws.as_ref());
    let prices = cluster.spec.aws().map(|aws| Prices::new(aws, network));
    let nodes = record.nodes.iter().map(|(name, node)| NodeStatus {
        name: name.clone(),
        group: node.group.clone(),
        state: node.state.name().to_owned(),
        since: Some(node.state.since()),
        address: node
            .ray
            .as_ref()
            .and_then(|ray| addresses.get(ray).copied().cloned())
            .or_else(|| instances?.get(node.instance.as_ref()?)?.address.clone()),
        pid: processes.and_then(|processes| processes.get(&node.launch)?.leader).map(|(pid, _)| pid),
        instance: node.offering.as_ref().map(|offering| InstanceStatus {
            id: node.instance.clone(),
            instance_type: offering.instance_type.clone(),
            zone: offering.zone.clone(),
            market: offering.market,
            price: prices.and_then(|prices| prices.of_offering(offering)),
        }),
        capacity: Capacity::of_template(&node.template).describe(),
        workers: workers(name),
        notice: node.notice.as_ref().map(describe_notice),
    });
    let mut nodes: Vec<NodeStatus> = nodes.collect();
    nodes.sort_by(|one, other| (one.group.is_some(), &one.group).cmp(&(other.group.is_some(), &other.group)));
    nodes
}
