//! Instances: listed, found and ended by their tags.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{Filter, Instance, InstanceLifecycleType, InstanceStateName};
use jiff::{SignedDuration, Timestamp};

use super::client::Clients;
use super::pace::Api;
use super::tags::{CLUSTER_UID_TAG, LAUNCH_TAG, cluster_filter, launch_filter, tag};
use super::{Aws, console};
use crate::action::EffectError;
use crate::api::aws::MarketKind;
use crate::api::ids::{InstanceId, IntentId, Uid};
use crate::api::observed::{CloudInstance, InstancePhase, Instances};
use crate::provider::{EndedNode, rejected, unavailable};

/// The most that one call lists.
const PAGE: i32 = 1000;
/// How long EC2 may take to list an instance that it was asked for. It takes seconds.
const LISTING_DELAY: SignedDuration = SignedDuration::from_secs(60);

/// All instances of the cluster; those of the launches that are late with what they printed last.
pub(super) async fn list(aws: &Aws, late: &BTreeSet<IntentId>) -> Result<Instances, EffectError> {
    let clients = aws.clients().await?;
    let found = describe(&clients, aws.uid(), vec![cluster_filter(aws.uid())]).await?;
    let mut instances = Instances::new();
    for instance in &found {
        let Some((id, mut seen)) = observed(instance) else { continue };
        let is_late = seen.phase.is_up() && seen.launch.as_ref().is_some_and(|launch| late.contains(launch));
        if is_late || console::has_ended_by_itself(instance) {
            let words = aws.consoles.last_words(&clients, &id, is_late).await;
            if !words.is_empty() {
                let between = if seen.reason.is_empty() { "" } else { "; " };
                seen.reason += &format!("{between}its console ends with\n{words}");
            }
        }
        instances.insert(id, seen);
    }
    Ok(instances)
}

/// Ends the instances of a launch.
pub(super) async fn terminate(aws: &Aws, ended: EndedNode) -> Result<(), EffectError> {
    let clients = aws.clients().await?;
    let found = of_launch(&clients, aws.uid(), &ended.launch).await?;
    if found.is_empty() && Timestamp::now().duration_since(ended.since) < LISTING_DELAY {
        return Err(unavailable(format!(
            "EC2 lists no instance of launch {}; it may do so later",
            ended.launch
        )));
    }
    let left = found.iter().filter(|instance| !phase(instance).is_ending());
    end_all(&clients, left.filter_map(Instance::instance_id).map(str::to_owned).collect()).await
}

/// Ends one instance, if it is the cluster's.
pub(super) async fn end(aws: &Aws, instance: &InstanceId) -> Result<(), EffectError> {
    let clients = aws.clients().await?;
    clients.pace(Api::Describe).await;
    let answer = clients.ec2.describe_instances().instance_ids(instance.0.as_str()).send().await;
    let answer = match answer.map_err(|error| clients.error(&format!("look at instance {instance}"), &error))
    {
        Err(error) if error.is_not_found() => return Ok(()),
        answer => answer?,
    };
    let found = answer.reservations().iter().flat_map(|reservation| reservation.instances());
    let found: Vec<&Instance> = found.filter(|found| found.instance_id() == Some(&instance.0)).collect();
    if found.iter().any(|found| !is_of(found, aws.uid())) {
        return Err(rejected(format!("instance {instance} does not carry this cluster's mark")));
    }
    let left = found.into_iter().filter(|found| !phase(found).is_ending());
    end_all(&clients, left.filter_map(Instance::instance_id).map(str::to_owned).collect()).await
}

/// The instances of a launch, whatever has become of them.
pub(super) async fn of_launch(
    clients: &Clients,
    uid: &Uid,
    launch: &IntentId,
) -> Result<Vec<Instance>, EffectError> {
    let mut found = describe(clients, uid, vec![cluster_filter(uid), launch_filter(launch)]).await?;
    found.retain(|instance| tag(instance.tags(), LAUNCH_TAG) == Some(launch.as_ref()));
    Ok(found)
}

/// All instances of a cluster that pass a filter.
pub(super) async fn describe(
    clients: &Clients,
    uid: &Uid,
    filters: Vec<Filter>,
) -> Result<Vec<Instance>, EffectError> {
    let mut found = all(clients, filters).await?;
    found.retain(|instance| is_of(instance, uid));
    Ok(found)
}

/// All instances that pass a filter.
pub(super) async fn all(clients: &Clients, filters: Vec<Filter>) -> Result<Vec<Instance>, EffectError> {
    let mut found = Vec::new();
    let request = clients.ec2.describe_instances().set_filters(Some(filters));
    let mut pages = request.into_paginator().page_size(PAGE).send();
    clients.pace(Api::Describe).await;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| clients.error("list instances", &error))?;
        let more = page.next_token().is_some_and(|token| !token.is_empty());
        let reservations = page.reservations.unwrap_or_default();
        found.extend(
            reservations.into_iter().flat_map(|reservation| reservation.instances.unwrap_or_default()),
        );
        if more {
            clients.pace(Api::Describe).await;
        }
    }
    Ok(found)
}

/// Ends instances, of which it is known that they are ours.
pub(super) async fn end_all(clients: &Clients, ids: Vec<String>) -> Result<(), EffectError> {
    if ids.is_empty() {
        return Ok(());
    }
    let what = format!("terminate {}", ids.join(", "));
    clients.pace(Api::TerminateInstances).await;
    let answer = clients.ec2.terminate_instances().set_instance_ids(Some(ids)).send().await;
    match answer.map_err(|error| clients.error(&what, &error)) {
        // Listed a moment ago: it has ended, or is not known everywhere yet.
        Err(error) => Err(error.of_something_new()),
        Ok(_) => Ok(()),
    }
}

