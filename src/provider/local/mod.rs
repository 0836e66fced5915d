//! Local nodes: raylets as processes of this machine, each on a loopback address of its own.
//!
//! A node's processes carry the id of their launch in their environment. By that mark they are found again, by
//! whichever controller, and by nothing else are they ever ended: pids alone say too little.

mod network;
pub mod processes;
mod python;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use process_wrap::std::{CommandWrap, ProcessSession};

use super::{Directories, EndedNode, NodeLaunch, NodeProvider, Opening, io, rejected, unavailable};
use crate::action::EffectError;
use crate::api::cluster::{AuthMode, LocalProvider, Provider};
use crate::api::ids::IntentId;
use crate::api::meta::ObjectKey;
use crate::api::observed::{LAUNCH_LABEL, NODE_LABEL, Processes};
use crate::api::record::{Incarnation, LocalNetwork};
use crate::api::units::Span;
use processes::Marked;
use python::Python;

/// Carries the id of the launch that a process belongs to.
pub const LAUNCH_VARIABLE: &str = "RAYCONCILE_LAUNCH";

/// How long a node may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How many checks in a row a lost node has failed.
const HEALTH_CHECKS: u64 = 5;
/// How much of a node's output is kept for messages.
const OUTPUT_TAIL: u64 = 2000;

/// The provider of local nodes.
pub struct Local {
    directories: Directories,
}

impl Local {
    /// A provider that keeps its files there.
    pub fn new(directories: Directories) -> Self {
        Self { directories }
    }

    /// What is there of some launches. All processes of this user are looked at, so what is not seen is not there.
    ///
    /// # Errors
    /// If the processes cannot be listed.
    pub fn observe(&self, cluster: &ObjectKey, launches: &[IntentId]) -> std::io::Result<Processes> {
        let marked = processes::marked()?;
        let nodes = launches.iter().map(|launch| {
            let own = marked.iter().filter(|process| process.launch == launch.0);
            let mut node = processes::describe(own);
            if node.leader.is_none() {
                node.output = tail(&self.output_path(cluster, launch));
            }
            (launch.clone(), node)
        });
        Ok(nodes.collect())
    }

    fn output_path(&self, cluster: &ObjectKey, launch: &IntentId) -> PathBuf {
        self.directories.cluster(cluster).join("nodes").join(format!("{launch}.log"))
    }

    async fn find(self, opening: Opening) -> Result<Incarnation, EffectError> {
        let Provider::Local(provider) = opening.spec.provider.clone() else {
            return Err(rejected("not a local cluster"));
        };
        let python = python::find(&provider).await?;
        on_thread(move || self.open_now(&opening, &provider, python)).await
    }

    fn open_now(
        &self,
        opening: &Opening,
        provider: &LocalProvider,
        python: Python,
    ) -> Result<Incarnation, EffectError> {
        let network = network::choose(provider, &python.path)?;
        self.keep_token(opening)?;
        let LocalNetwork { head, dashboard_port, .. } = network.local;
        Ok(Incarnation {
            id: opening.id.clone(),
            since: Timestamp::now(),
            dashboard: format!("http://{head}:{dashboard_port}"),
            agent: format!("http://{head}:{}", network.agent_port),
            ray_version: python.ray_version,
            missing: python.missing,
            local: Some(network.local),
            aws: None,
        })
    }

    /// Ray's token, which every node of the cluster reads from this file.
    fn keep_token(&self, opening: &Opening) -> Result<(), EffectError> {
        if opening.spec.auth.mode == AuthMode::Token {
            super::ray::tokens::ray_token(&self.directories, &opening.cluster)?;
        }
        Ok(())
    }

