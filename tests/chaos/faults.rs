//! What can be done to a cluster and its jobs, and how it is done.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::metadata::Metadata;
use crate::support::{World, pids, session};

/// A kind of fault, or of wish that comes at a bad moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillWorker,
    StopWorker,
    KillForkServer,
    KillSlot,
    KillBridge,
    KillAgent,
    KillRaylet,
    KillHead,
    KillController,
    Interrupt,
    Rebalance,
    Rescale,
    Suspend,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::KillWorker,
        Self::StopWorker,
        Self::KillForkServer,
        Self::KillSlot,
        Self::KillBridge,
        Self::KillAgent,
        Self::KillRaylet,
        Self::KillHead,
        Self::KillController,
        Self::Interrupt,
        Self::Rebalance,
        Self::Rescale,
        Self::Suspend,
    ];

    /// The fault of this name, such as `kill-worker`.
    pub(crate) fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.unwrap_or_else(|| {
            panic!("{name} is no fault; these are: {}", Self::ALL.map(Self::name).join(" "))
        })
    }

    /// Its name: that of the variant, as words on a command line are written.
    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// How often it comes beside the others. The head is lost once, when the storm says.
    pub(crate) fn weight(self) -> usize {
        match self {
            Self::KillWorker | Self::Rescale => 3,
            Self::KillController | Self::KillRaylet | Self::Interrupt | Self::KillForkServer => 2,
            Self::KillHead => 0,
            _ => 1,
        }
    }
}

/// A node that a fault may hit.
pub(crate) struct Node {
    pub(crate) name: String,
    /// Empty while nobody can say it.
    pub(crate) address: String,
    /// Its main process, whose session all its other processes are in.
    pub(crate) main: u32,
}

/// The nodes of the cluster that have processes: the head or the others.
pub(crate) fn nodes(world: &World, head: bool) -> Vec<Node> {
    let cluster = world.get("cluster", "c");
    let nodes = cluster["status"]["nodes"].as_array().cloned().unwrap_or_default();
    let wanted = nodes.into_iter().filter(|node| node["group"].is_null() == head);
    let node = |node: Value| {
        Some(Node {
            name: node["name"].as_str()?.to_owned(),
            address: node["address"].as_str().unwrap_or_default().to_owned(),
            main: u32::try_from(node["pid"].as_u64()?).ok()?,
        })
    };
    wanted.filter_map(node).collect()
}

/// Signals one of the world's processes whose command has these words in it; says which.
pub(crate) fn strike(
    world: &World,
    random: &mut fastrand::Rng,
    words: &str,
    main: Option<u32>,
) -> Option<String> {
    let inside = main.map(session);
    let found: Vec<(u32, String)> = world
        .processes()
        .into_iter()
        .filter(|(pid, command)| {
            command.contains(words) && inside.is_none_or(|inside| session(*pid) == inside)
        })
        .collect();
    let (pid, command) = random.choice(found)?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok()?;
    Some(format!("SIGKILL {pid} {}", command.chars().take(60).collect::<String>()))
}

/// Kills the raylet of a node.
pub(crate) fn kill_raylet(world: &World, random: &mut fastrand::Rng, node: &Node) -> Option<String> {
    let said = strike(world, random, "/raylet/raylet ", Some(node.main))?;
    Some(format!("{}: {said}", node.name))
}

/// Signals a worker of a job; says which.
pub(crate) fn hit_worker(
    world: &World,
    random: &mut fastrand::Rng,
    job: &str,
    with: Signal,
) -> Option<String> {
    let pid = random.choice(pids(&world.job(job)))?;
    kill(Pid::from_raw(i32::try_from(pid).ok()?), with).ok()?;
    Some(format!("{job}: {with} {pid}"))
}

/// A node that can be told of what will happen to it.
pub(crate) fn addressed(world: &World, random: &mut fastrand::Rng) -> Option<Node> {
    random.choice(nodes(world, false).into_iter().filter(|node| !node.address.is_empty()).collect::<Vec<_>>())
}

/// Announces that a node's spot instance is reclaimed; says which.
pub(crate) fn interrupt(metadata: &Metadata, node: &Node, after: Duration) -> String {
    metadata.interrupt(&node.address, after);
    format!("{}: it is reclaimed in {after:.1?}", node.name)
}
