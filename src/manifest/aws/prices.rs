//! The rules of what instances cost, and may cost.

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::words::quoted;
use super::instance::is_type;
use crate::api::aws::AwsProvider;
use crate::api::cluster::RayClusterSpec;
use crate::api::money::Money;

/// What is wrong with the prices of a cluster at `at`, and with its limit.
pub(super) fn check(spec: &RayClusterSpec, aws: &AwsProvider, at: &Path, findings: &mut Vec<Finding>) {
    let help = "to have no instances, suspend the cluster: suspend: true";
    let limit = spec.max_hourly_cost.and_then(|limit| positive(limit, at.key("maxHourlyCost")));
    findings.extend(limit.map(|finding| finding.help(help)));
    let prices = at.field("provider.aws.prices");
    for (name, price) in &aws.prices {
        let at = prices.key(name);
        if !is_type(name) {
            let message = format!("must be an instance type such as g5.xlarge, found {}", quoted(name));
            findings.push(Finding::new(at, message).at_key());
            continue;
        }
        if price.on_demand.is_none() && price.spot.is_none() {
            findings.push(Finding::new(at.clone(), "must have `onDemand` or `spot`").at_key());
        }
        let help = "a price that is not known is left out";
        let given = [(price.on_demand, at.key("onDemand")), (price.spot, at.key("spot"))];
        let wrong = given.into_iter().filter_map(|(price, path)| positive(price?, path));
        findings.extend(wrong.map(|finding| finding.help(help)));
    }
}

fn positive(amount: Money, path: Path) -> Option<Finding> {
    (amount == Money::default()).then(|| Finding::new(path, "must be more than 0"))
}
