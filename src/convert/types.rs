//! Node types: which of them is the head's, and which are groups of workers; and what `ray up` has where a
//! configuration says nothing of them.

use super::input::{Fields, Findings};
use super::lost::merge;
use super::tree::Note;
use crate::manifest::Part;

/// What `ray up` has by default on AWS (Ray's `autoscaler/aws/defaults.yaml`).
pub(super) const DEFAULTS: &str = "
head:
  node_config:
    InstanceType: m5.large
    BlockDeviceMappings: [{DeviceName: /dev/sda1, Ebs: {VolumeSize: 256}}]
workers:
  node_config:
    InstanceType: m5.large
    InstanceMarketOptions: {MarketType: spot}
";

/// A node type.
#[derive(Debug)]
pub(super) struct Type<'a> {
    /// Its name.
    pub(super) name: String,
    /// All of it.
    pub(super) whole: Part<'a>,
    /// What it says beside its configuration.
    pub(super) fields: Fields<'a>,
    /// `node_config`.
    pub(super) config: Fields<'a>,
    /// Where that stands.
    pub(super) configured: Part<'a>,
}

/// The node types of a cluster.
#[derive(Debug)]
pub(super) struct Types<'a> {
    /// The head's.
    pub(super) head: Type<'a>,
    /// Those of workers.
    pub(super) workers: Vec<Type<'a>>,
    /// What is not converted of the way they are given.
    pub(super) notes: Vec<Note>,
    /// Whether they are given in the way of Ray before 1.3, by `head_node` and `worker_nodes`.
    pub(super) legacy: bool,
}

/// Takes the node types from the top of a configuration; none if there is something wrong with them.
pub(super) fn types<'a>(
    top: &mut Fields<'a>,
    defaults: &Part<'a>,
    findings: &mut Findings,
) -> Option<Types<'a>> {
    let (head_node, worker_nodes) = (top.take("head_node"), top.take("worker_nodes"));
    let head_type = top.text("head_node_type", findings);
    let Some(available) = top.take("available_node_types") else {
        let some = |part: Option<Part<'a>>| part.filter(|part| !part.fields().is_empty());
        let legacy = head_node.is_some() || worker_nodes.is_some();
        let why = "there are no `available_node_types`.";
        let mut notes: Vec<_> = head_type.iter().map(|(_, part)| Note::lost(part, why)).collect();
        if !legacy {
            notes.push(Note::remark(
                "The configuration names no node types: these are what `ray up` has by default.",
            ));
        }
        let mut given = |name: &str, part: Option<Part<'a>>| match some(part) {
            Some(part) => Some(Type::legacy(name, &part, findings)),
            None => Type::of(name, &defaults.get(name)?, findings),
        };
        let (head, workers) = (given("head", head_node)?, given("workers", worker_nodes)?);
        return Some(Types { head, workers: vec![workers], notes, legacy });
    };
    let why = "`ray up` ignores it beside `available_node_types`.";
    let mut notes = Vec::new();
    for part in [head_node, worker_nodes].into_iter().flatten() {
        merge(&mut notes, Note::lost(&part, why));
    }
    if !available.value().is_object() {
        findings.problems.push(available.wrong("a mapping"));
        return None;
    }
    let Some((head_type, named)) = head_type else {
        let problem = available.problem("has a head among them, and `head_node_type` must say which");
        findings.problems.push(problem);
        return None;
    };
    let Some(head) = available.get(&head_type) else {
        let names: Vec<_> = available.fields().into_iter().map(|(name, _)| name).collect();
        let problem = format!("must be one of `available_node_types`: {}", names.join(", "));
        findings.problems.push(named.problem(problem));
        return None;
    };
    let head = Type::of(&head_type, &head, findings);
    let mut workers = Vec::new();
    for (name, part) in available.fields() {
        // Workers of the head's type are there only if they are asked for.
        let wanted = |limit: &str| part.get(limit).is_some_and(|limit| limit.value().as_u64() != Some(0));
        if name != head_type || wanted("max_workers") {
            workers.extend(Type::of(name, &part, findings));
        }
    }
    Some(Types { head: head?, workers, notes, legacy: false })
}

impl<'a> Type<'a> {
    fn of(name: &str, part: &Part<'a>, findings: &mut Findings) -> Option<Self> {
        let mut fields = Fields::of(part, findings);
        let Some(configured) = fields.take("node_config") else {
            findings.problems.push(part.problem("`node_config` is missing"));
            return None;
        };
        let config = Fields::of(&configured, findings);
        Some(Self { name: name.to_owned(), whole: part.clone(), fields, config, configured })
    }

    fn legacy(name: &str, part: &Part<'a>, findings: &mut Findings) -> Self {
        let config = Fields::of(part, findings);
        let (whole, configured) = (part.clone(), part.clone());
        Self { name: name.to_owned(), whole, fields: Fields::default(), config, configured }
    }
}
