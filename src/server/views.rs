//! What people look for who know Kubernetes: machines as Nodes, workers as Pods, and Namespaces. They are derived from
//! the objects, and only to be seen.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::API_VERSION;
use crate::api::cluster::Provider;
use crate::api::columns::{Column, age};
use crate::api::ids::NodeName;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::object::{AdaptDLJob, AnyObject, RayCluster};
use crate::api::status::{JobPhase, NodeStatus, WorkerStatus};

/// Label of a Pod: its job.
pub(super) const JOB_LABEL: &str = "rayconcile.dev/job";
const RANK_LABEL: &str = "rayconcile.dev/rank";
const GROUP_LABEL: &str = "rayconcile.dev/group";
const CLUSTER_LABEL: &str = "rayconcile.dev/cluster";
const NAMESPACE_LABEL: &str = "rayconcile.dev/namespace";
const NODE_GROUP_LABEL: &str = "rayconcile.dev/worker-group";
/// The one container of a Pod.
pub(super) const CONTAINER: &str = "worker";

pub(super) const NODE_COLUMNS: [Column; 8] = [
    Column::new("Name", "The node's name."),
    Column::new("Status", "Whether it can take workers."),
    Column::new("Roles", "head, or its worker group."),
    Column::new("Age", "How long it has been in this state."),
    Column::new("Version", "The version of Ray."),
    Column::wide("Internal-IP", "Its address."),
    Column::wide("Cluster", "The cluster that it belongs to."),
    Column::wide("Instance-Type", "Its type on EC2."),
];

pub(super) const POD_COLUMNS: [Column; 7] = [
    Column::new("Name", "The job's name and the worker's rank."),
    Column::new("Ready", "Whether it trains."),
    Column::new("Status", "What it does."),
    Column::new("Restarts", "How many groups of workers the job had before."),
    Column::new("Age", "How long ago its group was wanted."),
    Column::wide("IP", "The address of its node."),
    Column::wide("Node", "The node that it is on."),
];

