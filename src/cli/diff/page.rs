//! A review for people.

use serde_json::Value;

use super::super::printer::Printer;
use super::super::target::name;
use super::super::text::{paragraph, table};
use super::fields::{FieldChange, changes};
use crate::api::money::Money;
use crate::api::review::{Change, ChangeKind, ClusterReview, JobReview, NodeReview, ObjectReview, Review};
use crate::api::words::count;
use crate::manifest::to_yaml;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";

/// Nodes of one kind beyond this many are only counted.
const MOST_NODES: usize = 20;

/// The whole page.
pub(super) fn page(printer: Printer, review: &Review) -> String {
    let page = Page { printer };
    let differing = review.objects.iter().filter(|object| object.change != ChangeKind::Unchanged);
    let mut text: String = differing.map(|object| page.object(object)).collect();
    text.push('\n');
    if review.clusters.is_empty() {
        text.push_str("Nothing would be done about it now.\n");
    } else {
        text.push_str(&printer.tint(BOLD, "What would be done, as far as can be told now:"));
        text.push('\n');
        text.extend(review.clusters.iter().map(|cluster| page.cluster(cluster)));
    }
    text
}

struct Page {
    printer: Printer,
}

impl Page {
    fn object(&self, object: &ObjectReview) -> String {
        let (style, word) = match object.change {
            ChangeKind::Created => (GREEN, "would be created"),
            ChangeKind::Configured => (YELLOW, "would be changed"),
            ChangeKind::Unchanged => (BOLD, "would stay as it is"),
            ChangeKind::Deleted => (RED, "would be deleted"),
            ChangeKind::Refused => (RED, "would be refused"),
        };
        let title = name(object.name.kind, &object.name.key);
        let mut text = format!("{} {word}\n", self.printer.tint(style, &title));
        if let Some(message) = &object.message {
            text.push_str(&self.paragraph("  ", message));
        }
        let fields = changes(object);
        let width = fields.iter().map(|field| field.path.chars().count()).max().unwrap_or(0).min(32);
        text.extend(fields.iter().map(|field| self.field(field, width)));
        text
    }

    fn field(&self, change: &FieldChange, width: usize) -> String {
        let FieldChange { path, before, after } = change;
        if before == after {
            // Both are hidden.
            return format!("  {path:width$}  {}\n", self.printer.tint(YELLOW, "(hidden, and another)"));
        }
        let (old, new) = (before.as_ref().map(shown), after.as_ref().map(shown));
        let text = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
        let (left, right) = (text(&old), text(&new));
        let length = width + left.chars().count() + right.chars().count() + 8;
        if length <= self.printer.data_width() && !left.contains('\n') && !right.contains('\n') {
            let (left, right) = (self.printer.tint(RED, &left), self.printer.tint(GREEN, &right));
            return format!("  {path:width$}  {left} → {right}\n");
        }
        let lines = |sign: &str, style: &str, side: &Option<String>| -> String {
            let lines = side.iter().flat_map(|side| side.lines());
            lines
                .map(|line| format!("    {}\n", self.printer.tint(style, &format!("{sign} {line}"))))
                .collect()
        };
        format!("  {path}\n{}{}", lines("-", RED, &old), lines("+", GREEN, &new))
    }

    fn cluster(&self, review: &ClusterReview) -> String {
        let mut text = String::new();
        let nodes = review.nodes;
        if nodes.before != nodes.after || !review.launched.is_empty() || !review.given_back.is_empty() {
            text.push_str(&format!("    worker nodes   {}\n", self.numbers(nodes)));
        }
        if let Some(cost) = review.per_hour {
            let cost = if cost.before == cost.after {
                format!("{} as now", cost.after.hourly())
            } else {
                format!("{} → {}", cost.before.hourly(), self.printer.tint(BOLD, &cost.after.hourly()))
            };
            text.push_str(&format!("    cost           {cost}\n"));
        }
        if !review.unpriced.is_empty() {
            let without = format!("without {}, whose price is not known", review.unpriced.join(", "));
            text.push_str(&self.paragraph("                   ", &without));
        }
        text.push_str(&self.nodes("launched", GREEN, &review.launched));
        text.push_str(&self.nodes("given back", RED, &review.given_back));
        for message in &review.waiting {
            text.push_str(&self.told("waits", message));
        }
        if let Some(unknown) = &review.unknown {
            text.push_str(&self.told("not known", unknown));
        }
        if !text.is_empty() {
            text.insert_str(0, &format!("  cluster {}\n", review.key));
        }
        text.extend(review.jobs.iter().map(|job| self.job(job)));
        text
    }

