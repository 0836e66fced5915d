//! What the instance types of a cluster's templates have, and where they are offered.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{InstanceTypeInfo, LocationType, UsageClassType};

use super::client::Clients;
use super::pace::Api;
use super::tags::filter;
use crate::action::EffectError;
use crate::api::aws::{Instance, Market, TypeFacts};
use crate::api::cluster::RayClusterSpec;
use crate::api::units::Bytes;
use crate::provider::rejected;

/// The most that one call describes.
const TYPES_PAGE: i32 = 100;
const OFFERINGS_PAGE: i32 = 1000;
/// The most values of a filter that one call takes is 200.
const NAMES_AT_ONCE: usize = 100;

/// A template of instances, as messages speak of it.
pub(super) struct Template<'a> {
    /// Where it stands in the manifest.
    pub(super) at: String,
    pub(super) instance: &'a Instance,
    /// The group's market; the head is on-demand.
    market: Market,
    head: bool,
}

/// All templates of a cluster, the head's first.
pub(super) fn templates(spec: &RayClusterSpec) -> Result<Vec<Template<'_>>, EffectError> {
    let head = ("spec.head".to_owned(), &spec.head, Market::default(), true);
    let groups = spec.worker_groups.iter().map(|group| {
        let market = group.market.clone().unwrap_or_default();
        (format!("worker group {}", group.name), &group.template, market, false)
    });
    let all = std::iter::once(head).chain(groups).map(|(at, template, market, head)| {
        let instance = template.instance.as_ref();
        let instance = instance.ok_or_else(|| rejected(format!("{at} says no instance")))?;
        Ok(Template { at, instance, market, head })
    });
    all.collect()
}

/// What all types of the templates have. `zones` are those of the cluster's subnets, the head's first.
pub(super) async fn describe(
    clients: &Clients,
    templates: &[Template<'_>],
    zones: &[&str],
) -> Result<BTreeMap<String, TypeFacts>, EffectError> {
    let names: BTreeSet<&str> =
        templates.iter().flat_map(|template| &template.instance.types).map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut types = BTreeMap::new();
    for names in names.chunks(NAMES_AT_ONCE) {
        describe_some(clients, names, &mut types).await?;
    }
    if let Some(unknown) = names.iter().find(|name| !types.contains_key(**name)) {
        let message = unknown_type(unknown, &clients.region, &all_types(clients).await?);
        return Err(rejected(message));
    }
    for names in names.chunks(NAMES_AT_ONCE) {
        for (name, zone) in offerings(clients, names, zones).await? {
            if let Some(facts) = types.get_mut(&name).filter(|_| zones.contains(&zone.as_str())) {
                facts.zones.insert(zone);
            }
        }
    }
    check(templates, zones, &types).map_err(rejected)?;
    Ok(types)
}

async fn describe_some(
    clients: &Clients,
    names: &[&str],
    types: &mut BTreeMap<String, TypeFacts>,
) -> Result<(), EffectError> {
    // A filter, and not the names themselves: of those one that is unknown would fail the call.
    let request =
        clients.ec2.describe_instance_types().filters(filter("instance-type", names.iter().copied()));
    let mut pages = request.into_paginator().page_size(TYPES_PAGE).send();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("describe instance types", &error))?;
        types.extend(page.instance_types().iter().filter_map(facts));
        if page.next_token().is_some() {
            clients.pace(Api::Describe).await;
        }
    }
    Ok(())
}

/// Which of some types is offered in which of some zones.
async fn offerings(
    clients: &Clients,
    names: &[&str],
    zones: &[&str],
) -> Result<Vec<(String, String)>, EffectError> {
    let request = clients
        .ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(filter("instance-type", names.iter().copied()))
        .filters(filter("location", zones.iter().copied()));
    let mut pages = request.into_paginator().page_size(OFFERINGS_PAGE).send();
    let mut offerings = Vec::new();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("ask where instance types are offered", &error))?;
        offerings.extend(page.instance_type_offerings().iter().filter_map(|offering| {
            Some((offering.instance_type()?.as_str().to_owned(), offering.location()?.to_owned()))
        }));
        if page.next_token().is_some() {
            clients.pace(Api::Describe).await;
        }
    }
    Ok(offerings)
}

/// The names of all types of the region.
async fn all_types(clients: &Clients) -> Result<Vec<String>, EffectError> {
    let request = clients.ec2.describe_instance_type_offerings().location_type(LocationType::Region);
    let mut pages = request.into_paginator().page_size(OFFERINGS_PAGE).send();
    let mut names = Vec::new();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("list instance types", &error))?;
        let offered = page.instance_type_offerings().iter().filter_map(|offering| offering.instance_type());
        names.extend(offered.map(|name| name.as_str().to_owned()));
        if page.next_token().is_some() {
            clients.pace(Api::Describe).await;
        }
    }
    Ok(names)
}

/// What a type has, as EC2 describes it.
fn facts(info: &InstanceTypeInfo) -> Option<(String, TypeFacts)> {
    let count =
        |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let gpus = info.gpu_info().map(|info| info.gpus()).unwrap_or_default();
    let mebibytes = info.memory_info().and_then(|memory| memory.size_in_mib()).unwrap_or_default();
    let architectures = info.processor_info().map(|info| info.supported_architectures()).unwrap_or_default();
    let facts = TypeFacts {
        cpus: count(info.v_cpu_info().and_then(|cpus| cpus.default_v_cpus())),
        gpus: gpus.iter().map(|gpu| count(gpu.count())).sum(),
        memory: Bytes(u64::try_from(mebibytes).unwrap_or_default() << 20),
        architectures: architectures.iter().map(|kind| kind.as_str().to_owned()).collect(),
        spot: info.supported_usage_classes().contains(&UsageClassType::Spot),
        zones: BTreeSet::new(),
    };
    Some((info.instance_type()?.as_str().to_owned(), facts))
}

