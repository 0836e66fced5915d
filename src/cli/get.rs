//! `get`: show objects.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;

use super::complete;
use super::target::{found, kind, name, objects};
use super::template::{self, Path, Template};
use super::text::table;
use super::{Context, ExitStatus, Scope, wrong};
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
    let named = named(&args)?;
    let kind = match named.first() {
        Some((kind, _)) => *kind,
        None => kind(&args.kind)?,
    };
    let mut objects = Vec::new();
    if named.is_empty() {
        objects = client.list(kind, args.scope.namespace(), args.selector.as_deref()).await?;
    }
    for (kind, key) in &named {
        objects.push(found(&client, *kind, key).await?);
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
        one: named.len() == 1,
        labels: args.show_labels,
        headers: !args.no_headers,
    };
    let print = |text: &str| match tables {
        true => context.printer.table(text),
        false => context.printer.data(text),
    };
    if args.watch {
        let mut watch =
            Watch { view: View { one: true, ..view }, print, shown: BTreeMap::new(), headed: false };
        watch.begin(kind, &objects, lists)?;
        let events = client.watch(kind, args.scope.namespace(), args.selector.as_deref()).await?;
        pin_mut!(events);
        while let Some(event) = events.next().await {
            let event = event?;
            let (WatchEvent::Now(object) | WatchEvent::Gone(object)) = &event;
            if named.is_empty() || named.contains(&(kind, object.key())) {
                watch.tell(kind, &event)?;
            }
        }
        return Ok(ExitStatus::Success);
    }
    if objects.is_empty() && tables {
        context.printer.talk(&format!("no {} found", kind.plural()));
    } else if !objects.is_empty() || lists {
        let text = view.render(kind, &objects, true)?;
        if !text.is_empty() {
            print(&text);
        }
    }
    Ok(ExitStatus::Success)
}

/// The objects that are named: after their kind, or each with its own.
fn named(args: &GetArgs) -> Result<Vec<(Kind, ObjectKey)>> {
    if args.names.is_empty() && !args.kind.contains('/') {
        return Ok(Vec::new());
    }
    if args.selector.is_some() || args.scope.all_namespaces {
        return Err(wrong("objects are named, or selected (--selector, --all-namespaces), not both"));
    }
    let words: Vec<String> = std::iter::once(&args.kind).chain(&args.names).cloned().collect();
    if !words.iter().any(|word| word.contains('/')) {
        kind(&args.kind)?;
    }
    let named = objects(&words, &args.scope.namespace)?;
    if args.watch && named.iter().any(|(kind, _)| *kind != named[0].0) {
        return Err(wrong("only objects of one kind are watched at a time"));
    }
    Ok(named)
}

/// What is printed of objects as they change: each once in each version.
struct Watch<P> {
    view: View,
    print: P,
    shown: BTreeMap<ObjectKey, u64>,
    /// Whether the header of the table is there.
    headed: bool,
}

impl<P: Fn(&str)> Watch<P> {
    /// Prints what there is: a table as a whole, a document for each.
    fn begin(&mut self, kind: Kind, objects: &[AnyObject], documents: bool) -> Result<()> {
        let shown = objects.iter().map(|object| (object.key(), object.metadata().resource_version));
        self.shown.extend(shown);
        for objects in objects.chunks(if documents { 1 } else { objects.len().max(1) }) {
            self.print(kind, objects)?;
        }
        Ok(())
    }

    /// Prints a change, unless it has been printed already: the watch begins with what there is. Of what is gone that
    /// is how it was last.
    fn tell(&mut self, kind: Kind, event: &WatchEvent) -> Result<()> {
        let object = match event {
            WatchEvent::Now(object) => {
                let version = object.metadata().resource_version;
                if self.shown.insert(object.key(), version) == Some(version) {
                    return Ok(());
                }
                object
            }
            WatchEvent::Gone(object) => {
                self.shown.remove(&object.key());
                object
            }
        };
        self.print(kind, std::slice::from_ref(object))
    }

    fn print(&mut self, kind: Kind, objects: &[AnyObject]) -> Result<()> {
        let is_next = std::mem::replace(&mut self.headed, true);
        let text = self.view.render(kind, objects, !is_next)?;
        // Documents of YAML are told apart.
        let is_yaml = matches!(self.view.output, Output::Yaml);
        (self.print)(&if is_yaml && is_next { format!("---\n{text}") } else { text });
        Ok(())
    }
}

struct View {
    output: Output,
    all_namespaces: bool,
    one: bool,
    /// Whether labels are shown.
    labels: bool,
    /// Whether tables have a first line at all.
    headers: bool,
}

impl View {
    fn render(&self, kind: Kind, objects: &[AnyObject], header: bool) -> Result<String> {
        let header = header && self.headers;
        let list = || match objects {
            [object] if self.one => object.to_json(),
            _ => {
                let items: Vec<_> = objects.iter().map(AnyObject::to_json).collect();
                // As Kubernetes has it: objects of several kinds are a list of any.
                let (version, kind) = match objects.iter().any(|object| object.kind() != kind) {
                    true => ("v1", "List".to_owned()),
                    false => (API_VERSION, format!("{}List", kind.name())),
                };
                json!({"apiVersion": version, "kind": kind, "items": items})
            }
        };
        Ok(match &self.output {
            Output::Json => serde_json::to_string_pretty(&list())?,
            Output::Yaml => to_yaml(&list())?,
            Output::Name => {
                let name = |object: &AnyObject| name(object.kind(), &object.key());
                objects.iter().map(name).collect::<Vec<_>>().join("\n")
            }
            Output::Template(template) => template.render(&list()),
            Output::Columns(columns) => custom(columns, objects, header),
            Output::Table | Output::Wide => {
                let runs = objects.chunk_by(|one, other| one.kind() == other.kind());
                runs.map(|run| self.table(run, header)).collect::<Vec<_>>().join("\n")
            }
        })
    }

    /// A table of objects of one kind.
    fn table(&self, objects: &[AnyObject], with_header: bool) -> String {
        let wide = matches!(self.output, Output::Wide);
        let now = jiff::Timestamp::now();
        let known = objects.first().map_or(&[][..], |object| columns(object.kind()));
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
