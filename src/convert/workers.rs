//! Groups of workers: how many nodes they have, how long idle ones stay, how they are paid for.

use super::cluster::tame;
use super::input::{Fields, Findings, number, whole};
use super::instance;
use super::node::{Common, Own, Role, template};
use super::tree::{Block, Node, Note};
use super::types::Type;
use crate::api::units::Span;
use crate::manifest::Part;

/// No group may have more nodes.
const MAX_NODES: u64 = 5000;

/// `ray up` lets there be so many workers if nobody says otherwise (Ray's `autoscaler/aws/defaults.yaml`).
const DEFAULT_WORKERS: u64 = 2;

/// What is said of all workers together.
pub(super) struct Limits<'a> {
    /// How many there may be.
    max: Option<(u64, Part<'a>)>,
    /// How many there are at least, in configurations that know one kind only.
    min: Option<Part<'a>>,
    /// How long idle ones stay.
    idle: Option<(Span, Part<'a>)>,
    /// What was given to groups so far: at least and at most, and how many groups there are.
    given: (u64, u64, usize),
    names: Vec<String>,
    notes: Vec<Note>,
}

impl<'a> Limits<'a> {
    /// Takes them from the top of a configuration.
    pub(super) fn of(top: &mut Fields<'a>, legacy: bool, findings: &mut Findings) -> Self {
        let max = top.take("max_workers").and_then(|part| Some((whole(&part, findings)?, part)));
        let idle = top.take("idle_timeout_minutes");
        let idle = idle.and_then(|part| Some((seconds(number(&part, findings)? * 60.0), part)));
        let min = top.take("min_workers");
        let why = "`ray up` ignores it beside `available_node_types`: each of them has its own.";
        let ignored = min.iter().filter(|part| !legacy && part.value().as_u64() != Some(0));
        let notes = ignored.map(|part| Note::lost(part, why)).collect();
        Self { max, min: min.filter(|_| legacy), idle, given: (0, 0, 0), names: Vec::new(), notes }
    }

    /// What has to be said when all groups are known.
    pub(super) fn notes(&mut self, findings: &mut Findings) -> Vec<Note> {
        let mut notes = std::mem::take(&mut self.notes);
        let (least, most, groups) = self.given;
        if let Some((max, part)) = &self.max {
            if least > *max {
                let message = format!("must be at least {least}, the sum of all `min_workers`, found {max}");
                findings.problems.push(part.problem(message));
            } else if most > *max && groups > 1 {
                let why = format!(
                    "it limits all groups together. Here each has its own `maxNodes`, and they are {most} together: \
                     lower them if that is too much."
                );
                notes.push(Note::lost(part, why));
            }
        }
        notes
    }

    /// A name for a group that no other has. A group called `head` would be taken for the head.
    fn name(&mut self, wanted: &str) -> String {
        let name = match tame(wanted, "workers") {
            name if name == "head" => "head-workers".to_owned(),
            name => name,
        };
        let all = (1..).map(|number| if number == 1 { name.clone() } else { format!("{name}-{number}") });
        let name = all.into_iter().find(|name| !self.names.contains(name)).unwrap_or(name.clone());
        self.names.push(name.clone());
        name
    }
}

/// Adds a group, or a comment in its place if it may have no nodes.
pub(super) fn group<'a>(
    kind: &mut Type<'a>,
    notes: Vec<Note>,
    limits: &mut Limits<'a>,
    common: &mut Common<'a>,
    role: &mut Role<'a>,
    groups: &mut Block<'a>,
    findings: &mut Findings,
) {
    let overall = limits.max.as_ref().map_or(DEFAULT_WORKERS, |(max, _)| *max);
    let min = kind.fields.take("min_workers").or_else(|| limits.min.clone());
    let max = kind.fields.take("max_workers");
    let least = min.as_ref().and_then(|part| whole(part, findings)).unwrap_or_default();
    let own = max.as_ref().map_or(Some(overall), |part| whole(part, findings)).unwrap_or(overall);
    if let (Some(min), Some(_)) = (&min, &max)
        && least > own
    {
        findings.problems.push(min.problem(format!("must be at most max_workers ({own}), found {least}")));
    }
    let most = own.min(overall);
    if most == 0 {
        return groups.note(Note::lost(&kind.whole, "it may have no nodes: `max_workers` is 0."));
    }
    let from = max.as_ref().or(limits.max.as_ref().map(|(_, part)| part)).unwrap_or(&kind.whole).clone();
    let (min_sum, max_sum, count) = limits.given;
    limits.given = (min_sum.saturating_add(least), max_sum.saturating_add(most), count + 1);

    let mut group = Block::default();
    let name = limits.name(&kind.name);
    if name != kind.name {
        group.note(Note::remark(format!("This is {}.", serde_json::Value::from(kind.name.as_str()))));
    }
    group.say("name", name);
    if let Some(part) = &min {
        group.need("minNodes", least, part);
    }
    if most > MAX_NODES {
        group.note(Note::lost(&from, format!("a group has at most {MAX_NODES} nodes.")));
    }
    group.need("maxNodes", most.min(MAX_NODES), &from);
    let idle = kind.fields.take("idle_timeout_s");
    let idle = idle.and_then(|part| Some((seconds(number(&part, findings)?), part)));
    if let Some((idle, from)) = idle.or_else(|| limits.idle.clone()) {
        group.set("idleTimeout", idle.to_string(), &from);
    }
    let (market, more) = instance::market(&mut kind.config, findings);
    group.notes(more);
    if let Some(market) = market {
        group.say("market", market);
    }
    let own = Own::take(&mut kind.fields);
    group.say("template", Node::Map(template(kind, &own, common, role, notes, findings)));
    groups.push_needed(Node::Map(group), &kind.whole);
}

fn seconds(seconds: f64) -> Span {
    Span { millis: (seconds * 1000.0).min(u64::MAX as f64) as u64 }
}
