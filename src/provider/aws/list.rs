//! On-demand prices, as AWS's price list has them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_pricing::types::{Filter, FilterType};
use jiff::Timestamp;
use serde::Deserialize;

use super::Aws;
use super::client::Clients;
use super::pace::Api;
use crate::action::EffectError;
use crate::api::cost::ListPrices;
use crate::api::money::Money;
use crate::provider::rejected;

const SERVICE: &str = "AmazonEC2";
/// What instances of ours are: Linux without more, on shared hardware, and used, not reserved.
const OURS: [(&str, &str); 4] = [
    ("operatingSystem", "Linux"),
    ("preInstalledSw", "NA"),
    ("tenancy", "Shared"),
    ("capacitystatus", "Used"),
];

/// The region whose price list is asked: it is in few, and has the prices of all (AWS Billing User Guide, "Using the AWS
/// Price List Query API"). The nearest, as far as the name tells.
pub(super) fn region(of: &str) -> &'static str {
    match of.split('-').next().unwrap_or_default() {
        "eu" | "af" | "me" | "il" => "eu-central-1",
        "ap" => "ap-south-1",
        _ => "us-east-1",
    }
}

/// What the list has of some types in the cluster's region.
pub(super) async fn on_demand(aws: &Aws, types: &BTreeSet<String>) -> Result<ListPrices, EffectError> {
    let clients = aws.clients().await?;
    let mut prices = BTreeMap::new();
    for name in types {
        prices.insert(name.clone(), look_up(&clients, name).await?);
    }
    Ok(ListPrices { at: Timestamp::now(), prices })
}

async fn look_up(clients: &Clients, name: &str) -> Result<Option<Money>, EffectError> {
    let wanted = OURS.into_iter().chain([("regionCode", clients.region.as_str()), ("instanceType", name)]);
    let filters: Result<Vec<Filter>, _> = wanted
        .map(|(field, value)| {
            Filter::builder().r#type(FilterType::TermMatch).field(field).value(value).build()
        })
        .collect();
    let filters = filters.map_err(|error| rejected(error.to_string()))?;
    let request = clients.pricing.get_products().service_code(SERVICE).set_filters(Some(filters));
    let mut pages = request.into_paginator().send();
    let mut found = None;
    clients.pace(Api::PriceList).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("look into AWS's price list", &error))?;
        found = found.max(page.price_list().iter().filter_map(|text| hourly(text)).max());
        if page.next_token().is_some_and(|token| !token.is_empty()) {
            clients.pace(Api::PriceList).await;
        }
    }
    Ok(found)
}

/// A product of the list (AWS Billing User Guide, "Reading the service price list file"), as far as it is looked at.
#[derive(Deserialize)]
struct Listed {
    product: Product,
    #[serde(default)]
    terms: Terms,
}

