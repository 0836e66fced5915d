//! Opening a cluster: everything is looked at that its nodes will need, and then what they share is made.
//!
//! Opening the same incarnation again finds all that by its tags, and puts right what the manifest wants otherwise.

use aws_sdk_ec2::types::Subnet;
use jiff::Timestamp;

use super::client::Clients;
use super::pace::Api;
use super::{Aws, address, close, firewall, images, parameters, types};
use crate::action::EffectError;
use crate::api::aws::{AccessAddress, AwsNetwork};
use crate::api::cluster::AuthMode;
use crate::api::cost::SpotPrices;
use crate::api::record::{Incarnation, digest_of};
use crate::provider::ray::tokens;
use crate::provider::{Opening, rejected};

/// Opens a cluster.
pub(super) async fn open(aws: &Aws, opening: Opening) -> Result<Incarnation, EffectError> {
    let Opening { cluster, id, spec } = opening;
    let settings = spec.aws().ok_or_else(|| rejected("not a cluster on EC2"))?;
    let clients = Clients::of(&settings.region).await;
    let marks = aws.marks(settings, &id);

    // Nothing is made before all that can be wrong has been looked at.
    let (vpc, subnets) = subnets(&clients, &settings.subnets).await?;
    let zones = zones(&subnets);
    let templates = types::templates(&spec)?;
    let facts = types::describe(&clients, &templates, &zones).await?;
    let images = images::look_up(&clients, &templates, &facts).await?;
    let interface = address::find_interface(&clients, &marks).await?;
    if let Some(other) =
        interface.as_ref().and_then(|interface| interface.vpc_id()).filter(|other| *other != vpc)
    {
        return Err(rejected(format!(
            "the subnets are in {vpc}, and the cluster's head is in {other}: suspend the cluster to move it"
        )));
    }

    let security_groups = if settings.security_groups.is_empty() {
        let controller = firewall::controller_cidr(&settings.access).await?;
        vec![firewall::ensure(&clients, &marks, settings, &vpc, controller.as_deref()).await?]
    } else {
        firewall::check(&clients, &settings.security_groups, &vpc).await?;
        settings.security_groups.clone()
    };
    let first = settings.subnets.first().map(String::as_str).unwrap_or_default();
    let (head_interface, head_address) =
        address::ensure_interface(&clients, &marks, interface, first, &security_groups).await?;
    let host = match settings.access.address {
        AccessAddress::Public => address::ensure_public(&clients, &marks, &head_interface).await?,
        AccessAddress::Private => {
            for address in address::all(&clients, &marks).await? {
                close::release(&clients, &address).await?;
            }
            head_address.clone()
        }
    };
    let token_parameter = match spec.auth.mode {
        AuthMode::Token => {
            let token = tokens::ray_token(&aws.directories, &cluster)?;
            Some(parameters::put_token(&clients, &marks, &token).await?)
        }
        AuthMode::None => None,
    };
    parameters::put_manifest(&clients, &marks, &aws.cluster.metadata, &spec).await?;
    Ok(Incarnation {
        id,
        since: Timestamp::now(),
        dashboard: format!("http://{host}:{}", settings.dashboard_port),
        agent: format!("http://{host}:{}", settings.agent_port),
        // Nobody knows what the image has, before the head is there.
        ray_version: String::new(),
        missing: Vec::new(),
        local: None,
        aws: Some(AwsNetwork {
            region: settings.region.clone(),
            subnets,
            security_groups,
            head_interface,
            head_address,
            token_parameter,
            images: images.named,
            root_devices: images.root_devices,
            types: facts,
            settings: settings.digest(),
            at: Timestamp::now(),
            // The watch asks for these, and goes on asking.
            spot_prices: SpotPrices::new(),
            list_prices: None,
            published: Some(digest_of(&spec)),
        }),
    })
}

/// The network of the subnets, and the zone of each.
async fn subnets(
    clients: &Clients,
    wanted: &[String],
) -> Result<(String, Vec<(String, String)>), EffectError> {
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_subnets().set_subnet_ids(Some(wanted.to_vec())).send().await;
    let answer = answer.map_err(|error| clients.error("look at the subnets", &error))?;
    arrange(wanted, answer.subnets()).map_err(rejected)
}

fn arrange(wanted: &[String], found: &[Subnet]) -> Result<(String, Vec<(String, String)>), String> {
    let mut vpc: Option<(&str, &str)> = None;
    let mut zones = Vec::new();
    for id in wanted {
        let subnet = found.iter().find(|subnet| subnet.subnet_id() == Some(id));
        let subnet = subnet.ok_or_else(|| format!("there is no subnet {id}"))?;
        let network = subnet.vpc_id().unwrap_or_default();
        let (first, expected) = *vpc.get_or_insert((id, network));
        if network != expected {
            return Err(format!(
                "subnet {id} is in {network}, and {first} in {expected}: a cluster's subnets must be of one VPC"
            ));
        }
        zones.push((id.clone(), subnet.availability_zone().unwrap_or_default().to_owned()));
    }
    let (_, vpc) = vpc.ok_or("no subnet is given")?;
    Ok((vpc.to_owned(), zones))
}

/// The zones of some subnets, in their order.
fn zones(subnets: &[(String, String)]) -> Vec<&str> {
    let mut zones: Vec<&str> = Vec::new();
    for (_, zone) in subnets {
        if !zones.contains(&zone.as_str()) {
            zones.push(zone);
        }
    }
    zones
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn subnet(id: &str, vpc: &str, zone: &str) -> Subnet {
        Subnet::builder().subnet_id(id).vpc_id(vpc).availability_zone(zone).build()
    }

    #[test]
    fn subnets_are_in_the_manifests_order_and_of_one_network() {
        let wanted = ["b", "a", "c"].map(str::to_owned);
        let found =
            [subnet("a", "vpc-1", "zone-1"), subnet("b", "vpc-1", "zone-2"), subnet("c", "vpc-1", "zone-2")];
        let (vpc, subnets) = arrange(&wanted, &found).unwrap();
        assert_eq!(vpc, "vpc-1");
        assert_eq!(subnets[0], ("b".to_owned(), "zone-2".to_owned()));
        assert_eq!(zones(&subnets), ["zone-2", "zone-1"]);
        let found = [subnet("a", "vpc-2", "zone-1"), subnet("b", "vpc-1", "zone-2")];
        assert_eq!(
            arrange(&wanted, &found).unwrap_err(),
            "subnet a is in vpc-2, and b in vpc-1: a cluster's subnets must be of one VPC"
        );
        assert_eq!(arrange(&wanted, &found[..1]).unwrap_err(), "there is no subnet b");
    }
}
