//! `describe`: everything of an object.

mod groups;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;

use super::complete;
use super::target::{found, name, object};
use super::text::{age, fitted, folded, prose_table};
use super::{Context, ExitStatus, events, status};
use crate::api::condition::Condition;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::AnyObject;
use crate::manifest::to_yaml;

/// What stands before each line of a section.
const INDENT: &str = "  ";

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The object: KIND NAME, KIND/NAME, or a job's name
    #[arg(required = true, add = ArgValueCandidates::new(complete::objects))]
    object: Vec<String>,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

pub(super) async fn run(context: &Context, args: DescribeArgs) -> Result<ExitStatus> {
    let (kind, key) = object(&args.object, &args.namespace)?;
    let client = context.client()?;
    let object = found(&client, kind, &key).await?;
    let selector = format!("involvedObject.uid={}", object.uid());
    let events = client.events(Some(&key.namespace), &selector).await?;
    let screen = context.printer.screen();
    let inner = screen.map(|width| width - INDENT.len());
    let mut page = String::new();
    let _ = writeln!(page, "Name:        {}", name(kind, &key));
    let _ = writeln!(page, "Namespace:   {}", key.namespace);
    let _ = writeln!(page, "UID:         {}", object.uid());
    let _ = writeln!(page, "Generation:  {}", object.metadata().generation);
    if let Some(created) = object.metadata().creation_timestamp {
        let _ = writeln!(page, "Created:     {created:.0} ({} ago)", age(created));
    }
    if let Some(deleted) = object.metadata().deletion_timestamp {
        let _ = writeln!(page, "Deleted:     {deleted:.0} ({} ago)", age(deleted));
    }
    pairs(&mut page, "Labels:", &object.metadata().labels, screen);
    pairs(&mut page, "Annotations:", &object.metadata().annotations, screen);
    let _ = write!(page, "\nSpec:\n{}", indented(&to_yaml(&object.spec())?));
    let _ = write!(
        page,
        "\nState:\n{}",
        indented(folded(&status::object_page(&object, inner), inner).trim_end())
    );
    let _ = write!(page, "\nConditions:\n{}", conditions(&object, screen));
    if let AnyObject::Job(job) = &object
        && !job.status.history.is_empty()
    {
        let _ = write!(page, "\nGroups:\n{}", groups::render(&job.status.history));
    }
    if !events.is_empty() {
        let _ = write!(page, "\nEvents:\n{}", indented(&events::render(&events, inner)));
    }
    context.printer.data(&page);
    Ok(ExitStatus::Success)
}

fn pairs(page: &mut String, title: &str, pairs: &BTreeMap<String, String>, screen: Option<usize>) {
    let mut title = title;
    for (name, value) in pairs {
        page.push_str(&fitted(&format!("{title:<12} "), &format!("{name}={value}"), screen));
        title = "";
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{INDENT}{line}\n")).collect()
}

fn conditions(object: &AnyObject, screen: Option<usize>) -> String {
    let conditions: &[Condition] = match object {
        AnyObject::Job(job) => &job.status.conditions,
        AnyObject::Cluster(cluster) => &cluster.status.conditions,
    };
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            vec![
                condition.kind.clone(),
                format!("{:?}", condition.status),
                age(condition.last_transition_time),
                condition.reason.clone(),
                condition.message.lines().next().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    prose_table(INDENT, &["TYPE", "STATUS", "FOR", "REASON", "MESSAGE"], &rows, screen)
}
