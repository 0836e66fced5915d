//! From `node_config`, the parameters of EC2's `RunInstances`, to what an instance is.

use super::input::{Fields, Findings, flag, is_nothing, scalar, whole};
use super::lost;
use super::tree::{Block, Node, Note};
use super::types::Type;
use crate::manifest::Part;

/// Today's image in place of that which `ray up` takes, by the processors of the type.
const IMAGE: (&str, &str) = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
    "/aws/service/deeplearning/ami/arm64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id",
);

const DEFAULT_IMAGE: &str = "Without an `ImageId`, `ray up` takes AWS's Deep Learning AMI of 2023, with Ubuntu 18.04. \
                             This is the newest one with Ubuntu 22.04: it has NVIDIA's driver and Docker, but no \
                             PyTorch, and no Ray.";
const STORE: &str = "the instance store needs no mapping: `dataPath` formats and mounts it.";
const SNAPSHOT: &str = "volumes are not made of snapshots, but for those of the image.";
const KEEPS: &str = "volumes end with their instance; what shall stay belongs on S3 or EFS.";
const KMS_KEY: &str = "volumes are encrypted with the account's default key.";
const MARKET: &str = "spot instances here are launched one by one, and terminated when they are interrupted.";

/// Takes the type and the image.
pub(super) fn machine<'a>(kind: &mut Type<'a>, instance: &mut Block<'a>, findings: &mut Findings) {
    let Some((name, from)) = kind.config.text("InstanceType", findings) else {
        let template = kind.config.take("LaunchTemplate").is_some();
        let more = if template { ": launch templates are not looked into" } else { "" };
        if kind.configured.value().is_object() && kind.configured.get("InstanceType").is_none() {
            let problem = kind.configured.problem(format!("`InstanceType` is missing{more}"));
            findings.problems.push(problem);
        }
        return;
    };
    let mut types = Block::default();
    types.push_needed(name.as_str(), &from);
    instance.say("types", Node::List(types));
    let mut image = Block::default();
    let given = kind.config.text("ImageId", findings);
    let given = given.filter(|(id, _)| !["", "latest_dlami"].contains(&id.to_lowercase().as_str()));
    match &given {
        Some((id, from)) => match id.strip_prefix("resolve:ssm:") {
            Some(parameter) => image.need("parameter", parameter, from),
            None => image.need("id", id.as_str(), from),
        },
        None => {
            let (x86, arm) = IMAGE;
            image.say("parameter", if is_arm(&name) { arm } else { x86 });
            instance.note(Note::remark(DEFAULT_IMAGE));
        }
    }
    instance.say("image", Node::Map(image));
}

/// Whether instances of a type have AWS's own processors: a `g` follows the generation (Amazon EC2 Instance Types
/// Guide, "Naming conventions"), as in `m7gd.large`. The first ones were `a1`.
fn is_arm(name: &str) -> bool {
    let family = name.split('.').next().unwrap_or_default();
    let rest = family.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let options = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    family == "a1" || (options != rest && options.contains('g'))
}

/// Takes the EBS volumes.
pub(super) fn volumes<'a>(config: &mut Fields<'a>, instance: &mut Block<'a>, findings: &mut Findings) {
    let Some(mappings) = config.take("BlockDeviceMappings") else { return };
    if !mappings.value().is_array() {
        findings.problems.push(mappings.wrong("a list"));
    }
    let mut devices = Block::default();
    for mapping in mappings.items() {
        let mut fields = Fields::of(&mapping, findings);
        match fields.take("Ebs") {
            Some(ebs) if mapping.get("NoDevice").is_none() && mapping.get("VirtualName").is_none() => {
                volume(&mapping, &mut fields, &ebs, &mut devices, findings);
            }
            _ => devices.note(Note::lost(&mapping, STORE)),
        }
    }
    instance.set_some("blockDevices", Node::List(devices));
}

