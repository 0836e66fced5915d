//! What the API has: the kinds, by which names and verbs they are known, and how each is shown in a table.

use jiff::Timestamp;
use serde_json::Value;

use super::views;
use crate::api::columns::{self, Column};
use crate::api::object::{AnyObject, Kind};

/// A kind of things that can be asked for.
pub(super) struct Resource {
    /// Its group; empty for Kubernetes' own first one.
    pub(super) group: &'static str,
    /// The name in `kind`.
    pub(super) kind: &'static str,
    /// The name in addresses.
    pub(super) plural: &'static str,
    /// The name of one on a command line.
    pub(super) singular: &'static str,
    /// Shorter names.
    pub(super) short_names: &'static [&'static str],
    /// Words for several kinds at once.
    pub(super) categories: &'static [&'static str],
    /// Whether each is in a namespace.
    pub(super) namespaced: bool,
    /// What can be done with them.
    pub(super) verbs: &'static [&'static str],
    /// What is below the address of each: its name, its kind if that is another's, its verbs.
    pub(super) below: &'static [Below],
    /// The columns of their table.
    pub(super) columns: &'static [Column],
    /// What one of them has in these columns.
    pub(super) cells: fn(&Value, Timestamp) -> Vec<String>,
}

/// What is below the address of a thing.
pub(super) struct Below {
    /// Its name.
    pub(super) name: &'static str,
    /// The group, version and kind of what is there, if it is another's.
    pub(super) kind: Option<(&'static str, &'static str, &'static str)>,
    /// What can be done with it.
    pub(super) verbs: &'static [&'static str],
}

/// Our group.
pub(super) const GROUP: &str = "rayconcile.dev";
const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS: Below = Below { name: "status", kind: None, verbs: &["get"] };

static JOBS: Resource = Resource {
    group: GROUP,
    kind: "AdaptDLJob",
    plural: "adaptdljobs",
    singular: "adaptdljob",
    short_names: &["aj", "job", "jobs"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL,
    below: &[
        STATUS,
        Below {
            name: "scale",
            kind: Some(("autoscaling", "v1", "Scale")),
            verbs: &["get", "patch", "update"],
        },
    ],
    columns: columns_of(Kind::AdaptDLJob),
    cells: object_cells,
};

static CLUSTERS: Resource = Resource {
    group: GROUP,
    kind: "RayCluster",
    plural: "rayclusters",
    singular: "raycluster",
    short_names: &["rc", "cluster", "clusters"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL,
    below: &[STATUS],
    columns: columns_of(Kind::RayCluster),
    cells: object_cells,
};

/// The machines of all clusters.
pub(super) static NODES: Resource = Resource {
    group: "",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    verbs: READ,
    below: &[],
    columns: &views::NODE_COLUMNS,
    cells: views::node_cells,
};

/// The workers of all jobs.
pub(super) static PODS: Resource = Resource {
    group: "",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: READ,
    below: &[Below { name: "log", kind: None, verbs: &["get"] }],
    columns: &views::POD_COLUMNS,
    cells: views::pod_cells,
};

/// The namespaces that objects are in.
pub(super) static NAMESPACES: Resource = Resource {
    group: "",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    verbs: READ,
    below: &[],
    columns: &views::NAMESPACE_COLUMNS,
    cells: views::namespace_cells,
};

/// What happened.
pub(super) static EVENTS: Resource = Resource {
    group: "",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: READ,
    below: &[],
    columns: &super::events::COLUMNS,
    cells: super::events::cells,
};

/// Everything that can be listed.
pub(super) static RESOURCES: [&Resource; 6] = [&JOBS, &CLUSTERS, &NODES, &PODS, &NAMESPACES, &EVENTS];

impl Resource {
    /// What objects of a kind are in the API.
    pub(super) fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::AdaptDLJob => &JOBS,
            Kind::RayCluster => &CLUSTERS,
        }
    }

    /// The version as in `apiVersion`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }
}

const fn columns_of(kind: Kind) -> &'static [Column] {
    columns::columns(kind)
}

fn object_cells(object: &Value, now: Timestamp) -> Vec<String> {
    AnyObject::from_json(object.clone()).map(|object| columns::row(&object, now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_as_everywhere_else() {
        for kind in Kind::ALL {
            let resource = Resource::of(kind);
            assert_eq!(
                (resource.kind, resource.plural, resource.singular, resource.short_names),
                (kind.name(), kind.plural(), kind.singular(), kind.short_names())
            );
            assert_eq!(resource.api_version(), crate::api::API_VERSION);
        }
    }
}
