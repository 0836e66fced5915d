//! From the top of a configuration to a manifest.

use super::docker;
use super::input::{Fields, Findings, Text, is_nothing, texts};
use super::lost;
use super::network::{self, Shared, Wishes};
use super::node::{Common, Own, Role, template};
use super::provider;
use super::start::start;
use super::tree::{Block, Node, Note};
use super::types::{Type, Types, types};
use super::workers::{Limits, group};
use crate::api::API_VERSION;
use crate::api::object::Kind;
use crate::manifest::{Part, Problem};

const NO_WORKERS: &str = "it is for workers, and there are none.";

/// The manifest; none if there is something wrong with the configuration.
pub(super) fn cluster<'a>(
    root: &Part<'a>,
    defaults: &Part<'a>,
    name: Option<&str>,
    findings: &mut Findings,
) -> Option<Block<'a>> {
    if let Some(problem) = not_ours(root) {
        findings.problems.push(problem);
        return None;
    }
    let mut top = Fields::of(root, findings);
    let mut given = top.fields("provider", findings);
    given.take("type");
    let named = top.text("cluster_name", findings);
    let mut types = types(&mut top, defaults, findings)?;

    let mut head_wishes = network::wishes(&mut types.head.config, findings);
    let mut wishes: Vec<_> =
        types.workers.iter_mut().map(|kind| network::wishes(&mut kind.config, findings)).collect();
    let all: Vec<_> = std::iter::once(&head_wishes).chain(&wishes).collect();
    let mut shared = network::shared(&all);
    let head_only = head_wishes.profile.is_some() && wishes.iter().any(|wishes| wishes.profile.is_none());
    let provider = provider::provider(&mut given, &mut shared, findings);

    let (mut common, mut head, mut workers) = commands(&mut top, findings);
    let mut spec = Block::default();
    spec.say("provider", provider.node(&shared, &mut head.start, head_only, findings));
    provider::auth(&shared, &mut spec);
    auth(&mut top, &mut spec, findings);
    spec.notes(lost::notes(&mut top, lost::MOUNTS));

    spec.notes(std::mem::take(&mut types.notes));
    let notes = head_wishes.differences(&shared);
    spec.say("head", Node::Map(head_node(&mut types, notes, &mut common, &mut head, findings)));
    groups(&mut top, types, &mut wishes, &shared, &mut common, &mut workers, &mut spec, findings);
    spec.notes(lost::notes(&mut top, lost::TOP));
    spec.notes(lost::rest(&mut top));

    let mut manifest = Block::default();
    manifest.say("apiVersion", API_VERSION);
    manifest.say("kind", Kind::RayCluster.to_string());
    manifest.say("metadata", metadata(named, name));
    manifest.say("spec", Node::Map(spec));
    Some(manifest)
}

/// Why a document is nothing to be converted.
fn not_ours(root: &Part<'_>) -> Option<Problem> {
    let text = |name: &str| root.get(name).and_then(|part| part.value().as_str());
    if let (Some(version), Some(kind)) = (text("apiVersion"), root.get("kind")) {
        let ours = version == API_VERSION;
        let what = if ours { "is a manifest already" } else { "is an object of Kubernetes" };
        let help = "`ray up` configurations have cluster_name, provider and available_node_types";
        return Some(kind.problem(format!("{what}, and no configuration of `ray up`")).help(help));
    }
    if !root.value().is_object() {
        return Some(root.wrong("a configuration of `ray up`"));
    }
    let Some(provider) = root.get("provider") else {
        return Some(
            root.problem("`provider` is missing").help("it says where nodes come from: {type: aws, ...}"),
        );
    };
    let Some(kind) = provider.get("type") else {
        return Some(
            provider.problem("`type` is missing").help("only configurations for `aws` are converted"),
        );
    };
    let help = match kind.value().as_str() {
        Some("aws") => {
            return provider.get("region").is_none().then(|| provider.problem("`region` is missing"));
        }
        Some("local") => {
            "start Ray on these machines, and use the cluster with provider: {existing: {address: http://HEAD:8265}}"
        }
        _ => {
            "Rayconcile launches nodes on EC2 only; a cluster that `ray up` makes elsewhere can be used with provider: \
             {existing: {address: http://HEAD:8265, autoscaler: true}}"
        }
    };
    Some(kind.wrong("`aws`, for only that can be converted").help(help))
}

