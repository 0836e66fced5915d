//! What a process is told when it is started as a worker: AdaptDL's variables, and, from Rayconcile, a few more words.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde::Deserialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::TrainError;
use super::control::{Control, Word};
use super::ring::{Ring, RingConfig, RingError};
use super::supervisor::Supervisor;

/// What AdaptDL's programs end with when they were told to: 128 + SIGTERM.
const SIGTERM_EXIT: i32 = 143;
/// How long replicas may take to meet. They are started together, but one may have to wait for its node's memory.
const MEETING: Duration = Duration::from_secs(300);
/// A replica that gives no sign of life for so long is taken for dead. One that is killed is noticed at once.
const SILENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether this process is to end, while it waits for others.
const LOOK: Duration = Duration::from_millis(100);

/// This process as one replica of a job.
///
/// The variables are AdaptDL's, and those of its launchers; without them there is one replica, which reports to nobody.
pub struct Worker {
    rank: u32,
    replicas: u32,
    nodes: u32,
    group: u64,
    master_port: u16,
    checkpoint: Option<PathBuf>,
    share: Option<PathBuf>,
    secret: Vec<u8>,
    supervisor: Option<Supervisor>,
    slot: Option<Slot>,
    stop: Arc<AtomicBool>,
}

/// What a worker shares with the slot that has started it.
struct Slot {
    control: Control,
    saves: PathBuf,
}

/// The file that `RAYCONCILE_WORKER` names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlotConfig {
    control: PathBuf,
    saves: PathBuf,
    group_secret: String,
}

impl Worker {
    /// Reads the variables, and takes note of SIGTERM and SIGINT from now on: replicas then save after the same step
    /// and exit with 143. A second SIGINT ends the process at once.
    ///
    /// # Errors
    /// If a variable is not what it should be, or the control page cannot be used.
    pub fn from_env() -> Result<Self, TrainError> {
        let mut worker = Self::new(&|name| env::var_os(name))?;
        worker.stop = listen().map_err(|source| TrainError::File { path: "signals".into(), source })?;
        Ok(worker)
    }

