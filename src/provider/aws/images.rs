//! Machine images: the ones that parameters name, and whether they fit.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{DeviceType, Image as Found, ImageState};

use super::client::Clients;
use super::pace::Api;
use super::types::Template;
use crate::action::EffectError;
use crate::api::aws::{Image, TypeFacts};
use crate::api::units::Bytes;
use crate::provider::rejected;

/// The images of a cluster's templates.
pub(super) struct Images {
    /// The image of each parameter that a template names.
    pub(super) named: BTreeMap<String, String>,
    /// The name of each image's root device.
    pub(super) root_devices: BTreeMap<String, String>,
}

/// Looks at all images that the templates name, and whether they fit.
pub(super) async fn look_up(
    clients: &Clients,
    templates: &[Template<'_>],
    types: &BTreeMap<String, TypeFacts>,
) -> Result<Images, EffectError> {
    let mut named = BTreeMap::new();
    for template in templates {
        if let Image::Parameter(name) = &template.instance.image
            && !named.contains_key(name)
        {
            named.insert(name.clone(), parameter(clients, &template.at, name).await?);
        }
    }
    let wanted = |template: &Template<'_>| match &template.instance.image {
        Image::Id(id) => id.clone(),
        Image::Parameter(name) => named.get(name).cloned().unwrap_or_default(),
    };
    let found = describe(clients, templates.iter().map(wanted).collect()).await?;
    for template in templates {
        let id = wanted(template);
        let image = found.iter().find(|image| image.image_id() == Some(&id));
        let image = image.ok_or_else(|| rejected(format!("{}: there is no image {id}", template.at)))?;
        check(template, &id, image, types).map_err(rejected)?;
    }
    let root = |image: &Found| Some((image.image_id()?.to_owned(), image.root_device_name()?.to_owned()));
    Ok(Images { named, root_devices: found.iter().filter_map(root).collect() })
}

async fn parameter(clients: &Clients, at: &str, name: &str) -> Result<String, EffectError> {
    clients.pace(Api::Describe).await;
    let answer = clients.ssm.get_parameter().name(name).send().await;
    let answer = answer.map_err(|error| clients.error(&format!("read parameter {name}"), &error));
    let answer = match answer {
        Err(error) if error.is_not_found() => {
            let region = &clients.region;
            return Err(rejected(format!("{at}: Systems Manager has no parameter {name} in {region}")));
        }
        answer => answer?,
    };
    let value = answer.parameter().and_then(|parameter| parameter.value()).unwrap_or_default();
    if !value.starts_with("ami-") {
        let begin: String = value.chars().take(40).collect();
        return Err(rejected(format!("{at}: parameter {name} names no image, it says {begin:?}")));
    }
    Ok(value.to_owned())
}

async fn describe(clients: &Clients, ids: BTreeSet<String>) -> Result<Vec<Found>, EffectError> {
    clients.pace(Api::Describe).await;
    let request = clients.ec2.describe_images().set_image_ids(Some(ids.into_iter().collect()));
    let answer = request.include_deprecated(true).send().await;
    let answer = answer.map_err(|error| clients.error("look at the machine images", &error))?;
    Ok(answer.images.unwrap_or_default())
}

/// Why an image cannot be used for a template.
fn check(
    template: &Template<'_>,
    id: &str,
    image: &Found,
    types: &BTreeMap<String, TypeFacts>,
) -> Result<(), String> {
    let at = &template.at;
    if let Some(state) = image.state().filter(|state| **state != ImageState::Available) {
        return Err(format!("{at}: image {id} is {state}"));
    }
    if image.root_device_type() == Some(&DeviceType::InstanceStore) {
        return Err(format!(
            "{at}: image {id} has its root device in the instance store; take one with an EBS volume"
        ));
    }
    if let Some(architecture) = image.architecture() {
        let fits = |name: &&String| {
            types.get(*name).is_none_or(|facts| facts.architectures.contains(architecture.as_str()))
        };
        if let Some(unfit) = template.instance.types.iter().find(|name| !fits(name)) {
            return Err(format!("{at}: image {id} is for {architecture}, which {unfit} is not"));
        }
    }
    let device = |name: Option<&str>| {
        template.instance.block_devices.iter().find(|device| Some(device.device_name.as_str()) == name)
    };
    for mapping in image.block_device_mappings() {
        let least =
            mapping.ebs().and_then(|volume| volume.volume_size()).and_then(|size| u64::try_from(size).ok());
        let given = device(mapping.device_name()).and_then(|device| device.size);
        if let (Some(least), Some(given)) = (least.map(|gib| Bytes(gib << 30)), given)
            && given < least
        {
            let name = mapping.device_name().unwrap_or_default();
            return Err(format!(
                "{at}: {name} must have at least the {least} that image {id} has, found {given}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_sdk_ec2::types::{ArchitectureValues, BlockDeviceMapping, EbsBlockDevice};
    use serde_json::json;

    use super::super::types::templates;
    use super::*;
    use crate::api::cluster::RayClusterSpec;

    fn problem(image: aws_sdk_ec2::types::builders::ImageBuilder, size: &str) -> Result<(), String> {
        let spec: RayClusterSpec = serde_json::from_value(json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a"]}},
            "head": {"instance": {
                "types": ["m6i.large", "m6a.large"],
                "image": {"id": "ami-1"},
                "blockDevices": [{"deviceName": "/dev/sda1", "size": size}],
            }},
        }))
        .unwrap();
        let facts = TypeFacts { architectures: ["x86_64".to_owned()].into(), ..TypeFacts::default() };
        let types = ["m6i.large", "m6a.large"].map(|name| (name.to_owned(), facts.clone())).into();
        check(&templates(&spec).unwrap()[0], "ami-1", &image.build(), &types)
    }

    fn image() -> aws_sdk_ec2::types::builders::ImageBuilder {
        let root = BlockDeviceMapping::builder().device_name("/dev/sda1");
        let root = root.ebs(EbsBlockDevice::builder().volume_size(60).build()).build();
        Found::builder()
            .state(ImageState::Available)
            .root_device_type(DeviceType::Ebs)
            .architecture(ArchitectureValues::X8664)
            .block_device_mappings(root)
    }

    #[test]
    fn an_image_must_fit() {
        assert_eq!(problem(image(), "100Gi"), Ok(()));
        assert_eq!(problem(image(), "60Gi"), Ok(()));
        let told = |image, size| problem(image, size).unwrap_err();
        assert_eq!(told(image().state(ImageState::Pending), "100Gi"), "spec.head: image ami-1 is pending");
        assert_eq!(
            told(image().architecture(ArchitectureValues::Arm64), "100Gi"),
            "spec.head: image ami-1 is for arm64, which m6i.large is not"
        );
        assert_eq!(
            told(image(), "30Gi"),
            "spec.head: /dev/sda1 must have at least the 60Gi that image ami-1 has, found 30Gi"
        );
        assert!(told(image().root_device_type(DeviceType::InstanceStore), "100Gi").contains("EBS"));
    }
}
