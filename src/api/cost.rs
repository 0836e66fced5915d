//! What a cluster on EC2 and its jobs cost: what is kept of it, and what is shown.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::money::Money;

/// Spot prices for an hour, as EC2 says: by instance type, and then by zone.
pub type SpotPrices = BTreeMap<String, BTreeMap<String, Money>>;

/// Of when Rayconcile's own table of on-demand prices is.
pub const TABLE_OF: &str = "January 2026";

/// On-demand prices for an hour, as AWS's price list has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListPrices {
    /// When it was asked.
    pub at: Timestamp,
    /// By instance type. `None`: it has none.
    pub prices: BTreeMap<String, Option<Money>>,
}

impl ListPrices {
    /// Whether nothing need be asked again at a moment: it has changed seldom in a day, and then by little.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.at);
        !age.is_negative() && age < SignedDuration::from_hours(24)
    }
}

/// What an hour of an instance type costs, as the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenPrice {
    /// On-demand, in US dollars. Left out: as AWS's price list has it, or else Rayconcile's own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<Money>,
    /// On the spot market, in US dollars. Left out: what EC2 says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<Money>,
}

/// Money that is spent by the hour: how much had been at a moment, and how it goes on from there. It need not be written
/// again while nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// What had been spent.
    pub spent: Money,
    /// What an hour costs since.
    pub per_hour: Money,
    /// Since when.
    pub since: Timestamp,
}

impl Tally {
    /// Nothing yet.
    pub fn begin(now: Timestamp) -> Self {
        Self { spent: Money::default(), per_hour: Money::default(), since: now }
    }

    /// What has been spent until a moment.
    pub fn at(&self, moment: Timestamp) -> Money {
        self.spent + self.per_hour.over(moment.duration_since(self.since))
    }

    /// From now on an hour costs this much.
    pub fn turn(&mut self, per_hour: Money, now: Timestamp) {
        if self.per_hour != per_hour {
            *self = Self { spent: self.at(now), per_hour, since: now };
        }
    }

    /// The clock was set back: what lies ahead was a while ago, nobody knows how long.
    pub fn not_after(&mut self, now: Timestamp) {
        self.since = self.since.min(now);
    }
}

/// What a cluster has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCosts {
    /// What its instances cost.
    pub spent: Tally,
    /// What its spot instances would have cost more on-demand, where both prices are known.
    pub saved: Tally,
    /// What was paid for at a price that is not known, such as `p9.large on-demand`: it is in neither.
    pub unpriced: BTreeSet<String>,
}

/// What a job has cost: its share of the nodes that it was on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobCosts {
    /// What its share costs.
    pub spent: Tally,
    /// What it had a share of at a price that is not known.
    pub unpriced: BTreeSet<String>,
}

/// What a cluster costs, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCostStatus {
    /// What an hour of its instances costs now, in US dollars, as far as their prices are known.
    pub per_hour: Money,
    /// What they have cost so far.
    pub spent: Money,
    /// What its spot instances would have cost more on-demand so far.
    pub saved: Money,
    /// Until when that is counted: it goes on by the minute.
    pub at: Timestamp,
    /// What was paid for at a price that is not known, such as `p9.large on-demand`: it is in none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
    /// When AWS's price list was asked last for on-demand prices. Left out: never, and they are those of Rayconcile's
    /// own table, where the manifest says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_list: Option<Timestamp>,
    /// Why it cannot be asked now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_list_error: Option<String>,
}

/// What a job costs, as `status` shows it: its share of the nodes that it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCostStatus {
    /// What an hour costs now, in US dollars, as far as prices are known.
    pub per_hour: Money,
    /// What it has cost so far.
    pub spent: Money,
    /// Until when that is counted: it goes on by the minute.
    pub at: Timestamp,
    /// What it had a share of at a price that is not known: it is in neither.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tally_is_right_across_changes_and_after_a_while_away() {
        let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        let hours = |hours| begin + SignedDuration::from_hours(hours);
        let mut tally = Tally::begin(begin);
        tally.turn("0.40".parse().unwrap(), hours(1));
        let before = tally.clone();
        tally.turn("0.40".parse().unwrap(), hours(2));
        assert_eq!(tally, before, "what stays as it is need not be written again");
        tally.turn("0.50".parse().unwrap(), hours(3));
        // Written down, read again by another controller, ten hours later.
        let text = serde_json::to_string(&tally).unwrap();
        let mut tally: Tally = serde_json::from_str(&text).unwrap();
        assert_eq!(tally.at(hours(13)).to_string(), "5.8");
        tally.turn(Money::default(), hours(13));
        assert_eq!(tally.at(hours(99)).to_string(), "5.8");
        // Of a clock that was set back nothing is taken away.
        tally.turn("1".parse().unwrap(), hours(99));
        assert_eq!(tally.at(hours(98)).to_string(), "5.8");
        tally.not_after(hours(98));
        assert_eq!(tally.at(hours(99)).to_string(), "6.8");
    }
}
