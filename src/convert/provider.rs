//! `spec.provider.aws`, and how Ray is protected.

use super::input::{Fields, Findings, Text, flag, is_nothing};
use super::lost;
use super::network::{self, Shared};
use super::start::Start;
use super::tree::{Block, Node, Note};

/// The id of no subnet: what it says must be a subnet's, and EC2 never gives this one.
pub(super) const NO_SUBNET: &str = "subnet-00000000000000000";

/// What an instance's role must allow for Ray's token.
const TOKEN: &str = "ssm:GetParameter on parameter/rayconcile/NAMESPACE/NAME/*";

const OUTSIDE: &str =
    "The controller reaches the head from the address that it is seen to have; nobody else does.";
const INSIDE: &str = "Give `controllerCidr`, the network that the controller is in, unless the controller is in the \
                      security group that is made.";
const OWN_GROUPS: &str = "Rules of your own groups are yours: they must let nodes reach each other at all ports, and \
                          the controller reach the ports 8265 and 8267 of the head.";
const OPEN: &str = "As with `ray up`, Ray asks nobody for a token: whoever reaches it may run what they \
                    like. To have it ask, leave this out, and give provider.aws.iamInstanceProfile a \
                    profile whose role allows";
const CREDENTIALS: &str =
    "the controller finds credentials as the AWS CLI does, in the environment or in ~/.aws.";
const GROUP: &str = "the security group is made, with a name of its own, lets in what is in it and the \
                     controller, and goes with the cluster. For other rules make one yourself, and give it \
                     in `securityGroups`.";

/// What `provider` says, beside its type.
pub(super) struct Provider<'a> {
    region: Option<Text<'a>>,
    zones: Option<Text<'a>>,
    private: bool,
    notes: Vec<Note>,
}

/// Reads `provider`.
pub(super) fn provider<'a>(
    fields: &mut Fields<'a>,
    shared: &mut Shared<'a>,
    findings: &mut Findings,
) -> Provider<'a> {
    let region = fields.text("region", findings);
    let zones = fields.text("availability_zone", findings).filter(|(zones, _)| !zones.is_empty());
    let mut yes = |name: &str| fields.take(name).and_then(|part| flag(&part, findings)).unwrap_or_default();
    let (internal, external) = (yes("use_internal_ips"), yes("use_external_head_ip"));
    let mut notes = Vec::new();
    if let Some(part) = fields.take("key_pair") {
        let mut pair = Fields::of(&part, findings);
        let name = pair.text("key_name", findings);
        match (name, &shared.key) {
            (Some(name), None) => shared.key = Some(name),
            (Some((name, from)), Some((known, _))) if name != *known => {
                notes.push(Note::lost(&from, network::KEYS));
            }
            _ => {}
        }
        notes.extend(lost::rest(&mut pair));
    }
    let credentials = fields.take("aws_credentials").into_iter();
    notes.extend(credentials.map(|part| Note::hidden(&part, CREDENTIALS)));
    let group = fields.take("security_group").filter(|part| !is_nothing(part.value())).into_iter();
    notes.extend(group.map(|part| Note::lost(&part, GROUP)));
    notes.extend(lost::notes(fields, lost::PROVIDER));
    notes.extend(lost::rest(fields));
    Provider { region, zones, private: internal && !external, notes }
}