/// What is said of commands and containers.
fn commands<'a>(top: &mut Fields<'a>, findings: &mut Findings) -> (Common<'a>, Role<'a>, Role<'a>) {
    let mut some = |name: &str| top.take(name);
    let docker = some("docker").filter(|part| !is_nothing(part.value()));
    let mut common = Common {
        docker: docker.clone(),
        setup: some("setup_commands"),
        initialization: some("initialization_commands").filter(|part| !is_nothing(part.value())),
        ..Common::default()
    };
    let mut list = |name: &str| some(name).map(|part| texts(&part, findings)).unwrap_or_default();
    let setup = list("head_setup_commands");
    let mut head =
        Role { name: "head", setup, start: start(list("head_start_ray_commands")), notes: Vec::new() };
    let setup = list("worker_setup_commands");
    let workers =
        Role { name: "worker", setup, start: start(list("worker_start_ray_commands")), notes: Vec::new() };
    if let Some(docker) = &docker {
        head.notes = docker::notes(docker, findings);
    }
    if let Some(mounts) = top.peek("file_mounts") {
        common.mounts = mounts.fields().into_iter().map(|(remote, _)| remote.to_owned()).collect();
    }
    (common, head, workers)
}

fn auth<'a>(top: &mut Fields<'a>, spec: &mut Block<'a>, findings: &mut Findings) {
    let mut auth = top.fields("auth", findings);
    spec.notes(lost::notes(&mut auth, lost::AUTH));
    spec.notes(lost::rest(&mut auth));
}

fn head_node<'a>(
    types: &mut Types<'a>,
    mut notes: Vec<Note>,
    common: &mut Common<'a>,
    role: &mut Role<'a>,
    findings: &mut Findings,
) -> Block<'a> {
    let kind = &mut types.head;
    let own = Own::take(&mut kind.fields);
    let workers_too = types.workers.iter().any(|worker| worker.whole.path() == kind.whole.path());
    for name in ["min_workers", "max_workers", "idle_timeout_s"] {
        let part = kind.fields.take(name).filter(|part| part.value().as_u64() != Some(0));
        if let Some(part) = part.filter(|_| !workers_too) {
            notes.push(Note::lost(&part, "it is for workers of this type, and there are none."));
        }
    }
    if !workers_too {
        notes.extend(own.notes());
    }
    template(kind, &Own::default(), common, role, notes, findings)
}

#[allow(clippy::too_many_arguments, reason = "all that is known by now")]
fn groups<'a>(
    top: &mut Fields<'a>,
    types: Types<'a>,
    wishes: &mut [Wishes<'a>],
    shared: &Shared<'a>,
    common: &mut Common<'a>,
    role: &mut Role<'a>,
    spec: &mut Block<'a>,
    findings: &mut Findings,
) {
    let mut limits = Limits::of(top, types.legacy, findings);
    let mut groups = Block::default();
    let all_own = |kind: &Type<'_>| kind.whole.get("worker_setup_commands").is_some();
    let own_setup = !types.workers.is_empty() && types.workers.iter().all(all_own);
    for (mut kind, wishes) in types.workers.into_iter().zip(wishes) {
        let notes = wishes.differences(shared);
        group(&mut kind, notes, &mut limits, common, role, &mut groups, findings);
    }
    if groups.is_empty() {
        groups.notes(unused(common, role, NO_WORKERS));
    } else if own_setup {
        let why = "every node type has commands of its own.";
        groups.notes(role.setup.iter().map(|(_, part)| Note::lost(part, why)));
    }
    spec.notes(limits.notes(findings));
    spec.set_some("workerGroups", Node::List(groups));
}

/// What is said of workers where there are none.
fn unused(common: &Common<'_>, role: &mut Role<'_>, why: &str) -> Vec<Note> {
    let docker = |name: &str| common.docker.as_ref().and_then(|docker| docker.get(name));
    let docker = ["worker_image", "worker_run_options"].into_iter().filter_map(docker);
    let docker = docker.filter(|part| !is_nothing(part.value())).map(|part| Note::lost(&part, why));
    let setup = role.setup.iter().map(|(_, part)| Note::lost(part, why));
    let parameters = role.start.parameters.iter().chain(&role.start.env);
    let start = parameters.map(|(_, (_, part))| Note::lost(part, why));
    let mut notes = std::mem::take(&mut role.start.notes);
    docker.chain(setup).chain(start).for_each(|note| {
        if !notes.contains(&note) {
            notes.push(note);
        }
    });
    notes
}

/// The cluster's name, in the way of names here.
fn metadata<'a>(named: Option<Text<'a>>, wanted: Option<&str>) -> Node<'a> {
    let mut metadata = Block::default();
    match (wanted, named) {
        (Some(name), _) => metadata.say("name", name),
        (None, Some((name, from))) => metadata.need("name", tame(&name, "cluster"), &from),
        (None, None) => metadata.say("name", "default"),
    }
    Node::Map(metadata)
}

/// A text as a name: lower-case letters, digits, `-` and `.`, beginning and ending with a letter or a digit.
pub(super) fn tame(text: &str, otherwise: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(letter).take(50).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { otherwise.to_owned() } else { name.to_owned() }
}
