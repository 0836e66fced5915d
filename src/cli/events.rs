//! `events`: show what happened.

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use futures_util::{StreamExt as _, pin_mut};

use super::complete;
use super::sync::find;
use super::target::object;
use super::text::{age, prose_table};
use super::{Context, ExitStatus, Scope};
use crate::api::event::Subject;
use crate::api::object::Kind;
use crate::client::EventView;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    scope: Scope,
    /// Only of this object, or of this source (source/DIRECTORY)
    #[arg(long = "for", value_name = "KIND/NAME", add = ArgValueCandidates::new(complete::objects))]
    object: Option<String>,
    /// Go on as they come
    #[arg(short, long)]
    watch: bool,
}

pub(super) async fn run(context: &Context, args: EventsArgs) -> Result<ExitStatus> {
    let client = context.client()?;
    let mut source = None;
    let selector = match &args.object {
        Some(word) if word.starts_with("source/") => {
            let word = word.trim_start_matches("source/");
            source = Some(find(&client.sources().await?, Some(word))?.directory.clone());
            format!("involvedObject.kind={}", Subject::Source.name())
        }
        Some(word) => {
            let (kind, key) = object(std::slice::from_ref(word), &args.scope.namespace)?;
            format!("involvedObject.kind={},involvedObject.name={}", kind.name(), key.name)
        }
        None => String::new(),
    };
    // A source is in no namespace, and its name may have what means something in a selector.
    let namespace = args.scope.namespace().filter(|_| source.is_none());
    let is_meant = |event: &EventView| source.as_ref().is_none_or(|name| event.involved_object.name == *name);
    if !args.watch {
        let mut events = client.events(namespace, &selector).await?;
        events.retain(is_meant);
        if events.is_empty() {
            context.printer.talk("no events");
        } else {
            context.printer.data(&render(&events, context.printer.screen()));
        }
        return Ok(ExitStatus::Success);
    }
    let events = client.watch_events(namespace, &selector).await?;
    pin_mut!(events);
    while let Some(event) = events.next().await.transpose()? {
        if is_meant(&event) {
            context.printer.data(&line(&event));
        }
    }
    Ok(ExitStatus::Success)
}

/// Events as a table, on a screen of some width if one shows it.
pub(super) fn render(events: &[EventView], screen: Option<usize>) -> String {
    let row = |event: &EventView| {
        let times = if event.count > 1 {
            format!("{} (×{})", age(event.last_timestamp), event.count)
        } else {
            age(event.last_timestamp)
        };
        vec![times, event.event_type.clone(), event.reason.clone(), about(event), event.message.clone()]
    };
    let rows: Vec<Vec<String>> = events.iter().map(row).collect();
    prose_table("", &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], &rows, screen)
}

/// An event as one line, with its time and its object.
pub(super) fn line(event: &EventView) -> String {
    format!("{} {} {} {}: {}", time(event), event.event_type, about(event), event.reason, event.message)
}

/// An event as one line where everybody knows of which object.
pub(super) fn short_line(event: &EventView) -> String {
    let mark = if event.event_type == "Warning" { "Warning " } else { "" };
    format!("{} {mark}{}: {}", time(event), event.reason, event.message)
}

fn time(event: &EventView) -> String {
    event.last_timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// What an event is about: `KIND/NAME`. Of a source the end of its name is enough for `--for`, and fits a screen.
fn about(event: &EventView) -> String {
    let (kind, name) = (&event.involved_object.kind, &event.involved_object.name);
    if kind == Subject::Source.name() {
        let name = name.trim_end_matches('/');
        return format!("source/{}", name.rsplit('/').next().unwrap_or(name));
    }
    let kind =
        Kind::ALL.iter().find(|known| known.name() == kind).map_or(kind.as_str(), |kind| kind.singular());
    format!("{kind}/{name}")
}
