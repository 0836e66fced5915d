//! An instance's user data: the script that makes it a node, with its settings before it.
//!
//! The settings are assignments of shell variables, `RC_...`, for `boot.sh`, which follows them. User data can be read
//! by whoever is on the instance: there is no secret in it.

use std::io::Write as _;

use flate2::{Compression, GzBuilder};

use crate::action::EffectError;
use crate::api::aws::{AwsNetwork, AwsProvider, Instance, RAY_START_FLAGS};
use crate::api::cluster::{AuthMode, RayClusterSpec};
use crate::api::ids::Uid;
use crate::api::units::Span;
use crate::provider::local::{health_checks, labels};
use crate::provider::{NodeLaunch, rejected};

const BOOT: &str = include_str!("boot.sh");
/// EC2's limit, before base64 (Amazon EC2 User Guide, "Run commands when you launch an EC2 instance").
const LIMIT: usize = 16 << 10;

/// The user data of a node's instance, gzipped. The same input gives the same bytes.
///
/// # Errors
/// If it holds more than EC2 takes.
pub(super) fn render(
    spec: &RayClusterSpec,
    provider: &AwsProvider,
    network: &AwsNetwork,
    node: &NodeLaunch,
    uid: &Uid,
) -> Result<Vec<u8>, EffectError> {
    let instance = node.template.instance.as_ref();
    let instance =
        instance.ok_or_else(|| rejected(format!("node {} has no template of an instance", node.name)))?;
    let token = match (spec.auth.mode, &network.token_parameter) {
        (AuthMode::None, _) => "",
        (AuthMode::Token, Some(parameter)) => parameter,
        (AuthMode::Token, None) => return Err(rejected("the cluster was opened without a token for Ray")),
    };
    let mut settings = Settings(String::new());
    settings.put("RC_CLUSTER_UID", &uid.0);
    settings.put("RC_NODE", &node.name.0);
    settings.put("RC_LAUNCH", &node.launch.0);
    settings.put("RC_ROLE", if node.group.is_none() { "head" } else { "worker" });
    settings.put("RC_REGION", &network.region);
    settings.put("RC_HEAD_ADDRESS", &network.head_address);
    settings.put("RC_GCS_PORT", &provider.gcs_port.to_string());
    settings.put("RC_DASHBOARD_PORT", &provider.dashboard_port.to_string());
    settings.put("RC_AGENT_PORT", &provider.agent_port.to_string());
    settings.put("RC_TOKEN_PARAMETER", token);
    settings.put("RC_JOIN_S", &seconds(provider.join_timeout));
    settings.put("RC_ORPHAN_S", &seconds(provider.orphan_timeout));
    settings.put("RC_DATA_PATH", instance.data_path.as_deref().unwrap_or_default());
    settings.put("RC_DOCKER_IMAGE", instance.docker.as_ref().map_or("", |docker| docker.image.as_str()));
    settings.put_all("RC_DOCKER_OPTIONS", instance.docker.iter().flat_map(|docker| &docker.run_options));
    settings.put_all("RC_FILE_SYSTEMS", file_systems(instance));
    settings.put_all("RC_SETUP", &instance.setup_commands);
    settings.put_all("RC_ENV", environment(instance));
    settings.put_all("RC_RAY_ENV", own_environment(node));
    settings.put_all("RC_RAY_ARGUMENTS", resources(node));
    settings.put("RC_LABELS", &labels(node));
    settings.put_all("RC_RAY_START", ray_start(instance));
    pack(node, &format!("#!/bin/bash\n{}{BOOT}", settings.0))
}

/// Assignments of shell variables.
struct Settings(String);

impl Settings {
    fn put(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{name}={}\n", quoted(value)));
    }

    fn put_all<S: AsRef<str>>(&mut self, name: &str, values: impl IntoIterator<Item = S>) {
        let values: Vec<String> = values.into_iter().map(|value| quoted(value.as_ref())).collect();
        self.0.push_str(&format!("{name}=({})\n", values.join(" ")));
    }
}

/// A word of the shell that stands for a text, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn seconds(span: Span) -> String {
    span.millis.div_ceil(1000).to_string()
}

/// Three words for each: its id, which of its directories, and the place.
fn file_systems(instance: &Instance) -> impl Iterator<Item = &String> {
    instance.file_systems.iter().flat_map(|system| [&system.id, &system.path, &system.mount_path])
}

fn environment(instance: &Instance) -> impl Iterator<Item = String> {
    let named = instance.env.iter();
    named.map(|variable| format!("{}={}", variable.name, variable.value.as_deref().unwrap_or_default()))
}

/// Only the head looks whether the others are there.
fn own_environment(node: &NodeLaunch) -> Vec<String> {
    let checks = health_checks(node.failure_timeout).into_iter().filter(|_| node.group.is_none());
    checks.map(|(name, value)| format!("{name}={value}")).collect()
}

