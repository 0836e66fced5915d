//! Which instance of EC2 is asked for: the first that the manifest wants and that was not refused lately. And what a
//! node offers whose instance has not been chosen yet.

use jiff::{SignedDuration, Timestamp};

use super::costs::Budget;
use super::draft::Draft;
use super::snapshot::Snapshot;
use crate::action::{EffectResult, ErrorKind, IntentState};
use crate::api::aws::{AwsNetwork, Market, MarketKind, Offering};
use crate::api::cluster::{NodeTemplate, RayClusterSpec, WorkerGroup};
use crate::api::ids::{IntentId, NodeName};
use crate::api::object::RayCluster;
use crate::api::record::{NodeRecord, Shortage, Unavailable, digest_of};
use crate::api::shared::Shared;

/// How long what EC2 has none of is not asked for: at first, and at most. Karpenter waits the first of these.
const FIRST_REST: SignedDuration = SignedDuration::from_mins(3);
const LONGEST_REST: SignedDuration = SignedDuration::from_mins(30);
/// The same, with the fifth that rests differ by.
pub(super) const LONGEST_SPREAD_REST: SignedDuration = SignedDuration::from_mins(36);
/// A cluster on EC2 with what follows from its instance types: nothing if it is none, or is not open yet.
pub(super) fn resolved(snapshot: &Snapshot) -> Option<RayCluster> {
    let cluster = snapshot.cluster.as_ref().filter(|cluster| cluster.spec.aws().is_some())?;
    // What came of opening it goes into the record only while this plan is made.
    let opened = snapshot.intents.iter().find_map(|intent| match &intent.state {
        IntentState::Done { result: EffectResult::Opened(incarnation), .. } => Some(&**incarnation),
        _ => None,
    });
    let network = opened.or(snapshot.record.incarnation.as_ref())?.aws.as_ref()?;
    let mut cluster = cluster.clone();
    network.resolve(&mut cluster.spec.head);
    cluster.spec.worker_groups.iter_mut().for_each(|group| network.resolve(&mut group.template));
    Some(cluster)
}

/// Whether everything that the manifest names was looked up when the cluster was opened: it may have been changed.
pub(super) fn is_known(spec: &RayClusterSpec, network: &AwsNetwork) -> bool {
    let same = spec.aws().is_some_and(|aws| aws.digest() == network.settings);
    let templates = spec.worker_groups.iter().map(|group| &group.template).chain([&spec.head]);
    let mut instances = templates.filter_map(|template| template.instance.as_ref());
    same && instances.all(|instance| {
        network.image(&instance.image).is_some()
            && instance.types.iter().all(|name| network.types.contains_key(name))
    })
}

const NO_CAPACITY: &str = "NoCapacity";

/// Whether the manifest as it is now was put where a controller finds it that has lost its state directory.
pub(super) fn is_published(snapshot: &Snapshot, network: &AwsNetwork) -> bool {
    let wanted = snapshot.cluster.as_ref().map(|cluster| digest_of(&cluster.spec));
    network.published == wanted
}

/// Why there is no offering to ask for, and when there may be one.
pub(super) struct NoOffering {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) until: Option<Timestamp>,
}

/// What a new node of a group is to be asked for; of the head where no group is named.
pub(super) fn choose(
    draft: &Draft<'_>,
    cluster: &RayCluster,
    group: Option<&str>,
    template: &NodeTemplate,
) -> Result<Option<Offering>, NoOffering> {
    let Some(network) = draft.record.incarnation.as_ref().and_then(|incarnation| incarnation.aws.as_ref())
    else {
        return Ok(None);
    };
    if !is_known(&cluster.spec, network) {
        let message = "what the manifest names is being looked up".to_owned();
        return Err(NoOffering { reason: "Opening", message, until: None });
    }
    let market = group.map_or_else(Market::default, |group| cluster.spec.market_of(group));
    let budget = Budget::of(draft, cluster);
    let mut refused: Vec<&Unavailable> = Vec::new();
    let mut offered = false;
    let mut dear = None;
    for offering in offerings(network, template, &market, group.is_none(), draft.record.launched) {
        offered = true;
        if let Err(why) = budget.admits(&offering) {
            dear.get_or_insert(why);
            continue;
        }
        match draft.record.unavailable.iter().find(|it| it.what.covers(&offering) && is_resting(draft, it)) {
            None => return Ok(Some(offering)),
            Some(resting) => refused.push(resting),
        }
    }
    if !offered {
        let types = template.instance.iter().flat_map(|instance| instance.types.clone()).collect::<Vec<_>>();
        let message = format!(
            "no zone of the cluster's subnets offers {} {}",
            types.join(" or "),
            if matches!(market, Market::Spot(_)) { "on the spot market" } else { "" }
        );
        return Err(NoOffering { reason: NO_CAPACITY, message: message.trim_end().to_owned(), until: None });
    }
    if let (Some(message), true) = (dear, refused.is_empty()) {
        return Err(NoOffering { reason: "MaxHourlyCost", message, until: None });
    }
    let until = refused.iter().map(|it| it.until).filter(|until| *until > draft.now).min();
    let message = refused.first().map_or_else(String::new, |it| it.message.clone());
    Err(NoOffering {
        reason: NO_CAPACITY,
        message: format!("EC2 has none of what is asked for: {message}"),
        until,
    })
}