fn is_of(instance: &Instance, uid: &Uid) -> bool {
    tag(instance.tags(), CLUSTER_UID_TAG) == Some(uid.as_ref())
}

/// An instance as it is observed.
pub(super) fn observed(instance: &Instance) -> Option<(InstanceId, CloudInstance)> {
    let id = InstanceId::from(instance.instance_id()?);
    let market = match instance.instance_lifecycle() {
        Some(InstanceLifecycleType::Spot) => MarketKind::Spot,
        _ => MarketKind::OnDemand,
    };
    let zone = instance.placement().and_then(|placement| placement.availability_zone()).unwrap_or_default();
    let instance_type = instance.instance_type().map(|kind| kind.as_str().to_owned()).unwrap_or_default();
    let observed = CloudInstance {
        launch: tag(instance.tags(), LAUNCH_TAG).map(IntentId::from),
        phase: phase(instance),
        instance_type,
        zone: zone.to_owned(),
        market,
        address: instance.private_ip_address().filter(|address| !address.is_empty()).map(str::to_owned),
        reason: reason(instance),
    };
    Some((id, observed))
}

/// Where an instance is in its life. What EC2 may invent is taken for running: nothing is concluded from that.
fn phase(instance: &Instance) -> InstancePhase {
    match instance.state().and_then(|state| state.name()) {
        Some(InstanceStateName::Pending) => InstancePhase::Pending,
        Some(InstanceStateName::Stopping) => InstancePhase::Stopping,
        Some(InstanceStateName::Stopped) => InstancePhase::Stopped,
        Some(InstanceStateName::ShuttingDown) => InstancePhase::ShuttingDown,
        Some(InstanceStateName::Terminated) => InstancePhase::Terminated,
        _ => InstancePhase::Running,
    }
}

/// Why an instance is where it is: `Server.SpotInstanceTermination: Spot instance termination`.
fn reason(instance: &Instance) -> String {
    let Some(state) = instance.state_reason() else {
        return instance.state_transition_reason().unwrap_or_default().to_owned();
    };
    let code = state.code().unwrap_or_default();
    let message = state.message().unwrap_or_default();
    match (code, message) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        // EC2's own messages begin with the code, mostly.
        (code, message) if message.starts_with(code) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aws_sdk_ec2::types::{InstanceState, InstanceType, Placement, StateReason, Tag};

    use super::*;

    fn instance(state: InstanceStateName) -> aws_sdk_ec2::types::builders::InstanceBuilder {
        Instance::builder()
            .instance_id("i-1")
            .instance_type(InstanceType::from("g5.xlarge"))
            .placement(Placement::builder().availability_zone("us-west-2a").build())
            .state(InstanceState::builder().name(state).build())
            .tags(Tag::builder().key(CLUSTER_UID_TAG).value("u-1").build())
            .tags(Tag::builder().key(LAUNCH_TAG).value("launch-1").build())
    }

    #[test]
    fn an_instance_is_observed_as_ec2_shows_it() {
        let shown = instance(InstanceStateName::Terminated)
            .instance_lifecycle(InstanceLifecycleType::Spot)
            .private_ip_address("10.0.0.7")
            .state_reason(
                StateReason::builder()
                    .code("Server.SpotInstanceTermination")
                    .message("Server.SpotInstanceTermination: Spot instance termination")
                    .build(),
            )
            .build();
        let (id, observed) = observed(&shown).unwrap();
        assert_eq!(id, InstanceId::from("i-1"));
        assert_eq!(
            observed,
            CloudInstance {
                launch: Some(IntentId::from("launch-1")),
                phase: InstancePhase::Terminated,
                instance_type: "g5.xlarge".to_owned(),
                zone: "us-west-2a".to_owned(),
                market: MarketKind::Spot,
                address: Some("10.0.0.7".to_owned()),
                reason: "Server.SpotInstanceTermination: Spot instance termination".to_owned(),
            }
        );
    }

    #[test]
    fn an_instance_in_a_state_that_nobody_knows_is_not_gone() {
        for (state, expected) in [
            (InstanceStateName::Pending, InstancePhase::Pending),
            (InstanceStateName::Running, InstancePhase::Running),
            (InstanceStateName::Stopping, InstancePhase::Stopping),
            (InstanceStateName::Stopped, InstancePhase::Stopped),
            (InstanceStateName::ShuttingDown, InstancePhase::ShuttingDown),
            (InstanceStateName::from("hibernating"), InstancePhase::Running),
        ] {
            assert_eq!(phase(&instance(state).build()), expected);
        }
    }

    #[test]
    fn only_the_uid_makes_an_instance_ours() {
        let shown = instance(InstanceStateName::Running).build();
        assert!(is_of(&shown, &Uid::from("u-1")));
        assert!(!is_of(&shown, &Uid::from("u-10")));
        assert!(!is_of(&Instance::builder().instance_id("i-2").build(), &Uid::from("u-1")));
    }

    #[test]
    fn a_reason_is_told_with_its_code_once() {
        let with = |code: &str, message: &str| {
            let reason = StateReason::builder().code(code).message(message).build();
            super::reason(&Instance::builder().state_reason(reason).build())
        };
        assert_eq!(with("Server.InternalError", "on launch"), "Server.InternalError: on launch");
        assert_eq!(with("Client.UserInitiatedShutdown", ""), "Client.UserInitiatedShutdown");
        let told = Instance::builder().state_transition_reason("User initiated").build();
        assert_eq!(super::reason(&told), "User initiated");
        assert_eq!(super::reason(&Instance::builder().build()), "");
    }
}