/// What the node offers, as `ray start` is told.
fn resources(node: &NodeLaunch) -> Vec<String> {
    let resources = &node.template.resources;
    let mut arguments = vec![
        format!("--num-cpus={}", resources.cpu.unwrap_or_default().0 / 1000),
        format!("--num-gpus={}", resources.gpu.unwrap_or_default()),
        format!("--resources={}", serde_json::to_string(&resources.custom).unwrap_or_default()),
        format!("--object-store-memory={}", node.template.object_store_memory.0),
    ];
    if let Some(memory) = resources.memory {
        arguments.push(format!("--memory={}", memory.0));
    }
    arguments
}

/// The manifest's own parameters of `ray start`: flags are `true`, `false` or empty.
fn ray_start(instance: &Instance) -> impl Iterator<Item = String> {
    instance.ray_start.iter().filter_map(|(name, value)| match value.as_str() {
        "" => Some(format!("--{name}")),
        "true" if RAY_START_FLAGS.contains(&name.as_str()) => Some(format!("--{name}")),
        "false" if RAY_START_FLAGS.contains(&name.as_str()) => None,
        value => Some(format!("--{name}={value}")),
    })
}

fn pack(node: &NodeLaunch, script: &str) -> Result<Vec<u8>, EffectError> {
    if script.contains('\0') {
        return Err(rejected(format!(
            "the template of node {} holds a NUL byte, which no shell takes",
            node.name
        )));
    }
    // Without a time, and of no operating system: equal scripts are equal bytes.
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    let packed = gzip.write_all(script.as_bytes()).and_then(|()| gzip.finish());
    let packed =
        packed.map_err(|error| rejected(format!("cannot pack the user data of {}: {error}", node.name)))?;
    if packed.len() > LIMIT {
        return Err(rejected(format!(
            "the user data of node {} is {} bytes, but EC2 takes {LIMIT}: shorten its setupCommands and env, for \
             example by putting the commands into a file of the image, of S3 or of EFS and running that",
            node.name,
            packed.len()
        )));
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::process::Command;

    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::*;
    use crate::api::cluster::NodeTemplate;

    const NASTY: [&str; 9] = [
        "it's",
        r#"a "quoted" $HOME `id` \ back"#,
        "two\nlines",
        " spaces  and\ttabs ",
        "",
        "*",
        "'",
        "$(touch /tmp/never); rm -rf ~ #",
        "ünïcödé 🙂",
    ];

    fn cluster(instance: serde_json::Value) -> (RayClusterSpec, NodeLaunch) {
        let template = json!({
            "resources": {"cpu": 4, "gpu": 1, "memory": "8Gi", "custom": {"disk": 2}},
            "instance": instance,
            "labels": {"zone": "a"},
        });
        let template: NodeTemplate = serde_json::from_value(template).unwrap();
        let spec = json!({"provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-1"]}}});
        let node = NodeLaunch {
            name: "gpu-1".into(),
            launch: "launch-1".into(),
            index: 1,
            group: Some("gpu".to_owned()),
            template,
            offering: None,
            failure_timeout: Span::from_secs(5),
        };
        (serde_json::from_value(spec).unwrap(), node)
    }

    fn network() -> AwsNetwork {
        AwsNetwork {
            region: "us-west-2".to_owned(),
            subnets: Vec::new(),
            security_groups: Vec::new(),
            head_interface: "eni-1".to_owned(),
            head_address: "10.0.0.10".to_owned(),
            token_parameter: Some("/rayconcile/u-1/ray-token".to_owned()),
            images: BTreeMap::new(),
            root_devices: BTreeMap::new(),
            types: BTreeMap::new(),
            settings: Default::default(),
            at: Default::default(),
            spot_prices: BTreeMap::new(),
            list_prices: None,
            published: None,
        }
    }

    fn rendered(spec: &RayClusterSpec, node: &NodeLaunch) -> Result<Vec<u8>, EffectError> {
        render(spec, spec.aws().unwrap(), &network(), node, &Uid::from("u-1".to_owned()))
    }

    fn script(spec: &RayClusterSpec, node: &NodeLaunch) -> String {
        let mut text = String::new();
        GzDecoder::new(rendered(spec, node).unwrap().as_slice()).read_to_string(&mut text).unwrap();
        text
    }

    /// What the shell takes a setting for: its words.
    fn words(script: &str, name: &str) -> Vec<String> {
        let settings = script.strip_suffix(BOOT).unwrap();
        let print = format!("{settings}\n((${{#{name}[@]}})) && printf '%s\\0' \"${{{name}[@]}}\"; true");
        let output = Command::new("bash").args(["-c", &print]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_worker_knows_its_head_and_what_it_offers() {
        let (spec, node) = cluster(json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}}));
        let script = script(&spec, &node);
        assert!(script.starts_with("#!/bin/bash\nRC_CLUSTER_UID='u-1'\n"), "{script}");
        for (name, value) in [
            ("RC_NODE", "gpu-1"),
            ("RC_LAUNCH", "launch-1"),
            ("RC_ROLE", "worker"),
            ("RC_REGION", "us-west-2"),
            ("RC_HEAD_ADDRESS", "10.0.0.10"),
            ("RC_GCS_PORT", "6379"),
            ("RC_DASHBOARD_PORT", "8265"),
            ("RC_AGENT_PORT", "8267"),
            ("RC_TOKEN_PARAMETER", "/rayconcile/u-1/ray-token"),
            ("RC_JOIN_S", "900"),
            ("RC_ORPHAN_S", "1800"),
            ("RC_DATA_PATH", ""),
            ("RC_DOCKER_IMAGE", ""),
            ("RC_LABELS", "zone=a,rayconcile.dev/node=gpu-1,rayconcile.dev/launch=launch-1"),
        ] {
            assert_eq!(words(&script, name), [value], "{name}");
        }
        let offered =
            ["--num-cpus=4", "--num-gpus=1", "--resources={\"disk\":2.0}", "--object-store-memory=268435456"];
        assert_eq!(words(&script, "RC_RAY_ARGUMENTS")[..4], offered);
        assert_eq!(words(&script, "RC_RAY_ARGUMENTS")[4..], ["--memory=8589934592"]);
        for name in
            ["RC_DOCKER_OPTIONS", "RC_FILE_SYSTEMS", "RC_SETUP", "RC_ENV", "RC_RAY_ENV", "RC_RAY_START"]
        {
            assert!(words(&script, name).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_head_checks_the_others_and_has_no_token_if_none_is_wanted() {
        let (mut spec, mut node) = cluster(json!({"types": ["m5.large"], "image": {"id": "ami-1"}}));
        node.group = None;
        spec.auth.mode = AuthMode::None;
        let script = script(&spec, &node);
        assert_eq!(words(&script, "RC_ROLE"), ["head"]);
        assert_eq!(words(&script, "RC_TOKEN_PARAMETER"), [""]);
        assert!(words(&script, "RC_RAY_ENV").contains(&"RAY_health_check_timeout_ms=5000".to_owned()));
    }

    #[test]
    fn nothing_in_a_manifest_is_taken_for_shell() {
        let env: Vec<_> = NASTY.iter().map(|text| json!({"name": "NAME", "value": text})).collect();
        let systems: Vec<_> =
            NASTY.iter().map(|text| json!({"id": "fs-1", "path": text, "mountPath": text})).collect();
        let (spec, node) = cluster(json!({
            "types": ["g5.xlarge"],
            "image": {"id": "ami-1"},
            "dataPath": NASTY[1],
            "docker": {"image": NASTY[0], "runOptions": NASTY},
            "setupCommands": NASTY,
            "env": env,
            "fileSystems": systems,
            "rayStart": {"system-config": NASTY[1], "no-monitor": "true", "no-redirect-output": "false", "head": ""},
        }));
        let script = script(&spec, &node);
        assert_eq!(words(&script, "RC_DATA_PATH"), [NASTY[1]]);
        assert_eq!(words(&script, "RC_DOCKER_IMAGE"), [NASTY[0]]);
        assert_eq!(words(&script, "RC_DOCKER_OPTIONS"), NASTY);
        assert_eq!(words(&script, "RC_SETUP"), NASTY);
        assert_eq!(words(&script, "RC_ENV"), NASTY.map(|text| format!("NAME={text}")));
        assert_eq!(words(&script, "RC_FILE_SYSTEMS"), NASTY.map(|text| ["fs-1", text, text]).concat());
        let start = words(&script, "RC_RAY_START");
        assert_eq!(start, ["--head", "--no-monitor", &format!("--system-config={}", NASTY[1])]);
    }

    #[test]
    fn the_same_node_has_the_same_bytes() {
        let (spec, node) = cluster(json!({"types": ["g5.xlarge"], "image": {"id": "ami-1"}}));
        assert_eq!(rendered(&spec, &node).unwrap(), rendered(&spec, &node).unwrap());
        assert_eq!(rendered(&spec, &node).unwrap()[4..8], [0; 4], "the time");
    }

    #[test]
    fn what_ec2_would_refuse_is_said_before() {
        // Digests do not compress.
        let long: Vec<String> = (0..400u32).map(|number| format!("echo {}", digest(number))).collect();
        let (spec, mut node) =
            cluster(json!({"types": ["m5.large"], "image": {"id": "ami-1"}, "setupCommands": long}));
        let error = rendered(&spec, &node).unwrap_err();
        assert!(
            error.message.contains("gpu-1") && error.message.contains("setupCommands"),
            "{}",
            error.message
        );
        let instance = node.template.instance.as_mut().unwrap();
        instance.setup_commands = vec!["echo \0".to_owned()];
        assert!(rendered(&spec, &node).unwrap_err().message.contains("NUL"));
        node.template.instance = None;
        assert!(rendered(&spec, &node).is_err());
    }

    fn digest(number: u32) -> String {
        use sha2::{Digest as _, Sha256};
        Sha256::digest(number.to_be_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