fn volume<'a>(
    mapping: &Part<'a>,
    fields: &mut Fields<'a>,
    ebs: &Part<'a>,
    devices: &mut Block<'a>,
    findings: &mut Findings,
) {
    let mut ebs = Fields::of(ebs, findings);
    let (size, snapshot) = (ebs.take("VolumeSize"), ebs.take("SnapshotId"));
    if snapshot.is_some() && size.is_none() {
        return devices.note(Note::lost(mapping, SNAPSHOT));
    }
    let mut device = Block::default();
    if let Some((name, from)) = fields.text("DeviceName", findings) {
        device.need("deviceName", name.as_str(), &from);
    }
    if let Some(from) = size {
        let gibs = whole(&from, findings).unwrap_or_default();
        device.set("size", format!("{gibs}Gi"), &from);
    }
    if let Some((name, from)) = ebs.text("VolumeType", findings) {
        device.set("volumeType", name.as_str(), &from);
    }
    for (name, field) in [("Iops", "iops"), ("Throughput", "throughput")] {
        if let Some(from) = ebs.take(name) {
            device.set(field, whole(&from, findings).unwrap_or_default(), &from);
        }
    }
    if let Some(from) = ebs.take("Encrypted") {
        device.set("encrypted", flag(&from, findings).unwrap_or_default(), &from);
    }
    let keeps = ebs.take("DeleteOnTermination").filter(|part| flag(part, findings) == Some(false));
    for (part, why) in [(snapshot, SNAPSHOT), (keeps, KEEPS), (ebs.take("KmsKeyId"), KMS_KEY)] {
        devices.notes(part.map(|part| Note::lost(&part, why)));
    }
    devices.notes(lost::rest(&mut ebs));
    devices.notes(lost::rest(fields));
    devices.push(Node::Map(device), mapping);
}

/// Takes how instances are paid for: the value of `market`, and what there is to say of it.
pub(super) fn market<'a>(config: &mut Fields<'a>, findings: &mut Findings) -> (Option<Node<'a>>, Vec<Note>) {
    let Some(part) = config.take("InstanceMarketOptions") else { return (None, Vec::new()) };
    let mut options = Fields::of(&part, findings);
    let spot = options.take("SpotOptions");
    match options.text("MarketType", findings) {
        Some((kind, _)) if kind == "spot" => {}
        None if is_nothing(part.value()) => return (None, Vec::new()),
        _ => {
            let why = "a group's market is `onDemand` or `spot`.";
            return (None, vec![Note::lost(&part, why)]);
        }
    }
    let mut notes = lost::rest(&mut options);
    let mut market = Block::default();
    if let Some(spot) = spot {
        let mut spot = Fields::of(&spot, findings);
        if let Some((price, from)) = spot.take("MaxPrice").and_then(|part| scalar(&part, findings)) {
            market.set("maxPrice", price.as_str(), &from);
        }
        for (name, anyway) in
            [("SpotInstanceType", "one-time"), ("InstanceInterruptionBehavior", "terminate")]
        {
            let other = spot.take(name).filter(|part| part.value() != anyway);
            notes.extend(other.map(|part| Note::lost(&part, MARKET)));
        }
        notes.extend(spot.rest().iter().map(|part| Note::lost(part, MARKET)));
    }
    let mut outer = Block::default();
    outer.set("spot", Node::Map(market), &part);
    (Some(Node::Map(outer)), notes)
}

/// Takes all that is left of a configuration.
pub(super) fn rest(config: &mut Fields<'_>) -> Vec<Note> {
    let mut notes = lost::notes(config, lost::CONFIG);
    let why = "an instance is described by its types, image, volumes, subnets and groups.";
    let others = config.rest();
    others.iter().for_each(|part| lost::merge(&mut notes, Note::lost(part, why)));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_by_the_types_name() {
        for arm in [
            "a1.large",
            "m6g.large",
            "c7gn.xlarge",
            "r6gd.metal",
            "g5g.xlarge",
            "hpc7g.4xlarge",
            "im4gn.large",
        ] {
            assert!(is_arm(arm), "{arm}");
        }
        for other in
            ["m5.large", "g5.xlarge", "g4dn.xlarge", "p4d.24xlarge", "trn1.2xlarge", "u-6tb1.metal", "g"]
        {
            assert!(!is_arm(other), "{other}");
        }
    }
}
