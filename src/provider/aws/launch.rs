//! Launching an instance.

use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceMetadataTagsState, InstanceNetworkInterfaceSpecification,
    InstanceType, MarketType, ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions,
    VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::pace::Api;
use super::tags::{Marks, specification};
use super::{Aws, client_token, instances, userdata};
use crate::action::EffectError;
use crate::api::aws::{AwsNetwork, AwsProvider, BlockDevice, Instance, MarketKind, Offering};
use crate::api::record::Incarnation;
use crate::provider::{NodeLaunch, rejected};

/// The container shares the instance's network: from other containers the instance's role is out of reach.
const METADATA_HOPS: i32 = 1;

/// Launches an instance, unless it was launched before.
pub(super) async fn launch(
    aws: &Aws,
    incarnation: &Incarnation,
    node: NodeLaunch,
) -> Result<(), EffectError> {
    let settings = aws.settings()?;
    let network = incarnation.aws.as_ref().ok_or_else(|| rejected("the cluster was not opened on EC2"))?;
    let clients = aws.clients().await?;
    if !instances::of_launch(&clients, aws.uid(), &node.launch).await?.is_empty() {
        return Ok(());
    }
    let user_data = userdata::render(&aws.cluster.spec, settings, network, &node, aws.uid())?;
    let marks = aws.marks(settings, &incarnation.id);
    let request = request(settings, network, &node, &marks, &user_data)?;
    clients.pace(Api::RunInstances).await;
    let Err(error) = request.send_with(&clients.ec2).await else { return Ok(()) };
    let error = clients.error(&what(&node), &error);
    if error.is(&["IdempotentInstanceTerminated"]) {
        return Ok(()); // It was launched, and has ended.
    }
    if error.is(&["InvalidNetworkInterfaceID.NotFound"]) {
        return Err(error.of_something_new());
    }
    Err(error.into())
}

fn what(node: &NodeLaunch) -> String {
    let Some(offering) = &node.offering else { return format!("launch {}", node.name) };
    let Offering { instance_type, zone, market, .. } = offering;
    format!("launch {} as {instance_type} in {zone} ({})", node.name, market.words())
}

/// What EC2 is asked for. The same launch is always asked for in the same words: by them, and by the client token, EC2
/// knows that it has done it before.
fn request(
    settings: &AwsProvider,
    network: &AwsNetwork,
    node: &NodeLaunch,
    marks: &Marks<'_>,
    user_data: &[u8],
) -> Result<RunInstancesInputBuilder, EffectError> {
    let instance = node.template.instance.as_ref();
    let instance =
        instance.ok_or_else(|| rejected(format!("node {} has no template of an instance", node.name)))?;
    let offering = node.offering.as_ref();
    let offering =
        offering.ok_or_else(|| rejected(format!("node {} has no instance type chosen", node.name)))?;
    let metadata = InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(METADATA_HOPS)
        .instance_metadata_tags(InstanceMetadataTagsState::Disabled);
    let profile = settings.iam_instance_profile.as_ref();
    let tags = marks.node(node);
    let request = RunInstancesInput::builder()
        .min_count(1)
        .max_count(1)
        .client_token(client_token(marks.uid, &format!("launch {}", node.launch)))
        .image_id(&offering.image)
        .instance_type(InstanceType::from(offering.instance_type.as_str()))
        .set_key_name(settings.key_name.clone())
        .set_iam_instance_profile(
            profile.map(|name| IamInstanceProfileSpecification::builder().name(name).build()),
        )
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata.build())
        .set_instance_market_options(market(offering))
        .set_block_device_mappings(some(block_devices(instance, offering.root_device.as_deref())))
        .user_data(STANDARD.encode(user_data))
        .tag_specifications(specification(ResourceType::Instance, &tags))
        .tag_specifications(specification(ResourceType::Volume, &tags));
    if node.group.is_some() {
        let interface = specification(ResourceType::NetworkInterface, &tags);
        Ok(request
            .subnet_id(&offering.subnet)
            .set_security_group_ids(Some(network.security_groups.clone()))
            .tag_specifications(interface))
    } else {
        // Its interface has its subnet, its groups and its tags, and outlives it.
        let interface = InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .network_interface_id(&network.head_interface)
            .delete_on_termination(false);
        Ok(request.network_interfaces(interface.build()))
    }
}

/// Nothing is said of on-demand instances, which is what EC2 gives then.
fn market(offering: &Offering) -> Option<InstanceMarketOptionsRequest> {
    if offering.market == MarketKind::OnDemand {
        return None;
    }
    let spot = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .set_max_price(offering.max_price.clone());
    let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
    Some(market.spot_options(spot.build()).build())
}

/// The manifest's volumes, and the root volume always: there are images that have it kept when an instance ends.
fn block_devices(instance: &Instance, root: Option<&str>) -> Vec<BlockDeviceMapping> {
    let given = |name: &&str| instance.block_devices.iter().any(|device| device.device_name == **name);
    let root = root.filter(|name| !given(name)).map(|name| {
        let volume = EbsBlockDevice::builder().delete_on_termination(true).build();
        BlockDeviceMapping::builder().device_name(name).ebs(volume).build()
    });
    root.into_iter().chain(instance.block_devices.iter().map(block_device)).collect()
}

