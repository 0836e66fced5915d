//! Whatever is kept or shown as JSON or YAML is read back as it was: statuses, records, intents, observations.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rayconcile::action::{Effect, EffectError, EffectResult, ErrorKind, Intent, IntentState};
use rayconcile::api::aws::*;
use rayconcile::api::cluster::{NodeResources, NodeTemplate};
use rayconcile::api::condition::{Condition, Truth};
use rayconcile::api::cost::*;
use rayconcile::api::document::*;
use rayconcile::api::ids::{
    CheckpointId, Digest, GroupNumber, InstanceId, IntentId, NodeName, RayNodeId, SlotId, Uid,
};
use rayconcile::api::job::{EnvVar, ValueSource, WorkerResources};
use rayconcile::api::meta::{ManagedBy, ManagedFields, ObjectKey, ObjectMeta};
use rayconcile::api::money::Money;
use rayconcile::api::record::*;
use rayconcile::api::shared::Shared;
use rayconcile::api::source::{
    FetchStatus, OutOfSync, PendingPrune, SourceError, SourceRevision, SourceStatus, SyncState,
};
use rayconcile::api::status::*;
use rayconcile::api::units::{Bytes, MilliCpu, Span};
use rayconcile::api::wire::{NoticeKind, ResourceBundles};
use rayconcile::manifest::to_yaml;
use rayconcile::store::{Cause, Departure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

fn is_read_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let text = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{}", text);
    let tree = serde_json::to_value(value).unwrap();
    let yaml = to_yaml(&tree).unwrap();
    prop_assert_eq!(&serde_yaml::from_str::<Value>(&yaml).unwrap(), &tree, "{}", yaml);
    prop_assert_eq!(&serde_json::from_value::<T>(tree).unwrap(), value);
    Ok(())
}

/// Any text, and some that YAML could take for something else.
fn text() -> BoxedStrategy<String> {
    const TRICKY: [&str; 17] = [
        "",
        "no",
        "0x1F",
        "1e3",
        "~",
        "null",
        "- x",
        "a: b",
        "'",
        "\"",
        "\n",
        " x ",
        "#",
        "2026-01-01",
        "=",
        "\u{1b}[0m",
        "\t",
    ];
    prop_oneof!["\\PC{0,12}", select(&TRICKY[..]).prop_map(str::to_owned)].boxed()
}

fn when() -> BoxedStrategy<Timestamp> {
    (0i64..4_000_000_000, 0i32..1_000_000_000).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap()).boxed()
}

fn number() -> BoxedStrategy<f64> {
    prop_oneof![any::<f64>().prop_filter("JSON has no such number", |x| x.is_finite()), Just(0.1 + 0.2)]
        .boxed()
}

fn times() -> BoxedStrategy<BTreeMap<String, Timestamp>> {
    btree_map(text(), when(), 0..3).boxed()
}

fn group() -> BoxedStrategy<GroupNumber> {
    any::<u64>().prop_map(GroupNumber).boxed()
}

fn checkpoint_id() -> BoxedStrategy<CheckpointId> {
    (group(), any::<u64>()).prop_map(|(group, number)| CheckpointId { group, number }).boxed()
}

fn digest() -> BoxedStrategy<Digest> {
    "[0-9a-f]{64}".prop_map(Digest::from).boxed()
}

fn key() -> BoxedStrategy<ObjectKey> {
    ("[a-z]{1,8}", "[a-z.-]{1,8}").prop_map(|(namespace, name)| ObjectKey::new(namespace, name)).boxed()
}

fn span() -> BoxedStrategy<Span> {
    // As long as a manifest may write it.
    (0..i64::MAX as u64 / 1_000_000).prop_map(|millis| Span { millis }).boxed()
}

fn condition() -> BoxedStrategy<Condition> {
    let truth = select(vec![Truth::True, Truth::False, Truth::Unknown]);
    (text(), truth, text(), text(), any::<u64>(), when())
        .prop_map(|(kind, status, reason, message, observed_generation, last_transition_time)| Condition {
            kind,
            status,
            reason,
            message,
            observed_generation,
            last_transition_time,
        })
        .boxed()
}

