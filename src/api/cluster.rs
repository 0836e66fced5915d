//! `RayCluster`: the Ray cluster that jobs run on, as its manifest describes it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aws::{AwsProvider, Instance, Market};
use super::job::ValueSource;
use super::money::Money;
use super::units::{Bytes, MilliCpu, Span};

/// EC2's instance metadata service, as every instance sees it.
const EC2_METADATA: &str = "http://169.254.169.254";

/// What a Ray cluster is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RayClusterSpec {
    /// Where its nodes come from.
    pub provider: Provider,
    /// How Ray's own interfaces are protected.
    #[serde(default)]
    pub auth: Auth,
    /// The head node. It runs workers only if its resources say so.
    #[serde(default)]
    pub head: NodeTemplate,
    /// The groups of worker nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worker_groups: Vec<WorkerGroup>,
    /// On EC2, what an hour of all its instances may cost, in US dollars: nothing is launched that would bring it above,
    /// nor whose price is not known. Left out: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hourly_cost: Option<Money>,
    /// How long a node may not answer before it is taken for lost.
    #[serde(default = "node_failure_timeout")]
    pub node_failure_timeout: Span,
    /// Where nodes learn that they will be taken away: the address of their instance metadata service, in which
    /// `{address}` stands for the node's own. Left out: EC2's, and none for a local cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_endpoint: Option<String>,
    /// Whether to checkpoint the cluster's jobs and give back every node, the head too.
    #[serde(default)]
    pub suspend: bool,
}

/// Where a cluster's nodes come from: exactly one of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// Raylets as processes of this machine.
    Local(LocalProvider),
    /// A cluster that somebody else runs.
    Existing(ExistingProvider),
    /// Instances of Amazon EC2.
    Aws(AwsProvider),
}

/// Raylets as processes of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalProvider {
    /// The Python interpreter that has Ray. Left out: that of the active virtual environment, or of the `.venv`
    /// found from here upwards, or `python3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// The port of Ray's dashboard. Left out: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub dashboard_port: Option<u16>,
}

/// A cluster that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExistingProvider {
    /// The address of its dashboard, such as `http://head:8265`, or of Ray's client, such as `ray://head:10001`: then
    /// the dashboard is at port 8265 of the same host.
    pub address: String,
    /// The port, on the same host, at which Rayconcile's agent shall be reached.
    #[serde(default = "agent_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub agent_port: u16,
    /// Whether Ray's own autoscaler is asked for the nodes that jobs could use, and told when they are not needed any
    /// more. It heeds one such request at a time (`ray.autoscaler.sdk.request_resources`): nobody else should make any.
    #[serde(default)]
    pub autoscaler: bool,
}

impl ExistingProvider {
    /// The address of its dashboard: 8265 is Ray's own choice of a port (`ray start --help`).
    pub fn dashboard(&self) -> String {
        let Some(client) = self.address.strip_prefix("ray://") else { return self.address.clone() };
        let host = match client.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => client,
        };
        format!("http://{host}:8265")
    }
}

/// How Ray's own interfaces are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// `token`: Ray's token authentication. `none`: not at all.
    #[serde(default)]
    pub mode: AuthMode,
    /// For `existing`: where the controller finds the cluster's token. It is not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_from: Option<ValueSource>,
}

/// Whether Ray asks for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthMode {
    /// Ray's token authentication.
    #[default]
    Token,
    /// None: whoever reaches the cluster may run what they like on it.
    None,
}

/// A group of equal worker nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerGroup {
    /// Its name, a part of its nodes' names.
    pub name: String,
    /// Never fewer nodes than this.
    #[serde(default)]
    pub min_nodes: u32,
    /// Never more nodes than this.
    #[schemars(range(min = 1, max = 5000))]
    pub max_nodes: u32,
    /// How long a node may be idle before it is given back.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Span,
    /// How its nodes are replaced when its template has changed.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// How its instances are paid for, on EC2. Left out: on-demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<Market>,
    /// What its nodes are.
    #[serde(default)]
    pub template: NodeTemplate,
}