/// Everything that fits, the best first: spot before on-demand, then by the manifest's order of types; launches in a
/// row begin with different subnets, so that one zone's end is not every node's.
fn offerings(
    network: &AwsNetwork,
    template: &NodeTemplate,
    market: &Market,
    head: bool,
    turn: u64,
) -> Vec<Offering> {
    let markets: &[(MarketKind, Option<&String>)] = match market {
        Market::OnDemand(_) => &[(MarketKind::OnDemand, None)],
        Market::Spot(spot) if spot.on_demand_fallback => {
            &[(MarketKind::Spot, spot.max_price.as_ref()), (MarketKind::OnDemand, None)]
        }
        Market::Spot(spot) => &[(MarketKind::Spot, spot.max_price.as_ref())],
    };
    let Some(instance) = &template.instance else { return Vec::new() };
    let Some(image) = network.image(&instance.image) else { return Vec::new() };
    // The head's address is an interface in the first subnet.
    let subnets = if head { network.subnets.get(..1).unwrap_or_default() } else { &network.subnets[..] };
    let first = if subnets.is_empty() { 0 } else { (turn % subnets.len() as u64) as usize };
    let mut found = Vec::new();
    for (market, max_price) in markets {
        for instance_type in &instance.types {
            let Some(facts) = network.types.get(instance_type) else { continue };
            for (subnet, zone) in subnets.iter().cycle().skip(first).take(subnets.len()) {
                if facts.zones.contains(zone) && (*market == MarketKind::OnDemand || facts.spot) {
                    found.push(Offering {
                        instance_type: instance_type.clone(),
                        subnet: subnet.clone(),
                        zone: zone.clone(),
                        market: *market,
                        max_price: max_price.cloned(),
                        image: image.to_owned(),
                        root_device: network.root_devices.get(image).cloned(),
                    });
                }
            }
        }
    }
    found
}

/// Whether something is not to be asked for: until its rest is over, and after that while one launch tries it.
fn is_resting(draft: &Draft<'_>, it: &Unavailable) -> bool {
    let probed = |node: &Shared<NodeRecord>| {
        node.offering.as_ref().is_some_and(|offering| it.what.covers(offering))
            && draft.launch_is_unsettled(&node.launch)
    };
    it.until > draft.now || draft.record.nodes.values().any(probed)
}

/// Notes that EC2 had none of what a launch asked for.
pub(super) fn refused(
    draft: &mut Draft<'_>,
    offering: &Offering,
    kind: ErrorKind,
    message: &str,
    launch: &IntentId,
    at: Timestamp,
) {
    let what = match kind {
        ErrorKind::SubnetFull => Shortage::Subnet(offering.subnet.clone()),
        ErrorKind::MarketLimit => Shortage::Market(offering.market),
        _ => type_of(offering),
    };
    rest(draft, what, message, launch, at);
}

fn type_of(offering: &Offering) -> Shortage {
    Shortage::Type {
        instance_type: offering.instance_type.clone(),
        zone: offering.zone.clone(),
        market: offering.market,
    }
}

/// EC2 takes an instance back: it needs those of that type and zone itself.
pub(super) fn taken_back(draft: &mut Draft<'_>, node: &NodeName) {
    let Some(record) = draft.record.nodes.get(node) else { return };
    let (Some(offering), launch) = (record.offering.clone(), record.launch.clone()) else { return };
    let Offering { market, instance_type, zone, .. } = &*offering;
    let message = format!("{} {instance_type} in {zone} is being taken back", market.words());
    rest(draft, type_of(&offering), &message, &launch, draft.now);
}

/// Whether what EC2 says of an instance that has ended means that it took it back (its `StateReason` codes).
pub(super) fn is_taken_back(reason: &str) -> bool {
    reason.starts_with("Server.Spot") || reason.starts_with("Server.InsufficientInstanceCapacity")
}

/// Whether anything could be launched for a group now.
pub(super) fn is_offered(draft: &Draft<'_>, cluster: &RayCluster, group: &WorkerGroup) -> bool {
    let failing = draft.record.failing_groups.get(&group.name);
    let paused = failing.is_some_and(|failing| failing.trouble.until > draft.now);
    !paused && choose(draft, cluster, Some(&group.name), &group.template).is_ok()
}

/// Has something rest, longer each time. All rest equally long but for a part that differs by launch: clusters that were
/// refused together should not ask together.
fn rest(draft: &mut Draft<'_>, what: Shortage, message: &str, launch: &IntentId, at: Timestamp) {
    let known = draft.record.unavailable.iter().find(|it| it.what == what);
    // Launches that were on their way together are one refusal.
    let count = known.map_or(1, |it| if it.until > at { it.count } else { it.count + 1 });
    let length = (FIRST_REST * 2i32.saturating_pow(count.saturating_sub(1).min(10))).min(LONGEST_REST);
    let spread =
        launch.0.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 20;
    let until = at + length + length * i32::try_from(spread).unwrap_or(0) / 100;
    draft.record.unavailable.retain(|it| it.what != what);
    draft.record.unavailable.push(Unavailable { what, count, until, message: message.to_owned() });
}

/// What was asked for was there: nothing that it falls under rests any more.
pub(super) fn granted(draft: &mut Draft<'_>, offering: &Offering) {
    draft.record.unavailable.retain(|it| !it.what.covers(offering));
}
