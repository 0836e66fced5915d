//! The rules of EBS volumes. Limits are those of the Amazon EBS User Guide, "Amazon EBS volume types", and of the
//! Amazon EC2 API Reference, `EbsBlockDevice`.

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::words::quoted;
use super::distinct;
use crate::api::aws::{BlockDevice, VolumeType};
use crate::api::units::Bytes;

const GIB: u64 = 1 << 30;

/// The root devices of Ubuntu's and of Amazon's images.
const ROOTS: [&str; 2] = ["/dev/sda1", "/dev/xvda"];

/// What a `gp3` volume has without asking.
const GP3_IOPS: u32 = 3000;

/// The throughput of a `gp3` volume, in MiB/s.
const THROUGHPUT: (u32, u32) = (125, 2000);

/// So many operations per second a `gp3` volume must have for each MiB/s.
const IOPS_PER_THROUGHPUT: u32 = 4;

/// What volumes of a type may have.
struct Limits {
    /// From how many GiB to how many.
    size: (u64, u64),
    /// From how many operations per second to how many, and how many for each GiB at most; none if there is no choice.
    iops: Option<(u32, u32, u64)>,
}

fn limits(volume_type: VolumeType) -> Limits {
    let (size, iops) = match volume_type {
        VolumeType::Gp3 => ((1, 65_536), Some((3_000, 80_000, 500))),
        VolumeType::Gp2 => ((1, 16_384), None),
        VolumeType::Io1 => ((4, 16_384), Some((100, 64_000, 50))),
        VolumeType::Io2 => ((4, 65_536), Some((100, 256_000, 1_000))),
        VolumeType::St1 | VolumeType::Sc1 => ((125, 16_384), None),
        VolumeType::Standard => ((1, 1_024), None),
    };
    Limits { size, iops }
}

/// What is wrong with an instance's volumes.
pub(super) fn check(devices: &[BlockDevice], at: &Path, findings: &mut Vec<Finding>) {
    for (index, device) in devices.iter().enumerate() {
        let at = at.item(index);
        findings.extend(name(&device.device_name, at.key("deviceName")));
        let limits = limits(device.volume_type);
        findings.extend(device.size.and_then(|size| self::size(size, device, &limits, at.key("size"))));
        iops(device, &limits, &at, findings);
        findings.extend(throughput(device, at.key("throughput")));
        let slow = matches!(device.volume_type, VolumeType::St1 | VolumeType::Sc1);
        if slow && ROOTS.contains(&device.device_name.as_str()) {
            let message = format!("must not be {} for a root device", device.volume_type.name());
            let finding =
                Finding::new(at.key("volumeType"), message).help("nothing boots from it; gp3 would do");
            findings.push(finding.also(at.key("deviceName"), "the root device"));
        }
    }
    let names = devices.iter().enumerate();
    let names = names.map(|(index, device)| (device.device_name.as_str(), at.item(index).key("deviceName")));
    distinct(names, findings);
}

fn name(text: &str, path: Path) -> Option<Finding> {
    let plain =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rule = "must be a device's name such as /dev/sdf";
    let finding = || Finding::new(path.clone(), format!("{rule}, found {}", quoted(text)));
    match text.strip_prefix("/dev/") {
        Some(name) if name.starts_with("nvme") => {
            let help = "EC2 does not know that name: it is what instances show for /dev/sdf or another";
            Some(finding().help(help))
        }
        Some(name) if plain(name) => None,
        Some(_) => Some(finding()),
        None => Some(finding().help_if(plain(text).then(|| format!("write /dev/{text}")))),
    }
}

fn size(size: Bytes, device: &BlockDevice, limits: &Limits, path: Path) -> Option<Finding> {
    let (least, most) = limits.size;
    let whole = size.0.div_ceil(GIB);
    let finding = |rule: String| Some(Finding::new(path.clone(), format!("{rule}, found {size}")));
    if size.0 < GIB {
        return finding("must be at least 1Gi".to_owned());
    }
    if !size.0.is_multiple_of(GIB) {
        let finding = finding("must be a whole number of Gi".to_owned());
        return finding.map(|finding| finding.help(format!("{} would do", Bytes(whole.saturating_mul(GIB)))));
    }
    if !(least..=most).contains(&whole) {
        let name = device.volume_type.name();
        return finding(format!("must be from {least}Gi to {most}Gi for {name}"));
    }
    None
}