impl<'a> Provider<'a> {
    /// What the manifest says of it.
    pub(super) fn node(
        self,
        shared: &Shared<'a>,
        head_start: &mut Start<'a>,
        head_only: bool,
        findings: &mut Findings,
    ) -> Node<'a> {
        let mut aws = Block::default();
        if let Some((region, from)) = &self.region {
            aws.need("region", region.as_str(), from);
        }
        self.subnets(shared, &mut aws, findings);
        groups(shared, &mut aws);
        permissions(shared, head_only, &mut aws, findings);
        if let Some((name, from)) = &shared.key {
            aws.set("keyName", name.as_str(), from);
        }
        let mut tags = Block::default();
        for (key, (value, from)) in &shared.tags {
            tags.give(key.as_str(), value.as_str(), from);
        }
        aws.set_some("tags", Node::Map(tags));
        self.access(shared, &mut aws);
        for (parameter, field) in [("port", "gcsPort"), ("dashboard-port", "dashboardPort")] {
            if let Some((port, from)) = head_start.take(parameter) {
                let number = port.parse::<u64>().map_or_else(|_| Node::from(port.as_str()), Node::from);
                aws.set(field, number, &from);
            }
        }
        aws.notes(self.notes);
        let mut provider = Block::default();
        provider.say("aws", Node::Map(aws));
        Node::Map(provider)
    }

    /// Subnets are needed here: `ray up` finds some.
    fn subnets(&self, shared: &Shared<'a>, aws: &mut Block<'a>, findings: &mut Findings) {
        let mut subnets = Block::default();
        for (id, from) in &shared.subnets {
            subnets.push_needed(id.as_str(), from);
        }
        if !subnets.is_empty() {
            let why = "nodes are in the zones of these subnets: leave out those of other zones.";
            aws.notes(self.zones.iter().map(|(_, part)| Note::lost(part, why)));
            aws.say("subnets", Node::List(subnets));
            return;
        }
        let region = self.region.as_ref().map_or("REGION", |(region, _)| region.as_str());
        let mut command = format!("aws ec2 describe-subnets --region {region} --query 'Subnets[].SubnetId'");
        let mut zones = String::new();
        if let Some((names, part)) = &self.zones {
            zones = format!(", one in each of these zones ({names})");
            command = format!("{command} --filters Name=availability-zone,Values={}", names.replace(' ', ""));
            aws.note(Note::lost(part, "nodes are in the zones of their subnets."));
        }
        let why = "`ray up` looks for subnets itself. Here they are given; the head is in the first one.";
        aws.note(Note {
            lines: vec![command],
            ..Note::to_do(format!("put the ids of your subnets here{zones}. {why} This lists them:"))
        });
        let advice = format!("the configuration names no subnets: put yours in the place of {NO_SUBNET}");
        findings.advice.push(advice);
        subnets.push_ours(NO_SUBNET);
        aws.say("subnets", Node::List(subnets));
    }

    fn access(&self, shared: &Shared<'a>, aws: &mut Block<'a>) {
        let mut access = Block::default();
        if self.private {
            access.say("address", "private");
            if shared.groups.is_empty() {
                aws.note(Note::remark(INSIDE));
            }
        } else if shared.groups.is_empty() {
            access.say("controllerCidr", "auto");
            aws.note(Note::remark(OUTSIDE));
        }
        aws.set_some("access", Node::Map(access));
    }
}

fn groups<'a>(shared: &Shared<'a>, aws: &mut Block<'a>) {
    let mut groups = Block::default();
    for (id, from) in &shared.groups {
        groups.push(id.as_str(), from);
    }
    if !groups.is_empty() {
        aws.note(Note::remark(OWN_GROUPS));
        aws.set_some("securityGroups", Node::List(groups));
    }
}

fn permissions<'a>(shared: &Shared<'a>, head_only: bool, aws: &mut Block<'a>, findings: &mut Findings) {
    let Some((name, from)) = &shared.profile else { return };
    let all = if head_only { " Every instance has it; with `ray up` only the head had." } else { "" };
    aws.note(Note::to_do(format!("let its role allow {TOKEN}: nodes find Ray's token there.{all}")));
    findings.advice.push(format!("the role of the instance profile {name} must allow {TOKEN}"));
    aws.need("iamInstanceProfile", name.as_str(), from);
}

/// `spec.auth`: a token only where instances can read it. `ray up` has none.
pub(super) fn auth<'a>(shared: &Shared<'a>, spec: &mut Block<'a>) {
    if shared.profile.is_some() {
        return;
    }
    let mut auth = Block::default();
    auth.say("mode", "none");
    spec.note(Note::remark(format!("{OPEN} {TOKEN}.")));
    spec.say("auth", Node::Map(auth));
}
