//! A region of EC2 on this machine, in which instances really run: `tests/python/ec2` makes it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{PATIENCE, World, free_ports, python, repository, signal, terminate, within};

/// A region. It ends, with every instance, when this is dropped.
pub(crate) struct Region {
    process: Child,
    said: Value,
    /// Ports of a cluster's head, which no other cluster on this machine has.
    ports: [u16; 3],
}

impl Region {
    /// Starts one, with these options of `tests/python/ec2/region.py`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        Self::with(options, free_ports())
    }

    /// Starts one whose instances can reach nothing outside; their dashboards and agents can be reached.
    pub(crate) fn enclosed() -> Self {
        let [gcs, dashboard, agent] = free_ports();
        let options = vec![format!("--enclosed={dashboard}"), format!("--enclosed={agent}")];
        Self::with(options, [gcs, dashboard, agent])
    }

    fn with(options: Vec<String>, ports: [u16; 3]) -> Self {
        let mut process = Command::new(python())
            .args(["-B", "-m", "ec2.region"])
            .args(options)
            .env("PYTHONPATH", repository("tests/python"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("no region: {error}: {line}"));
        Self { process, said, ports }
    }

    /// What another program prints where the instances are.
    pub(crate) fn inside(&self, command: &[&str]) -> Output {
        let target = format!("--target={}", self.said["pid"]);
        let mut entered = Command::new("nsenter");
        entered.args([&target, "--user", "--net", "--preserve-credentials"]).args(command).output().unwrap()
    }

    fn word(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap()
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        self.word("region")
    }

    /// Where the controller finds the region, and who it is there.
    pub(crate) fn environment(&self) -> Vec<(&str, &str)> {
        vec![
            ("AWS_ENDPOINT_URL", self.word("endpoint")),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
    }

    /// A world with a controller that finds the region.
    pub(crate) fn world(&self) -> World {
        let mut world = World::new();
        world.start(&[], &self.environment());
        world
    }

    /// A cluster of this name. `more` is the rest of its provider's fields, `groups` its worker groups.
    pub(crate) fn cluster(&self, name: &str, more: &str, groups: &[String]) -> String {
        let subnets: Vec<&str> =
            self.said["subnets"].as_object().unwrap().values().map(|id| id.as_str().unwrap()).collect();
        let [gcs, dashboard, agent] = self.ports;
        format!(
            "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: {name}}}\nspec:\n  \
             provider:\n    aws: {{region: {}, subnets: [{}], iamInstanceProfile: {}, access: {{address: private}}, \
             gcsPort: {gcs}, dashboardPort: {dashboard}, agentPort: {agent}{more}}}\n  \
             metadataEndpoint: {}/imds/{{address}}\n  \
             head: {{instance: {{types: [m5.large], image: {{id: {}}}}}, objectStoreMemory: 100Mi}}\n  workerGroups:\n{}",
            self.word("region"),
            subnets.join(", "),
            self.word("instanceProfile"),
            self.word("control"),
            self.word("image"),
            groups.concat(),
        )
    }

    /// A worker group of one-CPU nodes.
    pub(crate) fn group(&self, name: &str, nodes: (u32, u32), market: &str, types: &str) -> String {
        format!(
            "  - {{name: {name}, minNodes: {}, maxNodes: {}, idleTimeout: 5s, market: {market}, template: {{resources: \
             {{cpu: 1, memory: 2Gi}}, objectStoreMemory: 100Mi, instance: {{types: [{types}], image: {{parameter: \
             {}}}}}}}}}\n",
            nodes.0,
            nodes.1,
            self.word("imageParameter"),
        )
    }

    /// Faults that strike calls from now on, in the place of those before.
    pub(crate) fn faults(&self, faults: Value) {
        ask("POST", &format!("{}/_faults", self.word("endpoint")), Some(faults));
    }

    /// What AWS's price list has from now on, in dollars an hour.
    pub(crate) fn prices(&self, prices: Value) {
        ask("POST", &format!("{}/_prices", self.word("endpoint")), Some(prices));
    }

    /// How often the controller has made a call.
    pub(crate) fn calls(&self, action: &str) -> u64 {
        ask("GET", &format!("{}/_calls", self.word("endpoint")), None)[action].as_u64().unwrap_or(0)
    }

    /// How often the controller has made each call.
    pub(crate) fn all_calls(&self) -> BTreeMap<String, u64> {
        serde_json::from_value(ask("GET", &format!("{}/_calls", self.word("endpoint")), None)).unwrap()
    }

    /// Loses the next reply to each of these calls, though they take place; no other fault is in force.
    pub(crate) fn lose_replies(&self, actions: &[&str]) {
        self.faults(
            actions.iter().map(|action| json!({"action": action, "drop": true, "times": 1})).collect(),
        );
    }

    /// The faults in force, each with how often it was `used`.
    pub(crate) fn in_force(&self) -> Vec<Value> {
        let faults = ask("GET", &format!("{}/_faults", self.word("endpoint")), None);
        faults.as_array().unwrap().clone()
    }

    /// The calls that faults wait for which strike only so often.
    pub(crate) fn not_struck(&self) -> Vec<Value> {
        let mut faults = self.in_force();
        faults.retain(|fault| fault["used"] != fault["times"]);
        faults
    }

    /// What is left in the region of all that was made.
    pub(crate) fn left(&self) -> Vec<Value> {
        ask("GET", &format!("{}/_left", self.word("endpoint")), None).as_array().unwrap().clone()
    }

    /// Its instances, those that have ended too.
    pub(crate) fn instances(&self) -> Vec<Value> {
        ask("GET", &format!("{}/_instances", self.word("control")), None).as_array().unwrap().clone()
    }

    /// How many instances run or are being started.
    pub(crate) fn up(&self) -> usize {
        let up = |instance: &&Value| matches!(instance["state"].as_str().unwrap(), "pending" | "running");
        self.instances().iter().filter(up).count()
    }

    /// How many instances ran or were being started at once, at most.
    pub(crate) fn most_up(&self) -> u64 {
        ask("GET", &format!("{}/_most", self.word("control")), None).as_u64().unwrap()
    }

    /// Has instances of these types that are launched from now on not reach their head.
    pub(crate) fn keep_apart(&self, types: &[&str]) {
        ask("POST", &format!("{}/_apart", self.word("control")), Some(json!(types)));
    }

    /// Kills those of an instance's processes that have this word as their last argument; says how many there were.
    pub(crate) fn kill_process(&self, instance: &str, word: &str) -> usize {
        let (mark, end) = (format!("REGION_INSTANCE={instance}"), format!("\0{word}\0"));
        let is_it = |pid: u32| {
            let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            read("cmdline").ends_with(end.as_bytes())
                && read("environ").split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let names =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let found: Vec<u32> = names.filter_map(|name| name.parse().ok()).filter(|pid| is_it(*pid)).collect();
        found.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        found.len()
    }

    /// Announces something for an instance.
    pub(crate) fn notice(&self, instance: &str, kind: &str, seconds: u64) {
        let url = format!("{}/_notice/{instance}", self.word("control"));
        ask("POST", &url, Some(json!({"kind": kind, "inS": seconds})));
    }

    /// Has an instance die at once.
    pub(crate) fn kill(&self, instance: &str) {
        ask("POST", &format!("{}/_kill/{instance}", self.word("control")), Some(json!({})));
    }

    /// Calls somebody else's clients, in the region: `boto3` code in which `ec2`, `s3` and `ssm` are some.
    pub(crate) fn boto(&self, code: &str) -> String {
        let clients = format!(
            "ec2, s3, ssm = (boto3.client(name, '{}') for name in ('ec2', 's3', 'ssm'))",
            self.word("region")
        );
        let code = format!("import boto3\n{clients}\n{code}");
        let output = Command::new(python()).arg("-c").arg(code).envs(self.environment()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The image that everything here can be launched from.
    pub(crate) fn image(&self) -> &str {
        self.word("image")
    }

    /// Deletes everything of a world, and sees that the region is as it was.
    pub(crate) fn finish(&self, world: World) {
        world.finish();
        let left = within(PATIENCE, || Some(self.left()).filter(Vec::is_empty));
        assert!(left.is_some(), "left in the region: {:#?}", self.left());
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        terminate(self.process.id());
        let _ = self.process.wait();
    }
}

fn ask(method: &str, url: &str, body: Option<Value>) -> Value {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "-X", method, url]);
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "--data", &body.to_string()]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{method} {url}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}
