//! From a configuration of Ray's cluster launcher (`ray up`) to the manifest of a `RayCluster`, and from an AdaptDLJob
//! of AdaptDL's own operator to one of ours (`old.rs`). What both can say is
//! said again; what only the other one can say stands in comments, in its own words, where a reader looks for it.
//!
//! ```text
//! text ──Foreign──> Part ──cluster──> Block ──settle──> text
//! ```
//!
//! A mapping is read by taking from it what is known (`input.rs`); what is then left becomes a comment, so that nothing
//! is lost for being unknown. What is to be written (`tree.rs`) remembers where it comes from: what a manifest may not
//! hold is found by reading the manifest as every other (`settle.rs`), and said of the text that it comes from.
//!
//! The format is described in Ray's documentation, "Cluster YAML Configuration Options", and in Ray's
//! `autoscaler/ray-schema.json` and `autoscaler/_private/{util,docker}.py`; this follows Ray 2.60, and reads what older
//! ones had.
//!
//! Architecture invariant: it is pure. Text goes in, text comes out.

use std::collections::BTreeSet;

use crate::manifest::{Foreign, Problem, Source};
use input::Findings;
use tree::{Block, Note};

mod cluster;
mod docker;
mod input;
mod instance;
mod lost;
mod network;
mod node;
mod old;
mod provider;
mod render;
mod resources;
mod settle;
mod shell;
mod start;
mod tree;
mod types;
mod workers;

/// What came of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The text of the manifest.
    pub manifest: String,
    /// How many settings have no equivalent, and are comments in it.
    pub comments: usize,
    /// What has to be done by hand before it can be used.
    pub advice: Vec<String>,
}

/// Converts a configuration. The cluster's name is the configuration's, unless another is wanted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn convert(source: Source, name: Option<&str>) -> Result<Conversion, Vec<Problem>> {
    let name_of_source = source.name.clone();
    let title = format!(
        "From {}, a configuration of `ray up`. What has no equivalent stands in comments, with the reason.",
        source.name
    );
    let configuration = Foreign::read(source)?;
    if let Some(ours) = configuration.ours(name) {
        return Ok(old::written(&configuration.root(), ours?, &name_of_source));
    }
    let defaults = Foreign::read(Source::new("what `ray up` has by default", types::DEFAULTS, None))?;
    let root = configuration.root();
    let mut findings = Findings::default();
    let tree = cluster::cluster(&root, &defaults.root(), name, &mut findings);
    let Some(tree) = tree.filter(|_| findings.problems.is_empty()) else {
        // What several nodes are told is read for each of them.
        findings.problems.sort_by_key(|problem| problem.position);
        findings.problems.dedup_by_key(|problem| problem.to_string());
        return Err(findings.problems);
    };
    let mut titled = Block::default();
    titled.note(Note::remark(title));
    titled.lines.extend(tree.lines);
    let mut said = BTreeSet::new();
    findings.advice.retain(|advice| said.insert(advice.clone()));
    let (manifest, comments) = settle::settle(titled, &root)?;
    Ok(Conversion { manifest, comments, advice: findings.advice })
}
