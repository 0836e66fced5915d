//! What a node is: the head, or a node of a group.

use super::docker;
use super::input::{Fields, Findings, Text, is_nothing, texts};
use super::instance;
use super::lost;
use super::resources::{self, Resources};
use super::start::Start;
use super::tree::{Block, Node, Note};
use super::types::Type;
use crate::manifest::Part;

/// What all nodes are told.
#[derive(Debug, Default)]
pub(super) struct Common<'a> {
    /// `docker`.
    pub(super) docker: Option<Part<'a>>,
    /// `setup_commands`.
    pub(super) setup: Option<Part<'a>>,
    /// `initialization_commands`.
    pub(super) initialization: Option<Part<'a>>,
    /// Whether it was said that those are not converted.
    pub(super) told: bool,
    /// The paths of files that would be copied to nodes.
    pub(super) mounts: Vec<String>,
}

/// What the head alone is told, or workers alone.
#[derive(Debug, Default)]
pub(super) struct Role<'a> {
    /// `head` or `worker`.
    pub(super) name: &'static str,
    /// Commands after the common ones.
    pub(super) setup: Vec<Text<'a>>,
    /// What starts Ray.
    pub(super) start: Start<'a>,
    /// What is to be said where the first node of the role is described.
    pub(super) notes: Vec<Note>,
}

/// What a node type has for its workers alone.
#[derive(Debug, Default)]
pub(super) struct Own<'a> {
    pub(super) docker: Option<Part<'a>>,
    pub(super) setup: Option<Part<'a>>,
    pub(super) initialization: Option<Part<'a>>,
}

const HEAD: &str = "With `ray up` tasks run on the head too, on all its CPUs. Here they do if you say how \
                    many: `cpu` of `resources`.";
const HEAD_SPOT: &str =
    "the head is always on demand: with it everything on the cluster would be interrupted.";
const HOST: &str = "they would be run on the machine, before its container is started: have the image do \
                    it. Logging in to ECR takes no command: the instance profile allows it.";
const INSTALL: &str = "which ray || pip install -U 'ray[default]'";
const INSTALLED: &str = "Without `setup_commands`, `ray up` installs Ray's latest wheel where there is \
                         none. Give a version: it should be the one that your jobs use.";
const LOGIN: &str = "Commands are run, and Ray is started, without a login shell: what ~/.bashrc or a \
                     profile sets belongs in `env`.";
const DISKS: &str =
    "`dataPath` formats and mounts disks, `fileSystems` mounts EFS; these may replace such commands.";

impl<'a> Own<'a> {
    /// Takes it from a type.
    pub(super) fn take(fields: &mut Fields<'a>) -> Self {
        let mut take = |name: &str| fields.take(name).filter(|part| !is_nothing(part.value()));
        Self {
            docker: take("docker"),
            setup: take("worker_setup_commands"),
            initialization: take("initialization_commands"),
        }
    }

    /// All of it, where there are no such workers.
    pub(super) fn notes(&self) -> Vec<Note> {
        let parts = [&self.docker, &self.setup, &self.initialization].into_iter().flatten();
        parts.map(|part| Note::lost(part, "it is for workers of this type, and there are none.")).collect()
    }
}

/// A node's template.
pub(super) fn template<'a>(
    kind: &mut Type<'a>,
    own: &Own<'a>,
    common: &mut Common<'a>,
    role: &mut Role<'a>,
    mut notes: Vec<Note>,
    findings: &mut Findings,
) -> Block<'a> {
    let is_head = role.name == "head";
    let mut start = role.start.clone();
    let told = std::mem::take(&mut start.notes);
    role.start.notes.clear();
    let given = kind.fields.take("resources").or_else(|| kind.config.take("resources"));
    let mut resources = given.map(|part| Resources::of(&part, findings)).unwrap_or_default();
    resources.take(&mut start);
    let labels = resources::labels(kind.fields.take("labels").as_ref(), &mut start, findings);

    let mut template = Block::default();
    if is_head && !resources.has("CPU") {
        template.note(Note::remark(HEAD));
    }
    let store = resources.write(&mut template);
    template.set_some("labels", Node::Map(labels));
    if let Some((store, from)) = store {
        template.set("objectStoreMemory", store, &from);
    }
    template.notes(lost::notes(&mut kind.fields, lost::TYPE));
    template.notes(lost::rest(&mut kind.fields));

    let mut instance = Block::default();
    instance::machine(kind, &mut instance, findings);
    instance::volumes(&mut kind.config, &mut instance, findings);
    if is_head {
        let market = kind.config.take("InstanceMarketOptions").filter(|part| !is_nothing(part.value()));
        notes.extend(market.map(|market| Note::lost(&market, HEAD_SPOT)));
    }
    notes.extend(instance::rest(&mut kind.config));
    instance.notes(notes);
    commands(own, common, role, &mut start, &mut instance, findings);
    instance.notes(told);
    instance.notes(std::mem::take(&mut start.notes));
    template.say("instance", Node::Map(instance));
    template
}

