//! The tags by which everything of ours in EC2 is found again.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};

use crate::api::ids::{IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::observed::{LAUNCH_LABEL, NODE_LABEL};
use crate::provider::NodeLaunch;

/// The tag with the cluster's uid: what carries it is ours, and what does not is not.
pub const CLUSTER_UID_TAG: &str = "rayconcile.dev/cluster-uid";
/// The tag with the cluster's namespace and name, for people.
pub const CLUSTER_TAG: &str = "rayconcile.dev/cluster";
/// The tag with the incarnation in which it was made.
pub const INCARNATION_TAG: &str = "rayconcile.dev/incarnation";
/// The tag with a node's group.
pub const GROUP_TAG: &str = "rayconcile.dev/group";
/// The tag with the intent that launched a node.
pub(super) const LAUNCH_TAG: &str = LAUNCH_LABEL;
/// The tag with a node's name.
pub(super) const NODE_TAG: &str = NODE_LABEL;
/// The group of the head, which is in none.
pub(super) const HEAD_GROUP: &str = "head";

/// What the tags of one incarnation say.
pub(super) struct Marks<'a> {
    pub(super) uid: &'a Uid,
    pub(super) cluster: ObjectKey,
    pub(super) incarnation: &'a str,
    /// The manifest's own.
    pub(super) more: &'a BTreeMap<String, String>,
}

impl Marks<'_> {
    /// The tags of what a cluster's nodes share.
    pub(super) fn shared(&self) -> BTreeMap<String, String> {
        let own = [
            ("Name", format!("rayconcile {}", self.cluster)),
            (CLUSTER_UID_TAG, self.uid.to_string()),
            (CLUSTER_TAG, self.cluster.to_string()),
            (INCARNATION_TAG, self.incarnation.to_owned()),
        ];
        let mut tags = self.more.clone();
        tags.extend(own.map(|(key, value)| (key.to_owned(), value)));
        tags
    }

    /// The tags of a node's instance and of what goes with it.
    pub(super) fn node(&self, node: &NodeLaunch) -> BTreeMap<String, String> {
        let own = [
            ("Name", node.name.to_string()),
            (NODE_TAG, node.name.to_string()),
            (LAUNCH_TAG, node.launch.to_string()),
            (GROUP_TAG, node.group.clone().unwrap_or_else(|| HEAD_GROUP.to_owned())),
        ];
        let mut tags = self.shared();
        tags.extend(own.map(|(key, value)| (key.to_owned(), value)));
        tags
    }

    /// What is shared, as a call that makes it wants it.
    pub(super) fn of_shared(&self, kind: ResourceType) -> TagSpecification {
        specification(kind, &self.shared())
    }

    /// What finds everything of this incarnation.
    pub(super) fn filters(&self) -> Vec<Filter> {
        vec![tag_filter(CLUSTER_UID_TAG, self.uid.as_ref()), tag_filter(INCARNATION_TAG, self.incarnation)]
    }

    /// Whether something is of this incarnation and shared by its nodes.
    pub(super) fn are_on(&self, tags: &[Tag]) -> bool {
        tag(tags, CLUSTER_UID_TAG) == Some(self.uid.as_ref())
            && tag(tags, INCARNATION_TAG) == Some(self.incarnation)
    }
}

/// Tags as a call that makes something wants them.
pub(super) fn specification(kind: ResourceType, tags: &BTreeMap<String, String>) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.collect())).build()
}

/// What finds the instances of a cluster.
pub(super) fn cluster_filter(uid: &Uid) -> Filter {
    tag_filter(CLUSTER_UID_TAG, uid.as_ref())
}

/// What finds the instances of a launch, among a cluster's.
pub(super) fn launch_filter(launch: &IntentId) -> Filter {
    tag_filter(LAUNCH_TAG, launch.as_ref())
}

fn tag_filter(key: &str, value: &str) -> Filter {
    filter(&format!("tag:{key}"), [value])
}

/// A filter of a call that looks.
pub(super) fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().map(str::to_owned).collect())).build()
}

/// The value of a tag. What a filter has let through is looked at again: whether it is ours must not depend on how
/// somebody reads a filter.
pub(super) fn tag<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_tags_stand_over_the_manifests() {
        let more = [("team", "vision"), (CLUSTER_UID_TAG, "other")];
        let more = more.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let uid = Uid::from("u-1");
        let cluster = ObjectKey::new("default", "gpu");
        let marks = Marks { uid: &uid, cluster, incarnation: "i-1", more: &more };
        let tags = marks.shared();
        let lines: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            lines,
            [
                "Name=rayconcile default/gpu",
                "rayconcile.dev/cluster=default/gpu",
                "rayconcile.dev/cluster-uid=u-1",
                "rayconcile.dev/incarnation=i-1",
                "team=vision",
            ]
        );
        let on = specification(ResourceType::Volume, &tags);
        assert!(marks.are_on(on.tags()));
        assert!(!Marks { incarnation: "i-2", ..marks }.are_on(on.tags()));
    }
}