    fn new(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, TrainError> {
        let variables = Variables(variable);
        let replicas = variables.number("ADAPTDL_NUM_REPLICAS", 1, "a number from 1")?;
        let rank =
            variables.number("ADAPTDL_REPLICA_RANK", 0, "a number from 0, less than ADAPTDL_NUM_REPLICAS")?;
        // An older launcher leaves it out, and has every worker taken for a node of its own.
        let nodes =
            variables.number("ADAPTDL_NUM_NODES", replicas, "a number from 1 to ADAPTDL_NUM_REPLICAS")?;
        if replicas == 0 {
            return Err(invalid("ADAPTDL_NUM_REPLICAS", replicas, "a number from 1"));
        }
        if rank >= replicas {
            return Err(invalid(
                "ADAPTDL_REPLICA_RANK",
                rank,
                "a number from 0, less than ADAPTDL_NUM_REPLICAS",
            ));
        }
        if !(1..=replicas).contains(&nodes) {
            return Err(invalid("ADAPTDL_NUM_NODES", nodes, "a number from 1 to ADAPTDL_NUM_REPLICAS"));
        }
        let config = variables.path("RAYCONCILE_WORKER").map(|path| SlotConfig::read(&path)).transpose()?;
        let secret = match &config {
            Some(config) => config.group_secret.clone(),
            None => variables.text("RAYCONCILE_GROUP_SECRET")?.unwrap_or_default(),
        };
        if replicas > 1 && secret.is_empty() {
            return Err(TrainError::Environment {
                variable: "RAYCONCILE_GROUP_SECRET",
                found: "missing".into(),
                expected: "a secret that all replicas share, for there are several",
            });
        }
        let url = variables.text("ADAPTDL_SUPERVISOR_URL")?;
        let job = variables.text("ADAPTDL_JOB_ID")?;
        let supervisor = match (url, job) {
            (Some(url), Some(job)) => Some(Supervisor::new(&url, job)),
            _ if replicas > 1 => {
                return Err(TrainError::Environment {
                    variable: "ADAPTDL_SUPERVISOR_URL",
                    found: "missing, or ADAPTDL_JOB_ID is".into(),
                    expected: "an address at which the other replicas are known",
                });
            }
            _ => None,
        };
        let master_port = variables.number("ADAPTDL_MASTER_PORT", 0, "a port")?;
        if replicas > 1 && master_port == 0 {
            return Err(TrainError::Environment {
                variable: "ADAPTDL_MASTER_PORT",
                found: "missing, or 0".into(),
                expected: "a port, for there are several replicas",
            });
        }
        let slot = config.map(SlotConfig::open).transpose()?;
        Ok(Self {
            rank,
            replicas,
            nodes,
            group: variables.number("ADAPTDL_NUM_RESTARTS", 0, "a number from 0")?,
            master_port,
            checkpoint: variables.path("ADAPTDL_CHECKPOINT_PATH"),
            share: variables.path("ADAPTDL_SHARE_PATH"),
            secret: secret.into_bytes(),
            supervisor,
            slot,
            stop: Arc::default(),
        })
    }

    /// Which replica this is, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// On how many nodes they are.
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// Whether this is the replica that writes what is written once: that of rank 0.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The group's number, which grows with every restart.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// A directory for data, if there is one.
    pub fn share_path(&self) -> Option<&Path> {
        self.share.as_deref()
    }

    /// Where the checkpoint to restore is, if there is one.
    pub(super) fn restore_path(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// Where the next checkpoint goes: a directory of its own, or, without a slot, that which was restored from.
    pub(super) fn save_path(&self) -> Option<PathBuf> {
        match &self.slot {
            Some(slot) => Some(slot.saves.join(slot.control.next_save().to_string())),
            None => self.checkpoint.clone(),
        }
    }

    pub(super) fn control(&self) -> Option<&Control> {
        self.slot.as_ref().map(|slot| &slot.control)
    }

    pub(super) fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.as_ref()
    }

    /// Whether somebody wants this process to end.
    pub(super) fn is_told_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Meets the other replicas, and waits until this group may load its checkpoint and train.
    ///
    /// All that can be done while the group before still trains is done before it is waited for.
    pub(super) fn join(&self) -> Result<Ring, TrainError> {
        let stop = || self.is_told_to_stop();
        let peers = match &self.supervisor {
            Some(supervisor) => supervisor.discover(self.group, &stop)?.unwrap_or_else(|| self.leave()),
            None => vec!["127.0.0.1".to_owned()],
        };
        if peers.len() != self.replicas as usize {
            let reason = format!("it names {} of {} replicas", peers.len(), self.replicas);
            return Err(TrainError::Supervisor { what: "the other replicas", reason });
        }
        let config = RingConfig {
            rank: self.rank as usize,
            peers,
            master_port: self.master_port,
            secret: self.secret.clone(),
            group: self.group,
            patience: MEETING,
            silence: SILENCE,
        };
        let ring = self.meet(config)?;
        // Only Rayconcile's slots release a group; others answer `discover` when it may train.
        if let (Some(supervisor), Some(_)) = (&self.supervisor, &self.slot)
            && !supervisor.release(&stop)?
        {
            self.leave();
        }
        Ok(ring)
    }

    /// Meets the others, and ends this process if it is told to before they have come.
    fn meet(&self, config: RingConfig) -> Result<Ring, RingError> {
        let (sender, met) = mpsc::channel();
        std::thread::spawn(move || sender.send(Ring::connect(config)));
        loop {
            match met.recv_timeout(LOOK) {
                Ok(ring) => return ring,
                Err(mpsc::RecvTimeoutError::Timeout) if self.is_told_to_stop() => self.leave(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(RingError::Unusable("the thread that made it has ended".to_owned()));
                }
            }
        }
    }

    /// Tells the slot that there is a new save.
    pub(super) fn tell_saved(&self) {
        if let (Some(supervisor), Some(_)) = (&self.supervisor, &self.slot) {
            supervisor.tell("saved");
        }
    }

    /// Ends this process, which has saved what was to be saved.
    pub(super) fn leave(&self) -> ! {
        if let Some(control) = self.control() {
            control.set(Word::Leaving, 1);
        }
        if let (Some(supervisor), Some(_)) = (&self.supervisor, &self.slot) {
            supervisor.tell("left");
        }
        std::process::exit(SIGTERM_EXIT)
    }
}

impl SlotConfig {
    fn read(path: &Path) -> Result<Self, TrainError> {
        let file = |source| TrainError::File { path: path.to_owned(), source };
        let text = fs::read(path).map_err(file)?;
        serde_json::from_slice(&text).map_err(|error| file(error.into()))
    }

