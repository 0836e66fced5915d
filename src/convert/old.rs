//! An AdaptDLJob of AdaptDL's own operator for Kubernetes, as one of ours.

use serde_json::Value;

use super::Conversion;
use super::lost::merge;
use super::render::render;
use super::tree::{Block, Node, Note};
use crate::manifest::{Ours, Part};

/// The text of a manifest, with what has no meaning in comments at its end.
pub(super) fn written<'a>(root: &Part<'a>, ours: Ours<'a>, source: &str) -> Conversion {
    let mut text = Block::default();
    text.note(Note::remark(format!(
        "From {source}, an AdaptDLJob of AdaptDL's operator for Kubernetes. What has no meaning here stands in comments \
         at the end, with the reason."
    )));
    let Value::Object(fields) = ours.value else {
        return Conversion { manifest: String::new(), comments: 0, advice: Vec::new() };
    };
    for name in ["apiVersion", "kind", "metadata", "spec"] {
        if let Some(value) = fields.get(name) {
            text.give(name, node(value, root), root);
        }
    }
    let mut notes = Vec::new();
    ours.lost.iter().for_each(|(part, why)| merge(&mut notes, Note::lost(part, sentence(why))));
    text.notes(notes);
    let advice = ours.remarks.iter().map(ToString::to_string).collect();
    Conversion { manifest: render(&text), comments: text.settings(), advice }
}

/// As what a comment says.
fn sentence(why: &str) -> String {
    if why == "has no meaning here, and is left out" {
        return "nothing here is like it.".to_owned();
    }
    let what = why
        .strip_prefix("has no meaning here: ")
        .or(why.strip_prefix("has no meaning here, and "))
        .unwrap_or(why);
    format!("{what}.")
}

fn node<'a>(value: &Value, root: &Part<'a>) -> Node<'a> {
    let mut block = Block::default();
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| block.give(name.clone(), node(value, root), root));
            Node::Map(block)
        }
        Value::Array(items) => {
            items.iter().for_each(|item| block.push(node(item, root), root));
            Node::List(block)
        }
        scalar => Node::from(scalar.clone()),
    }
}