/// How the nodes of a group are replaced when its template has changed. Not both can be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpdateStrategy {
    /// So many nodes may be missing meanwhile: they are drained before there are others in their place.
    #[schemars(range(max = 5000))]
    pub max_unavailable: u32,
    /// So many nodes may be there meanwhile beyond those that are wanted, but never more than `maxNodes`: when a group
    /// is full one node is drained first.
    #[schemars(range(max = 5000))]
    pub max_surge: u32,
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self { max_unavailable: 0, max_surge: 1 }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeTemplate {
    /// What it offers to workers.
    #[serde(default)]
    pub resources: NodeResources,
    /// The instance it is, on EC2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Labels that Ray shows for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Memory for Ray's object store.
    #[serde(default = "object_store_memory")]
    pub object_store_memory: Bytes,
}

/// What a node offers to workers. They are Ray's logical resources: a promise, not a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeResources {
    /// CPUs, whole ones. Left out: 1, or on EC2 what the instance type has, but none of the head, which by default
    /// runs no workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    /// GPUs. Left out: none, or on EC2 what the instance type has, but none of the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Memory. Left out: what the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Ray's custom resources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, f64>,
}

impl Default for NodeTemplate {
    fn default() -> Self {
        Self {
            resources: NodeResources::default(),
            instance: None,
            labels: BTreeMap::new(),
            object_store_memory: object_store_memory(),
        }
    }
}

impl RayClusterSpec {
    /// Writes the defaults that depend on where they stand, so that the stored spec shows every value in force.
    pub fn fill_defaults(&mut self) {
        self.head.resources.cpu.get_or_insert(MilliCpu(0));
        self.head.resources.gpu.get_or_insert(0);
        for group in &mut self.worker_groups {
            if let Provider::Aws(_) = self.provider {
                group.market.get_or_insert_default();
            } else {
                group.template.resources.cpu.get_or_insert(MilliCpu(1000));
                group.template.resources.gpu.get_or_insert(0);
            }
        }
    }

    /// Whether its nodes are ours to launch and end.
    pub fn is_ours(&self) -> bool {
        !matches!(self.provider, Provider::Existing(_))
    }

    /// What its nodes are on EC2, if they are.
    pub fn aws(&self) -> Option<&AwsProvider> {
        match &self.provider {
            Provider::Aws(aws) => Some(aws),
            _ => None,
        }
    }

    /// How a group's instances are paid for.
    pub fn market_of(&self, group: &str) -> Market {
        let group = self.worker_groups.iter().find(|known| known.name == group);
        group.and_then(|group| group.market.clone()).unwrap_or_default()
    }

    /// Where the nodes learn that they will be taken away.
    pub fn metadata_endpoint(&self) -> Option<&str> {
        match (&self.metadata_endpoint, &self.provider) {
            (Some(given), _) => Some(given),
            (None, Provider::Local(_)) => None,
            (None, _) => Some(EC2_METADATA),
        }
    }
}

/// Checkpoints pass through it in chunks; it need not hold them.
fn object_store_memory() -> Bytes {
    Bytes(256 << 20)
}

/// Long enough for a healthy node of a busy machine to answer at least once.
pub fn node_failure_timeout() -> Span {
    Span::from_secs(5)
}

fn idle_timeout() -> Span {
    Span::from_secs(300)
}

/// Beside the dashboard's 8265, and free of Ray's own defaults.
pub fn agent_port() -> u16 {
    8267
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashboard_is_beside_its_client() {
        for (address, dashboard) in [
            ("ray://head:10001", "http://head:8265"),
            ("ray://10.0.0.1", "http://10.0.0.1:8265"),
            ("ray://[fd00::1]:10001", "http://[fd00::1]:8265"),
            ("ray://[fd00::1]", "http://[fd00::1]:8265"),
            ("https://head", "https://head"),
        ] {
            let existing =
                ExistingProvider { address: address.to_owned(), agent_port: 8267, autoscaler: false };
            assert_eq!(existing.dashboard(), dashboard);
        }
    }
}