prop_compose! {
    fn progress()(steps: u64, step_rate in option::of(number()), epoch: Option<u64>, progress in option::of(number()),
        batch_size: Option<u64>, goodput in option::of([number(), number(), number(), number()]),
        last_step_time in option::of(when())) -> Progress {
        let goodput = goodput.map(|[throughput, efficiency, goodput, speedup]| GoodputStatus { throughput, efficiency, goodput, speedup });
        Progress { steps, step_rate, epoch, progress, batch_size, goodput, last_step_time }
    }
}

prop_compose! {
    fn checkpoint()(id in checkpoint_id(), digest in digest(), size: u64, files: u64, steps: u64, save_ms in number(),
        saved in when(), path in text()) -> CheckpointRecord {
        CheckpointRecord { id, digest, size: Bytes(size), files, steps, save_ms, saved, path }
    }
}

prop_compose! {
    fn checkpoint_request()(id in text(), checkpoint in option::of(checkpoint_id())) -> CheckpointRequest {
        CheckpointRequest { id, checkpoint }
    }
}

prop_compose! {
    fn group_status()(number in group(), created in when(), reason in text(), message in text(), from_replicas: u32,
        replicas: u32, nodes in vec(text().prop_map(NodeName::from), 0..3), restored in option::of(checkpoint_id()),
        timeline in times(), downtime_ms: Option<u64>, (lost_steps, estimated, outcome) in (any::<Option<u64>>(), any::<bool>(), option::of(text())),
        before in option::of((group(), vec(text().prop_map(NodeName::from), 0..3), times()))) -> GroupStatus {
        let before = before.map(|(number, nodes, timeline)| GroupBefore { number, nodes, timeline });
        GroupStatus { number, created, reason, message, from_replicas, replicas, nodes, before, restored, timeline, downtime_ms, lost_steps, estimated, outcome }
    }
}

fn money() -> BoxedStrategy<Money> {
    any::<u64>().prop_map(Money).boxed()
}

fn tally() -> BoxedStrategy<Tally> {
    (money(), money(), when()).prop_map(|(spent, per_hour, since)| Tally { spent, per_hour, since }).boxed()
}

prop_compose! {
    fn cluster_costs()(spent in tally(), saved in tally(), unpriced in btree_set(text(), 0..2)) -> ClusterCosts {
        ClusterCosts { spent, saved, unpriced }
    }
}

prop_compose! {
    fn cluster_cost()((per_hour, spent, saved) in (money(), money(), money()), at in when(), unpriced in vec(text(), 0..2),
        (price_list, price_list_error) in (option::of(when()), option::of(text()))) -> ClusterCostStatus {
        ClusterCostStatus { per_hour, spent, saved, at, unpriced, price_list, price_list_error }
    }
}

prop_compose! {
    fn job_cost()((per_hour, spent) in (money(), money()), at in when(), unpriced in vec(text(), 0..2)) -> JobCostStatus {
        JobCostStatus { per_hour, spent, at, unpriced }
    }
}

prop_compose! {
    fn job_status()(
        words in (any::<u64>(), text(), option::of(when()), vec(condition(), 0..3), any::<(u32, u32, u32)>()),
        phase in select(vec![JobPhase::Pending, JobPhase::Starting, JobPhase::Running, JobPhase::Rescaling, JobPhase::Stopping,
            JobPhase::Suspended, JobPhase::Succeeded, JobPhase::Failed, JobPhase::Unknown]),
        scaling in option::of((any::<u32>(), text(), text())), group in option::of(group()),
        workers in vec((any::<u32>(), text(), any::<Option<u32>>(), text()), 0..3), progress in option::of(progress()),
        checkpoint in option::of(checkpoint()), checkpoint_request in option::of(checkpoint_request()),
        (start_time, completion_time, cost) in (option::of(when()), option::of(when()), option::of(job_cost())),
        history in vec(group_status(), 0..2)) -> AdaptDLJobStatus {
        let (observed_generation, message, phase_since, conditions, (replicas, desired_replicas, failures)) = words;
        AdaptDLJobStatus {
            observed_generation, phase, message, phase_since, conditions, replicas, desired_replicas, group, progress, failures,
            start_time, completion_time, checkpoint_request, history, cost,
            scaling: scaling.map(|(replicas, reason, message)| ScalingStatus { replicas, reason, message }),
            workers: workers.into_iter().map(|(rank, node, pid, state)| WorkerStatus { rank, node: NodeName::from(node), pid, state }).collect(),
            checkpoint: checkpoint.map(|it| CheckpointStatus { id: it.id, digest: it.digest, size: it.size, files: it.files,
                steps: it.steps, save_ms: it.save_ms, saved: it.saved }),
        }
    }
}