    fn launch_now(
        &self,
        cluster: &ObjectKey,
        incarnation: &Incarnation,
        node: &NodeLaunch,
    ) -> Result<(), EffectError> {
        let network = incarnation.local.as_ref().ok_or_else(|| rejected("not a local cluster"))?;
        let marked =
            processes::marked().map_err(|error| unavailable(format!("cannot list processes: {error}")))?;
        if marked.iter().any(|process| process.launch == node.launch.0) {
            return Ok(());
        }
        make_root_directory()?;
        let temp = node_directory(&incarnation.id, node.index);
        let scratch = temp.join("tmp");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&scratch)
            .map_err(|error| io("make", &scratch, &error))?;
        let output = self.output_path(cluster, &node.launch);
        let directory = output.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|error| io("make", directory, &error))?;
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&output)
            .map_err(|error| io("open", &output, &error))?;
        let errors = log.try_clone().map_err(|error| io("open", &output, &error))?;
        let mut command = Command::new(&network.python);
        command.args(["-m", "ray.scripts.scripts", "start", "--block"]).args(arguments(network, node, &temp));
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
        self.set_environment(&mut command, cluster, network, node);
        // What is killed cannot remove its temporary files: they go with the node.
        command.env("TMPDIR", scratch);
        let mut child = CommandWrap::from(command)
            .wrap(ProcessSession)
            .spawn()
            .map_err(|error| rejected(format!("cannot run {}: {error}", network.python)))?;
        // Somebody must take note of its end, or it stays a zombie as long as this controller lives.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    fn set_environment(
        &self,
        command: &mut Command,
        cluster: &ObjectKey,
        network: &LocalNetwork,
        node: &NodeLaunch,
    ) {
        // Settings of other Ray clusters would be taken for this one's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAY_") {
                command.env_remove(name);
            }
        }
        if node.group.is_none() {
            command.envs(health_checks(node.failure_timeout));
        }
        let token = super::ray::tokens::ray_token_path(&self.directories, cluster);
        if token.exists() {
            command.env("RAY_AUTH_MODE", "token").env("RAY_AUTH_TOKEN_PATH", token);
        }
        // Ray jobs run `python`: it must be this one.
        let bin = Path::new(&network.python).parent().unwrap_or(Path::new("/"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(paths) {
            command.env("PATH", path);
        }
        command.env("RAY_USAGE_STATS_ENABLED", "0").env(LAUNCH_VARIABLE, &node.launch.0);
        // Ray's processes give themselves titles, which by default are written over their environment, and with it
        // over the mark (setproctitle's documentation).
        command.env("SPT_NOENV", "1");
        // What repositories are fetched with is nothing to jobs.
        command.env_remove("RAYCONCILE_GIT_PASSWORD").env_remove("RAYCONCILE_GIT_TOKEN");
    }

    fn terminate_now(&self, cluster: &ObjectKey, ended: &EndedNode) -> Result<(), EffectError> {
        let launch = &ended.launch;
        let living = || -> Result<Vec<Marked>, EffectError> {
            let marked = processes::marked()
                .map_err(|error| unavailable(format!("cannot list processes: {error}")))?;
            Ok(marked.into_iter().filter(|process| process.launch == launch.0).collect())
        };
        // All of them: `ray start` does not pass the signal on.
        living()?.iter().for_each(|process| process.signal(Signal::SIGTERM));
        let deadline = Instant::now() + GRACE;
        while !living()?.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        // What was started while the others were being killed is killed in the next round.
        let deadline = Instant::now() + GRACE;
        loop {
            let left = living()?;
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(unavailable(format!("{} processes of launch {launch} do not end", left.len())));
            }
            left.iter().for_each(|process| process.signal(Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(20));
        }
        remove(&node_directory(&ended.incarnation, ended.index))?;
        let output = self.output_path(cluster, launch);
        if output.exists() {
            fs::remove_file(&output).map_err(|error| io("remove", &output, &error))?;
        }
        Ok(())
    }

    fn close_now(&self, cluster: &ObjectKey, incarnation: &str) -> Result<(), EffectError> {
        remove(&incarnation_directory(incarnation))?;
        // Only if no other cluster uses it.
        let _ = fs::remove_dir(root_directory());
        let _ = fs::remove_dir(self.directories.cluster(cluster).join("nodes"));
        Ok(())
    }
}

impl NodeProvider for Local {
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<Incarnation, EffectError>> {
        Self::new(self.directories.clone()).find(opening).boxed()
    }

    fn close<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        incarnation: &'a str,
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        let local = Self::new(self.directories.clone());
        let (cluster, incarnation) = (cluster.clone(), incarnation.to_owned());
        on_thread(move || local.close_now(&cluster, &incarnation)).boxed()
    }

    fn launch<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        incarnation: &'a Incarnation,
        node: NodeLaunch,
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        let local = Self::new(self.directories.clone());
        let (cluster, incarnation) = (cluster.clone(), incarnation.clone());
        on_thread(move || local.launch_now(&cluster, &incarnation, &node)).boxed()
    }

    fn terminate<'a>(
        &'a self,
        cluster: &'a ObjectKey,
        ended: EndedNode,
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        let local = Self::new(self.directories.clone());
        let cluster = cluster.clone();
        on_thread(move || local.terminate_now(&cluster, &ended)).boxed()
    }
}

