//! What node types ask for that all instances of a cluster share here: network, permissions, key, tags.

use std::collections::BTreeSet;

use super::input::{Fields, Findings, Text, is_nothing, scalar, text, texts};
use super::lost::merge;
use super::tree::Note;
use crate::manifest::Part;

/// What a node type asks for.
#[derive(Debug, Default)]
pub(super) struct Wishes<'a> {
    /// The subnets.
    pub(super) subnets: Listed<'a>,
    /// The security groups.
    pub(super) groups: Listed<'a>,
    /// The name of the instance profile.
    pub(super) profile: Option<Text<'a>>,
    /// The name of the key pair.
    pub(super) key: Option<Text<'a>>,
    /// Tags.
    pub(super) tags: Vec<(String, Text<'a>)>,
    /// What is not converted.
    pub(super) notes: Vec<Note>,
}

/// A list, and where it stands.
#[derive(Debug, Default)]
pub(super) struct Listed<'a> {
    pub(super) texts: Vec<Text<'a>>,
    pub(super) from: Vec<Part<'a>>,
}

/// What an interface has anyway: one of its own, in a subnet, with an address.
const INTERFACE: [&str; 6] =
    ["DeviceIndex", "SubnetId", "Groups", "AssociatePublicIpAddress", "DeleteOnTermination", "Description"];

const INTERFACES: &str = "a node has one interface, in a subnet of provider.aws.subnets and with the groups of \
                          provider.aws.securityGroups.";
const PERMISSIONS: &str = "all instances have one profile, provider.aws.iamInstanceProfile.";
pub(super) const KEYS: &str = "all instances have one key pair, provider.aws.keyName.";
const TAGS: &str = "everything that is made has the same tags, provider.aws.tags; `Name` is the node's name.";

/// Takes from a node's configuration what is not its own here.
pub(super) fn wishes<'a>(config: &mut Fields<'a>, findings: &mut Findings) -> Wishes<'a> {
    let mut wishes = Wishes::default();
    wishes.subnets.add_all(config.take("SubnetIds"), findings);
    wishes.subnets.add(config.take("SubnetId"), findings);
    wishes.groups.add_all(config.take("SecurityGroupIds"), findings);
    if let Some(interfaces) = config.take("NetworkInterfaces") {
        wishes.interfaces(&interfaces, findings);
    }
    wishes.key = config.text("KeyName", findings);
    if let Some(part) = config.take("IamInstanceProfile") {
        let mut profile = Fields::of(&part, findings);
        let name = profile.text("Name", findings);
        let last = |(arn, part): Text<'a>| (arn.rsplit('/').next().unwrap_or_default().to_owned(), part);
        wishes.profile = name.or_else(|| profile.text("Arn", findings).map(last));
        wishes.notes.extend(profile.rest().iter().map(|part| Note::lost(part, PERMISSIONS)));
    }
    if let Some(tags) = config.take("TagSpecifications") {
        wishes.tags(&tags, findings);
    }
    wishes
}

impl<'a> Wishes<'a> {
    fn interfaces(&mut self, interfaces: &Part<'a>, findings: &mut Findings) {
        let mut plain = interfaces.items().len() == 1;
        for interface in interfaces.items() {
            let mut fields = Fields::of(&interface, findings);
            self.subnets.add(fields.take("SubnetId"), findings);
            self.groups.add_all(fields.take("Groups"), findings);
            plain &=
                fields.rest().iter().all(|part| part.name().is_some_and(|name| INTERFACE.contains(&name)));
        }
        if !plain {
            self.notes.push(Note::lost(interfaces, INTERFACES));
        }
    }

    fn tags(&mut self, specifications: &Part<'a>, findings: &mut Findings) {
        let mut odd = specifications.items().is_empty();
        for specification in specifications.items() {
            let mut fields = Fields::of(&specification, findings);
            fields.take("ResourceType");
            for part in fields.take("Tags").map(|tags| tags.items()).unwrap_or_default() {
                let mut tag = Fields::of(&part, findings);
                let key = tag.text("Key", findings);
                let value = tag.take("Value").and_then(|value| scalar(&value, findings));
                match (key, value) {
                    (Some((key, _)), Some((value, _))) => self.tags.push((key, (value, part))),
                    _ => odd = true,
                }
                odd |= !tag.rest().is_empty();
            }
            odd |= !fields.rest().is_empty();
        }
        if odd && !is_nothing(specifications.value()) {
            self.notes.push(Note::lost(specifications, TAGS));
        }
    }

    /// What of a node type's wishes does not hold where all instances have the same.
    pub(super) fn differences(&mut self, shared: &Shared<'_>) -> Vec<Note> {
        let mut notes = std::mem::take(&mut self.notes);
        for (own, all, field) in [
            (&self.subnets, &shared.subnets, "provider.aws.subnets"),
            (&self.groups, &shared.groups, "provider.aws.securityGroups"),
        ] {
            let why = format!("nodes of every kind are in the same ones, {field}.");
            if !own.texts.is_empty() && own.set() != set(all) {
                own.from.iter().for_each(|part| merge(&mut notes, Note::lost(part, why.as_str())));
            }
        }
        for (own, all, why) in [(&self.profile, &shared.profile, PERMISSIONS), (&self.key, &shared.key, KEYS)]
        {
            if let (Some((own, part)), Some((all, _))) = (own, all)
                && own != all
            {
                notes.push(Note::lost(part, why));
            }
        }
        for (key, (value, part)) in &self.tags {
            let other = shared.tags.iter().any(|(known, (other, _))| known == key && other != value);
            if other {
                merge(&mut notes, Note::lost(part, TAGS));
            }
        }
        notes
    }
}

impl<'a> Listed<'a> {
    fn add(&mut self, part: Option<Part<'a>>, findings: &mut Findings) {
        if let Some(part) = part {
            self.texts.extend(text(&part, findings));
            self.from.push(part);
        }
    }

    fn add_all(&mut self, part: Option<Part<'a>>, findings: &mut Findings) {
        if let Some(part) = part {
            self.texts.extend(texts(&part, findings));
            self.from.push(part);
        }
    }

    fn set(&self) -> BTreeSet<&str> {
        set(&self.texts)
    }
}

fn set<'t>(texts: &'t [Text<'_>]) -> BTreeSet<&'t str> {
    texts.iter().map(|(text, _)| text.as_str()).collect()
}

/// What all instances have.
#[derive(Debug, Default)]
pub(super) struct Shared<'a> {
    pub(super) subnets: Vec<Text<'a>>,
    pub(super) groups: Vec<Text<'a>>,
    pub(super) profile: Option<Text<'a>>,
    pub(super) key: Option<Text<'a>>,
    pub(super) tags: Vec<(String, Text<'a>)>,
}

/// What all instances have: everything that any asks for, the head's wishes first.
pub(super) fn shared<'a>(all: &[&Wishes<'a>]) -> Shared<'a> {
    let mut shared = Shared::default();
    for wishes in all {
        for (texts, more) in [(&mut shared.subnets, &wishes.subnets), (&mut shared.groups, &wishes.groups)] {
            for text in &more.texts {
                if !texts.iter().any(|(known, _)| *known == text.0) {
                    texts.push(text.clone());
                }
            }
        }
        shared.profile = shared.profile.or_else(|| wishes.profile.clone());
        shared.key = shared.key.or_else(|| wishes.key.clone());
        for (key, value) in &wishes.tags {
            if !shared.tags.iter().any(|(known, _)| known == key) {
                shared.tags.push((key.clone(), value.clone()));
            }
        }
    }
    shared
}