prop_compose! {
    fn node_status()(name in text(), group in option::of(text()), state in text(), since in option::of(when()),
        address in option::of(text()), pid: Option<u32>, capacity in text(), workers: u32,
        notice in option::of(text()), instance in option::of((option::of(text().prop_map(InstanceId::from)), text(), text(), market(), option::of(money())))) -> NodeStatus {
        let instance = instance.map(|(id, instance_type, zone, market, price)| InstanceStatus { id, instance_type, zone, market, price });
        NodeStatus { name: NodeName::from(name), group, state, since, address, pid, capacity, workers, notice, instance }
    }
}

prop_compose! {
    fn cluster_status()(observed_generation: u64, message in text(), phase_since in option::of(when()),
        phase in select(vec![ClusterPhase::Pending, ClusterPhase::Starting, ClusterPhase::Ready, ClusterPhase::Stopping,
            ClusterPhase::Suspended, ClusterPhase::Failed, ClusterPhase::Unknown]),
        conditions in vec(condition(), 0..3), dashboard in option::of(text()), ray_version in option::of(text()),
        (ready_nodes, desired_nodes) in any::<(u32, u32)>(), nodes in vec(node_status(), 0..3), cost in option::of(cluster_cost())) -> RayClusterStatus {
        RayClusterStatus { observed_generation, phase, message, phase_since, conditions, dashboard, ray_version, ready_nodes, desired_nodes, nodes, cost }
    }
}

fn market() -> BoxedStrategy<MarketKind> {
    select(vec![MarketKind::OnDemand, MarketKind::Spot]).boxed()
}

prop_compose! {
    fn offering()(instance_type in text(), subnet in text(), zone in text(), market in market(),
        max_price in option::of(text()), image in text(), root_device in option::of(text())) -> Offering {
        Offering { instance_type, subnet, zone, market, max_price, image, root_device }
    }
}

prop_compose! {
    fn block_device()(device_name in text(), size in option::of(any::<u64>().prop_map(Bytes)), iops: Option<u32>, throughput: Option<u32>,
        encrypted: Option<bool>, volume_type in select(vec![VolumeType::Gp3, VolumeType::Gp2, VolumeType::Io1, VolumeType::Io2,
            VolumeType::St1, VolumeType::Sc1, VolumeType::Standard])) -> BlockDevice {
        BlockDevice { device_name, size, volume_type, iops, throughput, encrypted }
    }
}

prop_compose! {
    fn instance()(types in vec(text(), 0..3), (image, by_id) in (text(), any::<bool>()), block_devices in vec(block_device(), 0..2),
        data_path in option::of(text()), docker in option::of((text(), vec(text(), 0..3))),
        file_systems in vec((text(), text(), text()), 0..2), setup_commands in vec(text(), 0..2),
        ray_start in btree_map(text(), text(), 0..2), env in vec(variable(), 0..2)) -> Instance {
        let docker = docker.map(|(image, run_options)| Docker { image, run_options });
        let file_systems = file_systems.into_iter().map(|(id, mount_path, path)| FileSystem { id, mount_path, path }).collect();
        let image = if by_id { Image::Id(image) } else { Image::Parameter(image) };
        Instance { types, image, block_devices, data_path, docker, file_systems, setup_commands, ray_start, env }
    }
}

prop_compose! {
    fn template()(cpu in option::of((0u64..1 << 40).prop_map(MilliCpu)), gpu: Option<u32>, memory in option::of(any::<u64>().prop_map(Bytes)),
        custom in btree_map(text(), number(), 0..2), labels in btree_map(text(), text(), 0..2), store: u64,
        instance in option::of(instance())) -> NodeTemplate {
        NodeTemplate { resources: NodeResources { cpu, gpu, memory, custom }, instance, labels, object_store_memory: Bytes(store) }
    }
}

