//! What a cluster and its jobs cost, for people.

use super::super::text::wrapped;
use crate::api::cost::{ClusterCostStatus, JobCostStatus, TABLE_OF};
use crate::api::money::Money;

/// How wide a line may be.
const WIDTH: usize = 100;

/// What a cluster costs: `$1.21/h of at most $5.00/h, $3.41 so far, $2.10 less than on-demand`.
pub(super) fn of_cluster(cost: &ClusterCostStatus, limit: Option<Money>) -> String {
    let limit = limit.map_or_else(String::new, |limit| format!(" of at most {}", limit.hourly()));
    let saved = match cost.saved {
        Money(0) => String::new(),
        saved => format!(", {} less than on-demand", saved.dollars()),
    };
    let sum = format!("{}{limit}, {} so far{saved}", cost.per_hour.hourly(), cost.spent.dollars());
    let mut text = lines("  cost      ", &sum, &cost.unpriced);
    if let Some(source) = source(cost) {
        let words: Vec<String> = source.split_whitespace().map(str::to_owned).collect();
        text.push_str(&wrapped(&" ".repeat(12), &words, WIDTH));
    }
    text
}

/// Where on-demand prices are from that the manifest does not say, if somebody was asked.
fn source(cost: &ClusterCostStatus) -> Option<String> {
    let listed =
        cost.price_list.map(|at| format!("on-demand as in AWS's price list of {}", at.strftime("%Y-%m-%d")));
    match (listed, &cost.price_list_error) {
        (Some(listed), None) => Some(listed),
        (Some(listed), Some(error)) => Some(format!("{listed}, which cannot be asked now: {error}")),
        (None, Some(error)) => Some(format!("on-demand as in the table of {TABLE_OF}: {error}")),
        (None, None) => None,
    }
}

/// What a job costs: its share of the nodes that it is on.
pub(super) fn of_job(cost: &JobCostStatus) -> String {
    let now = match cost.per_hour {
        Money(0) => String::new(),
        now => format!("{}, ", now.hourly()),
    };
    lines("  cost        ", &format!("{now}{} so far", cost.spent.dollars()), &cost.unpriced)
}

fn lines(title: &str, sum: &str, unpriced: &[String]) -> String {
    let mut text = format!("{title}{sum}\n");
    if !unpriced.is_empty() {
        let missing = format!(
            "without {}, whose price is not known: say it in the cluster's provider.aws.prices",
            unpriced.join(", ")
        );
        let words: Vec<String> = missing.split_whitespace().map(str::to_owned).collect();
        text.push_str(&wrapped(&" ".repeat(title.len()), &words, WIDTH));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::object_page;
    use crate::api::object::{AnyObject, Kind};

    fn page(kind: Kind, name: &str, spec: serde_json::Value, status: serde_json::Value) -> String {
        let value = json!({
            "apiVersion": "rayconcile.dev/v1", "kind": kind.name(), "metadata": {"name": name, "namespace": "default"},
            "spec": spec, "status": status,
        });
        object_page(&AnyObject::from_json(value).unwrap(), None)
    }

    #[test]
    fn a_cluster_says_what_each_node_and_all_of_it_cost() {
        let spec = json!({
            "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a"]}},
            "maxHourlyCost": 5,
        });
        let node = |name: &str, group: Option<&str>, kind: &str, market: &str, price: Option<&str>| {
            let instance = json!({"id": format!("i-{name}"), "instanceType": kind, "zone": "us-west-2a", "market": market,
                "price": price});
            json!({"name": name, "group": group, "state": "Ready", "capacity": "4 CPU, 1 GPU", "workers": 1,
                "instance": instance})
        };
        let status = json!({
            "phase": "Ready", "readyNodes": 2, "desiredNodes": 2,
            "nodes": [
                node("head", None, "m6i.large", "onDemand", Some("0.096")),
                node("gpu-1", Some("gpu"), "g5.xlarge", "spot", Some("0.4")),
                node("gpu-2", Some("gpu"), "p9.large", "onDemand", None),
            ],
            "cost": {"priceList": "2026-11-28T07:00:00Z", "perHour": "0.496", "spent": "3.4096", "saved": "4.848", "at": "2026-11-28T00:00:00Z",
                "unpriced": ["p9.large on-demand"]},
        });
        insta::assert_snapshot!(page(Kind::RayCluster, "cloud", spec, status), @"
        cluster default/cloud   Ready for -   2/2 worker nodes
          cost      $0.496/h of at most $5.00/h, $3.41 so far, $4.85 less than on-demand
                    without p9.large on-demand, whose price is not known: say it in the cluster's
                    provider.aws.prices
                    on-demand as in AWS's price list of 2026-11-28
          NODE    GROUP   STATE   FOR   ADDRESS   WORKERS   CAPACITY       INSTANCE                                PRICE
          head    head    Ready   -     -         1         4 CPU, 1 GPU   m6i.large on-demand us-west-2a i-head   $0.096/h
          gpu-1   gpu     Ready   -     -         1         4 CPU, 1 GPU   g5.xlarge spot us-west-2a i-gpu-1       $0.40/h
          gpu-2   gpu     Ready   -     -         1         4 CPU, 1 GPU   p9.large on-demand us-west-2a i-gpu-2   unknown
        ");
    }

    #[test]
    fn a_job_says_what_its_share_costs() {
        let spec = json!({"entrypoint": "main.py"});
        let cost = |per_hour: &str, unpriced: &[&str]| {
            let cost = json!({"perHour": per_hour, "spent": "1.2", "at": "2026-11-28T00:00:00Z", "unpriced": unpriced});
            page(Kind::AdaptDLJob, "ada", spec.clone(), json!({"phase": "Running", "cost": cost}))
        };
        insta::assert_snapshot!(cost("0.8", &["p9.large spot"]), @"
        job default/ada   Running for -   0 workers
          cost        $0.80/h, $1.20 so far
                      without p9.large spot, whose price is not known: say it in the cluster's
                      provider.aws.prices
        ");
        insta::assert_snapshot!(cost("0", &[]), @"
        job default/ada   Running for -   0 workers
          cost        $1.20 so far
        ");
    }
}
