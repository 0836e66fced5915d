//! What EC2 asks for spot instances.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{InstanceType, SpotPrice};
use jiff::Timestamp;

use super::Aws;
use super::pace::Api;
use crate::action::EffectError;
use crate::api::cost::SpotPrices;

/// What the price is of (Amazon EC2 API Reference, `DescribeSpotPriceHistory`).
const LINUX: &str = "Linux/UNIX";
/// The most that one call lists.
const PAGE: i32 = 1000;

/// The present spot prices of some types, in every zone of the region.
pub(super) async fn spot(aws: &Aws, types: &BTreeSet<String>) -> Result<SpotPrices, EffectError> {
    let clients = aws.clients().await?;
    let now = DateTime::from_secs(Timestamp::now().as_second());
    let types = types.iter().map(|name| InstanceType::from(name.as_str())).collect();
    let request = clients.ec2.describe_spot_price_history().set_instance_types(Some(types));
    // From now on: of each type and zone the price that is in force.
    let request = request.product_descriptions(LINUX).start_time(now);
    let mut pages = request.into_paginator().page_size(PAGE).send();
    let mut found = Vec::new();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("ask for spot prices", &error))?;
        let more = page.next_token().is_some_and(|token| !token.is_empty());
        found.extend(page.spot_price_history.unwrap_or_default());
        if more {
            clients.pace(Api::Describe).await;
        }
    }
    Ok(newest(&found))
}

/// The newest price of each type and zone.
fn newest(history: &[SpotPrice]) -> SpotPrices {
    let mut newest = BTreeMap::new();
    for said in history {
        let (Some(kind), Some(zone)) = (said.instance_type(), said.availability_zone()) else { continue };
        let Some(price) = said.spot_price().and_then(|price| price.parse().ok()) else { continue };
        let at = said.timestamp().map(DateTime::secs);
        let known = newest.entry((kind.as_str(), zone)).or_insert((at, price));
        if at > known.0 {
            *known = (at, price);
        }
    }
    let mut prices = SpotPrices::new();
    for ((kind, zone), (_, price)) in newest {
        prices.entry(kind.to_owned()).or_default().insert(zone.to_owned(), price);
    }
    prices
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn said(kind: &str, zone: &str, price: &str, at: i64) -> SpotPrice {
        SpotPrice::builder()
            .instance_type(InstanceType::from(kind))
            .availability_zone(zone)
            .spot_price(price)
            .timestamp(DateTime::from_secs(at))
            .build()
    }

    #[test]
    fn the_newest_price_of_each_zone_counts() {
        let history = [
            said("g5.xlarge", "us-west-2a", "0.410000", 10),
            said("g5.xlarge", "us-west-2a", "0.400000", 30),
            said("g5.xlarge", "us-west-2a", "0.390000", 20),
            said("g5.xlarge", "us-west-2b", "0.430000", 10),
            said("m5.large", "us-west-2a", "a lot", 10),
        ];
        let prices = json!({"g5.xlarge": {"us-west-2a": "0.4", "us-west-2b": "0.43"}});
        assert_eq!(serde_json::to_value(newest(&history)).unwrap(), prices);
    }
}