prop_compose! {
    fn type_facts()(cpus: u32, gpus: u32, memory: u64, architectures in btree_set(text(), 0..2), spot: bool,
        zones in btree_set(text(), 0..2)) -> TypeFacts {
        TypeFacts { cpus, gpus, memory: Bytes(memory), architectures, spot, zones }
    }
}

// On the heap, for these are in large ones.
fn list_prices() -> BoxedStrategy<Option<ListPrices>> {
    let listed = (when(), btree_map(text(), option::of(money()), 0..2));
    option::of(listed.prop_map(|(at, prices)| ListPrices { at, prices })).boxed()
}

fn last_output() -> BoxedStrategy<Option<LastOutput>> {
    let known =
        prop_oneof![when().prop_map(LastOutput::Awaited), Just(LastOutput::Kept), Just(LastOutput::GivenUp)];
    option::of(known).boxed()
}

prop_compose! {
    fn aws_network()(region in text(), subnets in vec((text(), text()), 0..3), security_groups in vec(text(), 0..2), head_interface in text(),
        head_address in text(), token_parameter in option::of(text()), (images, root_devices) in (btree_map(text(), text(), 0..2), btree_map(text(), text(), 0..2)),
        types in btree_map(text(), type_facts(), 0..2), settings in digest(), at in when(),
        spot_prices in btree_map(text(), btree_map(text(), money(), 0..2), 0..2),
        list_prices in list_prices(), published in option::of(digest())) -> AwsNetwork {
        AwsNetwork { region, subnets, security_groups, head_interface, head_address, token_parameter, images, root_devices, types, settings, at, spot_prices, list_prices, published }
    }
}

prop_compose! {
    fn incarnation()(id in text(), since in when(), dashboard in text(), agent in text(), ray_version in text(),
        missing in vec(text(), 0..2), local in option::of((text(), any::<u32>(), any::<[u16; 3]>())),
        aws in option::of(aws_network())) -> Incarnation {
        let local = local.map(|(python, head, [gcs_port, dashboard_port, client_port])| LocalNetwork {
            python, head: Ipv4Addr::from(head), gcs_port, dashboard_port, client_port });
        Incarnation { id, since, dashboard, agent, ray_version, missing, local, aws }
    }
}

fn trouble() -> BoxedStrategy<Trouble> {
    (any::<u32>(), when(), text(), text())
        .prop_map(|(count, until, reason, message)| Trouble { count, until, reason, message })
        .boxed()
}

fn node_state() -> BoxedStrategy<NodeState> {
    (0..4, when(), text())
        .prop_map(|(state, since, cause)| match state {
            0 => NodeState::Launching { since },
            1 => NodeState::Ready { since },
            2 => NodeState::Draining { since, cause },
            _ => NodeState::Terminating { since, cause },
        })
        .boxed()
}

prop_compose! {
    fn notice()(kind in select(vec![NoticeKind::SpotInterruption, NoticeKind::RebalanceRecommendation, NoticeKind::ScheduledMaintenance]),
        action in text(), deadline in option::of(when()), heard in when()) -> Notice {
        Notice { kind, action, deadline, heard }
    }
}

prop_compose! {
    fn node()(group in option::of(text()), index: u64, launch in text(), template in template(), state in node_state(),
        ray in option::of(text().prop_map(RayNodeId::from)), idle_since in option::of(when()),
        notice in option::of(notice()), offering in option::of(offering()), instance in option::of(text().prop_map(InstanceId::from)),
        (missing_since, ended) in (option::of(when()), option::of(when()))) -> NodeRecord {
        let (template, offering) = (template.into(), offering.map(Shared::from));
        NodeRecord { group, index, launch: IntentId::from(launch), template, offering, instance, missing_since, ended, state, ray, idle_since, notice }
    }
}

fn shortage() -> BoxedStrategy<Shortage> {
    (0..3, text(), text(), market())
        .prop_map(|(which, one, zone, market)| match which {
            0 => Shortage::Type { instance_type: one, zone, market },
            1 => Shortage::Subnet(one),
            _ => Shortage::Market(market),
        })
        .boxed()
}