    fn nodes(&self, title: &str, style: &str, nodes: &[NodeReview]) -> String {
        let row = |node: &NodeReview| {
            let price = node.price.map_or_else(String::new, Money::hourly);
            [node.name.clone(), node.what.clone(), price, node.why.clone().unwrap_or_default()]
        };
        let rows: Vec<[String; 4]> = nodes.iter().take(MOST_NODES).map(row).collect();
        let used: Vec<usize> =
            (0..4).filter(|column| rows.iter().any(|row| !row[*column].is_empty())).collect();
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| used.iter().map(|column| row[*column].clone()).collect()).collect();
        let mut text = String::new();
        let empty = vec![""; used.len()];
        for (number, line) in table("", &empty, &rows).lines().skip(1).enumerate() {
            let title = if number == 0 { title } else { "" };
            text.push_str(&format!("    {title:13}  {}\n", self.printer.tint(style, line)));
        }
        if nodes.len() > MOST_NODES {
            text.push_str(&format!("    {:13}  and {} more\n", "", nodes.len() - MOST_NODES));
        }
        text
    }

    fn job(&self, review: &JobReview) -> String {
        let mut text = format!("  job {}\n", review.key);
        if review.workers != Change::default() {
            text.push_str(&format!("    workers        {}\n", self.numbers(review.workers)));
        }
        for group in &review.groups {
            let to = count(group.to, "worker");
            let message = format!("{} → {to} ({}): {}", group.from, group.reason, group.message);
            text.push_str(&self.told(if group.from == 0 { "starts" } else { "rescaled" }, &message));
        }
        if !review.scaling.is_empty()
            && !review.groups.iter().any(|group| group.message.contains(&review.scaling))
        {
            text.push_str(&self.told("because", &review.scaling));
        }
        for message in &review.waiting {
            text.push_str(&self.told("waits", message));
        }
        text
    }

    fn numbers(&self, Change { before, after }: Change<u32>) -> String {
        if before == after {
            return format!("{after} as now");
        }
        format!("{before} → {}", self.printer.tint(BOLD, &after.to_string()))
    }

    fn told(&self, title: &str, message: &str) -> String {
        self.paragraph(&format!("    {title:13}  "), message)
    }

    fn paragraph(&self, title: &str, text: &str) -> String {
        paragraph(title, text, self.printer.data_width())
    }
}

/// What is longer than this is written as a block.
const LONGEST: usize = 48;

/// A value as it stands in a manifest: texts without quotes where that cannot be misread.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) if value.to_string().len() > LONGEST => {
            to_yaml(value).unwrap_or_else(|_| value.to_string())
        }
        Value::String(text) if text.contains('\n') => text.clone(),
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || "_-./:=@%()+ ".contains(c);
    !text.is_empty()
        && text.trim() == text
        && text.chars().all(word)
        && !matches!(text, "true" | "false" | "null")
        && text.parse::<f64>().is_err()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_in_the_docs_is_what_is_printed() {
        let node = |name: &str, zone: &str| {
            let what = format!("g5.xlarge spot {zone}");
            json!({"name": name, "what": what, "price": "0.40"})
        };
        let job = |replicas: u32| json!({"spec": {"scaling": {"replicas": replicas}}});
        let review = json!({
            "objects": [{
                "kind": "AdaptDLJob", "namespace": "default", "name": "cifar", "change": "Configured",
                "before": job(2), "after": job(5),
            }],
            "clusters": [{
                "namespace": "default", "name": "gpu", "nodes": {"before": 1, "after": 3},
                "perHour": {"before": "0.496", "after": "1.296"},
                "launched": [node("gpu-a-3", "us-west-2a"), node("gpu-a-4", "us-west-2b")],
                "jobs": [{
                    "namespace": "default", "name": "cifar", "workers": {"before": 2, "after": 5},
                    "groups": [{
                        "from": 2, "to": 5, "reason": "ReplicasChanged",
                        "message": "the manifest allows 1 to 64 workers; the manifest wants 5 workers",
                    }],
                }],
            }],
        });
        let page = page(Printer::piped(), &serde_json::from_value(review).unwrap());
        let docs = include_str!("../../../docs/command-line.md");
        let shown = docs.split("$ rayconcile diff -f job.yaml\n").nth(1).unwrap();
        let shown = shown.split("```").next().unwrap();
        // The docs may have other line breaks: their screen is not so wide.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&page), words(shown));
    }
}
