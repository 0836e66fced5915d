//! The rules of clusters on EC2 that their schema cannot say. Whether EC2 has what they name is found out when they are
//! opened.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::finding::Finding;
use super::path::Path;
use super::words::quoted;
use super::{rules, suggest};
use crate::api::aws::{Access, AwsProvider, Market};
use crate::api::cluster::{AuthMode, NodeTemplate, RayClusterSpec};
use crate::api::units::Span;

mod docker;
mod instance;
mod prices;
mod ray_start;
mod volumes;

/// Shorter, and an instance would end while its controller is started anew, or before it can have booted.
const MIN_TIMEOUT: Span = Span::from_secs(60);

/// EC2 allows 50 tags (Amazon EC2 User Guide, "Tag your Amazon EC2 resources"); this leaves room for our own.
const MAX_TAGS: usize = 40;

/// Names of AWS's own tags, and of ours, begin with these.
const TAG_PREFIXES: [(&str, &str); 2] = [("aws:", "AWS's"), ("rayconcile.dev/", "Rayconcile's")];

/// More than a company has; beyond it, the made group would let in strangers.
const WIDEST_V4: u8 = 8;

/// What a whole provider has.
const WIDEST_V6: u8 = 32;

/// EC2 takes no price that is not higher (Amazon EC2 API Reference, `SpotMarketOptions`).
const LEAST_PRICE: f64 = 0.001;

/// The ports that can be chosen, with Ray's and our own choice.
const PORTS: [(&str, u16); 3] = [("gcsPort", 6379), ("dashboardPort", 8265), ("agentPort", 8267)];

/// What is wrong with a cluster on EC2.
pub(super) fn check(spec: &RayClusterSpec, aws: &AwsProvider, at: &Path, findings: &mut Vec<Finding>) {
    provider(aws, &at.field("provider.aws"), findings);
    if spec.auth.mode == AuthMode::Token && aws.iam_instance_profile.is_none() {
        let message = "`iamInstanceProfile` is missing: with auth.mode `token` instances need one";
        let help = "with it they read Ray's token from Systems Manager (docs/ec2.md has its policy); with \
                    auth: {mode: none} whoever reaches the cluster may run what they like on it";
        findings.push(Finding::new(at.field("provider.aws"), message).at_key().help(help));
    }
    prices::check(spec, aws, at, findings);
    node(&spec.head, &at.key("head"), findings);
    for (index, group) in spec.worker_groups.iter().enumerate() {
        let at = at.key("workerGroups").item(index);
        node(&group.template, &at.key("template"), findings);
        if let Some(Market::Spot(spot)) = &group.market {
            let price = spot.max_price.as_deref();
            findings.extend(price.and_then(|text| max_price(text, at.field("market.spot.maxPrice"))));
        }
        if group.name == "head" {
            let message = "must not be `head`: tags of the head's instance say so";
            findings.push(Finding::new(at.key("name"), message));
        }
    }
}

/// What only instances of EC2 have, and other nodes are given.
pub(super) fn refuse(spec: &RayClusterSpec, at: &Path, findings: &mut Vec<Finding>) {
    let mut refuse = |given: bool, path: Path, message: &str| {
        if given {
            findings.push(Finding::new(path, message).at_key().help("it goes with provider.aws"));
        }
    };
    refuse(spec.max_hourly_cost.is_some(), at.key("maxHourlyCost"), "is for what is paid for by the hour");
    let instance = "is for nodes on EC2";
    refuse(spec.head.instance.is_some(), at.field("head.instance"), instance);
    for (index, group) in spec.worker_groups.iter().enumerate() {
        let at = at.key("workerGroups").item(index);
        refuse(group.template.instance.is_some(), at.field("template.instance"), instance);
        refuse(group.market.is_some(), at.key("market"), "is how instances of EC2 are paid for");
    }
}

fn provider(aws: &AwsProvider, at: &Path, findings: &mut Vec<Finding>) {
    findings.extend(region(&aws.region, at.key("region")));
    if aws.subnets.is_empty() {
        findings.push(Finding::new(at.key("subnets"), "must have at least one: the head is in the first"));
    }
    ids(&aws.subnets, "subnet", &at.key("subnets"), findings);
    ids(&aws.security_groups, "sg", &at.key("securityGroups"), findings);
    let profile = aws.iam_instance_profile.as_deref();
    findings.extend(profile.and_then(|name| instance_profile(name, at.key("iamInstanceProfile"))));
    findings.extend(aws.key_name.as_deref().and_then(|name| key_name(name, at.key("keyName"))));
    tags(&aws.tags, &at.key("tags"), findings);
    access(&aws.access, aws, at, findings);
    for (timeout, path) in
        [(aws.orphan_timeout, at.key("orphanTimeout")), (aws.join_timeout, at.key("joinTimeout"))]
    {
        if timeout < MIN_TIMEOUT {
            let message = format!("must be at least {MIN_TIMEOUT}, found {timeout}");
            findings.push(Finding::new(path.clone(), message));
        }
        findings.extend(rules::span(timeout, path));
    }
    ports([aws.gcs_port, aws.dashboard_port, aws.agent_port], at, findings);
}