prop_compose! {
    fn unavailable()(what in shortage(), count: u32, until in when(), message in text()) -> Unavailable {
        Unavailable { what, count, until, message }
    }
}

prop_compose! {
    fn cluster_record()(incarnation in option::of(incarnation()), ending: bool, nodes in btree_map(text().prop_map(NodeName::from), node().prop_map(Shared::from), 0..3),
        launched: u64, agent in option::of((text(), when(), any::<bool>())), trouble in option::of(trouble()),
        unused_since in option::of(when()),
        notices in btree_map(text().prop_map(RayNodeId::from), notice(), 0..2), unavailable in vec(unavailable(), 0..2),
        failing_groups in btree_map(text(), (digest(), trouble()), 0..2),
        orphans in btree_map(text().prop_map(InstanceId::from), when(), 0..2),
        (opening, last_launch, costs) in (option::of(text()), option::of(when()), option::of(cluster_costs()))) -> ClusterRecord {
        let agent = agent.map(|(submission, since, answered)| AgentRecord { submission, since, answered });
        let failing = |(group, (template, trouble))| (group, FailingGroup { template, trouble });
        let failing_groups = failing_groups.into_iter().map(failing).collect();
        ClusterRecord { incarnation, opening, last_launch, ending, nodes, launched, agent, trouble, unused_since, notices, failing_groups, unavailable, orphans, costs }
    }
}

prop_compose! {
    fn slot()(node in text(), ray in text(), cpu in 0u64..1 << 40, gpu: u32, memory in option::of(any::<u64>().prop_map(Bytes)),
        custom in btree_map(text(), number(), 0..2), package in option::of(digest()), env in text()) -> SlotSpec {
        let runtime_env = Map::from_iter([(env.clone(), json!({"pip": [env, 1, null, 0.5]}))]);
        let resources = WorkerResources { cpu: MilliCpu(cpu), gpu, memory, custom };
        SlotSpec { node: NodeName::from(node), ray: RayNodeId::from(ray), kind: SlotKind { resources, runtime_env, package }.into() }
    }
}

fn slots() -> BoxedStrategy<BTreeMap<SlotId, SlotSpec>> {
    btree_map(text().prop_map(SlotId::from), slot(), 0..3).boxed()
}

prop_compose! {
    fn variable()(name in text(), value in option::of(text()), from in option::of((option::of(text()), option::of(text())))) -> EnvVar {
        EnvVar { name, value, value_from: from.map(|(env, file)| ValueSource { env, file }) }
    }
}

prop_compose! {
    fn desired()(run: bool, grace in span(), number in group(), ranks in vec(text().prop_map(SlotId::from), 0..3),
        entrypoint in option::of(text()), command in option::of(vec(text(), 1..3)), args in vec(text(), 0..3),
        env in vec(variable(), 0..2), share_path in option::of(text()), restore in option::of(checkpoint_id()),
        (activate, fork, prepare) in (any::<bool>(), any::<bool>(), select(vec![Prepare::Full, Prepare::Slots, Prepare::Nothing]))) -> Desired {
        let program = Program { entrypoint, command, args, env, share_path };
        match run {
            true => Desired::Run { group: GroupSpec { number, ranks, program, prepare, fork, restore }.into(), activate },
            false => Desired::Stop { grace },
        }
    }
}

prop_compose! {
    fn document()(revision: u64, desired in desired(), slots in slots(), checkpoint_timeout in span(), checkpoint_interval in span(),
        checkpoint_keep: u32, artifacts in vec(text(), 0..2), fenced in btree_set(text().prop_map(RayNodeId::from), 0..2),
        (fence_until, progress_deadline) in (option::of(when()), span()), save_request in option::of(text()),
        (metadata_endpoint, checkpoint_path) in (option::of(text()), option::of(text())), min_replicas: u32) -> Document {
        Document { revision, desired, slots: slots.into(), checkpoint_timeout, checkpoint_interval, checkpoint_keep, checkpoint_path, artifacts, fenced, fence_until,
            progress_deadline, save_request, metadata_endpoint, min_replicas }
    }
}