fn unknown_type(unknown: &str, region: &str, known: &[String]) -> String {
    let nearest = known.iter().min_by_key(|known| (strsim::damerau_levenshtein(unknown, known), known.len()));
    match nearest {
        Some(nearest) => format!("there is no instance type {unknown} in {region}; did you mean {nearest}?"),
        None => format!("there is no instance type {unknown} in {region}"),
    }
}

/// Why some template cannot have any instance.
fn check(
    templates: &[Template<'_>],
    zones: &[&str],
    types: &BTreeMap<String, TypeFacts>,
) -> Result<(), String> {
    for template in templates {
        let names = template.instance.types.join(", ");
        // The head is in the first subnet.
        let zones = if template.head { &zones[..zones.len().min(1)] } else { zones };
        let offered = |facts: &TypeFacts| zones.iter().any(|zone| facts.zones.contains(*zone));
        let facts: Vec<&TypeFacts> = template
            .instance
            .types
            .iter()
            .filter_map(|name| types.get(name))
            .filter(|facts| offered(facts))
            .collect();
        if facts.is_empty() {
            let first = if template.head { ", the zone of the first subnet" } else { "" };
            let zones = zones.join(", ");
            return Err(format!("{}: {names} is not offered in {zones}{first}", template.at));
        }
        let only_spot = matches!(&template.market, Market::Spot(spot) if !spot.on_demand_fallback);
        if only_spot && !facts.iter().any(|facts| facts.spot) {
            return Err(format!("{}: {names} is not offered on the spot market", template.at));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_sdk_ec2::types::{
        ArchitectureType, GpuDeviceInfo, GpuInfo, InstanceType, MemoryInfo, ProcessorInfo, VCpuInfo,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_has_what_ec2_says() {
        let info = InstanceTypeInfo::builder()
            .instance_type(InstanceType::from("g5.12xlarge"))
            .v_cpu_info(VCpuInfo::builder().default_v_cpus(48).build())
            .memory_info(MemoryInfo::builder().size_in_mib(196_608).build())
            .gpu_info(GpuInfo::builder().gpus(GpuDeviceInfo::builder().count(4).build()).build())
            .processor_info(ProcessorInfo::builder().supported_architectures(ArchitectureType::X8664).build())
            .supported_usage_classes(UsageClassType::OnDemand)
            .supported_usage_classes(UsageClassType::Spot)
            .build();
        let (name, facts) = facts(&info).unwrap();
        assert_eq!(name, "g5.12xlarge");
        assert_eq!((facts.cpus, facts.gpus, facts.memory), (48, 4, Bytes(192 << 30)));
        assert_eq!(facts.architectures, BTreeSet::from(["x86_64".to_owned()]));
        assert!(facts.spot && facts.zones.is_empty());
    }

    #[test]
    fn an_unknown_type_is_named_with_the_nearest() {
        let known = ["g5.xlarge", "g5.2xlarge", "m6i.large"].map(str::to_owned);
        assert_eq!(
            unknown_type("g5.xlarg", "us-west-2", &known),
            "there is no instance type g5.xlarg in us-west-2; did you mean g5.xlarge?"
        );
        assert_eq!(unknown_type("g5", "us-west-2", &[]), "there is no instance type g5 in us-west-2");
    }

    fn spec(market: &serde_json::Value) -> RayClusterSpec {
        let instance = |name: &str| json!({"instance": {"types": [name], "image": {"id": "ami-1"}}});
        serde_json::from_value(json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a", "subnet-b"]}},
            "head": instance("m6i.large"),
            "workerGroups": [{"name": "w", "maxNodes": 1, "market": market, "template": instance("g5.xlarge")}],
        }))
        .unwrap()
    }

    fn types(head: &[&str], worker: &[&str], spot: bool) -> BTreeMap<String, TypeFacts> {
        let zones = |zones: &[&str]| zones.iter().map(|zone| (*zone).to_owned()).collect();
        let head = TypeFacts { zones: zones(head), ..TypeFacts::default() };
        let worker = TypeFacts { zones: zones(worker), spot, ..TypeFacts::default() };
        [("m6i.large".to_owned(), head), ("g5.xlarge".to_owned(), worker)].into()
    }

    #[test]
    fn a_template_needs_a_type_that_is_offered_where_and_how_it_is_wanted() {
        let market = json!({"spot": {}});
        let spec = spec(&market);
        let templates = templates(&spec).unwrap();
        let try_it = |types| check(&templates, &["a", "b"], &types);
        assert_eq!(try_it(types(&["a"], &["b"], true)), Ok(()));
        assert_eq!(
            try_it(types(&["b"], &["b"], true)).unwrap_err(),
            "spec.head: m6i.large is not offered in a, the zone of the first subnet"
        );
        assert_eq!(
            try_it(types(&["a"], &[], true)).unwrap_err(),
            "worker group w: g5.xlarge is not offered in a, b"
        );
        assert_eq!(
            try_it(types(&["a"], &["a"], false)).unwrap_err(),
            "worker group w: g5.xlarge is not offered on the spot market"
        );
    }

    #[test]
    fn a_fall_back_makes_do_without_the_spot_market() {
        let spec = spec(&json!({"spot": {"onDemandFallback": true}}));
        assert_eq!(check(&templates(&spec).unwrap(), &["a"], &types(&["a"], &["a"], false)), Ok(()));
    }
}
