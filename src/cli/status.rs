//! `status`: the page an operator wants: what is wanted, what is there, what is being done, and since when.

mod cost;

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::sync::source_page;
use super::target::{found, objects};
use super::text::{age, cut, maybe_age, millis, table};
use super::{Context, ExitStatus, complete};
use crate::api::condition::Truth;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::money::Money;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::status::{AdaptDLJobStatus, GroupStatus, InstanceStatus, NodeStatus};
use crate::api::words::count;

/// Writing into a string does not fail.
macro_rules! put {
    ($page:expr, $($arguments:tt)*) => {{
        let _ = writeln!($page, $($arguments)*);
    }};
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only these jobs, or KIND/NAME
    #[arg(value_name = "JOBS", add = ArgValueCandidates::new(complete::jobs))]
    objects: Vec<String>,
    /// Only this namespace; by default all
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

pub(super) async fn run(context: &Context, args: StatusArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    let namespace = args.namespace.as_deref();
    let wanted = match args.objects.as_slice() {
        [] => Vec::new(),
        words => objects(words, namespace.unwrap_or(DEFAULT_NAMESPACE))?,
    };
    let clusters = client.list(Kind::RayCluster, namespace, None).await?;
    let jobs = client.list(Kind::AdaptDLJob, namespace, None).await?;
    let sources = client.sources().await?;
    let screen = context.printer.screen();
    let is_it = |object: &AnyObject, wanted: &(Kind, ObjectKey)| {
        object.kind() == wanted.0 && object.metadata().name == wanted.1.name
    };
    for wanted in &wanted {
        if !clusters.iter().chain(&jobs).any(|object| is_it(object, wanted)) {
            found(&client, wanted.0, &wanted.1).await?;
        }
    }
    let shown = |object: &&AnyObject| wanted.is_empty() || wanted.iter().any(|wanted| is_it(object, wanted));
    let mut page = String::new();
    let objects = clusters.iter().chain(&jobs);
    objects.filter(shown).for_each(|object| page.push_str(&object_page(object, screen)));
    if wanted.is_empty() {
        let pages = sources.iter().map(source_page);
        pages.for_each(|source| put!(page, "{source}"));
    }
    if page.is_empty() {
        context.printer.talk("there are no clusters and no jobs");
    } else {
        context.printer.page(&page);
    }
    Ok(ExitStatus::Success)
}

/// What an operator wants to know of one object, on a screen of some width if one shows it.
pub(super) fn object_page(object: &AnyObject, screen: Option<usize>) -> String {
    match object {
        AnyObject::Cluster(cluster) => cluster_page(cluster, screen),
        AnyObject::Job(job) => job_page(job, screen),
    }
}

fn cluster_page(cluster: &RayCluster, screen: Option<usize>) -> String {
    let status = &cluster.status;
    let nodes = format!("{}/{} worker nodes", status.ready_nodes, status.desired_nodes);
    let mut page = String::new();
    put!(
        page,
        "cluster {}   {} for {}   {nodes}",
        cluster.metadata.key(),
        status.phase,
        maybe_age(status.phase_since)
    );
    put_message(&mut page, &status.message);
    if let Some(dashboard) = &status.dashboard {
        let version = status.ray_version.as_ref().map(|version| format!("   Ray {version}"));
        put!(page, "  dashboard {dashboard}{}", version.unwrap_or_default());
    }
    put_problems(&mut page, &status.conditions, &status.message);
    if let Some(cost) = &status.cost {
        page.push_str(&cost::of_cluster(cost, cluster.spec.max_hourly_cost));
    }
    if !status.nodes.is_empty() {
        let cloud = status.nodes.iter().any(|node| node.instance.is_some());
        let mut header = vec!["NODE", "GROUP", "STATE", "FOR", "ADDRESS", "WORKERS", "CAPACITY"];
        header.extend(cloud.then_some(["INSTANCE", "PRICE"]).into_iter().flatten());
        let row = |node: &NodeStatus| {
            let mut row = vec![
                node.name.to_string(),
                node.group.clone().unwrap_or_else(|| "head".to_owned()),
                node.state.clone(),
                maybe_age(node.since),
                node.address.clone().unwrap_or_default(),
                node.workers.to_string(),
                node.capacity.clone(),
            ];
            if cloud {
                row.push(node.instance.as_ref().map_or_else(String::new, instance));
                row.push(node.instance.as_ref().map_or_else(String::new, price));
            }
            row
        };
        let rows: Vec<Vec<String>> = status.nodes.iter().map(row).collect();
        page.push_str(&cut(&table("  ", &header, &rows), screen));
    }
    page.push('\n');
    page
}

/// What an instance is, and its id: `g5.xlarge spot us-west-2b i-0123456789abcdef0`.
fn instance(instance: &InstanceStatus) -> String {
    let id = instance.id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    format!("{} {} {}{id}", instance.instance_type, instance.market.words(), instance.zone)
}

fn price(instance: &InstanceStatus) -> String {
    instance.price.map_or_else(|| "unknown".to_owned(), Money::hourly)
}

fn job_page(job: &AdaptDLJob, screen: Option<usize>) -> String {
    let status = &job.status;
    let mut page = String::new();
    let desired = count(status.desired_replicas, "worker");
    let of = if status.replicas == status.desired_replicas {
        desired
    } else {
        format!("{} of {desired}", status.replicas)
    };
    put!(page, "job {}   {} for {}   {of}", job.metadata.key(), status.phase, maybe_age(status.phase_since));
    put_message(&mut page, &status.message);
    put_problems(&mut page, &status.conditions, &status.message);
    let scaling = status.scaling.as_ref().filter(|scaling| !status.message.contains(&scaling.message));
    if let (Some(scaling), false) = (scaling, status.phase.is_final()) {
        put!(page, "  scaling     {} because {}", count(scaling.replicas, "worker"), scaling.message);
    }
    put_progress(&mut page, status);
    if let Some(checkpoint) = &status.checkpoint {
        let (id, size, saved) = (checkpoint.id, checkpoint.size.rounded(), age(checkpoint.saved));
        put!(page, "  checkpoint  {id}, {size}, saved {saved} ago in {:.0} ms", checkpoint.save_ms);
    }
    if let Some(place) = job.spec.logs_place(&job.metadata) {
        put!(page, "  logs        {place}");
    }
    let durable = status.checkpoint.as_ref().map(|checkpoint| checkpoint.id);
    let asked = status.checkpoint_request.as_ref();
    let open = asked.is_some_and(|asked| asked.checkpoint.is_none_or(|made| durable < Some(made)));
    if open && !status.phase.is_final() {
        put!(page, "              another was asked for and is not there yet");
    }
    if let Some(cost) = &status.cost {
        page.push_str(&cost::of_job(cost));
    }
    if status.failures > 0 {
        put!(page, "  failures    {} of {} that are tolerated", status.failures, job.spec.backoff_limit);
    }
    if let Some(last) = status.history.last() {
        put!(page, "  last change {}", change(last));
    }
    if !status.workers.is_empty() {
        let row = |worker: &crate::api::status::WorkerStatus| {
            let pid = worker.pid.map_or_else(String::new, |pid| pid.to_string());
            vec![worker.rank.to_string(), worker.node.to_string(), pid, worker.state.clone()]
        };
        let rows: Vec<Vec<String>> = status.workers.iter().map(row).collect();
        page.push_str(&cut(&table("  ", &["RANK", "NODE", "PID", "STATE"], &rows), screen));
    }
    page.push('\n');
    page
}

fn put_message(page: &mut String, message: &str) {
    for line in message.lines() {
        put!(page, "  {line}");
    }
}

/// Conditions that a person should look at, and that the message has not told already.
fn put_problems(page: &mut String, conditions: &[crate::api::condition::Condition], told: &str) {
    for condition in conditions {
        let kind = condition.kind.as_str();
        let telling = matches!(
            kind,
            "Accepted" | "CheckpointFresh" | "CheckpointDurable" | "LogsDurable" | "Provisioned"
        );
        let missing = condition.reason == "PackagesMissing";
        let quiet = matches!(condition.reason.as_str(), "NotOpened" | "StartingNodes");
        let told = told.contains(&condition.message);
        if (telling && condition.status == Truth::False && !quiet && !told) || missing {
            let message = condition.message.lines().next().unwrap_or_default();
            put!(page, "  {} {}: {message}", condition.kind, condition.reason);
        }
    }
}

fn put_progress(page: &mut String, status: &AdaptDLJobStatus) {
    let Some(progress) = &status.progress else { return };
    let mut parts = vec![match progress.step_rate {
        Some(rate) => format!("step {} ({rate:.1}/s)", progress.steps),
        None => format!("step {}", progress.steps),
    }];
    parts.extend(progress.epoch.map(|epoch| format!("epoch {epoch}")));
    parts.extend(progress.batch_size.map(|size| format!("batch {size}")));
    if let Some(goodput) = &progress.goodput {
        parts.push(format!(
            "goodput {:.0}/s ({:.0} samples/s × {:.2})",
            goodput.goodput, goodput.throughput, goodput.efficiency
        ));
    }
    put!(page, "  progress    {}", parts.join(", "));
}

/// A group in a line: when, from how many to how many, at what cost, and why.
pub(super) fn change(group: &GroupStatus) -> String {
    let mut text =
        format!("{} ago: {} → {}", age(group.created), group.from_replicas, count(group.replicas, "worker"));
    if let Some(downtime) = group.downtime_ms {
        text.push_str(&format!(", stood still {}", millis(downtime)));
    }
    if let Some(lost) = group.lost_steps.filter(|lost| *lost > 0) {
        let seen = if group.estimated { ", as far as could be seen" } else { "" };
        text.push_str(&format!(", {} lost{seen}", count(lost, "step")));
    }
    format!("{text}; {}: {}", group.reason, group.message)
}