fn node(template: &NodeTemplate, at: &Path, findings: &mut Vec<Finding>) {
    match &template.instance {
        Some(instance) => instance::check(instance, &at.key("instance"), findings),
        None => {
            let help =
                "on EC2 it says what the node is: instance: {types: [m6i.large], image: {id: ami-...}}";
            findings.push(Finding::new(at.clone(), "`instance` is missing").at_key().help(help));
        }
    }
}

/// The name of a region: `us-west-2`, `us-gov-east-1`.
fn region(text: &str, path: Path) -> Option<Finding> {
    if is_region(text) {
        return None;
    }
    let finding = Finding::new(path, format!("must be a region such as us-west-2, found {}", quoted(text)));
    let zone_of = text.strip_suffix(|c: char| c.is_ascii_lowercase()).filter(|region| is_region(region));
    if let Some(region) = zone_of {
        return Some(finding.help(format!("that is a zone; its region is {region}")));
    }
    let words = text.trim().to_lowercase().replace(['_', ' '], "-");
    let name = words.trim_end_matches(|c: char| c.is_ascii_digit());
    let meant = format!("{}-{}", name.trim_end_matches('-'), words.strip_prefix(name).unwrap_or_default());
    Some(finding.help_if(is_region(&meant).then(|| format!("did you mean {meant}?"))))
}

fn is_region(text: &str) -> bool {
    let letters = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
    match text.split('-').collect::<Vec<_>>().as_slice() {
        [country, names @ .., number] => {
            country.len() == 2
                && letters(country)
                && !names.is_empty()
                && names.iter().all(letters)
                && number.len() == 1
                && number.chars().all(|c| c.is_ascii_digit())
        }
        _ => false,
    }
}

/// Identifiers, none of them twice.
fn ids(texts: &[String], prefix: &str, at: &Path, findings: &mut Vec<Finding>) {
    let ids = texts.iter().enumerate();
    findings.extend(ids.filter_map(|(index, text)| id(text, prefix, at.item(index))));
    distinct(texts.iter().enumerate().map(|(index, text)| (text.as_str(), at.item(index))), findings);
}

/// An identifier that EC2 or EFS gave: a prefix and hexadecimal digits.
fn id(text: &str, prefix: &str, path: Path) -> Option<Finding> {
    let is_id = |text: &str| {
        let digits = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        digits.is_some_and(|digits| {
            !digits.is_empty() && digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
        })
    };
    if is_id(text) {
        return None;
    }
    let meant = text.trim().to_lowercase();
    let message = format!("must be an id such as {prefix}-0123456789abcdef0, found {}", quoted(text));
    Some(Finding::new(path, message).help_if(is_id(&meant).then(|| format!("did you mean {meant}?"))))
}

/// Things that must differ.
fn distinct<'a>(texts: impl Iterator<Item = (&'a str, Path)>, findings: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (text, path) in texts {
        match seen.get(text) {
            Some(first) => {
                let finding = Finding::new(path, format!("is here twice: {}", quoted(text)));
                findings.push(finding.also(Path::clone(first), "here first"));
            }
            None => {
                seen.insert(text, path);
            }
        }
    }
}

/// The name of an instance profile (AWS IAM API Reference, `CreateInstanceProfile`).
fn instance_profile(text: &str, path: Path) -> Option<Finding> {
    let is_name = |text: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        (1..=128).contains(&text.len()) && text.chars().all(inner)
    };
    if is_name(text) {
        return None;
    }
    if !text.starts_with("arn:") {
        let rule = "must be the name of an instance profile: at most 128 letters, digits and `_+=,.@-`";
        return Some(Finding::new(path, format!("{rule}, found {}", quoted(text))));
    }
    let message = format!("must be the name of an instance profile, not an ARN, found {}", quoted(text));
    let name = text.rsplit('/').next().filter(|name| is_name(name) && text.contains(":instance-profile/"));
    let help = match name {
        Some(name) => Some(format!("write {name}")),
        None if text.contains(":role/") => {
            Some("that is a role: name the instance profile that holds it".to_owned())
        }
        None => None,
    };
    Some(Finding::new(path, message).help_if(help))
}

