//! Clusters, found in EC2 by their tags alone: whoever made them, and whatever is known of them here.

use std::collections::{BTreeMap, BTreeSet};

use aws_config::BehaviorVersion;
use aws_sdk_ec2::types::{Filter, Instance, Tag};
use jiff::Timestamp;

use super::client::Clients;
use super::pace::Api;
use super::tags::{
    CLUSTER_TAG, CLUSTER_UID_TAG, GROUP_TAG, HEAD_GROUP, INCARNATION_TAG, NODE_TAG, filter, tag,
};
use super::{instances, parameters};
use crate::action::EffectError;
use crate::api::ids::{InstanceId, NodeName, Uid};
use crate::api::keepsake::ClusterKeepsake;
use crate::api::meta::ObjectKey;
use crate::api::observed::CloudInstance;
use crate::provider::rejected;

/// A cluster, as far as EC2 shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCluster {
    /// The region.
    pub region: String,
    /// The cluster's uid.
    pub uid: Uid,
    /// Its namespace and name, if a tag tells.
    pub key: Option<ObjectKey>,
    /// The incarnations of which anything is left.
    pub incarnations: BTreeSet<String>,
    /// Its instances that have not ended: the head first, then by name.
    pub instances: Vec<FoundInstance>,
    /// What else of it is left and costs something, or is in the way: interfaces, Elastic IPs, security groups.
    pub shared: BTreeMap<&'static str, Vec<String>>,
}

impl FoundCluster {
    /// Its head, if there is one that runs or is being started.
    pub fn head(&self) -> Option<&FoundInstance> {
        self.instances.iter().find(|instance| instance.group.is_none() && instance.seen.phase.is_up())
    }

    /// How many of its instances run or are being started.
    pub fn up(&self) -> usize {
        self.instances.iter().filter(|instance| instance.seen.phase.is_up()).count()
    }

    /// When the oldest of its instances was launched.
    pub fn since(&self) -> Option<Timestamp> {
        self.instances.iter().filter_map(|instance| instance.launched).min()
    }
}

/// An instance of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundInstance {
    /// EC2's id of it.
    pub id: InstanceId,
    /// The node that it was launched as.
    pub node: Option<NodeName>,
    /// Its worker group; none is the head.
    pub group: Option<String>,
    /// The incarnation of the cluster in which it was launched.
    pub incarnation: String,
    /// Its subnet.
    pub subnet: String,
    /// Its machine image.
    pub image: String,
    /// When it was launched.
    pub launched: Option<Timestamp>,
    /// What else EC2 says of it.
    pub seen: CloudInstance,
}

/// The clusters in some regions, or where none is named in the one that the SDK's settings name.
///
/// # Errors
/// If nobody names a region, or not everything could be looked at.
pub async fn find(regions: &[String]) -> Result<Vec<FoundCluster>, EffectError> {
    let mut regions: BTreeSet<String> = regions.iter().cloned().collect();
    if regions.is_empty() {
        let settings = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let region = settings.region().ok_or_else(|| {
            rejected(
                "no region is named: give one with --region, in AWS_REGION, or in the AWS configuration file",
            )
        })?;
        regions.insert(region.to_string());
    }
    let mut found = Vec::new();
    for region in &regions {
        found.extend(find_in(region).await?);
    }
    Ok(found)
}

/// The manifest that a cluster has kept of itself.
///
/// # Errors
/// If it cannot be read.
pub async fn manifest(found: &FoundCluster) -> Result<Option<ClusterKeepsake>, EffectError> {
    parameters::manifest(&*Clients::of(&found.region).await, found.key.as_ref(), &found.uid).await
}

/// The token of a cluster's Ray.
///
/// # Errors
/// If it cannot be read.
pub async fn ray_token(found: &FoundCluster) -> Result<Option<String>, EffectError> {
    parameters::token(&*Clients::of(&found.region).await, found.key.as_ref(), &found.uid).await
}

async fn find_in(region: &str) -> Result<Vec<FoundCluster>, EffectError> {
    let clients = Clients::of(region).await;
    let mut found = Found { region, clusters: BTreeMap::new() };
    for instance in instances::all(&clients, marked()).await? {
        found.add_instance(&instance);
    }
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_network_interfaces().set_filters(Some(marked())).send().await;
    let answer = answer.map_err(|error| clients.error("list network interfaces", &error))?;
    for interface in answer.network_interfaces() {
        // Those of its instances come and go with them.
        if tag(interface.tag_set(), NODE_TAG).is_none() {
            found.add_shared("network interface", interface.tag_set(), interface.network_interface_id());
        }
    }
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_addresses().set_filters(Some(marked())).send().await;
    let answer = answer.map_err(|error| clients.error("list Elastic IPs", &error))?;
    for address in answer.addresses() {
        found.add_shared("Elastic IP", address.tags(), address.public_ip());
    }
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_security_groups().set_filters(Some(marked())).send().await;
    let answer = answer.map_err(|error| clients.error("list security groups", &error))?;
    for group in answer.security_groups() {
        found.add_shared("security group", group.tags(), group.group_id());
    }
    Ok(found.clusters.into_values().map(sorted).collect())
}

