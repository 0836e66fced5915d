//! What instances of EC2 cost: a table of on-demand prices, AWS's price list, EC2's own spot prices, and what the
//! manifest says instead.
//!
//! Pure functions and data. A price that nobody knows is unknown: it is never taken for nothing.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::api::aws::{AwsNetwork, AwsProvider, MarketKind, Offering};
use crate::api::money::Money;

/// On-demand prices for an hour in US dollars, by type and region: AWS's price list (of `TABLE_OF`) for Linux on shared
/// hardware, as far as we know it. A dash is where we do not.
const TABLE: &str = include_str!("on-demand.txt");

/// By region and type.
static ON_DEMAND: LazyLock<BTreeMap<(&str, &str), Money>> = LazyLock::new(|| read(TABLE));

fn read(table: &'static str) -> BTreeMap<(&'static str, &'static str), Money> {
    let mut lines = table.lines().map(str::split_whitespace);
    let regions: Vec<&str> = lines.next().into_iter().flat_map(|header| header.skip(2)).collect();
    let mut prices = BTreeMap::new();
    for mut line in lines {
        let Some(instance_type) = line.next() else { continue };
        let known =
            regions.iter().zip(line).filter_map(|(region, price)| Some((*region, price.parse().ok()?)));
        prices.extend(known.map(|(region, price)| ((region, instance_type), price)));
    }
    prices
}

/// The table's on-demand price of a type in a region.
pub fn on_demand(region: &str, instance_type: &str) -> Option<Money> {
    ON_DEMAND.get(&(region, instance_type)).copied()
}

/// The prices that hold for a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Prices<'a> {
    aws: &'a AwsProvider,
    network: Option<&'a AwsNetwork>,
}

impl<'a> Prices<'a> {
    /// The prices of a cluster, with what EC2 has said in its incarnation.
    pub fn new(aws: &'a AwsProvider, network: Option<&'a AwsNetwork>) -> Self {
        Self { aws, network }
    }

    /// What an hour of an instance costs: what the manifest says, or else on the spot market EC2, and on-demand AWS's
    /// price list, or else the table.
    pub fn of(&self, instance_type: &str, zone: &str, market: MarketKind) -> Option<Money> {
        let given = self.aws.prices.get(instance_type);
        match market {
            MarketKind::OnDemand => {
                let listed = || *self.network?.list_prices.as_ref()?.prices.get(instance_type)?;
                let given = given.and_then(|given| given.on_demand);
                given.or_else(listed).or_else(|| on_demand(&self.aws.region, instance_type))
            }
            MarketKind::Spot => {
                let said = || self.network?.spot_prices.get(instance_type)?.get(zone).copied();
                given.and_then(|given| given.spot).or_else(said)
            }
        }
    }

    /// What an hour of what is asked for costs.
    pub fn of_offering(&self, offering: &Offering) -> Option<Money> {
        self.of(&offering.instance_type, &offering.zone, offering.market)
    }
}

/// What instances are called whose price is looked for: `g5.xlarge spot`.
pub fn name(instance_type: &str, market: MarketKind) -> String {
    format!("{instance_type} {}", market.words())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn aws(prices: serde_json::Value) -> AwsProvider {
        serde_json::from_value(json!({"region": "us-west-2", "subnets": ["subnet-a"], "prices": prices}))
            .unwrap()
    }

    fn network() -> AwsNetwork {
        serde_json::from_value(json!({
            "region": "us-west-2", "subnets": [], "securityGroups": [], "headInterface": "", "headAddress": "",
            "tokenParameter": null, "images": {}, "types": {},
            "spotPrices": {"g5.xlarge": {"us-west-2a": "0.41", "us-west-2b": "0.43"}},
            "listPrices": {"at": "2026-11-28T00:00:00Z", "prices": {"m5.large": "0.097", "m6i.large": null, "p8.large": "8"}},
        }))
        .unwrap()
    }

    #[test]
    fn every_line_of_the_table_is_read() {
        let cells = TABLE.lines().skip(1).flat_map(|line| line.split_whitespace().skip(1));
        assert_eq!(ON_DEMAND.len(), cells.filter(|cell| *cell != "-").count());
        assert!(
            TABLE
                .lines()
                .all(|line| line.split_whitespace().count() == 5 + usize::from(line.starts_with('#')))
        );
        assert!(ON_DEMAND.values().all(|price| *price > Money::default()));
        assert_eq!(on_demand("us-west-2", "g5.xlarge").unwrap().to_string(), "1.006");
        assert_eq!(on_demand("eu-central-1", "m6i.large").unwrap().to_string(), "0.115");
    }

    #[test]
    fn an_unknown_price_is_unknown() {
        for (region, name) in
            [("us-west-2", "p9.large"), ("eu-west-1", "p5.48xlarge"), ("mars-1", "m5.large")]
        {
            assert_eq!(on_demand(region, name), None, "{name} in {region}");
        }
        let aws = aws(json!({}));
        assert_eq!(Prices::new(&aws, None).of("g5.xlarge", "us-west-2a", MarketKind::Spot), None);
        assert_eq!(Prices::new(&aws, Some(&network())).of("g5.xlarge", "us-west-2c", MarketKind::Spot), None);
    }

    #[test]
    fn what_the_manifest_says_holds() {
        let (bare, network) = (aws(json!({})), network());
        let given =
            aws(json!({"g5.xlarge": {"onDemand": "0.90", "spot": "0.30"}, "p9.large": {"onDemand": 7}}));
        let price = |aws, name, market| {
            let price = Prices::new(aws, Some(&network)).of(name, "us-west-2b", market);
            price.map(|price| price.to_string()).unwrap_or_default()
        };
        let (on_demand, spot) = (MarketKind::OnDemand, MarketKind::Spot);
        assert_eq!(
            (price(&bare, "g5.xlarge", on_demand), price(&bare, "g5.xlarge", spot)),
            ("1.006".into(), "0.43".into())
        );
        assert_eq!(
            (price(&given, "g5.xlarge", on_demand), price(&given, "g5.xlarge", spot)),
            ("0.9".into(), "0.3".into())
        );
        assert_eq!(
            (price(&given, "p9.large", on_demand), price(&given, "p9.large", spot)),
            ("7".into(), String::new())
        );
        // The price list goes before the table, which has what the list has not.
        let listed = ["m5.large", "m6i.large", "p8.large"].map(|name| price(&bare, name, on_demand));
        assert_eq!(listed, ["0.097", "0.096", "8"]);
        let given = aws(json!({"m5.large": {"onDemand": "0.05"}}));
        assert_eq!(price(&given, "m5.large", on_demand), "0.05");
    }
}