fn block_device(device: &BlockDevice) -> BlockDeviceMapping {
    let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let volume = EbsBlockDevice::builder()
        .set_volume_size(device.size.map(|size| i32::try_from(size.0.div_ceil(1 << 30)).unwrap_or(i32::MAX)))
        .volume_type(VolumeType::from(device.volume_type.name()))
        .set_iops(device.iops.map(whole))
        .set_throughput(device.throughput.map(whole))
        .set_encrypted(device.encrypted)
        .delete_on_termination(true);
    BlockDeviceMapping::builder().device_name(&device.device_name).ebs(volume.build()).build()
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::tags::{CLUSTER_UID_TAG, GROUP_TAG, HEAD_GROUP, LAUNCH_TAG, NODE_TAG, tag};
    use super::*;
    use crate::api::cluster::NodeTemplate;
    use crate::api::ids::Uid;
    use crate::api::meta::ObjectKey;
    use crate::api::units::Span;

    fn settings() -> AwsProvider {
        serde_json::from_value(json!({
            "region": "us-west-2",
            "subnets": ["subnet-a", "subnet-b"],
            "iamInstanceProfile": "rayconcile-node",
            "keyName": "mine",
            "tags": {"team": "vision"},
        }))
        .unwrap()
    }

    fn network() -> AwsNetwork {
        AwsNetwork {
            region: "us-west-2".to_owned(),
            subnets: vec![("subnet-a".to_owned(), "us-west-2a".to_owned())],
            security_groups: vec!["sg-1".to_owned()],
            head_interface: "eni-1".to_owned(),
            head_address: "10.0.0.5".to_owned(),
            token_parameter: None,
            images: BTreeMap::from([("/image".to_owned(), "ami-2".to_owned())]),
            root_devices: BTreeMap::new(),
            types: BTreeMap::new(),
            settings: Default::default(),
            at: Default::default(),
            spot_prices: BTreeMap::new(),
            list_prices: None,
            published: None,
        }
    }

    fn node(group: Option<&str>, market: MarketKind, instance: serde_json::Value) -> NodeLaunch {
        NodeLaunch {
            name: "gpu-spot-1".into(),
            launch: "launch-1".into(),
            index: 1,
            group: group.map(str::to_owned),
            template: NodeTemplate {
                instance: Some(serde_json::from_value(instance).unwrap()),
                ..NodeTemplate::default()
            },
            offering: Some(Offering {
                instance_type: "g5.xlarge".to_owned(),
                subnet: "subnet-a".to_owned(),
                zone: "us-west-2a".to_owned(),
                market,
                max_price: Some("1.75".to_owned()),
                image: "ami-2".to_owned(),
                root_device: Some("/dev/sda1".to_owned()),
            }),
            failure_timeout: Span::from_secs(5),
        }
    }

    fn asked(node: &NodeLaunch) -> Result<RunInstancesInput, EffectError> {
        let (settings, uid) = (settings(), Uid::from("u-1"));
        let cluster = ObjectKey::new("default", "gpu");
        let marks = Marks { uid: &uid, cluster, incarnation: "i-1", more: &settings.tags };
        request(&settings, &network(), node, &marks, b"boot").map(|request| request.build().unwrap())
    }

    #[test]
    fn a_worker_is_asked_for_in_its_subnet_and_marked_with_all_that_goes_with_it() {
        // Its offering says which image: a parameter may name another one by now.
        let instance = json!({"types": ["g5.xlarge"], "image": {"parameter": "/image"}});
        let asked = asked(&node(Some("spot"), MarketKind::OnDemand, instance)).unwrap();
        assert_eq!((asked.min_count(), asked.max_count()), (Some(1), Some(1)));
        assert_eq!(asked.image_id(), Some("ami-2"));
        assert_eq!(asked.instance_type().map(InstanceType::as_str), Some("g5.xlarge"));
        assert_eq!(asked.subnet_id(), Some("subnet-a"));
        assert_eq!(asked.security_group_ids(), ["sg-1"]);
        assert_eq!(asked.key_name(), Some("mine"));
        assert_eq!(asked.iam_instance_profile().and_then(|profile| profile.name()), Some("rayconcile-node"));
        assert_eq!(asked.user_data(), Some("Ym9vdA=="));
        assert_eq!(asked.instance_initiated_shutdown_behavior(), Some(&ShutdownBehavior::Terminate));
        assert!(asked.instance_market_options().is_none());
        assert!(asked.network_interfaces().is_empty());
        let [root] = asked.block_device_mappings() else { panic!("{asked:?}") };
        let volume = EbsBlockDevice::builder().delete_on_termination(true).build();
        assert_eq!((root.device_name(), root.ebs()), (Some("/dev/sda1"), Some(&volume)), "it is not kept");
        let metadata = asked.metadata_options().unwrap();
        assert_eq!(metadata.http_tokens(), Some(&HttpTokensState::Required));
        assert_eq!(metadata.http_put_response_hop_limit(), Some(1));
        let kinds: Vec<_> =
            asked.tag_specifications().iter().filter_map(|tags| tags.resource_type()).collect();
        assert_eq!(kinds, [&ResourceType::Instance, &ResourceType::Volume, &ResourceType::NetworkInterface]);
        for tags in asked.tag_specifications() {
            assert_eq!(tag(tags.tags(), CLUSTER_UID_TAG), Some("u-1"));
            assert_eq!(tag(tags.tags(), LAUNCH_TAG), Some("launch-1"));
            assert_eq!(tag(tags.tags(), NODE_TAG), Some("gpu-spot-1"));
            assert_eq!(tag(tags.tags(), "Name"), Some("gpu-spot-1"));
            assert_eq!(tag(tags.tags(), GROUP_TAG), Some("spot"));
            assert_eq!(tag(tags.tags(), "team"), Some("vision"));
        }
    }

    #[test]
    fn the_head_gets_the_interface_that_was_made_for_it() {
        let instance = json!({"types": ["m6i.large"], "image": {"parameter": "/image"}});
        let asked = asked(&node(None, MarketKind::OnDemand, instance)).unwrap();
        assert_eq!(asked.image_id(), Some("ami-2"));
        assert_eq!(asked.subnet_id(), None);
        assert!(asked.security_group_ids().is_empty());
        let [interface] = asked.network_interfaces() else { panic!("{asked:?}") };
        assert_eq!(interface.network_interface_id(), Some("eni-1"));
        assert_eq!((interface.device_index(), interface.delete_on_termination()), (Some(0), Some(false)));
        let kinds: Vec<_> =
            asked.tag_specifications().iter().filter_map(|tags| tags.resource_type()).collect();
        assert_eq!(kinds, [&ResourceType::Instance, &ResourceType::Volume]);
        assert_eq!(tag(asked.tag_specifications()[0].tags(), GROUP_TAG), Some(HEAD_GROUP));
    }

    #[test]
    fn a_spot_instance_is_asked_for_once_and_ends_when_it_is_interrupted() {
        let instance = json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}});
        let asked = asked(&node(Some("spot"), MarketKind::Spot, instance)).unwrap();
        let market = asked.instance_market_options().unwrap();
        assert_eq!(market.market_type(), Some(&MarketType::Spot));
        let spot = market.spot_options().unwrap();
        assert_eq!(spot.spot_instance_type(), Some(&SpotInstanceType::OneTime));
        assert_eq!(spot.instance_interruption_behavior(), Some(&InstanceInterruptionBehavior::Terminate));
        assert_eq!(spot.max_price(), Some("1.75"));
    }

    #[test]
    fn volumes_end_with_the_instance() {
        let instance = json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}, "blockDevices": [
            {"deviceName": "/dev/sda1", "size": "100Gi", "iops": 4000, "throughput": 250, "encrypted": true},
            {"deviceName": "/dev/sdf", "size": "1500M", "volumeType": "io2", "iops": 100},
        ]});
        let asked_of = |instance| asked(&node(Some("spot"), MarketKind::OnDemand, instance)).unwrap();
        let asked = asked_of(instance);
        let volumes: Vec<_> =
            asked.block_device_mappings().iter().filter_map(|device| device.ebs()).collect();
        let [root, data] = volumes[..] else { panic!("{asked:?}") };
        assert_eq!(asked.block_device_mappings()[0].device_name(), Some("/dev/sda1"));
        assert_eq!((root.volume_size(), root.volume_type()), (Some(100), Some(&VolumeType::Gp3)));
        assert_eq!((root.iops(), root.throughput(), root.encrypted()), (Some(4000), Some(250), Some(true)));
        assert_eq!((data.volume_size(), data.volume_type()), (Some(2), Some(&VolumeType::Io2)));
        assert_eq!((data.iops(), data.throughput(), data.encrypted()), (Some(100), None, None));
        assert!(volumes.iter().all(|volume| volume.delete_on_termination() == Some(true)));
        let instance = json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}, "blockDevices": [
            {"deviceName": "/dev/sdf", "size": "10Gi"},
        ]});
        let asked = asked_of(instance);
        let names: Vec<_> = asked.block_device_mappings().iter().map(|device| device.device_name()).collect();
        assert_eq!(names, [Some("/dev/sda1"), Some("/dev/sdf")]);
    }

    #[test]
    fn the_same_launch_is_asked_for_in_the_same_words() {
        let instance = json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}});
        let worker = node(Some("spot"), MarketKind::OnDemand, instance);
        let first = asked(&worker).unwrap();
        assert_eq!(first, asked(&worker).unwrap());
        let other = asked(&NodeLaunch { launch: "launch-2".into(), ..worker }).unwrap();
        assert_ne!(first.client_token(), other.client_token());
    }

    #[test]
    fn what_cannot_be_asked_for_is_said() {
        let instance = json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}});
        let nothing = NodeLaunch { offering: None, ..node(Some("spot"), MarketKind::OnDemand, instance) };
        assert_eq!(asked(&nothing).unwrap_err().message, "node gpu-spot-1 has no instance type chosen");
    }
}
