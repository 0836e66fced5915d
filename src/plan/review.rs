//! What a change comes to on one cluster: what the planner makes of it, beside what it makes of things as they are.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::capacity::Capacity;
use super::outlook::{Outlook, outlook};
use super::report::Waiting;
use super::snapshot::Snapshot;
use crate::api::aws::{Market, MarketKind};
use crate::api::cluster::RayClusterSpec;
use crate::api::ids::{NodeName, Uid};
use crate::api::meta::ObjectKey;
use crate::api::money::Money;
use crate::api::record::{JobRecord, NodeRecord};
use crate::api::review::{Change, ClusterReview, GroupReview, JobReview, NodeReview};
use crate::api::shared::Shared;
use crate::api::words::count;
use crate::cost::Prices;

/// How far ahead is looked at least.
const AHEAD: SignedDuration = SignedDuration::from_mins(10);
/// And at most, however long nodes may be idle.
const FAR_AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// What would be done on a cluster if it and its jobs were `after` instead of `before`; nothing if nothing would.
pub fn review(before: &Snapshot, after: &Snapshot) -> Option<ClusterReview> {
    let ahead = horizon(before).max(horizon(after));
    let (as_it_is, then) = (outlook(before, ahead), outlook(after, ahead));
    let per_hour = Change { before: per_hour(before), after: per_hour(&then.end) };
    let costs = then.end.record.costs.as_ref();
    let unpriced = costs.map(|costs| costs.unpriced.iter().cloned().collect()).unwrap_or_default();
    let review = ClusterReview {
        key: after.key.clone(),
        nodes: Change { before: nodes(before), after: nodes(&then.end) },
        per_hour: match (per_hour.before, per_hour.after) {
            (None, None) => None,
            (before, after) => {
                Some(Change { before: before.unwrap_or_default(), after: after.unwrap_or_default() })
            }
        },
        unpriced,
        launched: launched(&as_it_is, &then),
        given_back: given_back(before, &as_it_is, &then),
        waiting: new_waiting(&as_it_is.last.cluster.waiting, &then.last.cluster.waiting),
        unknown: then.unknown.as_ref().map(|why| unknown(after, why)),
        jobs: jobs(before, after, &as_it_is, &then),
    };
    let costs_the_same = review.per_hour.is_none() || self::per_hour(&as_it_is.end) == per_hour.after;
    let nothing = review.launched.is_empty()
        && review.given_back.is_empty()
        && review.jobs.is_empty()
        && review.waiting.is_empty()
        && (review.unknown.is_none() || wishes(before) == wishes(after))
        && nodes(&as_it_is.end) == review.nodes.after
        && costs_the_same;
    (!nothing).then_some(review)
}

/// What is wanted of a cluster and its jobs.
fn wishes(snapshot: &Snapshot) -> impl PartialEq {
    let cluster = snapshot.cluster.as_ref().map(|it| (it.spec.clone(), it.metadata.is_deleting()));
    let jobs = snapshot.jobs.iter().map(|view| &view.job);
    let jobs: Vec<_> =
        jobs.map(|job| (job.metadata.uid.clone(), job.spec.clone(), job.metadata.is_deleting())).collect();
    (cluster, jobs)
}

/// Until idle nodes have been given back.
fn horizon(snapshot: &Snapshot) -> SignedDuration {
    let groups = snapshot.cluster.iter().flat_map(|cluster| &cluster.spec.worker_groups);
    let longest = groups.map(|group| group.idle_timeout.signed()).max().unwrap_or_default();
    (longest + AHEAD).min(FAR_AHEAD)
}

fn nodes(snapshot: &Snapshot) -> u32 {
    let is_one = |node: &&Shared<NodeRecord>| node.group.is_some() && node.state.is_wanted();
    u32::try_from(snapshot.record.nodes.values().filter(is_one).count()).unwrap_or(u32::MAX)
}

fn per_hour(snapshot: &Snapshot) -> Option<Money> {
    snapshot.record.costs.as_ref().map(|costs| costs.spent.per_hour)
}

fn launched(as_it_is: &Outlook, then: &Outlook) -> Vec<NodeReview> {
    let new = then.launched.iter().filter(|(name, node)| {
        let known = as_it_is.launched.get(*name);
        known.is_none_or(|known| known.template != node.template || known.offering != node.offering)
    });
    let mut new: Vec<_> = new.collect();
    new.sort_by_key(|(_, node)| (node.group.is_some(), node.index));
    new.into_iter().map(|(name, node)| of_node(then, name, node, None)).collect()
}

fn given_back(before: &Snapshot, as_it_is: &Outlook, then: &Outlook) -> Vec<NodeReview> {
    let new = then.given_back.iter().filter(|(name, why)| as_it_is.given_back.get(*name) != Some(why));
    new.filter_map(|(name, why)| {
        let node = before.record.nodes.get(name).or_else(|| then.launched.get(name))?;
        Some(of_node(then, name, node, Some(why.clone())))
    })
    .collect()
}

