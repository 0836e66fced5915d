//! The head's addresses: a network interface of its own, and for the outside an Elastic IP. They are
//! the incarnation's, not the instance's: known before there is one.

use aws_sdk_ec2::types::{Address, DomainType, NetworkInterface, ResourceType};

use super::client::Clients;
use super::pace::Api;
use super::tags::{LAUNCH_TAG, Marks, filter, tag};
use super::{client_token, close};
use crate::action::EffectError;
use crate::provider::rejected;

/// Tells the head's interface from those that come with instances.
const DESCRIPTION: &str = "the head of a Ray cluster, made by rayconcile";

/// The head's interface, if it was made.
pub(super) async fn find_interface(
    clients: &Clients,
    marks: &Marks<'_>,
) -> Result<Option<NetworkInterface>, EffectError> {
    let mut filters = marks.filters();
    filters.push(filter("description", [DESCRIPTION]));
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_network_interfaces().set_filters(Some(filters)).send().await;
    let answer = answer.map_err(|error| clients.error("list network interfaces", &error))?;
    let found = answer.network_interfaces.unwrap_or_default().into_iter();
    let own = found.filter(|interface| {
        let tags = interface.tag_set();
        marks.are_on(tags) && tag(tags, LAUNCH_TAG).is_none()
    });
    // There is one, but for a call that was repeated after EC2 had forgotten its token.
    Ok(own.min_by(|one, other| one.network_interface_id().cmp(&other.network_interface_id())))
}

/// The head's interface: its id and its private address.
pub(super) async fn ensure_interface(
    clients: &Clients,
    marks: &Marks<'_>,
    found: Option<NetworkInterface>,
    subnet: &str,
    groups: &[String],
) -> Result<(String, String), EffectError> {
    let interface = match found {
        Some(interface) => {
            set_groups(clients, &interface, groups).await?;
            interface
        }
        None => make_interface(clients, marks, subnet, groups).await?,
    };
    match (interface.network_interface_id(), interface.private_ip_address()) {
        (Some(id), Some(address)) if !address.is_empty() => Ok((id.to_owned(), address.to_owned())),
        _ => Err(rejected(format!("the head's interface in {subnet} has no IPv4 address"))),
    }
}

async fn make_interface(
    clients: &Clients,
    marks: &Marks<'_>,
    subnet: &str,
    groups: &[String],
) -> Result<NetworkInterface, EffectError> {
    clients.pace(Api::Change).await;
    let request = clients
        .ec2
        .create_network_interface()
        .subnet_id(subnet)
        .set_groups(Some(groups.to_vec()))
        .description(DESCRIPTION)
        .client_token(client_token(marks.uid, &format!("interface {}", marks.incarnation)))
        .tag_specifications(marks.of_shared(ResourceType::NetworkInterface));
    let answer = request.send().await;
    let answer = answer.map_err(|error| {
        let error = clients.error(&format!("make the head's network interface in {subnet}"), &error);
        // That of the groups the made one is not known everywhere yet.
        if error.is(&["InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"]) {
            error.of_something_new()
        } else {
            error.into()
        }
    })?;
    answer.network_interface.ok_or_else(|| rejected("EC2 made no network interface"))
}

/// Other groups than it has: the manifest has changed.
async fn set_groups(
    clients: &Clients,
    interface: &NetworkInterface,
    wanted: &[String],
) -> Result<(), EffectError> {
    let mut present: Vec<&str> = interface.groups().iter().filter_map(|group| group.group_id()).collect();
    let mut groups: Vec<&str> = wanted.iter().map(String::as_str).collect();
    present.sort_unstable();
    groups.sort_unstable();
    if present == groups {
        return Ok(());
    }
    clients.pace(Api::Change).await;
    let request = clients
        .ec2
        .modify_network_interface_attribute()
        .set_network_interface_id(interface.network_interface_id().map(str::to_owned))
        .set_groups(Some(wanted.to_vec()));
    let answer = request.send().await;
    answer.map_err(|error| {
        clients.error("change the security groups of the head", &error).of_something_new()
    })?;
    Ok(())
}

/// The head's Elastic IP, at its interface.
pub(super) async fn ensure_public(
    clients: &Clients,
    marks: &Marks<'_>,
    interface: &str,
) -> Result<String, EffectError> {
    let (kept, needless) = choose(all(clients, marks).await?, interface);
    for address in &needless {
        close::release(clients, address).await?;
    }
    let (address, allocation, at) = match kept {
        Some(kept) => (kept.public_ip, kept.allocation_id, kept.network_interface_id),
        None => {
            clients.pace(Api::Change).await;
            let request = clients.ec2.allocate_address().domain(DomainType::Vpc);
            let request = request.tag_specifications(marks.of_shared(ResourceType::ElasticIp));
            let made = request.send().await;
            let made = made.map_err(|error| clients.error("allocate an Elastic IP for the head", &error))?;
            (made.public_ip, made.allocation_id, None)
        }
    };
    let address = address.ok_or_else(|| rejected("EC2 gave no Elastic IP"))?;
    if at.as_deref() != Some(interface) {
        clients.pace(Api::Change).await;
        let request = clients
            .ec2
            .associate_address()
            .set_allocation_id(allocation)
            .network_interface_id(interface)
            .allow_reassociation(true);
        let answer = request.send().await;
        answer.map_err(|error| {
            clients.error(&format!("give the head its Elastic IP {address}"), &error).of_something_new()
        })?;
    }
    Ok(address)
}

/// The Elastic IPs of an incarnation.
pub(super) async fn all(clients: &Clients, marks: &Marks<'_>) -> Result<Vec<Address>, EffectError> {
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_addresses().set_filters(Some(marks.filters())).send().await;
    let answer = answer.map_err(|error| clients.error("list Elastic IPs", &error))?;
    let mut addresses = answer.addresses.unwrap_or_default();
    addresses.retain(|address| marks.are_on(address.tags()));
    Ok(addresses)
}

/// Which address stays: the one that is in use, or the first. Others come from calls whose replies were lost.
fn choose(mut addresses: Vec<Address>, interface: &str) -> (Option<Address>, Vec<Address>) {
    addresses.sort_by_key(|address| {
        (address.network_interface_id() != Some(interface), address.allocation_id().map(str::to_owned))
    });
    let mut addresses = addresses.into_iter();
    (addresses.next(), addresses.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_address_stays_and_rather_the_one_in_use() {
        let address = |id: &str| Address::builder().allocation_id(id);
        let loose = [address("a-3").build(), address("a-1").build(), address("a-2").build()].to_vec();
        let (kept, needless) = choose(loose.clone(), "eni-1");
        assert_eq!(kept.unwrap().allocation_id(), Some("a-1"));
        assert_eq!(needless.len(), 2);
        let used = [loose, vec![address("a-4").network_interface_id("eni-1").build()]].concat();
        let (kept, needless) = choose(used, "eni-1");
        assert_eq!(kept.unwrap().allocation_id(), Some("a-4"));
        assert_eq!(needless.len(), 3);
        assert_eq!(choose(Vec::new(), "eni-1"), (None, Vec::new()));
    }
}