/// The name of a key pair (Amazon EC2 API Reference, `CreateKeyPair`).
fn key_name(text: &str, path: Path) -> Option<Finding> {
    let good = (1..=255).contains(&text.len()) && text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let rule = "must be the name of a key pair: at most 255 ASCII characters";
    (!good || text.trim() != text).then(|| Finding::new(path, format!("{rule}, found {}", quoted(text))))
}

fn tags(tags: &BTreeMap<String, String>, at: &Path, findings: &mut Vec<Finding>) {
    if tags.len() > MAX_TAGS {
        let message = format!("must be at most {MAX_TAGS}, found {}", tags.len());
        let help = "EC2 allows 50, and Rayconcile has some of its own";
        findings.push(Finding::new(at.clone(), message).at_key().help(help));
    }
    for (key, value) in tags {
        let path = at.key(key);
        let prefix = |prefix: &str| key.to_lowercase().starts_with(prefix);
        if let Some((prefix, whose)) = TAG_PREFIXES.into_iter().find(|(text, _)| prefix(text)) {
            let message = format!("tags that begin with {prefix} are {whose} own");
            findings.push(Finding::new(path, message).at_key());
        } else if key == "Name" {
            let message = "must not be given: instances are named after their nodes";
            findings.push(Finding::new(path, message).at_key());
        } else if !is_tag(key, 1, 128) {
            findings.push(Finding::new(path, tag_rule("a key must be 1 to 128", key)).at_key());
        } else if !is_tag(value, 0, 256) {
            findings.push(Finding::new(path, tag_rule("must be at most 256", value)));
        }
    }
}

/// Whether Systems Manager, which is stricter than EC2, takes it as a tag (AWS Systems Manager API Reference, `Tag`).
fn is_tag(text: &str, least: usize, most: usize) -> bool {
    let plain = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
    (least..=most).contains(&text.chars().count()) && text.chars().all(plain)
}

fn tag_rule(rule: &str, text: &str) -> String {
    format!("{rule} letters, digits, spaces and `_.:/=+-@`, found {}", quoted(text))
}

fn access(access: &Access, aws: &AwsProvider, at: &Path, findings: &mut Vec<Finding>) {
    let Some(text) = &access.controller_cidr else { return };
    let path = at.field("access.controllerCidr");
    if aws.security_groups.is_empty() {
        findings.extend(controller_cidr(text, path));
        return;
    }
    let help = format!(
        "rules of your own groups are yours: let the controller reach the TCP ports {} and {} of the head",
        aws.dashboard_port, aws.agent_port
    );
    let finding = Finding::new(path, "must not be given beside `securityGroups`").at_key().help(help);
    findings.push(finding.also(at.key("securityGroups"), "these are not changed"));
}

/// The addresses that the made group lets in.
fn controller_cidr(text: &str, path: Path) -> Option<Finding> {
    if text == "auto" {
        return None;
    }
    let finding = |rule: &str| Finding::new(path.clone(), format!("{rule}, found {}", quoted(text)));
    let rule = "must be `auto` or a network such as 203.0.113.7/32";
    let Some((address, length)) = network(text) else {
        let help = match text.parse::<IpAddr>() {
            Ok(address) => Some(format!("write {address}/{}", bits(address))),
            Err(_) => suggest::closest(text, ["auto"]).map(|meant| format!("did you mean {meant}?")),
        };
        return Some(finding(rule).help_if(help));
    };
    let widest = if address.is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
    let auto = "`auto` lets in the one address that the controller is seen to have";
    if length == 0 {
        return Some(finding("must not be the whole internet").help(auto));
    }
    if length < widest {
        return Some(finding(&format!("must not be wider than /{widest}")).help(auto));
    }
    let canonical = format!("{}/{length}", first(address, length));
    let rule = "must be a network by its first address, as EC2 keeps it";
    (canonical != text).then(|| finding(rule).help(format!("write {canonical}")))
}

