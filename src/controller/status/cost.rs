//! What a cluster and its jobs cost, as it is shown.

use jiff::Timestamp;

use crate::api::aws::AwsNetwork;
use crate::api::cost::{ClusterCostStatus, ClusterCosts, JobCostStatus, JobCosts, Tally};
use crate::api::money::Money;
use crate::plan::snapshot::Seen;

/// What a cluster costs.
pub(super) fn of_cluster(
    costs: &ClusterCosts,
    network: Option<&AwsNetwork>,
    seen: &Seen,
    now: Timestamp,
) -> ClusterCostStatus {
    let listed = network.and_then(|network| network.list_prices.as_ref());
    let at = counted_until(&costs.spent, now);
    ClusterCostStatus {
        per_hour: costs.spent.per_hour,
        spent: costs.spent.at(at),
        saved: costs.saved.at(at),
        at,
        unpriced: costs.unpriced.iter().cloned().collect(),
        price_list: listed.map(|listed| listed.at),
        price_list_error: seen.list_prices.error.as_ref().map(|(_, error)| error.clone()),
    }
}

/// What a job costs.
pub(super) fn of_job(costs: &JobCosts, now: Timestamp) -> JobCostStatus {
    let at = counted_until(&costs.spent, now);
    JobCostStatus {
        per_hour: costs.spent.per_hour,
        spent: costs.spent.at(at),
        at,
        unpriced: costs.unpriced.iter().cloned().collect(),
    }
}

/// Until when it is counted, by the minute: a sum that is another with every status would be news all the time.
fn counted_until(tally: &Tally, now: Timestamp) -> Timestamp {
    let minute = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap_or(now);
    if tally.per_hour == Money::default() { tally.since } else { minute.max(tally.since) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn it_is_news_once_a_minute_and_not_at_all_when_nothing_is_spent() {
        let since: Timestamp = "2026-11-28T00:00:30Z".parse().unwrap();
        let later = |seconds| since + SignedDuration::from_secs(seconds);
        let mut costs =
            JobCosts { spent: Tally::begin(since), unpriced: ["p9.large spot".to_owned()].into() };
        assert_eq!(of_job(&costs, later(600)), of_job(&costs, later(0)));
        costs.spent.turn("3.60".parse().unwrap(), since);
        let spent = |seconds| of_job(&costs, later(seconds)).spent.to_string();
        let shown: Vec<String> = [0, 29, 30, 89, 90].map(spent).to_vec();
        assert_eq!(shown, ["0", "0", "0.03", "0.03", "0.09"]);
        assert_eq!(of_job(&costs, later(0)).unpriced, ["p9.large spot"]);
    }
}