pub(super) const NAMESPACE_COLUMNS: [Column; 3] = [
    Column::new("Name", "The namespace's name."),
    Column::new("Status", "Always Active: it is there while something is in it."),
    Column::new("Age", "How long ago its oldest object was created."),
];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn age_of(object: &Value, now: Timestamp) -> String {
    age(object["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok()), now)
}

pub(super) fn node_cells(node: &Value, now: Timestamp) -> Vec<String> {
    let ready = node["status"]["conditions"][0]["status"] == "True";
    let closed = node["spec"]["unschedulable"] == true;
    let labels = &node["metadata"]["labels"];
    let role = labels[NODE_GROUP_LABEL].as_str().unwrap_or("head").to_owned();
    let status = if ready { "Ready" } else { "NotReady" };
    vec![
        text(&node["metadata"]["name"]),
        format!("{status}{}", if closed { ",SchedulingDisabled" } else { "" }),
        role,
        age_of(node, now),
        text(&node["status"]["nodeInfo"]["kubeletVersion"]),
        text(&node["status"]["addresses"][1]["address"]),
        text(&labels[CLUSTER_LABEL]),
        text(&labels["node.kubernetes.io/instance-type"]),
    ]
}

pub(super) fn pod_cells(pod: &Value, now: Timestamp) -> Vec<String> {
    let container = &pod["status"]["containerStatuses"][0];
    vec![
        text(&pod["metadata"]["name"]),
        if container["ready"] == true { "1/1" } else { "0/1" }.to_owned(),
        text(&pod["status"]["reason"]),
        container["restartCount"].to_string(),
        age_of(pod, now),
        text(&pod["status"]["podIP"]),
        text(&pod["spec"]["nodeName"]),
    ]
}

pub(super) fn namespace_cells(namespace: &Value, now: Timestamp) -> Vec<String> {
    vec![text(&namespace["metadata"]["name"]), text(&namespace["status"]["phase"]), age_of(namespace, now)]
}

/// A node's name among those of all clusters: as everywhere else, but with the cluster's where that is not in it, or
/// not enough.
fn node_name(cluster: &RayCluster, name: &NodeName) -> String {
    let ObjectKey { namespace, name: of } = cluster.metadata.key();
    let is_plain = namespace == DEFAULT_NAMESPACE && !matches!(cluster.spec.provider, Provider::Existing(_));
    if is_plain { name.to_string() } else { format!("{name}.{of}.{namespace}") }
}

fn clusters(objects: &[AnyObject]) -> impl Iterator<Item = &RayCluster> {
    objects.iter().filter_map(|object| match object {
        AnyObject::Cluster(cluster) => Some(&**cluster),
        AnyObject::Job(_) => None,
    })
}

/// The machines of all clusters.
pub(super) fn nodes(objects: &[AnyObject]) -> Vec<Value> {
    let nodes = clusters(objects)
        .flat_map(|cluster| cluster.status.nodes.iter().map(|node| self::node(cluster, node)));
    nodes.collect()
}

fn node(cluster: &RayCluster, node: &NodeStatus) -> Value {
    let metadata = &cluster.metadata;
    let name = node_name(cluster, &node.name);
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        CLUSTER_LABEL: metadata.name,
        NAMESPACE_LABEL: metadata.namespace,
    });
    match &node.group {
        Some(group) => labels[NODE_GROUP_LABEL] = json!(group),
        None => labels["node-role.kubernetes.io/head"] = json!(""),
    }
    let mut spec = json!({});
    if let Some(instance) = &node.instance {
        labels["node.kubernetes.io/instance-type"] = json!(instance.instance_type);
        labels["topology.kubernetes.io/zone"] = json!(instance.zone);
        if let Some(id) = &instance.id {
            spec["providerID"] = json!(format!("aws:///{}/{id}", instance.zone));
        }
    }
    let ready = node.state == "Ready";
    if node.state == "Draining" {
        spec["unschedulable"] = json!(true);
    }
    let capacity = capacity(&node.capacity);
    let message = node.notice.clone().unwrap_or_else(|| format!("the node is {}", node.state.to_lowercase()));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": format!("{}.{}", metadata.uid, node.name),
            "resourceVersion": metadata.resource_version.to_string(),
            "creationTimestamp": node.since.or(metadata.creation_timestamp),
            "labels": labels,
        },
        "spec": spec,
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{
                "type": "Ready",
                "status": if ready || node.state == "Draining" { "True" } else { "False" },
                "reason": node.state,
                "message": message,
                "lastTransitionTime": node.since,
                "lastHeartbeatTime": null,
            }],
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": node.address.as_deref().unwrap_or_default()},
            ],
            "nodeInfo": {
                "kubeletVersion": cluster.status.ray_version.as_ref().map_or_else(String::new, |v| format!("ray-{v}")),
                "containerRuntimeVersion": "ray",
                "architecture": "", "bootID": "", "kernelVersion": "", "kubeProxyVersion": "",
                "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
            },
        },
    })
}

/// What a node offers, in the words of Kubernetes. Memory is as rounded as it is shown elsewhere.
fn capacity(described: &str) -> Value {
    let mut found = Map::new();
    for part in described.split(", ") {
        let Some((amount, what)) = part.split_once(' ') else { continue };
        match what {
            "CPU" => found.insert("cpu".to_owned(), json!(amount)),
            "GPU" => found.insert("nvidia.com/gpu".to_owned(), json!(amount)),
            _ => match what.strip_suffix("iB") {
                Some(unit) => found.insert("memory".to_owned(), json!(format!("{amount}{unit}i"))),
                None => found.insert(format!("rayconcile.dev/{what}"), json!(amount)),
            },
        };
    }
    Value::Object(found)
}

/// The workers of all jobs.
pub(super) fn pods(objects: &[AnyObject]) -> Vec<Value> {
    let clusters: BTreeMap<ObjectKey, &RayCluster> =
        clusters(objects).map(|cluster| (cluster.metadata.key(), cluster)).collect();
    let jobs = objects.iter().filter_map(|object| match object {
        AnyObject::Job(job) => Some(&**job),
        AnyObject::Cluster(_) => None,
    });
    let pods = jobs.flat_map(|job| {
        let key = match &job.spec.cluster_ref {
            Some(reference) => ObjectKey::new(&job.metadata.namespace, &reference.name),
            None => ObjectKey::new(DEFAULT_NAMESPACE, "local"),
        };
        let cluster = clusters.get(&key).copied();
        job.status.workers.iter().map(move |worker| pod(job, cluster, worker))
    });
    pods.collect()
}