prop_compose! {
    fn job_record()(
        binding in option::of((key(), text(), option::of((text(), when())))), revision: u64, document in option::of(document()),
        artifacts in vec((group(), digest()), 0..2), failures: u32, trouble in option::of(trouble()),
        hints in option::of((group(), any::<u64>(), when(), number())), (started, fence_until) in (option::of(when()), option::of(when())),
        hints_seen in option::of((group(), any::<u64>())), wanting_since in option::of(when()), sent in option::of((any::<u64>(), when())),
        (spoilt, checkpoint_request) in (btree_set(checkpoint_id(), 0..3), option::of(checkpoint_request())),
        (last_output, unused_from) in (last_output(), option::of(group())),
        (outcome, delivered, noted, costs) in (option::of((text(), text(), when())), any::<bool>(),
            option::of((text(), any::<u64>())), option::of((tally(), btree_set(text(), 0..2))))) -> JobRecord {
        JobRecord {
            binding: binding.map(|(cluster, incarnation, bridge)| Binding { cluster, incarnation, bridge }),
            last_output, unused_from, revision, sent, spoilt, document, failures, trouble, started, fence_until, hints_seen, wanting_since, delivered, noted,
            checkpoint_request, costs: costs.map(|(spent, unpriced)| JobCosts { spent, unpriced }),
            groups: Vec::new(), checkpoints: Vec::new(),
            artifacts: artifacts.into_iter().map(|(group, digest)| ArtifactsRecord { group, digest }).collect(),
            hints: hints.map(|(group, number, at, x)| HintsRecord { group, number, at, hints: json!({"perfParams": {"alpha_c": x}}) }),
            outcome: outcome.map(|(reason, message, at)| JobOutcome { phase: JobPhase::Failed, source: Some(reason.clone()), reason, message, at }),
        }
    }
}

prop_compose! {
    fn group_record()(number in group(), created in when(), message in text(), program in digest(),
        reason in select(vec![GroupReason::Started, GroupReason::Resumed, GroupReason::Scaled, GroupReason::ReplicasChanged,
            GroupReason::SpecChanged, GroupReason::ProgramFailed, GroupReason::WorkerKilled, GroupReason::NodeLost, GroupReason::NodeLeaving, GroupReason::Retried]),
        nodes in vec(text().prop_map(NodeName::from), 0..3), slots in slots(), restored in option::of(checkpoint_id()), timeline in times(),
        (from_replicas, steps, downtime_ms, lost_steps, spoke_adaptdl) in any::<(u32, u64, Option<u64>, Option<u64>, bool)>(),
        (last_step, outcome) in (option::of(when()), option::of((text(), text())))) -> GroupRecord {
        let outcome = outcome.map(|(kind, message)| GroupOutcome { kind, message });
        GroupRecord { number, created, reason, message, program, nodes, slots: slots.into(), from_replicas, restored, timeline, steps, last_step,
            downtime_ms, lost_steps, spoke_adaptdl, outcome }
    }
}

fn effect() -> BoxedStrategy<Effect> {
    let launch = (option::of(text()), template(), option::of(offering()));
    let parts = (0..16, text(), text(), any::<(bool, u64)>(), when(), launch, checkpoint(), digest());
    parts
        .prop_map(|(which, one, other, (keep, index), since, launch, checkpoint, digest)| {
            let (node, job, id, group) =
                (NodeName::from(one.clone()), Uid::from(one.clone()), checkpoint.id, checkpoint.id.group);
            match which {
                0 => Effect::OpenCluster { incarnation: one },
                1 => Effect::CloseCluster { incarnation: one },
                2 => {
                    let (group, template, offering) = launch;
                    Effect::LaunchNode { node, group, index, template: Box::new(template), offering }
                }
                3 => Effect::DrainNode { node, ray: RayNodeId::from(other) },
                4 => Effect::TerminateNode { node, launch: IntentId::from(other), index, since },
                5 => Effect::SubmitAgent { submission: one },
                6 => Effect::StopAgent { submission: one },
                7 => Effect::SendDocument { job, revision: index },
                8 => Effect::SendCheckpoint { job, id },
                9 => Effect::RemoveBridge { job, keep },
                10 => Effect::FetchCheckpoint { job, checkpoint },
                11 => Effect::FetchArtifacts { job, group, digest, size: Bytes(index) },
                12 => Effect::DeliverArtifacts { job },
                13 => Effect::RequestResources {
                    bundles: vec![ResourceBundles { resources: [(other, 1.5)].into(), count: 3 }],
                },
                14 => Effect::TerminateInstance { instance: InstanceId::from(one) },
                _ => Effect::DropCheckpoint { job, id },
            }
        })
        .boxed()
}

