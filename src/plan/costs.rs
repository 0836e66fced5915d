//! What a cluster on EC2 costs: what is launched keeps below `maxHourlyCost`, and what was spent is counted, for the
//! cluster and for each of its jobs.

use std::collections::BTreeSet;

use rustc_hash::{FxHashMap, FxHashSet};

use super::draft::Draft;
use super::guards::Guard;
use super::held::Held;
use crate::api::aws::{MarketKind, Offering};
use crate::api::cost::{ClusterCosts, JobCosts, ListPrices, Tally};
use crate::api::ids::{IntentId, NodeName};
use crate::api::money::Money;
use crate::api::object::RayCluster;
use crate::api::observed::{CloudInstance, InstancePhase};
use crate::api::record::NodeRecord;
use crate::cost::{Prices, name};

/// Keeps what was said last of prices, for a controller that has not asked yet.
pub(super) fn absorb(draft: &mut Draft<'_>) {
    let seen = &draft.snapshot.seen;
    let incarnation = draft.record.incarnation.as_mut();
    let Some(network) = incarnation.and_then(|incarnation| incarnation.aws.as_mut()) else { return };
    if let Some((_, prices)) = &seen.spot_prices.last {
        network.spot_prices.clone_from(prices);
    }
    let Some((_, listed)) = &seen.list_prices.last else { return };
    // What was not asked again this time may still be paid for.
    let mut prices = network.list_prices.take().map(|before| before.prices).unwrap_or_default();
    prices.extend(listed.prices.clone());
    network.list_prices = Some(ListPrices { at: listed.at, prices });
}

impl<'a> Draft<'a> {
    /// The prices of the cluster's instances, if it has any.
    fn prices<'d>(&'d self, cluster: &'d RayCluster) -> Option<Prices<'d>> {
        let network = self.record.incarnation.as_ref().and_then(|incarnation| incarnation.aws.as_ref());
        Some(Prices::new(cluster.spec.aws()?, network))
    }

    /// Instances with the cluster's mark that are no node of it.
    fn strangers(&self) -> Vec<&'a CloudInstance> {
        let launches: FxHashSet<&IntentId> = self.record.nodes.values().map(|node| &node.launch).collect();
        let instances = self.snapshot.seen.instances.fresh().map(|(_, instances)| instances.values());
        let is_node = |it: &CloudInstance| it.launch.as_ref().is_some_and(|launch| launches.contains(launch));
        instances.into_iter().flatten().filter(|it| !is_node(it)).collect()
    }
}

// --- The limit ---------------------------------------------------------------------------------------------------

/// What may still be launched.
pub(super) struct Budget<'d> {
    /// `None`: anything.
    limit: Option<Limit<'d>>,
}

struct Limit<'d> {
    most: Money,
    prices: Prices<'d>,
    /// What an hour of all that is not known to have ended costs, or why nobody can say.
    committed: Result<Money, String>,
}

impl<'d> Budget<'d> {
    /// What the cluster's `maxHourlyCost` leaves.
    pub(super) fn of(draft: &'d Draft<'_>, cluster: &'d RayCluster) -> Self {
        let limit = cluster.spec.max_hourly_cost.zip(draft.prices(cluster));
        let limit = limit.map(|(most, prices)| Limit { most, prices, committed: committed(draft, &prices) });
        Self { limit }
    }

    /// Whether something may be launched.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn admits(&self, offering: &Offering) -> Result<(), String> {
        let Some(Limit { most, prices, committed }) = &self.limit else { return Ok(()) };
        let price = prices.of_offering(offering);
        let price = price.ok_or_else(|| unknown(&offering.instance_type, &offering.zone, offering.market))?;
        let committed = committed.clone()?;
        if committed + price <= *most {
            return Ok(());
        }
        Err(format!(
            "{} at {} would bring the cluster from {} to {}, more than its maxHourlyCost of {}",
            name(&offering.instance_type, offering.market),
            price.hourly(),
            committed.hourly(),
            (committed + price).hourly(),
            most.hourly()
        ))
    }
}

/// Launches of which no reply has come count, and so does what is being ended: both may be paid for.
fn committed(draft: &Draft<'_>, prices: &Prices<'_>) -> Result<Money, String> {
    let instances = &draft.snapshot.seen.instances;
    if instances.fresh().is_none() {
        let error = instances.error.as_ref().map_or("they were not listed yet", |(_, error)| error.as_str());
        return Err(format!("nobody can say what the cluster's instances cost now: {error}"));
    }
    let has_ended = |node: &NodeRecord| {
        let seen = draft.index.instance(&node.launch);
        seen.is_some_and(|(_, instance)| instance.phase == InstancePhase::Terminated)
    };
    let every = draft.guarded(Guard::EveryLaunchCosts);
    let nodes = draft.record.nodes.values().filter(|node| !has_ended(node));
    let nodes = nodes.filter(|node| every || draft.index.instance(&node.launch).is_some());
    let nodes = nodes.filter_map(|node| node.offering.as_ref());
    let nodes = nodes.map(|offering| (&offering.instance_type, &offering.zone, offering.market));
    let strangers = draft.strangers().into_iter().filter(|it| it.phase != InstancePhase::Terminated);
    let strangers = strangers.map(|instance| (&instance.instance_type, &instance.zone, instance.market));
    nodes
        .chain(strangers)
        .map(|(kind, zone, market)| prices.of(kind, zone, market).ok_or_else(|| unknown(kind, zone, market)))
        .sum()
}