#[derive(Deserialize)]
struct Product {
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Terms {
    #[serde(default, rename = "OnDemand")]
    on_demand: BTreeMap<String, Term>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Term {
    price_dimensions: BTreeMap<String, Dimension>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dimension {
    unit: String,
    price_per_unit: BTreeMap<String, String>,
}

/// What an hour of a product costs in US dollars: the most that is said, for a limit must hold.
fn hourly(product: &str) -> Option<Money> {
    let listed: Listed = serde_json::from_str(product).ok()?;
    // What is bought as a block of capacity is listed beside the others.
    if listed.product.attributes.get("marketoption").is_some_and(|market| market != "OnDemand") {
        return None;
    }
    let dimensions = listed.terms.on_demand.values().flat_map(|term| term.price_dimensions.values());
    let hours = dimensions.filter(|dimension| dimension.unit == "Hrs");
    let prices = hours.filter_map(|dimension| dimension.price_per_unit.get("USD")?.parse::<Money>().ok());
    // What is listed for nothing is not for sale so.
    prices.filter(|price| *price > Money::default()).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use wiremock::matchers::{body_partial_json, header};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::client::talk_to;
    use super::*;

    /// A product as the list has it.
    fn product(attributes: Value, unit: &str, price: Value) -> String {
        let dimension = json!({
            "unit": unit, "endRange": "Inf", "beginRange": "0", "appliesTo": [], "pricePerUnit": price,
            "rateCode": "ABC.JRTCKXETXF.6YS6EN2CT7", "description": "per On Demand Linux m5.large Instance Hour",
        });
        let terms = json!({"OnDemand": {"ABC.JRTCKXETXF": {
            "priceDimensions": {"ABC.JRTCKXETXF.6YS6EN2CT7": dimension}, "sku": "ABC",
            "effectiveDate": "2026-11-01T00:00:00Z", "offerTermCode": "JRTCKXETXF", "termAttributes": {},
        }}});
        let product = json!({"productFamily": "Compute Instance", "attributes": attributes, "sku": "ABC"});
        json!({"product": product, "serviceCode": "AmazonEC2", "terms": terms, "version": "20261101000000",
            "publicationDate": "2026-11-01T00:00:00Z"})
        .to_string()
    }

    #[test]
    fn a_product_has_the_price_of_an_hour_on_demand() {
        let price =
            |attributes, unit, price| hourly(&product(attributes, unit, price)).map(|it| it.to_string());
        let on_demand = json!({"instanceType": "m5.large", "marketoption": "OnDemand"});
        assert_eq!(price(on_demand.clone(), "Hrs", json!({"USD": "0.0960000000"})).as_deref(), Some("0.096"));
        assert_eq!(price(json!({}), "Hrs", json!({"USD": "0.1"})).as_deref(), Some("0.1"));
        assert_eq!(price(on_demand.clone(), "Quantity", json!({"USD": "0.1"})), None);
        assert_eq!(price(on_demand.clone(), "Hrs", json!({"CNY": "0.7"})), None);
        assert_eq!(price(on_demand, "Hrs", json!({"USD": "0.0000000000"})), None);
        assert_eq!(price(json!({"marketoption": "CapacityBlock"}), "Hrs", json!({"USD": "0.5"})), None);
        assert_eq!(hourly("no product"), None);
        assert_eq!(hourly(r#"{"product": {}}"#), None);
    }

    #[test]
    fn the_nearest_list_is_asked() {
        let asked = ["us-west-2", "ca-central-1", "eu-west-1", "ap-northeast-1"].map(region);
        assert_eq!(asked, ["us-east-1", "us-east-1", "eu-central-1", "ap-south-1"]);
    }

    #[tokio::test]
    async fn every_page_is_read_and_a_refusal_says_why() {
        let server = MockServer::start().await;
        let page = |token: Option<&str>, price: &str| {
            let product = product(json!({}), "Hrs", json!({"USD": price}));
            ResponseTemplate::new(200)
                .set_body_json(json!({"FormatVersion": "aws_v1", "PriceList": [product], "NextToken": token}))
        };
        let asked = || header("X-Amz-Target", "AWSPriceListService.GetProducts");
        let wanted = json!({"ServiceCode": "AmazonEC2"});
        let second = body_partial_json(json!({"NextToken": "two"}));
        Mock::given(asked()).and(second).respond_with(page(None, "0.2")).mount(&server).await;
        let first = Mock::given(asked()).and(body_partial_json(wanted));
        first.respond_with(page(Some("two"), "0.1")).mount(&server).await;
        talk_to("test-list-1", &server.uri()).await;
        let clients = Clients::of("test-list-1").await;
        assert_eq!(look_up(&clients, "m5.large").await.unwrap(), Some("0.2".parse().unwrap()));
        let request = &server.received_requests().await.unwrap()[0];
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let filters = body["Filters"].as_array().unwrap();
        let type_filter = json!({"Type": "TERM_MATCH", "Field": "instanceType", "Value": "m5.large"});
        assert!(filters.contains(&type_filter) && filters.len() == 6, "{filters:?}");

        let server = MockServer::start().await;
        let denied = json!({"__type": "AccessDeniedException", "Message": "User is not authorized."});
        let answer = ResponseTemplate::new(400).set_body_json(denied);
        Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
        talk_to("test-list-2", &server.uri()).await;
        let clients = Clients::of("test-list-2").await;
        let error = look_up(&clients, "m5.large").await.unwrap_err();
        assert_eq!(
            error.message,
            "cannot look into AWS's price list: AccessDeniedException: User is not authorized"
        );
    }
}
