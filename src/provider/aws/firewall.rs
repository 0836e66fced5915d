//! The security group that is made for a cluster: from within it everything is let in, and from the controller what the
//! controller needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aws_sdk_ec2::types::{IpPermission, IpRange, Ipv6Range, ResourceType, SecurityGroup, UserIdGroupPair};

use super::client::Clients;
use super::pace::Api;
use super::tags::{Marks, filter};
use crate::action::EffectError;
use crate::api::aws::{Access, AwsProvider};
use crate::provider::{rejected, unavailable};

/// What the rules that are ours say of themselves; others' are left as they are.
const OURS: &str = "made by rayconcile";
/// The widest network that is ever let in.
const WIDEST: u8 = 8;
/// Says from which address it is asked.
const WHO_AM_I: &str = "https://checkip.amazonaws.com";
const WHO_AM_I_TIMEOUT: Duration = Duration::from_secs(10);
/// All protocols, in EC2's words.
const ALL: &str = "-1";

/// Something that is let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    protocol: String,
    /// The first and the last port, where the protocol has ports.
    ports: Option<(i32, i32)>,
    source: Source,
}

/// From where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Group(String),
    V4(String),
    V6(String),
}

/// From where the controller comes, as the made group must know it.
pub(super) async fn controller_cidr(access: &Access) -> Result<Option<String>, EffectError> {
    match access.controller_cidr.as_deref() {
        None => Ok(None),
        Some("auto") => Ok(Some(format!("{}/32", public_address().await?))),
        Some(given) => cidr(given).map(Some).map_err(rejected),
    }
}

/// The address that this machine is seen to have.
async fn public_address() -> Result<Ipv4Addr, EffectError> {
    let failed = |reason: String| {
        unavailable(format!(
            "cannot find out this machine's public address for spec.provider.aws.access.controllerCidr: {reason}; give \
             it instead of `auto`, such as 203.0.113.7/32"
        ))
    };
    // As the dashboard is called: not by way of a proxy.
    let client = reqwest::Client::builder().timeout(WHO_AM_I_TIMEOUT).no_proxy().build();
    let client = client.map_err(|error| failed(error.to_string()))?;
    let answer = client.get(WHO_AM_I).send().await.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    let text = answer.text().await.map_err(|error| failed(error.to_string()))?;
    text.trim().parse().map_err(|_| failed(format!("{WHO_AM_I} did not answer with an address")))
}

/// A network as EC2 writes it: without the bits that do not count.
fn cidr(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is no network such as 203.0.113.7/32");
    let (address, length) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if length > bits {
        return Err(bad());
    }
    if length < WIDEST {
        return Err(format!("{text} is too wide a network to let in: /{WIDEST} at the most"));
    }
    let rest = u32::from(bits - length);
    let network = match address {
        IpAddr::V4(address) => {
            let kept = u32::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::from(Ipv4Addr::from(u32::from(address) & kept))
        }
        IpAddr::V6(address) => {
            let kept = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::from(Ipv6Addr::from(u128::from(address) & kept))
        }
    };
    Ok(format!("{network}/{length}"))
}

/// Sees that the groups that a manifest names are there, in the subnets' network.
pub(super) async fn check(clients: &Clients, groups: &[String], vpc: &str) -> Result<(), EffectError> {
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_security_groups().set_group_ids(Some(groups.to_vec())).send().await;
    let answer = answer.map_err(|error| clients.error("look at the security groups", &error))?;
    for group in groups {
        let found = answer.security_groups().iter().find(|found| found.group_id() == Some(group));
        let found = found.ok_or_else(|| rejected(format!("there is no security group {group}")))?;
        let other = found.vpc_id().unwrap_or_default();
        if other != vpc {
            return Err(rejected(format!(
                "security group {group} is in {other}, and the subnets are in {vpc}"
            )));
        }
    }
    Ok(())
}

/// The made group, with the rules it must have.
pub(super) async fn ensure(
    clients: &Clients,
    marks: &Marks<'_>,
    settings: &AwsProvider,
    vpc: &str,
    controller: Option<&str>,
) -> Result<String, EffectError> {
    let (group, present) = match find(clients, marks, vpc).await? {
        Some(found) => {
            (found.group_id().unwrap_or_default().to_owned(), found.ip_permissions.unwrap_or_default())
        }
        None => (make(clients, marks, vpc).await?, Vec::new()),
    };
    let wanted = wanted(&group, settings, controller);
    let (missing, needless) = difference(&wanted, &rules(&present));
    for rule in &missing {
        add(clients, &group, rule).await?;
    }
    for rule in &needless {
        remove(clients, &group, rule).await?;
    }
    Ok(group)
}

fn name(marks: &Marks<'_>) -> String {
    format!("rayconcile-{}-{}", marks.cluster.name, marks.incarnation)
}