prop_compose! {
    fn intent()(id in text(), cluster in key(), effect in effect(), created in when(), attempts: u32, not_before in when(),
        last_error in option::of(text()), which in 0..8, at in when(), incarnation in incarnation(), message in text()) -> Intent {
        let failed = |kind| IntentState::Failed { at, error: EffectError { kind, message: message.clone() } };
        let state = match which {
            0 => IntentState::Pending,
            1 => IntentState::Done { at, result: EffectResult::Done },
            2 => IntentState::Done { at, result: EffectResult::Opened(Box::new(incarnation)) },
            3 => failed(ErrorKind::Unavailable),
            4 => failed(ErrorKind::NoCapacity),
            5 => failed(ErrorKind::SubnetFull),
            6 => failed(ErrorKind::MarketLimit),
            _ => failed(ErrorKind::Rejected),
        };
        Intent { id: IntentId::from(id), cluster, effect, created, attempts, not_before, last_error, state }
    }
}

prop_compose! {
    fn managed()(manager in text(), applied: bool, api_version in text(), time in when(), fields_type in text(), field in text()) -> ManagedFields {
        let operation = if applied { ManagedBy::Apply } else { ManagedBy::Update };
        ManagedFields { manager, operation, api_version, time, fields_type, fields_v1: serde_json::json!({field: {}}) }
    }
}

prop_compose! {
    fn metadata()(name in text(), namespace in text(), labels in btree_map(text(), text(), 0..3), annotations in btree_map(text(), text(), 0..3),
        uid in text(), generation: u64, resource_version: u64, creation_timestamp in option::of(when()),
        deletion_timestamp in option::of(when()), finalizers in vec(text(), 0..2), managed_fields in vec(managed(), 0..2)) -> ObjectMeta {
        ObjectMeta { name, namespace, labels, annotations, uid: Uid::from(uid), generation, resource_version, creation_timestamp, deletion_timestamp, finalizers, managed_fields }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn statuses(job in job_status(), cluster in cluster_status(), metadata in metadata()) {
        is_read_back(&job)?;
        is_read_back(&cluster)?;
        is_read_back(&metadata)?;
    }

    #[test]
    fn records(cluster in cluster_record(), job in job_record(), group in group_record(), checkpoint in checkpoint()) {
        is_read_back(&cluster)?;
        is_read_back(&job)?;
        is_read_back(&group)?;
        is_read_back(&checkpoint)?;
    }

    #[test]
    fn intents(intent in intent()) {
        is_read_back(&intent)?;
    }

    #[test]
    fn sources(directory in text(), at in when(), objects: u32, errors in vec((text(), text()), 0..3)) {
        let errors = errors.into_iter().map(|(file, message)| SourceError { file, message }).collect();
        let out_of_sync = vec![OutOfSync { object: directory.clone(), message: directory.clone() }];
        let known = objects.is_multiple_of(2).then(|| directory.clone());
        let commit = directory.clone();
        let revision = SourceRevision { commit, branch: known.clone(), subject: known.clone(), dirty: Some(true) };
        let fetch = FetchStatus { at: Some(at), next: known.as_ref().map(|_| at), error: known.clone(), note: known };
        is_read_back(&Departure { source: directory.clone(), digest: directory.clone(), cause: if objects.is_multiple_of(2) { Cause::Deleted } else { Cause::Finished } })?;
        let pending = PendingPrune { reason: directory.clone(), objects: vec![directory.clone()], of: objects, digest: directory.clone() };
        is_read_back(&SourceStatus {
            state: SyncState::OutOfSync,
            noticed_by: directory.clone(),
            self_heal: objects.is_multiple_of(2),
            revision: Some(revision),
            fetch: Some(fetch),
            out_of_sync,
            finished: vec![directory.clone()],
            pending_prune: Some(pending),
            directory, at, objects, errors,
        })?;
    }
}