/// What is run on a node before Ray, and how Ray is started.
fn commands<'a>(
    own: &Own<'a>,
    common: &mut Common<'a>,
    role: &mut Role<'a>,
    start: &mut Start<'a>,
    instance: &mut Block<'a>,
    findings: &mut Findings,
) {
    let mut container = docker::container(common.docker.as_ref(), own.docker.as_ref(), role.name, findings);
    let docker = container.node();
    let has_container = docker.is_some();
    instance.notes(std::mem::take(&mut role.notes));
    instance.notes(own.docker.iter().flat_map(|docker| docker::notes(docker, findings)));
    instance.notes(std::mem::take(&mut container.notes));
    if let Some(docker) = docker {
        instance.say("docker", docker);
    }

    let mut setup = Block::default();
    let mut all = Vec::new();
    let initialization = own.initialization.as_ref().or(common.initialization.as_ref());
    if let Some(part) = initialization {
        let is_common = own.initialization.is_none();
        match has_container {
            false => all.extend(texts(part, findings)),
            true if is_common && common.told => {}
            true => instance.note(Note::lost(part, HOST)),
        }
        common.told |= is_common && has_container;
    }
    match (&own.setup, &common.setup) {
        (Some(own), _) => all.extend(texts(own, findings)),
        (None, given) => {
            match given {
                Some(part) => all.extend(texts(part, findings)),
                None if has_container => {}
                None => {
                    setup.note(Note::remark(INSTALLED));
                    setup.push_ours(INSTALL);
                }
            }
            all.extend(role.setup.iter().cloned());
        }
    }
    write_commands(all, &common.mounts, &mut setup, instance, findings);

    let mut parameters = Block::default();
    for (name, (value, from)) in std::mem::take(&mut start.parameters) {
        parameters.give(name, value, &from);
    }
    instance.set_some("rayStart", Node::Map(parameters));
    environment([container.env, std::mem::take(&mut start.env)].concat(), instance, findings);
}

fn write_commands<'a>(
    commands: Vec<Text<'a>>,
    mounts: &[String],
    setup: &mut Block<'a>,
    instance: &mut Block<'a>,
    findings: &mut Findings,
) {
    let any = |words: &[&str]| commands.iter().any(|(text, _)| words.iter().any(|word| text.contains(word)));
    if any(&["bashrc", "bash_profile", "/.profile"]) {
        instance.note(Note::remark(LOGIN));
    }
    if any(&["mkfs", "mdadm", "mount "]) {
        instance.note(Note::remark(DISKS));
    }
    for (command, from) in commands {
        // What ends with a line break is no other command.
        let command = command.trim_end();
        let copied = mounts.iter().find(|path| command.contains(path.trim_start_matches("~/")));
        if let Some(path) = copied {
            setup.note(Note::to_do(format!("it uses {path}, which `file_mounts` would have copied.")));
            findings
                .advice
                .push(format!("a set-up command uses {path}, which nobody copies to the nodes: {command}"));
        }
        if !command.is_empty() {
            setup.push(command, &from);
        }
    }
    instance.set_some("setupCommands", Node::List(std::mem::take(setup)));
}

/// Variables; of two with one name the last counts.
fn environment<'a>(variables: Vec<(String, Text<'a>)>, instance: &mut Block<'a>, findings: &mut Findings) {
    let mut env = Block::default();
    for (index, (name, (value, from))) in variables.iter().enumerate() {
        if variables.iter().skip(index + 1).any(|(later, _)| later == name) {
            continue;
        }
        let upper = name.to_uppercase();
        if ["SECRET", "PASSWORD", "TOKEN", "API_KEY"].iter().any(|word| upper.contains(word)) {
            env.note(Note::to_do(
                "if this is a secret, it is none here: the manifest and the user data hold it.",
            ));
            findings.advice.push(format!("{name} may be a secret: whoever is on an instance can read it"));
        }
        let mut variable = Block::default();
        variable.say("name", name.as_str());
        variable.say("value", value.as_str());
        env.push(Node::Map(variable), from);
    }
    instance.set_some("env", Node::List(env));
}
