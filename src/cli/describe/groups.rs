//! A job's groups, for people: why each came, from where to where, how long each part of the change took, what it cost.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::text::{age, millis, wrapped};
use crate::api::ids::NodeName;
use crate::api::status::GroupStatus;
use crate::api::words::{count, nodes};

/// How wide a line may be.
const WIDTH: usize = 80;
/// What stands before each line of a group.
const INDENT: &str = "    ";

/// Every group, oldest first.
pub(super) fn render(history: &[GroupStatus]) -> String {
    history.iter().map(group).collect::<Vec<_>>().join("\n")
}

fn group(group: &GroupStatus) -> String {
    let workers = count(group.replicas, "worker");
    let change = match group.from_replicas {
        0 => workers,
        from => format!("{from} → {workers}"),
    };
    let mut text = format!("  group {}, {} ago: {change}\n", group.number, age(group.created));
    let mut line = |name: &str, parts: &[String]| {
        text.push_str(&wrapped(&format!("{INDENT}{name:<10}"), parts, WIDTH));
    };
    line("why", &words(&format!("{}: {}", group.reason, group.message)));
    line("nodes", &words(&places(group)));
    if let Some(id) = group.restored {
        line("began", &words(&format!("from checkpoint {id}")));
    }
    line("timeline", &timeline(group));
    line("cost", &cost(group));
    if let Some(outcome) = &group.outcome {
        line("ended", &words(outcome));
    }
    text
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn places(group: &GroupStatus) -> String {
    let now = nodes(&group.nodes);
    match &group.before {
        Some(before) if sorted(&before.nodes) == sorted(&group.nodes) => {
            format!("{now}, as group {}", before.number)
        }
        Some(before) => format!("{} (group {}) → {now}", nodes(&before.nodes), before.number),
        None => now,
    }
}

fn sorted(nodes: &[NodeName]) -> Vec<&NodeName> {
    let mut nodes: Vec<&NodeName> = nodes.iter().collect();
    nodes.sort();
    nodes
}

/// What happened, in the order in which it did, counted from when the group before was told to save, or else from
/// when this one was wanted.
fn timeline(group: &GroupStatus) -> Vec<String> {
    // A job that was stopped for a while does not count from then.
    let before = group.before.as_ref().filter(|_| group.reason != "Resumed");
    let nothing = BTreeMap::new();
    let way = before.map_or(&nothing, |before| &before.timeline);
    let mut events: Vec<(&str, Timestamp)> = ["signalled", "saved", "ended"]
        .into_iter()
        .zip(["signalled", "saved", "group before ended"])
        .filter_map(|(event, word)| way.get(event).map(|at| (word, *at)))
        .collect();
    let zero = way.get("signalled").copied().unwrap_or(group.created);
    if !way.contains_key("signalled") {
        events.push(("wanted", group.created));
    }
    let own = [
        ("prepared", "prepared"),
        ("handedOver", "handed over"),
        ("released", "released"),
        ("firstStep", "first step"),
    ];
    events.extend(own.iter().filter_map(|(event, word)| group.timeline.get(*event).map(|at| (*word, *at))));
    events.sort_by_key(|(_, at)| *at);
    let last = events.len().saturating_sub(1);
    let parts = events.iter().enumerate().map(|(index, (word, at))| {
        let comma = if index < last { "," } else { "" };
        format!("{word} {}{comma}", offset(at.duration_since(zero).as_millis()))
    });
    parts.collect()
}

fn offset(since: i128) -> String {
    let length = millis(u64::try_from(since.unsigned_abs()).unwrap_or(u64::MAX));
    match since {
        0 => "0s".to_owned(),
        1.. => format!("+{length}"),
        _ => format!("-{length}"),
    }
}

fn cost(group: &GroupStatus) -> Vec<String> {
    let still = group.downtime_ms.map(|downtime| format!("training stood still for {}", millis(downtime)));
    let lost = group.lost_steps.map(|lost| match lost {
        0 => "no step was lost".to_owned(),
        lost => format!("{} made again", count(lost, "step")),
    });
    let seen = group.estimated.then(|| "as far as could be seen".to_owned());
    words(&still.into_iter().chain(lost).chain(seen).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::ids::{CheckpointId, GroupNumber};
    use crate::api::status::GroupBefore;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    fn times(times: &[(&str, i64)]) -> BTreeMap<String, Timestamp> {
        times.iter().map(|(event, ms)| ((*event).to_owned(), at(*ms))).collect()
    }

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| NodeName::from((*name).to_owned())).collect()
    }

    fn rescaled() -> GroupStatus {
        GroupStatus {
            number: GroupNumber(3),
            created: at(-9_400),
            reason: "Scaled".to_owned(),
            message: "4 workers make 1.9 times the goodput of 2, with an efficiency of 0.83".to_owned(),
            from_replicas: 2,
            replicas: 4,
            nodes: names(&["cpu-1", "cpu-1", "cpu-2", "cpu-2"]),
            before: Some(GroupBefore {
                number: GroupNumber(2),
                nodes: names(&["cpu-1", "cpu-1"]),
                timeline: times(&[("signalled", 0), ("saved", 110), ("ended", 140)]),
            }),
            restored: Some(CheckpointId { group: GroupNumber(2), number: 5 }),
            timeline: times(&[
                ("prepared", -9_200),
                ("handedOver", 150),
                ("released", 160),
                ("firstStep", 420),
                ("signalled", 50_000),
            ]),
            downtime_ms: Some(450),
            lost_steps: Some(0),
            estimated: false,
            outcome: Some("Stopped: its checkpoint is saved".to_owned()),
        }
    }

    /// A group's page but for its age.
    fn page(status: &GroupStatus) -> String {
        let page = group(status);
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
        page.split_once(" ago").unwrap().1.to_owned()
    }

    #[test]
    fn a_rescale_is_told_in_the_order_in_which_it_went() {
        insta::assert_snapshot!(page(&rescaled()), @"
        : 2 → 4 workers
            why       Scaled: 4 workers make 1.9 times the goodput of 2, with an
                      efficiency of 0.83
            nodes     cpu-1 ×2 (group 2) → cpu-1 ×2, cpu-2 ×2
            began     from checkpoint 2-5
            timeline  prepared -9.20s, signalled 0s, saved +0.11s,
                      group before ended +0.14s, handed over +0.15s, released +0.16s,
                      first step +0.42s
            cost      training stood still for 0.45s, no step was lost
            ended     Stopped: its checkpoint is saved
        ");
    }

    #[test]
    fn a_group_after_a_failure_counts_from_when_it_was_wanted() {
        let mut group = rescaled();
        group.from_replicas = 0;
        group.reason = "ProgramFailed".to_owned();
        group.message = "its program failed and is tried again".to_owned();
        group.lost_steps = Some(31);
        group.outcome = None;
        if let Some(before) = &mut group.before {
            before.nodes = group.nodes.iter().rev().cloned().collect();
            before.timeline = times(&[("ended", -10_400)]);
        }
        insta::assert_snapshot!(page(&group), @"
        : 4 workers
            why       ProgramFailed: its program failed and is tried again
            nodes     cpu-1 ×2, cpu-2 ×2, as group 2
            began     from checkpoint 2-5
            timeline  group before ended -1.00s, wanted 0s, prepared +0.20s,
                      handed over +9.55s, released +9.56s, first step +9.82s
            cost      training stood still for 0.45s, 31 steps made again
        ");
    }

    #[test]
    fn what_is_not_known_of_a_lost_group_is_not_claimed() {
        let mut group = rescaled();
        group.estimated = true;
        let cost = cost(&group).join(" ");
        assert_eq!(cost, "training stood still for 0.45s, no step was lost, as far as could be seen");
    }

    #[test]
    fn the_first_group_has_none_before_it() {
        let mut group = rescaled();
        (group.before, group.restored, group.from_replicas) = (None, None, 0);
        (group.downtime_ms, group.lost_steps, group.outcome) = (None, None, None);
        group.reason = "Started".to_owned();
        group.message = "it begins".to_owned();
        group.timeline = times(&[("prepared", -9_300)]);
        insta::assert_snapshot!(page(&group), @"
        : 4 workers
            why       Started: it begins
            nodes     cpu-1 ×2, cpu-2 ×2
            timeline  wanted 0s, prepared +0.10s
        ");
    }
}