/// An address and how many of its bits are the network's.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= bits(address)).then_some((address, length))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first address of a network.
fn first(address: IpAddr, length: u8) -> IpAddr {
    let host = u32::from(bits(address).saturating_sub(length));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

/// Ports that must differ, and not be among those that nodes use anyway.
fn ports(given: [u16; 3], at: &Path, findings: &mut Vec<Finding>) {
    let ports: Vec<_> = PORTS.into_iter().zip(given).collect();
    for (index, ((name, default), port)) in ports.iter().enumerate() {
        let path = at.key(name);
        if let Some((_, what)) = ray_start::PORTS.iter().find(|(range, _)| range.contains(port)) {
            findings.push(Finding::new(path.clone(), format!("must not be {port}: that is for {what}")));
        }
        for ((other, _), _) in ports.iter().take(index).filter(|(_, earlier)| earlier == port) {
            // Nobody wrote a default down: what is like it is wrong.
            let (wrong, right) = if port == default { (other, name) } else { (name, other) };
            let finding = Finding::new(at.key(wrong), format!("must differ from {right}, found {port}"));
            findings.push(finding.also(at.key(right), "the same port"));
        }
    }
}

/// A price in US dollars.
fn max_price(text: &str, path: Path) -> Option<Finding> {
    let is_price = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        let price = text.parse::<f64>();
        digits(whole) && digits(fraction) && price.is_ok_and(|price| price > LEAST_PRICE && price.is_finite())
    };
    if is_price(text) {
        return None;
    }
    let rule = format!("must be US dollars for an hour such as \"0.75\", more than {LEAST_PRICE}");
    let meant = text.trim_matches(|c: char| !c.is_ascii_digit());
    let help = (meant != text && is_price(meant) && !text.starts_with(['-', '.']))
        .then(|| format!("did you mean \"{meant}\"?"));
    Some(Finding::new(path, format!("{rule}, found {}", quoted(text))).help_if(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(finding: Option<Finding>) -> Option<String> {
        finding.and_then(|finding| finding.help)
    }

    #[test]
    fn regions_are_known_from_zones() {
        for good in ["us-west-2", "eu-central-1", "us-gov-east-1", "ap-southeast-7", "us-isob-east-1"] {
            assert_eq!(region(good, Path::default()), None, "{good}");
        }
        for (bad, meant) in [
            ("", None),
            ("oregon", None),
            ("us-2", None),
            ("usa-west-2", None),
            ("us-west-2a", Some("that is a zone; its region is us-west-2")),
            ("us-west2", Some("did you mean us-west-2?")),
            ("US_West_2", Some("did you mean us-west-2?")),
            ("us-west-12", None),
        ] {
            let finding = region(bad, Path::default());
            assert!(finding.is_some(), "{bad}");
            assert_eq!(help(finding).as_deref(), meant, "{bad}");
        }
    }

    #[test]
    fn networks_are_written_as_ec2_keeps_them() {
        for good in
            ["auto", "203.0.113.7/32", "10.0.0.0/8", "192.168.0.0/17", "2001:db8::/32", "2001:db8::7/128"]
        {
            assert_eq!(controller_cidr(good, Path::default()), None, "{good}");
        }
        for (bad, meant) in [
            ("Auto", Some("did you mean auto?")),
            ("203.0.113.7", Some("write 203.0.113.7/32")),
            ("2001:db8::7", Some("write 2001:db8::7/128")),
            ("203.0.113.7/24", Some("write 203.0.113.0/24")),
            ("203.0.113.0/+24", Some("write 203.0.113.0/24")),
            ("2001:DB8:0::/48", Some("write 2001:db8::/48")),
            ("203.0.113.0/33", None),
            ("203.0.113.0/24/8", None),
            ("office", None),
        ] {
            let finding = controller_cidr(bad, Path::default());
            assert!(finding.is_some(), "{bad}");
            assert_eq!(help(finding).as_deref(), meant, "{bad}");
        }
        for wide in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "10.0.0.0/7", "2000::/3", "2001::/16", "1.2.3.4/0"] {
            let message = controller_cidr(wide, Path::default()).map(|finding| finding.message);
            assert!(message.is_some_and(|message| message.starts_with("must not be")), "{wide}");
        }
    }

    #[test]
    fn prices_are_decimals() {
        for good in ["1", "0.75", "1.75", "0.0011", "100"] {
            assert_eq!(max_price(good, Path::default()), None, "{good}");
        }
        for (bad, meant) in [
            ("", None),
            ("0", None),
            ("0.001", None),
            ("-1", None),
            (".5", None),
            ("1.", Some("did you mean \"1\"?")),
            ("1e3", None),
            ("inf", None),
            ("$1.75", Some("did you mean \"1.75\"?")),
            ("1.75 USD", Some("did you mean \"1.75\"?")),
        ] {
            let finding = max_price(bad, Path::default());
            assert!(finding.is_some(), "{bad}");
            assert_eq!(help(finding).as_deref(), meant, "{bad}");
        }
    }
}