/// Runs what blocks where it may.
async fn on_thread<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, EffectError> + Send + 'static,
) -> Result<R, EffectError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(unavailable(error.to_string())))
}

/// How Ray's control service finds out that a node is lost (its `ray_config_def.h`): so many checks in a row fail. The
/// checks of a node that is gone are refused at once; one that is only busy has all of this time to answer each.
pub(super) fn health_checks(timeout: Span) -> [(&'static str, String); 4] {
    [
        ("RAY_health_check_initial_delay_ms", (2 * timeout.millis).to_string()),
        ("RAY_health_check_period_ms", (timeout.millis / HEALTH_CHECKS / 2).to_string()),
        ("RAY_health_check_timeout_ms", timeout.millis.to_string()),
        ("RAY_health_check_failure_threshold", HEALTH_CHECKS.to_string()),
    ]
}

/// What `ray start` is told.
fn arguments(network: &LocalNetwork, node: &NodeLaunch, temp: &Path) -> Vec<String> {
    let address = node_address(network.head, node.index, node.group.is_none());
    let resources = &node.template.resources;
    let mut arguments = vec![format!("--node-ip-address={address}")];
    if node.group.is_none() {
        arguments.extend([
            "--head".to_owned(),
            format!("--port={}", network.gcs_port),
            format!("--dashboard-host={address}"),
            format!("--dashboard-port={}", network.dashboard_port),
            format!("--ray-client-server-port={}", network.client_port),
        ]);
    } else {
        arguments.push(format!("--address={}:{}", network.head, network.gcs_port));
    }
    arguments.extend([
        format!("--num-cpus={}", resources.cpu.unwrap_or_default().0 / 1000),
        format!("--num-gpus={}", resources.gpu.unwrap_or_default()),
        format!("--object-store-memory={}", node.template.object_store_memory.0),
        format!("--resources={}", serde_json::to_string(&resources.custom).unwrap_or_default()),
        format!("--labels={}", labels(node)),
        format!("--temp-dir={}", temp.display()),
        // Ports as the kernel gives them: several nodes share this machine.
        "--min-worker-port=0".to_owned(),
        "--max-worker-port=0".to_owned(),
        "--dashboard-agent-listen-port=0".to_owned(),
        "--include-log-monitor=false".to_owned(),
        "--disable-usage-stats".to_owned(),
    ]);
    if let Some(memory) = resources.memory {
        arguments.push(format!("--memory={}", memory.0));
    }
    arguments
}

pub(super) fn labels(node: &NodeLaunch) -> String {
    let own = [(NODE_LABEL, node.name.0.as_str()), (LAUNCH_LABEL, node.launch.0.as_str())];
    let given = node.template.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let labels: Vec<String> = given.chain(own).map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(",")
}

/// The head has the cluster's first address; the others follow by the number of their launch.
fn node_address(head: Ipv4Addr, index: u64, is_head: bool) -> Ipv4Addr {
    let offset = if is_head { 0 } else { u32::try_from(index).unwrap_or(0) };
    Ipv4Addr::from(u32::from(head).wrapping_add(offset))
}

// Ray puts sockets into its temporary directory, and a socket's path is limited to 107 characters: hence short
// names, and not the state directory.

fn root_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/rc-{}", nix::unistd::geteuid()))
}

/// Makes the root, and sees that it is this user's alone: others can make one of that name too.
fn make_root_directory() -> Result<(), EffectError> {
    let root = root_directory();
    match fs::DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io("make", &root, &error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&root).map_err(|error| io("look at", &root, &error))?;
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0;
    if !ours {
        let message =
            format!("{} must be a directory that only this user can use; remove it", root.display());
        return Err(rejected(message));
    }
    Ok(())
}

fn incarnation_directory(incarnation: &str) -> PathBuf {
    root_directory().join(incarnation)
}

fn node_directory(incarnation: &str, index: u64) -> PathBuf {
    incarnation_directory(incarnation).join(format!("n{index}"))
}

fn remove(directory: &Path) -> Result<(), EffectError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", directory, &error)),
        _ => Ok(()),
    }
}

/// The end of a file, without the escape sequences of colours.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    plain(&read().unwrap_or_default())
}

fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // Up to the letter that ends the sequence.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}