fn of_node(then: &Outlook, name: &NodeName, node: &NodeRecord, why: Option<String>) -> NodeReview {
    let network = then.end.record.incarnation.as_ref().and_then(|incarnation| incarnation.aws.as_ref());
    let aws = then.end.cluster.as_ref().and_then(|cluster| cluster.spec.aws());
    let offering = node.offering.as_ref();
    let what = offering.map_or_else(
        || Capacity::of_template(&node.template).describe(),
        |it| format!("{} {} {}", it.instance_type, it.market.words(), it.zone),
    );
    let price = aws.zip(offering).and_then(|(aws, offering)| Prices::new(aws, network).of_offering(offering));
    NodeReview { name: name.to_string(), what, price, why }
}

/// What is waited for that would not be otherwise.
fn new_waiting(as_it_is: &[Waiting], then: &[Waiting]) -> Vec<String> {
    let new = then.iter().filter(|waiting| !as_it_is.contains(waiting));
    new.map(|waiting| waiting.message.clone()).collect()
}

fn jobs(before: &Snapshot, after: &Snapshot, as_it_is: &Outlook, then: &Outlook) -> Vec<JobReview> {
    let mut keys: BTreeMap<Uid, ObjectKey> = BTreeMap::new();
    for view in before.jobs.iter().chain(&after.jobs) {
        keys.insert(view.job.metadata.uid.clone(), view.job.metadata.key());
    }
    let mut reviews: Vec<JobReview> =
        keys.into_iter().filter_map(|(uid, key)| of_job(before, as_it_is, then, &uid, key)).collect();
    reviews.sort_by(|one, other| one.key.cmp(&other.key));
    reviews
}

fn of_job(
    before: &Snapshot,
    as_it_is: &Outlook,
    then: &Outlook,
    uid: &Uid,
    key: ObjectKey,
) -> Option<JobReview> {
    let groups = |outlook: &Outlook| -> Vec<GroupReview> {
        let groups = outlook.groups.get(uid).into_iter().flatten();
        groups
            .map(|group| GroupReview {
                from: group.from_replicas,
                to: u32::try_from(group.nodes.len()).unwrap_or(u32::MAX),
                reason: format!("{:?}", group.reason),
                message: group.message.clone(),
            })
            .collect()
    };
    let waiting = |outlook: &Outlook| -> Vec<Waiting> {
        let last = outlook.last.jobs.get(uid);
        // Of one that is gone in the end what was done first tells more.
        let report = last.or_else(|| outlook.first.jobs.get(uid));
        report.map(|report| report.waiting.clone()).unwrap_or_default()
    };
    let (workers_then, workers_as_it_is) = (workers(&then.end, uid), workers(&as_it_is.end, uid));
    let (groups_then, groups_as_it_is) = (groups(then), groups(as_it_is));
    let waiting = new_waiting(&waiting(as_it_is), &waiting(then));
    if workers_then == workers_as_it_is && groups_then == groups_as_it_is && waiting.is_empty() {
        return None;
    }
    let scaling = then.last.jobs.get(uid).and_then(|report| report.scaling.as_ref());
    Some(JobReview {
        key,
        workers: Change { before: workers(before, uid), after: workers_then },
        groups: groups_then,
        scaling: scaling.map(|scaling| scaling.message.clone()).unwrap_or_default(),
        waiting,
    })
}

/// How many workers of a job train.
fn workers(snapshot: &Snapshot, uid: &Uid) -> u32 {
    let view = snapshot.jobs.iter().find(|view| view.job.metadata.uid == *uid);
    let training = |record: &JobRecord| {
        let groups = record.groups.iter().rev().filter(|group| group.outcome.is_none());
        let mut training = groups.filter(|group| group.timeline.contains_key("released"));
        training.next().map_or(0, |group| group.nodes.len())
    };
    u32::try_from(view.map_or(0, |view| training(&view.record))).unwrap_or(u32::MAX)
}

/// Why no more can be said, with what the manifest alone tells of a cluster that is not open yet.
fn unknown(snapshot: &Snapshot, why: &str) -> String {
    let cluster = snapshot.cluster.as_ref().filter(|_| snapshot.record.incarnation.is_none());
    let least = cluster.and_then(|cluster| least(&cluster.spec));
    least.map_or_else(|| why.to_owned(), |least| format!("{why}; {least}"))
}

/// What a cluster on EC2 has at least, and costs if it gets what it names first.
fn least(spec: &RayClusterSpec) -> Option<String> {
    let prices = Prices::new(spec.aws()?, None);
    let mut sum = Some(Money::default());
    let mut parts = Vec::new();
    let groups = spec.worker_groups.iter().filter(|group| group.min_nodes > 0);
    let groups = groups.map(|group| (group.name.as_str(), group.min_nodes, &group.template));
    for (name, number, template) in std::iter::once(("head", 1, &spec.head)).chain(groups) {
        let Some(first) = template.instance.as_ref().and_then(|instance| instance.types.first()) else {
            continue;
        };
        let market = match spec.market_of(name) {
            Market::Spot(_) if name != "head" => MarketKind::Spot,
            _ => MarketKind::OnDemand,
        };
        let price = prices.of(first, "", market);
        sum = sum.zip(price).map(|(sum, price)| (0..number).fold(sum, |sum, _| sum + price));
        let what =
            if name == "head" { "its head".to_owned() } else { count(number, &format!("{name} node")) };
        parts.push(format!("{what} ({first} {})", market.words()));
    }
    let cost = sum.map_or_else(
        || "at a price that is not known yet".to_owned(),
        |sum| format!("for about {}", sum.hourly()),
    );
    Some(format!("it begins with {} {cost}", parts.join(" and ")))
}
