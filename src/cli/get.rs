//! `get`: show objects.

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;

use super::complete;
use super::target::{found, kind, name};
use super::template::{self, Path, Template};
use super::text::table;
use super::{Context, ExitStatus, Scope};
use crate::api::API_VERSION;
use crate::api::columns::{columns, row};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::client::WatchEvent;
use crate::manifest::to_yaml;

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The kind: jobs or clusters (also as KIND/NAME)
    #[arg(add = ArgValueCandidates::new(complete::kinds))]
    kind: String,
    /// Only these
    #[arg(add = ArgValueCandidates::new(complete::objects))]
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "NAME=VALUE")]
    selector: Option<String>,
    /// How to print them: table, wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=NAME:.path,...
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = output)]
    output: Output,
    /// In the order of what a path leads to
    #[arg(long, value_name = "PATH", value_parser = path)]
    sort_by: Option<Path>,
    /// Tables without their first line
    #[arg(long)]
    no_headers: bool,
    /// Tables with a column of labels
    #[arg(long)]
    show_labels: bool,
    /// Go on printing objects as they change
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Debug)]
enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    Template(Template),
    Columns(Vec<(String, Path)>),
}

fn output(text: &str) -> Result<Output, String> {
    let custom = |error: anyhow::Error| error.to_string();
    match text.split_once('=') {
        Some(("jsonpath", template)) => Template::parse(template).map(Output::Template).map_err(custom),
        Some(("custom-columns", columns)) => template::columns(columns).map(Output::Columns).map_err(custom),
        _ => Ok(match text {
            "table" => Output::Table,
            "wide" => Output::Wide,
            "json" => Output::Json,
            "yaml" => Output::Yaml,
            "name" => Output::Name,
            _ => {
                let known =
                    "table, wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=NAME:.path,...";
                return Err(format!("it is one of {known}"));
            }
        }),
    }
}

fn path(text: &str) -> Result<Path, String> {
    Path::parse(text).map_err(|error| error.to_string())
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
            objects.push(found(&client, kind, &ObjectKey::new(&args.scope.namespace, name)).await?);
        }
    }
    if let Some(path) = &args.sort_by {
        objects.sort_by(|one, other| template::compare(path, &one.to_json(), &other.to_json()));
    }
    let tables = matches!(args.output, Output::Table | Output::Wide | Output::Columns(_));
    // A script that reads a list gets one, with nothing in it; tables and names of nothing are nothing.
    let lists = matches!(args.output, Output::Json | Output::Yaml | Output::Template(_));
    let view = View {
        output: args.output,
        all_namespaces: args.scope.all_namespaces,
        one: names.len() == 1,
        labels: args.show_labels,
    };
    let print = |text: &str| match tables {
        true => context.printer.table(text),
        false => context.printer.data(text),
    };
    if objects.is_empty() && !args.watch && tables {
        context.printer.talk(&format!("no {} found", kind.plural()));
        return Ok(ExitStatus::Success);
    }
    if !objects.is_empty() || (lists && !args.watch) {
        let text = view.render(kind, &objects, !args.no_headers)?;
        if !text.is_empty() {
            print(&text);
        }
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
            let header = shown.is_empty() && !args.no_headers;
            print(&view.render(kind, std::slice::from_ref(&object), header)?);
            shown.push(seen);
        }
    }
    Ok(ExitStatus::Success)
}

struct View {
    output: Output,
    all_namespaces: bool,
    one: bool,
    /// Whether labels are shown.
    labels: bool,
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
        Ok(match &self.output {
            Output::Json => serde_json::to_string_pretty(&list())?,
            Output::Yaml => to_yaml(&list())?,
            Output::Name => {
                objects.iter().map(|object| name(kind, &object.key())).collect::<Vec<_>>().join("\n")
            }
            Output::Template(template) => template.render(&list()),
            Output::Columns(columns) => custom(columns, objects, header),
            Output::Table | Output::Wide => self.table(kind, objects, header),
        })
    }

    fn table(&self, kind: Kind, objects: &[AnyObject], with_header: bool) -> String {
        let wide = matches!(self.output, Output::Wide);
        let now = jiff::Timestamp::now();
        let known = columns(kind);
        let shown = || known.iter().map(|column| wide || !column.wide);
        let names: Vec<String> = known.iter().map(|column| column.name.to_uppercase()).collect();
        let mut header: Vec<&str> =
            names.iter().zip(shown()).filter(|(_, shown)| *shown).map(|(name, _)| name.as_str()).collect();
        if self.all_namespaces {
            header.insert(0, "NAMESPACE");
        }
        header.extend(self.labels.then_some("LABELS"));
        let rows: Vec<Vec<String>> = objects
            .iter()
            .map(|object| {
                let cells = row(object, now).into_iter().zip(shown());
                let mut row: Vec<String> = cells.filter(|(_, shown)| *shown).map(|(cell, _)| cell).collect();
                if self.all_namespaces {
                    row.insert(0, object.metadata().namespace.clone());
                }
                row.extend(self.labels.then(|| labels(object)));
                row
            })
            .collect();
        headed(table("", &header, &rows), with_header)
    }
}

fn headed(table: String, header: bool) -> String {
    if header { table } else { table.lines().skip(1).collect::<Vec<_>>().join("\n") }
}

/// The columns that somebody named.
fn custom(columns: &[(String, Path)], objects: &[AnyObject], header: bool) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let row = |object: &AnyObject| {
        let value = object.to_json();
        columns.iter().map(|(_, path)| path.cell(&value)).collect::<Vec<_>>()
    };
    headed(table("", &names, &objects.iter().map(row).collect::<Vec<_>>()), header)
}

fn labels(object: &AnyObject) -> String {
    let labels = object.metadata().labels.iter().map(|(name, value)| format!("{name}={value}"));
    labels.collect::<Vec<_>>().join(",")
}