async fn find(clients: &Clients, marks: &Marks<'_>, vpc: &str) -> Result<Option<SecurityGroup>, EffectError> {
    let found = all(clients, marks).await?;
    Ok(found.into_iter().find(|group| group.vpc_id() == Some(vpc)))
}

/// The groups that were made for an incarnation.
pub(super) async fn all(clients: &Clients, marks: &Marks<'_>) -> Result<Vec<SecurityGroup>, EffectError> {
    clients.pace(Api::Describe).await;
    let mut filters = marks.filters();
    filters.push(filter("group-name", [name(marks).as_str()]));
    let answer = clients.ec2.describe_security_groups().set_filters(Some(filters)).send().await;
    let answer = answer.map_err(|error| clients.error("list security groups", &error))?;
    let mut groups = answer.security_groups.unwrap_or_default();
    groups.retain(|group| marks.are_on(group.tags()));
    Ok(groups)
}

async fn make(clients: &Clients, marks: &Marks<'_>, vpc: &str) -> Result<String, EffectError> {
    clients.pace(Api::Change).await;
    let request = clients
        .ec2
        .create_security_group()
        .group_name(name(marks))
        .description(format!("The nodes of {}, {OURS}", marks.cluster))
        .vpc_id(vpc)
        .tag_specifications(marks.of_shared(ResourceType::SecurityGroup));
    match request.send().await.map_err(|error| clients.error("make a security group", &error)) {
        // Made before, and not listed yet.
        Err(error) if error.is(&["InvalidGroup.Duplicate"]) => {
            Err(unavailable(format!("security group {} was made already; it is looked for", name(marks))))
        }
        Err(error) => Err(error.into()),
        Ok(made) => Ok(made.group_id().unwrap_or_default().to_owned()),
    }
}

/// One rule a call: one that is there already fails all those of its call.
async fn add(clients: &Clients, group: &str, rule: &Rule) -> Result<(), EffectError> {
    clients.pace(Api::Change).await;
    let request = clients.ec2.authorize_security_group_ingress().group_id(group);
    let answer = request.ip_permissions(permission(rule, Some(OURS))).send().await;
    match answer.map_err(|error| clients.error(&format!("add a rule to security group {group}"), &error)) {
        Err(error) if error.is(&["InvalidPermission.Duplicate"]) => Ok(()),
        Err(error) => Err(error.of_something_new()),
        Ok(_) => Ok(()),
    }
}