/// What finds everything that is of any cluster.
fn marked() -> Vec<Filter> {
    vec![filter("tag-key", [CLUSTER_UID_TAG])]
}

fn sorted(mut cluster: FoundCluster) -> FoundCluster {
    cluster.instances.sort_by(|one, other| {
        (one.group.is_some(), &one.node, &one.id).cmp(&(other.group.is_some(), &other.node, &other.id))
    });
    cluster
}

/// What was found in a region so far.
struct Found<'a> {
    region: &'a str,
    clusters: BTreeMap<Uid, FoundCluster>,
}

impl Found<'_> {
    /// The cluster whose mark something carries.
    fn cluster(&mut self, tags: &[Tag]) -> Option<&mut FoundCluster> {
        let uid = Uid::from(tag(tags, CLUSTER_UID_TAG).filter(|uid| !uid.is_empty())?);
        let region = self.region.to_owned();
        let cluster = self.clusters.entry(uid.clone()).or_insert_with(|| FoundCluster {
            region,
            uid,
            key: None,
            incarnations: BTreeSet::new(),
            instances: Vec::new(),
            shared: BTreeMap::new(),
        });
        let key = tag(tags, CLUSTER_TAG).and_then(|key| key.split_once('/'));
        cluster.key = cluster.key.take().or_else(|| key.map(|(ns, name)| ObjectKey::new(ns, name)));
        cluster.incarnations.extend(tag(tags, INCARNATION_TAG).map(str::to_owned));
        Some(cluster)
    }

    fn add_instance(&mut self, instance: &Instance) {
        let Some((id, seen)) = instances::observed(instance) else { return };
        if seen.phase == crate::api::observed::InstancePhase::Terminated {
            return; // EC2 lists it for another hour.
        }
        let tags = instance.tags();
        let launched =
            instance.launch_time().and_then(|time| Timestamp::from_millisecond(time.to_millis().ok()?).ok());
        let found = FoundInstance {
            id,
            node: tag(tags, NODE_TAG).map(NodeName::from),
            group: tag(tags, GROUP_TAG).filter(|group| *group != HEAD_GROUP).map(str::to_owned),
            incarnation: tag(tags, INCARNATION_TAG).unwrap_or_default().to_owned(),
            subnet: instance.subnet_id().unwrap_or_default().to_owned(),
            image: instance.image_id().unwrap_or_default().to_owned(),
            launched,
            seen,
        };
        if let Some(cluster) = self.cluster(tags) {
            cluster.instances.push(found);
        }
    }

    fn add_shared(&mut self, kind: &'static str, tags: &[Tag], id: Option<&str>) {
        if let Some(cluster) = self.cluster(tags) {
            cluster.shared.entry(kind).or_default().extend(id.map(str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{InstanceState, InstanceStateName};

    use super::*;

    fn tags(uid: &str, more: &[(&str, &str)]) -> Vec<Tag> {
        let own = [(CLUSTER_UID_TAG, uid), (CLUSTER_TAG, "team/gpu"), (INCARNATION_TAG, "r1")];
        let all = own.iter().chain(more);
        all.map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect()
    }

    fn instance(id: &str, tags: Vec<Tag>, state: InstanceStateName) -> Instance {
        Instance::builder()
            .instance_id(id)
            .state(InstanceState::builder().name(state).build())
            .launch_time(DateTime::from_secs(1_800_000_000))
            .set_tags(Some(tags))
            .build()
    }

    #[test]
    fn clusters_are_told_apart_by_their_uids() {
        let mut found = Found { region: "us-west-2", clusters: BTreeMap::new() };
        let worker = tags("u-1", &[(GROUP_TAG, "spot"), (NODE_TAG, "gpu-spot-2")]);
        let head = tags("u-1", &[(GROUP_TAG, HEAD_GROUP), (NODE_TAG, "gpu-head")]);
        found.add_instance(&instance("i-1", worker.clone(), InstanceStateName::Running));
        found.add_instance(&instance("i-2", head, InstanceStateName::ShuttingDown));
        found.add_instance(&instance("i-3", worker, InstanceStateName::Terminated));
        found.add_instance(&instance("i-4", Vec::new(), InstanceStateName::Running));
        found.add_shared("Elastic IP", &tags("u-2", &[]), Some("203.0.113.7"));
        let clusters: Vec<FoundCluster> = found.clusters.into_values().map(sorted).collect();
        let [one, other] = clusters.as_slice() else { panic!("{clusters:?}") };
        let ids: Vec<&str> = one.instances.iter().map(|instance| instance.id.0.as_str()).collect();
        assert_eq!(ids, ["i-2", "i-1"], "the head first, and none that has ended");
        assert_eq!((one.up(), one.head()), (1, None), "a head that is being ended is none");
        assert_eq!(one.key, Some(ObjectKey::new("team", "gpu")));
        assert_eq!(one.since().unwrap().as_second(), 1_800_000_000);
        assert_eq!((other.up(), other.incarnations.contains("r1")), (0, true));
        assert_eq!(other.shared["Elastic IP"], ["203.0.113.7"]);
    }
}