fn unknown(instance_type: &str, zone: &str, market: MarketKind) -> String {
    let (field, place) = match market {
        MarketKind::OnDemand => ("onDemand", String::new()),
        MarketKind::Spot => ("spot", format!(" in {zone}")),
    };
    format!(
        "with maxHourlyCost nothing is launched while the price of {}{place} is not known: say it in \
         provider.aws.prices, as {instance_type}: {{{field}: \"...\"}}",
        name(instance_type, market)
    )
}

// --- The bill ----------------------------------------------------------------------------------------------------

/// What is being paid for.
struct Billed<'d> {
    node: Option<&'d NodeName>,
    instance_type: &'d str,
    market: MarketKind,
    price: Option<Money>,
    on_demand: Option<Money>,
}

/// Goes on counting what the cluster and its jobs cost. Nothing is written while nothing changes.
pub(super) fn count(draft: &mut Draft<'_>) {
    let Some(cluster) = draft.cluster() else { return };
    let Some(prices) = draft.prices(cluster) else {
        let nothing = vec![Share::default(); draft.jobs.len()];
        return count_jobs(draft, nothing);
    };
    let billed = billed(draft, &prices);
    let per_hour: Money = billed.iter().filter_map(|it| it.price).sum();
    let saved: Money = billed.iter().filter_map(|it| Some(it.on_demand?.less(it.price?))).sum();
    let unpriced: BTreeSet<(&str, MarketKind)> =
        billed.iter().filter(|it| it.price.is_none()).map(|it| (it.instance_type, it.market)).collect();
    let unpriced: Vec<String> = unpriced.into_iter().map(|(kind, market)| name(kind, market)).collect();
    let by_node: FxHashMap<&NodeName, &Billed<'_>> =
        billed.iter().filter_map(|it| Some((it.node?, it))).collect();
    let held = draft.held();
    let shares = (0..draft.jobs.len()).map(|index| share(&held, index, &by_node)).collect();
    drop(held);
    let now = draft.now;
    let begin =
        || ClusterCosts { spent: Tally::begin(now), saved: Tally::begin(now), unpriced: BTreeSet::new() };
    let costs = draft.record.costs.get_or_insert_with(begin);
    costs.spent.turn(per_hour, now);
    costs.saved.turn(saved, now);
    costs.unpriced.extend(unpriced);
    count_jobs(draft, shares);
}

/// What EC2 charges for: what was launched, until it is seen to end.
fn billed<'d>(draft: &'d Draft<'_>, prices: &Prices<'d>) -> Vec<Billed<'d>> {
    let is_billed = |node: &NodeRecord| match draft.index.instance(&node.launch) {
        Some((_, instance)) => instance.phase.is_up(),
        None => node.ended.is_none() && !draft.launch_is_unsettled(&node.launch),
    };
    let nodes = draft.record.nodes.iter().filter(|(_, node)| is_billed(node));
    let nodes = nodes.filter_map(|(name, node)| {
        let offering = node.offering.as_ref()?;
        Some((Some(name), offering.instance_type.as_str(), offering.zone.as_str(), offering.market))
    });
    let strangers = draft.strangers().into_iter().filter(|it| it.phase.is_up());
    let strangers = strangers
        .map(|instance| (None, instance.instance_type.as_str(), instance.zone.as_str(), instance.market));
    nodes
        .chain(strangers)
        .map(|(node, instance_type, zone, market)| Billed {
            node,
            instance_type,
            market,
            price: prices.of(instance_type, zone, market),
            on_demand: prices.of(instance_type, zone, MarketKind::OnDemand),
        })
        .collect()
}

/// What an hour of a job costs, and what of it has no price.
type Share = (Money, BTreeSet<String>);

/// A job pays its share of each node on which it has slots, by their number. What nobody has slots on, nobody pays for
/// but the cluster.
fn share(held: &Held, index: usize, nodes: &FxHashMap<&NodeName, &Billed<'_>>) -> Share {
    let (mut per_hour, mut unpriced) = (Money::default(), BTreeSet::new());
    for (node, slots) in held.of(index) {
        match nodes.get(node) {
            Some(Billed { price: Some(price), .. }) => per_hour += price.share(*slots, held.count(node)),
            Some(billed) => {
                unpriced.insert(name(billed.instance_type, billed.market));
            }
            None => {}
        }
    }
    (per_hour, unpriced)
}

fn count_jobs(draft: &mut Draft<'_>, shares: Vec<Share>) {
    let now = draft.now;
    for (job, (per_hour, unpriced)) in draft.jobs.iter_mut().zip(shares) {
        // One that is bound elsewhere is counted there.
        let binding = job.record.binding.as_ref();
        if binding.is_some_and(|binding| binding.cluster != draft.snapshot.key) {
            continue;
        }
        let record = &mut job.record;
        if record.costs.is_none() && per_hour == Money::default() && unpriced.is_empty() {
            continue;
        }
        let begin = || JobCosts { spent: Tally::begin(now), unpriced: BTreeSet::new() };
        let costs = record.costs.get_or_insert_with(begin);
        costs.spent.turn(per_hour, now);
        costs.unpriced.extend(unpriced);
    }
}