async fn remove(clients: &Clients, group: &str, rule: &Rule) -> Result<(), EffectError> {
    clients.pace(Api::Change).await;
    let request = clients.ec2.revoke_security_group_ingress().group_id(group);
    let answer = request.ip_permissions(permission(rule, None)).send().await;
    match answer.map_err(|error| clients.error(&format!("remove a rule of security group {group}"), &error)) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// What must be let in: everything from within, and the controller at the dashboard and the agent.
fn wanted(group: &str, settings: &AwsProvider, controller: Option<&str>) -> BTreeSet<Rule> {
    let within = Rule { protocol: ALL.to_owned(), ports: None, source: Source::Group(group.to_owned()) };
    let ports = [settings.dashboard_port, settings.agent_port].map(i32::from);
    let from = controller.map(|cidr| {
        let six = cidr.contains(':');
        if six { Source::V6(cidr.to_owned()) } else { Source::V4(cidr.to_owned()) }
    });
    let from = from.into_iter().flat_map(|source| {
        ports.map(|port| Rule {
            protocol: "tcp".to_owned(),
            ports: Some((port, port)),
            source: source.clone(),
        })
    });
    std::iter::once(within).chain(from).collect()
}

/// The rules of a group, each with whether it is ours.
fn rules(permissions: &[IpPermission]) -> BTreeMap<Rule, bool> {
    let mut rules = BTreeMap::new();
    for permission in permissions {
        let protocol = permission.ip_protocol().unwrap_or(ALL).to_owned();
        let ports = permission.from_port().zip(permission.to_port()).filter(|_| protocol != ALL);
        let groups = permission
            .user_id_group_pairs()
            .iter()
            .filter_map(|pair| Some((Source::Group(pair.group_id()?.to_owned()), pair.description())));
        let four = permission
            .ip_ranges()
            .iter()
            .filter_map(|range| Some((Source::V4(range.cidr_ip()?.to_owned()), range.description())));
        let six = permission
            .ipv6_ranges()
            .iter()
            .filter_map(|range| Some((Source::V6(range.cidr_ipv6()?.to_owned()), range.description())));
        for (source, description) in groups.chain(four).chain(six) {
            let rule = Rule { protocol: protocol.clone(), ports, source };
            rules.insert(rule, description == Some(OURS));
        }
    }
    rules
}

/// The rules that are missing, and those of ours that are not wanted any more.
fn difference(wanted: &BTreeSet<Rule>, present: &BTreeMap<Rule, bool>) -> (Vec<Rule>, Vec<Rule>) {
    let missing = wanted.iter().filter(|rule| !present.contains_key(rule)).cloned();
    let needless = present.iter().filter(|(rule, ours)| **ours && !wanted.contains(rule));
    (missing.collect(), needless.map(|(rule, _)| rule.clone()).collect())
}

/// A rule as EC2 takes it. To remove one it needs no description.
fn permission(rule: &Rule, description: Option<&str>) -> IpPermission {
    let description = description.map(str::to_owned);
    let permission = IpPermission::builder()
        .ip_protocol(&rule.protocol)
        .set_from_port(rule.ports.map(|(first, _)| first))
        .set_to_port(rule.ports.map(|(_, last)| last));
    let permission = match &rule.source {
        Source::Group(id) => {
            let pair = UserIdGroupPair::builder().group_id(id).set_description(description);
            permission.user_id_group_pairs(pair.build())
        }
        Source::V4(cidr) => {
            permission.ip_ranges(IpRange::builder().cidr_ip(cidr).set_description(description).build())
        }
        Source::V6(cidr) => {
            permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(cidr).set_description(description).build())
        }
    };
    permission.build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_network_is_written_as_ec2_does() {
        for (text, network) in [
            ("203.0.113.7/32", "203.0.113.7/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.168.77.1/23", "192.168.76.0/23"),
            ("2001:DB8::1/64", "2001:db8::/64"),
        ] {
            assert_eq!(cidr(text).as_deref(), Ok(network));
        }
        for bad in ["", "203.0.113.7", "203.0.113.7/33", "203.0.113/24", "here/8", "::/129", "1.2.3.4/x"] {
            assert!(cidr(bad).unwrap_err().contains("is no network"), "{bad}");
        }
        for wide in ["0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/7", "::/0"] {
            assert!(cidr(wide).unwrap_err().contains("too wide"), "{wide}");
        }
    }

    fn settings() -> AwsProvider {
        serde_json::from_value(serde_json::json!({"region": "us-west-2", "subnets": ["subnet-a"]})).unwrap()
    }

    /// The rules, as a group would show them.
    fn shown(rules: &BTreeSet<Rule>) -> BTreeMap<Rule, bool> {
        super::rules(&rules.iter().map(|rule| permission(rule, Some(OURS))).collect::<Vec<_>>())
    }

    #[test]
    fn only_the_group_and_the_controller_are_let_in() {
        let words = |rules: &BTreeSet<Rule>| -> Vec<String> {
            rules.iter().map(|rule| format!("{} {:?} {:?}", rule.protocol, rule.ports, rule.source)).collect()
        };
        let alone = wanted("sg-1", &settings(), None);
        assert_eq!(words(&alone), [r#"-1 None Group("sg-1")"#]);
        let with = wanted("sg-1", &settings(), Some("203.0.113.7/32"));
        assert_eq!(
            words(&with),
            [
                r#"-1 None Group("sg-1")"#,
                r#"tcp Some((8265, 8265)) V4("203.0.113.7/32")"#,
                r#"tcp Some((8267, 8267)) V4("203.0.113.7/32")"#,
            ]
        );
    }

    #[test]
    fn a_group_with_its_rules_is_left_as_it_is() {
        for controller in [None, Some("203.0.113.7/32"), Some("2001:db8::/64")] {
            let wanted = wanted("sg-1", &settings(), controller);
            assert_eq!(difference(&wanted, &shown(&wanted)), (vec![], vec![]));
        }
    }

    #[test]
    fn a_controller_that_has_moved_is_let_in_from_there_only() {
        let before = wanted("sg-1", &settings(), Some("203.0.113.7/32"));
        let after = wanted("sg-1", &settings(), Some("203.0.113.8/32"));
        let (missing, needless) = difference(&after, &shown(&before));
        assert_eq!(missing, after.difference(&before).cloned().collect::<Vec<_>>());
        assert_eq!(needless, before.difference(&after).cloned().collect::<Vec<_>>());
        assert_eq!((missing.len(), needless.len()), (2, 2));
    }

    #[test]
    fn rules_of_others_stay() {
        let wanted = wanted("sg-1", &settings(), None);
        let theirs = Rule {
            protocol: "tcp".to_owned(),
            ports: Some((22, 22)),
            source: Source::V4("203.0.113.0/24".to_owned()),
        };
        let present = rules(&[permission(&theirs, Some("me, to log in"))]);
        assert_eq!(present, BTreeMap::from([(theirs, false)]));
        let (missing, needless) = difference(&wanted, &present);
        assert_eq!((missing.len(), needless.len()), (1, 0));
    }

    #[test]
    fn all_protocols_have_no_ports_however_they_are_shown() {
        let shown = IpPermission::builder().ip_protocol(ALL).from_port(-1).to_port(-1);
        let shown = shown.user_id_group_pairs(UserIdGroupPair::builder().group_id("sg-1").build()).build();
        assert_eq!(rules(&[shown]).into_keys().collect::<BTreeSet<_>>(), wanted("sg-1", &settings(), None));
    }
}
