//! `clusters find`: list clusters by what EC2 has of them.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};

use super::{FindArgs, Output, Which};
use crate::api::ids::Uid;
use crate::api::object::{AnyObject, Kind};
use crate::api::observed::InstancePhase;
use crate::api::words::count;
use crate::cli::text::{maybe_age, table};
use crate::cli::{Context, ExitStatus, wrong};
use crate::provider::aws::{self, FoundCluster};
use crate::store::Store;

pub(super) async fn run(context: &Context, args: FindArgs) -> Result<ExitStatus> {
    let found = aws::find(&args.regions.regions).await?;
    let known = known(context).await;
    if args.output == Some(Output::Json) {
        let list: Vec<Value> = found.iter().map(|cluster| to_json(cluster, known.as_ref())).collect();
        context.printer.data(&serde_json::to_string_pretty(&list)?);
        return Ok(ExitStatus::Success);
    }
    if found.is_empty() {
        context.printer.talk("no clusters found");
        return Ok(ExitStatus::Success);
    }
    let columns = ["CLUSTER", "UID", "REGION", "HEAD", "INSTANCES", "AGE", "ELSE", "HERE"];
    let rows: Vec<Vec<String>> = found.iter().map(|cluster| row(cluster, known.as_ref())).collect();
    context.printer.table(&table("", &columns, &rows));
    Ok(ExitStatus::Success)
}

/// The cluster that is meant.
pub(super) async fn one(which: &Which) -> Result<FoundCluster> {
    let named = |cluster: &FoundCluster| {
        let key = cluster.key.as_ref();
        which.cluster == cluster.uid.0
            || key.is_some_and(|key| which.cluster == key.name || which.cluster == key.to_string())
    };
    let mut found = aws::find(&which.regions.regions).await?;
    found.retain(named);
    match (found.pop(), found.is_empty()) {
        (Some(cluster), true) => Ok(cluster),
        (Some(cluster), false) => {
            let uids: Vec<&str> =
                found.iter().chain([&cluster]).map(|cluster| cluster.uid.0.as_str()).collect();
            Err(wrong(format!(
                "several clusters are called {}: name its uid, one of {}",
                which.cluster,
                uids.join(", ")
            )))
        }
        (None, _) => Err(wrong(format!(
            "there is no cluster {} there; `rayconcile clusters find` lists those of the regions it is given",
            which.cluster
        ))),
    }
}

/// What a cluster is called where it is talked of.
pub(super) fn name(cluster: &FoundCluster) -> String {
    cluster.key.as_ref().map_or_else(|| cluster.uid.to_string(), ToString::to_string)
}

/// The clusters that this state directory has, if that can be told.
pub(super) async fn known(context: &Context) -> Option<BTreeSet<Uid>> {
    if let Ok(client) = context.client()
        && let Ok(listed) = client.list(Kind::RayCluster, None, None).await
    {
        return Some(listed.iter().map(|cluster| cluster.uid().clone()).collect());
    }
    // Nothing is made where there is nothing.
    if !context.state_dir.exists() {
        return Some(BTreeSet::new());
    }
    let store = Store::open(&context.state_dir).ok()?;
    let listed: Vec<AnyObject> = store.read_now(|tx| tx.list(Kind::RayCluster)).ok()?;
    Some(listed.iter().map(|cluster| cluster.uid().clone()).collect())
}

fn row(cluster: &FoundCluster, known: Option<&BTreeSet<Uid>>) -> Vec<String> {
    let head = cluster.instances.iter().find(|instance| instance.group.is_none());
    let head = head.map(|head| match (&head.seen.address, head.seen.phase) {
        (Some(address), InstancePhase::Running) => address.clone(),
        (_, phase) => words(phase).to_owned(),
    });
    let here = known.map(|known| if known.contains(&cluster.uid) { "yes" } else { "no" });
    vec![
        cluster.key.as_ref().map(ToString::to_string).unwrap_or_default(),
        cluster.uid.to_string(),
        cluster.region.clone(),
        head.unwrap_or_else(|| "none".to_owned()),
        cluster.up().to_string(),
        maybe_age(cluster.since()),
        shared(cluster),
        here.unwrap_or("?").to_owned(),
    ]
}

/// What is there beside instances, counted: `1 Elastic IP, 1 network interface`.
pub(super) fn shared(cluster: &FoundCluster) -> String {
    let parts: Vec<String> = cluster.shared.iter().map(|(kind, ids)| count(ids.len(), kind)).collect();
    parts.join(", ")
}

fn to_json(cluster: &FoundCluster, known: Option<&BTreeSet<Uid>>) -> Value {
    let instances: Vec<Value> = cluster
        .instances
        .iter()
        .map(|instance| {
            json!({
                "id": instance.id,
                "node": instance.node,
                "group": instance.group,
                "incarnation": instance.incarnation,
                "state": words(instance.seen.phase),
                "address": instance.seen.address,
                "type": instance.seen.instance_type,
                "zone": instance.seen.zone,
                "market": instance.seen.market.words(),
                "launched": instance.launched,
            })
        })
        .collect();
    json!({
        "namespace": cluster.key.as_ref().map(|key| &key.namespace),
        "name": cluster.key.as_ref().map(|key| &key.name),
        "uid": cluster.uid,
        "region": cluster.region,
        "incarnations": cluster.incarnations,
        "head": cluster.head().and_then(|head| head.seen.address.clone()),
        "instances": instances,
        "shared": cluster.shared,
        "here": known.map(|known| known.contains(&cluster.uid)),
    })
}

/// As EC2 calls it.
fn words(phase: InstancePhase) -> &'static str {
    match phase {
        InstancePhase::Pending => "pending",
        InstancePhase::Running => "running",
        InstancePhase::Stopping => "stopping",
        InstancePhase::Stopped => "stopped",
        InstancePhase::ShuttingDown => "shutting-down",
        InstancePhase::Terminated => "terminated",
    }
}
