//! `get`: show objects.

use anyhow::Result;
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;

use super::target::{kind, name};
use super::text::{age, maybe_age, table};
use super::{Context, ExitStatus, Scope};
use crate::api::API_VERSION;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::client::WatchEvent;
use crate::manifest::to_yaml;

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The kind: jobs or clusters (also as KIND/NAME)
    kind: String,
    /// Only these
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "NAME=VALUE")]
    selector: Option<String>,
    /// How to print them
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
    /// Go on printing objects as they change
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// KIND/NAME
    Name,
}

pub(super) async fn run(context: &Context, args: GetArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    let (word, names) = match args.kind.split_once('/') {
        Some((word, name)) => (word.to_owned(), vec![name.to_owned()]),
        None => (args.kind.clone(), args.names.clone()),
    };
    let kind = kind(&word)?;
    let mut objects = Vec::new();
    if names.is_empty() {
        objects = client.list(kind, args.scope.namespace(), args.selector.as_deref()).await?;
    } else {
        for name in &names {
            objects.push(client.get(kind, &ObjectKey::new(&args.scope.namespace, name)).await?);
        }
    }
    let view = View { output: args.output, all_namespaces: args.scope.all_namespaces, one: names.len() == 1 };
    if objects.is_empty() && !args.watch && matches!(args.output, Output::Table | Output::Wide) {
        context.printer.talk(&format!("no {} found", kind.plural()));
        return Ok(ExitStatus::Success);
    }
    if !objects.is_empty() {
        context.printer.data(&view.render(kind, &objects, true)?);
    }
    if !args.watch {
        return Ok(ExitStatus::Success);
    }
    let mut shown: Vec<_> =
        objects.iter().map(|object| (object.key(), object.metadata().resource_version)).collect();
    let events = client.watch(kind, args.scope.namespace(), args.selector.as_deref()).await?;
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let WatchEvent::Now(object) = event? else { continue };
        let wanted = names.is_empty() || names.contains(&object.metadata().name);
        // The watch begins with what has been printed already.
        let seen = (object.key(), object.metadata().resource_version);
        if wanted && !shown.contains(&seen) {
            context.printer.data(&view.render(kind, std::slice::from_ref(&object), shown.is_empty())?);
            shown.push(seen);
        }
    }
    Ok(ExitStatus::Success)
}

struct View {
    output: Output,
    all_namespaces: bool,
    one: bool,
}

impl View {
    fn render(&self, kind: Kind, objects: &[AnyObject], header: bool) -> Result<String> {
        let list = || match objects {
            [object] if self.one => object.to_json(),
            _ => {
                let items: Vec<_> = objects.iter().map(AnyObject::to_json).collect();
                json!({"apiVersion": API_VERSION, "kind": format!("{}List", kind.name()), "items": items})
            }
        };
        Ok(match self.output {
            Output::Json => serde_json::to_string_pretty(&list())?,
            Output::Yaml => to_yaml(&list())?,
            Output::Name => {
                objects.iter().map(|object| name(kind, &object.key())).collect::<Vec<_>>().join("\n")
            }
            Output::Table | Output::Wide => self.table(kind, objects, header),
        })
    }

    fn table(&self, kind: Kind, objects: &[AnyObject], header: bool) -> String {
        let wide = self.output == Output::Wide;
        let mut columns = match kind {
            Kind::AdaptDLJob => vec!["NAME", "PHASE", "WORKERS", "STEP", "EPOCH", "CHECKPOINT", "AGE"],
            Kind::RayCluster => vec!["NAME", "PHASE", "NODES", "AGE"],
        };
        if wide {
            columns.extend(match kind {
                Kind::AdaptDLJob => ["CLUSTER", "MESSAGE"],
                Kind::RayCluster => ["DASHBOARD", "MESSAGE"],
            });
        }
        if self.all_namespaces {
            columns.insert(0, "NAMESPACE");
        }
        let rows: Vec<Vec<String>> = objects
            .iter()
            .map(|object| {
                let mut row = match object {
                    AnyObject::Job(job) => job_row(job, wide),
                    AnyObject::Cluster(cluster) => cluster_row(cluster, wide),
                };
                if self.all_namespaces {
                    row.insert(0, object.metadata().namespace.clone());
                }
                row
            })
            .collect();
        let text = table("", &columns, &rows);
        if header { text } else { text.lines().skip(1).collect::<Vec<_>>().join("\n") }
    }
}

fn job_row(job: &AdaptDLJob, wide: bool) -> Vec<String> {
    let status = &job.status;
    let progress = status.progress.as_ref();
    let mut row = vec![
        job.metadata.name.clone(),
        status.phase.to_string(),
        format!("{}/{}", status.replicas, status.desired_replicas),
        progress.map_or_else(String::new, |progress| progress.steps.to_string()),
        progress.and_then(|progress| progress.epoch).map_or_else(String::new, |epoch| epoch.to_string()),
        maybe_age(status.checkpoint.as_ref().map(|checkpoint| checkpoint.saved)),
        maybe_age(job.metadata.creation_timestamp),
    ];
    if wide {
        let cluster = job.spec.cluster_ref.as_ref().map_or("local", |reference| reference.name.as_str());
        row.extend([cluster.to_owned(), first_line(&status.message)]);
    }
    row
}

fn cluster_row(cluster: &RayCluster, wide: bool) -> Vec<String> {
    let status = &cluster.status;
    let mut row = vec![
        cluster.metadata.name.clone(),
        status.phase.to_string(),
        format!("{}/{}", status.ready_nodes, status.desired_nodes),
        cluster.metadata.creation_timestamp.map_or_else(String::new, age),
    ];
    if wide {
        row.extend([status.dashboard.clone().unwrap_or_default(), first_line(&status.message)]);
    }
    row
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
