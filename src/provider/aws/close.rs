//! Removing what an ended incarnation left in EC2: all that its nodes shared, and what nodes may have left behind.

use aws_sdk_ec2::types::{Address, NetworkInterfaceStatus, VolumeState};

use super::client::{CallError, Clients};
use super::pace::Api;
use super::tags::Marks;
use super::{Aws, address, firewall, parameters};
use crate::action::EffectError;
use crate::provider::unavailable;

/// The most that one call lists.
const PAGE: i32 = 500;

/// Removes everything of an incarnation but its instances, which are ended before.
pub(super) async fn close(aws: &Aws, incarnation: &str) -> Result<(), EffectError> {
    let settings = aws.settings()?;
    let clients = aws.clients().await?;
    remove_shared(&clients, &aws.marks(settings, incarnation)).await?;
    let cluster = aws.cluster.metadata.key();
    parameters::delete(&clients, Some(&cluster), aws.uid(), aws.cluster.spec.auth.mode).await
}

/// Removes what the nodes of an incarnation shared in EC2, and what they may have left behind.
pub(super) async fn remove_shared(clients: &Clients, marks: &Marks<'_>) -> Result<(), EffectError> {
    for address in address::all(clients, marks).await? {
        release(clients, &address).await?;
    }
    delete_interfaces(clients, marks).await?;
    delete_volumes(clients, marks).await?;
    delete_groups(clients, marks).await
}

/// Gives an Elastic IP back.
pub(super) async fn release(clients: &Clients, address: &Address) -> Result<(), EffectError> {
    let name = address.public_ip().unwrap_or_default();
    if let Some(association) = address.association_id() {
        clients.pace(Api::Change).await;
        let answer = clients.ec2.disassociate_address().association_id(association).send().await;
        gone(answer.map_err(|error| clients.error(&format!("take Elastic IP {name} away"), &error)))?;
    }
    clients.pace(Api::Change).await;
    let request = clients.ec2.release_address().set_allocation_id(address.allocation_id().map(str::to_owned));
    gone(request.send().await.map_err(|error| clients.error(&format!("release Elastic IP {name}"), &error)))
}

/// The head's interface, and those of workers that did not end with their instances.
async fn delete_interfaces(clients: &Clients, marks: &Marks<'_>) -> Result<(), EffectError> {
    let request = clients.ec2.describe_network_interfaces().set_filters(Some(marks.filters()));
    let mut pages = request.into_paginator().page_size(PAGE).send();
    let mut found = Vec::new();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("list network interfaces", &error))?;
        if page.next_token().is_some() {
            clients.pace(Api::Describe).await;
        }
        found.extend(page.network_interfaces.unwrap_or_default());
    }
    for interface in found.iter().filter(|interface| marks.are_on(interface.tag_set())) {
        let id = interface.network_interface_id().unwrap_or_default();
        if matches!(
            interface.status(),
            Some(NetworkInterfaceStatus::InUse | NetworkInterfaceStatus::Detaching)
        ) {
            let user = interface.attachment().and_then(|attachment| attachment.instance_id());
            return Err(unavailable(format!(
                "network interface {id} is still used by {}",
                user.unwrap_or("an instance")
            )));
        }
        clients.pace(Api::Change).await;
        let answer = clients.ec2.delete_network_interface().network_interface_id(id).send().await;
        gone(answer.map_err(|error| clients.error(&format!("delete network interface {id}"), &error)))?;
    }
    Ok(())
}

/// Volumes end with their instances; what is left here was made for one that never came to be.
async fn delete_volumes(clients: &Clients, marks: &Marks<'_>) -> Result<(), EffectError> {
    let request = clients.ec2.describe_volumes().set_filters(Some(marks.filters()));
    let mut pages = request.into_paginator().page_size(PAGE).send();
    let mut found = Vec::new();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("list volumes", &error))?;
        if page.next_token().is_some() {
            clients.pace(Api::Describe).await;
        }
        found.extend(page.volumes.unwrap_or_default());
    }
    for volume in found.iter().filter(|volume| marks.are_on(volume.tags())) {
        let id = volume.volume_id().unwrap_or_default();
        match volume.state() {
            Some(VolumeState::Deleting | VolumeState::Deleted) => continue,
            Some(VolumeState::InUse | VolumeState::Creating) => {
                return Err(unavailable(format!("volume {id} is still used")));
            }
            _ => {}
        }
        clients.pace(Api::Change).await;
        let answer = clients.ec2.delete_volume().volume_id(id).send().await;
        gone(answer.map_err(|error| clients.error(&format!("delete volume {id}"), &error)))?;
    }
    Ok(())
}

async fn delete_groups(clients: &Clients, marks: &Marks<'_>) -> Result<(), EffectError> {
    for group in firewall::all(clients, marks).await? {
        let id = group.group_id().unwrap_or_default();
        clients.pace(Api::Change).await;
        let answer = clients.ec2.delete_security_group().group_id(id).send().await;
        gone(answer.map_err(|error| clients.error(&format!("delete security group {id}"), &error)))?;
    }
    Ok(())
}

/// What is not there need not be removed.
fn gone<T>(answer: Result<T, CallError>) -> Result<(), EffectError> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