fn iops(device: &BlockDevice, limits: &Limits, at: &Path, findings: &mut Vec<Finding>) {
    let path = at.key("iops");
    let name = device.volume_type.name();
    match (device.iops, limits.iops) {
        (Some(iops), Some((least, most, _))) if !(least..=most).contains(&iops) => {
            let message = format!("must be from {least} to {most} for {name}, found {iops}");
            findings.push(Finding::new(path, message));
        }
        (Some(iops), Some((least, _, each))) => {
            let gibs = device.size.map(|size| size.0 / GIB);
            // What each volume may have is not bound by its size.
            let most = gibs.map(|gibs| gibs.saturating_mul(each).max(least.into()));
            if let Some(most) = most.filter(|most| u64::from(iops) > *most) {
                let message = format!("must be at most {most}, {each} for each Gi of {name}, found {iops}");
                findings.push(Finding::new(path, message).also(at.key("size"), "its size"));
            }
        }
        (Some(_), None) => {
            let finding = Finding::new(path, format!("is not for {name}, but for gp3, io1 and io2")).at_key();
            findings.push(finding.also(at.key("volumeType"), "its type"));
        }
        (None, Some(_)) if device.volume_type != VolumeType::Gp3 => {
            let message = format!("`iops` is missing: {name} has no default");
            findings.push(Finding::new(at.clone(), message));
        }
        (None, _) => {}
    }
}

fn throughput(device: &BlockDevice, path: Path) -> Option<Finding> {
    let throughput = device.throughput?;
    let (least, most) = THROUGHPUT;
    let name = device.volume_type.name();
    if device.volume_type != VolumeType::Gp3 {
        return Some(Finding::new(path, format!("is for gp3 alone, not for {name}")).at_key());
    }
    if !(least..=most).contains(&throughput) {
        let message = format!("must be from {least} to {most} MiB/s, found {throughput}");
        return Some(Finding::new(path, message));
    }
    let needed = throughput.saturating_mul(IOPS_PER_THROUGHPUT);
    let has = device.iops.unwrap_or(GP3_IOPS);
    (needed > has).then(|| {
        let message =
            format!("must be at most {} with {has} iops, found {throughput}", has / IOPS_PER_THROUGHPUT);
        Finding::new(path, message)
            .help(format!("write iops: {needed}, {IOPS_PER_THROUGHPUT} for each MiB/s"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(device: &BlockDevice) -> Vec<String> {
        let mut findings = Vec::new();
        check(std::slice::from_ref(device), &Path::default(), &mut findings);
        findings.into_iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn every_type_has_its_limits() {
        let device = |volume_type, gib: u64, iops, throughput| BlockDevice {
            device_name: "/dev/sdf".to_owned(),
            size: Some(Bytes(gib * GIB)),
            volume_type,
            iops,
            throughput,
            encrypted: None,
        };
        use VolumeType::*;
        for good in [
            device(Gp3, 1, None, None),
            device(Gp3, 1, Some(3_000), Some(750)),
            device(Gp3, 65_536, Some(80_000), Some(2_000)),
            device(Gp2, 16_384, None, None),
            device(Io1, 4, Some(200), None),
            device(Io1, 16_384, Some(64_000), None),
            device(Io2, 4, Some(4_000), None),
            device(Io2, 65_536, Some(256_000), None),
            device(St1, 125, None, None),
            device(Sc1, 16_384, None, None),
            device(Standard, 1_024, None, None),
        ] {
            assert_eq!(told(&good), Vec::<String>::new(), "{good:?}");
        }
        for bad in [
            device(Gp3, 0, None, None),
            device(Gp3, 65_537, None, None),
            device(Gp3, 100, Some(2_999), None),
            device(Gp3, 1_000, Some(80_001), None),
            device(Gp3, 100, Some(50_001), None),
            device(Gp3, 100, None, Some(124)),
            device(Gp3, 1_000, Some(80_000), Some(2_001)),
            device(Gp3, 100, None, Some(751)),
            device(Gp2, 16_385, None, None),
            device(Gp2, 100, Some(3_000), None),
            device(Gp2, 100, None, Some(125)),
            device(Io1, 3, Some(100), None),
            device(Io1, 4, Some(201), None),
            device(Io1, 100, None, None),
            device(Io2, 4, Some(4_001), None),
            device(Io2, 65_536, Some(256_001), None),
            device(St1, 124, None, None),
            device(Sc1, 500, Some(100), None),
            device(Standard, 1_025, None, None),
        ] {
            assert_eq!(told(&bad).len(), 1, "{bad:?}: {:?}", told(&bad));
        }
    }
}
