//! The processes of this machine that carry the mark of a launch.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LAUNCH_VARIABLE;
use crate::api::observed::LocalNode;

/// A process that carries the mark of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// The launch it belongs to.
    pub launch: String,
    /// Its command line.
    command: Vec<String>,
}

impl Marked {
    /// Whether it is the `ray start` of its launch.
    pub(super) fn is_leader(&self) -> bool {
        let words: Vec<&str> = self.command.iter().map(String::as_str).collect();
        words.windows(2).any(|pair| pair == ["ray.scripts.scripts", "start"])
    }

    /// The daemon it is, of those without which a node is none.
    fn daemon(&self) -> Option<Daemon> {
        let name = self.command.first()?.rsplit('/').next()?;
        match name {
            "raylet" => Some(Daemon::Raylet),
            "gcs_server" => Some(Daemon::Gcs),
            _ => None,
        }
    }

    /// Signals it, if it still is the process that was seen.
    pub(super) fn signal(&self, signal: Signal) {
        if is_alive(self.pid, self.started) {
            // It may have ended in between: that is what is wanted.
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Raylet,
    Gcs,
}

/// Every process of this user that carries a mark.
pub fn marked() -> std::io::Result<Vec<Marked>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Of other users' processes, and of those that are just ending, the environment cannot be read.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let prefix = format!("{LAUNCH_VARIABLE}=");
        let Some(launch) = words(&environment).find_map(|word| word.strip_prefix(&prefix).map(str::to_owned))
        else {
            continue;
        };
        let (Some(started), Ok(command)) = (start_time(pid), fs::read(format!("/proc/{pid}/cmdline"))) else {
            continue;
        };
        found.push(Marked { pid, started, launch, command: words(&command).map(str::to_owned).collect() });
    }
    Ok(found)
}

/// What the processes of one launch show of its node.
pub(super) fn describe<'a>(processes: impl Iterator<Item = &'a Marked>) -> LocalNode {
    let mut node = LocalNode::default();
    for process in processes {
        node.processes += 1;
        if process.is_leader() {
            node.leader = Some((process.pid, process.started));
        }
        match process.daemon() {
            Some(Daemon::Raylet) => node.raylet = true,
            Some(Daemon::Gcs) => node.gcs = true,
            None => continue,
        }
        node.daemons.push((process.pid, process.started));
    }
    node
}

/// Whether a process that was seen still lives.
pub fn is_alive(pid: u32, started: u64) -> bool {
    start_time(pid) == Some(started)
}

/// When a process started, in clock ticks since boot; `None` for one that is gone or a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; the fields after it are plain (proc(5): state is the third, the
    // start time the twenty-second).
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|word| std::str::from_utf8(word).ok())
        .filter(|word| !word.is_empty())
}