fn pod(job: &AdaptDLJob, cluster: Option<&RayCluster>, worker: &WorkerStatus) -> Value {
    let (metadata, spec, status) = (&job.metadata, &job.spec, &job.status);
    let created = status.history.last().map(|group| group.created).or(metadata.creation_timestamp);
    let group = status.group.map_or(0, |group| group.0);
    let mut labels = json!(metadata.labels);
    labels[JOB_LABEL] = json!(metadata.name);
    labels[RANK_LABEL] = json!(worker.rank.to_string());
    labels[GROUP_LABEL] = json!(group.to_string());
    labels[CLUSTER_LABEL] = json!(spec.cluster_ref.as_ref().map_or("local", |reference| &reference.name));
    let mut requests = json!({"cpu": spec.resources.cpu.to_string()});
    if spec.resources.gpu > 0 {
        requests["nvidia.com/gpu"] = json!(spec.resources.gpu.to_string());
    }
    if let Some(memory) = spec.resources.memory {
        requests["memory"] = json!(memory.to_string());
    }
    let command = spec
        .command
        .clone()
        .or_else(|| spec.entrypoint.clone().map(|script| vec!["python".to_owned(), script]));
    let node = cluster.and_then(|cluster| cluster.status.nodes.iter().find(|node| node.name == worker.node));
    let node_name =
        cluster.map_or_else(|| worker.node.to_string(), |cluster| node_name(cluster, &worker.node));
    let address = node.and_then(|node| node.address.as_deref());
    let (phase, state) = match (worker.state.as_str(), status.phase) {
        ("Starting", _) => ("Pending", json!({"waiting": {"reason": "Starting"}})),
        ("Exited", JobPhase::Failed) => ("Failed", json!({"terminated": {"reason": "Error", "exitCode": 1}})),
        ("Exited", _) => ("Succeeded", json!({"terminated": {"reason": "Completed", "exitCode": 0}})),
        _ => ("Running", json!({"running": {"startedAt": created}})),
    };
    let ready = matches!(worker.state.as_str(), "Training" | "Running");
    let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": null});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}-{}", metadata.name, worker.rank),
            "namespace": metadata.namespace,
            "uid": format!("{}.{}", metadata.uid, worker.rank),
            "resourceVersion": metadata.resource_version.to_string(),
            "creationTimestamp": created,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": API_VERSION, "kind": "AdaptDLJob", "name": metadata.name, "uid": metadata.uid,
                "controller": true,
            }],
        },
        "spec": {
            "nodeName": node_name,
            "restartPolicy": "Always",
            "containers": [{
                "name": CONTAINER,
                "image": "",
                "command": command.unwrap_or_default(),
                "args": spec.args,
                "resources": {"requests": requests, "limits": requests},
            }],
        },
        "status": {
            "phase": phase,
            "reason": worker.state,
            "startTime": created,
            "hostIP": address.unwrap_or_default(),
            "podIP": address.unwrap_or_default(),
            "conditions": [condition("PodScheduled", true), condition("Ready", ready)],
            "containerStatuses": [{
                "name": CONTAINER,
                "ready": ready,
                "started": phase == "Running",
                "restartCount": group,
                "image": "",
                "imageID": "",
                "containerID": worker.pid.map_or_else(String::new, |pid| format!("process://{pid}")),
                "state": state,
                "lastState": {},
            }],
        },
    })
}

/// The namespaces that something is in, and the default one.
pub(super) fn namespaces(objects: &[AnyObject]) -> Vec<Value> {
    let names = objects.iter().map(|object| object.metadata().namespace.as_str());
    let names: BTreeSet<&str> = names.chain([DEFAULT_NAMESPACE]).collect();
    let namespace = |name: &str| {
        let within = objects.iter().filter(|object| object.metadata().namespace == name);
        let created = within.filter_map(|object| object.metadata().creation_timestamp).min();
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "uid": format!("namespace.{name}"),
                // It is there, or not; nothing in it changes.
                "resourceVersion": "1",
                "creationTimestamp": created,
                "labels": {"kubernetes.io/metadata.name": name},
            },
            "spec": {"finalizers": []},
            "status": {"phase": "Active"},
        })
    };
    names.into_iter().map(namespace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_offers_is_said_in_kubernetes_words() {
        let found = capacity("7500m CPU, 2 GPU, 30.5 GiB, 4 tpu");
        let wanted =
            json!({"cpu": "7500m", "nvidia.com/gpu": "2", "memory": "30.5Gi", "rayconcile.dev/tpu": "4"});
        assert_eq!(found, wanted);
        assert_eq!(capacity(""), json!({}));
    }
}