    fn open(self) -> Result<Slot, TrainError> {
        let control = Control::open(&self.control)
            .map_err(|source| TrainError::File { path: self.control.clone(), source })?;
        Ok(Slot { control, saves: self.saves })
    }
}

/// Variables by name, wherever they come from.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.0)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, TrainError> {
        let value = (self.0)(name).filter(|value| !value.is_empty());
        let text =
            value.map(|value| value.into_string().map_err(|value| value.to_string_lossy().into_owned()));
        text.transpose().map_err(|found| invalid(name, found, "text in UTF-8"))
    }

    fn number<T: FromStr>(
        &self,
        name: &'static str,
        default: T,
        expected: &'static str,
    ) -> Result<T, TrainError> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        text.trim().parse().map_err(|_| invalid(name, text, expected))
    }
}

fn invalid(variable: &'static str, found: impl ToString, expected: &'static str) -> TrainError {
    TrainError::Environment { variable, found: format!("{:?}", found.to_string()), expected }
}

/// A flag that is set when this process is told to end.
fn listen() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    // In this order: the first SIGINT finds the flag not set yet.
    signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&flag))?;
    for number in [SIGTERM, SIGINT] {
        signal_hook::flag::register(number, Arc::clone(&flag))?;
    }
    Ok(flag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn worker(variables: &[(&str, &str)]) -> Result<Worker, TrainError> {
        Worker::new(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_process_without_variables_is_the_only_replica() {
        let worker = worker(&[]).unwrap();
        assert_eq!((worker.rank(), worker.replicas(), worker.nodes(), worker.group()), (0, 1, 1, 0));
        assert!(worker.is_first() && worker.save_path().is_none());
        assert_eq!(worker.join().unwrap().size(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        let message = |variables: &[(&str, &str)]| worker(variables).err().unwrap().to_string();
        assert_eq!(
            message(&[("ADAPTDL_NUM_REPLICAS", "two")]),
            "ADAPTDL_NUM_REPLICAS is \"two\", expected a number from 1"
        );
        assert!(message(&[("ADAPTDL_NUM_REPLICAS", "0")]).contains("expected a number from 1"));
        assert!(message(&[("ADAPTDL_REPLICA_RANK", "1")]).contains("less than ADAPTDL_NUM_REPLICAS"));
        let two = ("ADAPTDL_NUM_REPLICAS", "2");
        assert!(message(&[two, ("ADAPTDL_NUM_NODES", "3")]).contains("ADAPTDL_NUM_NODES is \"3\""));
        assert!(message(&[two]).contains("RAYCONCILE_GROUP_SECRET"));
        assert!(message(&[two, ("RAYCONCILE_GROUP_SECRET", "s")]).contains("ADAPTDL_SUPERVISOR_URL"));
        assert!(message(&[("RAYCONCILE_WORKER", "/nowhere")]).contains("/nowhere"));
    }
}
