//! The rules of what a node's instance is: its types, its image, and what is made of it before Ray starts.

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::rules;
use super::super::words::quoted;
use super::{distinct, docker, id, ray_start, volumes};
use crate::api::aws::{FileSystem, Image, Instance};
use crate::api::job::EnvVar;

/// Directories that the system needs as they are: nothing may be mounted there, nor below.
const SYSTEM: [&str; 13] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr",
];

/// Directories that hold what others need: what is mounted must be below.
const SHARED: [&str; 6] = ["/home", "/opt", "/tmp", "/var", "/var/lib", "/var/log"];

/// The longest name of a parameter (AWS Systems Manager API Reference, `GetParameter`).
const MAX_PARAMETER: usize = 2048;

/// Variables by which Ray is told of its token, its instance and our choices.
const OURS: [&str; 5] = [
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_CLOUD_INSTANCE_ID",
    "RAY_USAGE_STATS_ENABLED",
];

/// Variables by which the head finds out that nodes are lost begin with this.
const HEALTH_CHECKS: &str = "RAY_health_check_";

/// Variables that are secrets, whatever their value.
const SECRETS: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Whoever is on an instance can read its user data.
const NO_SECRETS: &str = "whoever is on the instance can read it in its user data";

/// What is wrong with an instance.
pub(super) fn check(instance: &Instance, at: &Path, findings: &mut Vec<Finding>) {
    types(&instance.types, &at.key("types"), findings);
    findings.extend(image(&instance.image, &at.key("image")));
    volumes::check(&instance.block_devices, &at.key("blockDevices"), findings);
    findings.extend(instance.data_path.as_deref().and_then(|path| mount_point(path, at.key("dataPath"))));
    if let Some(docker) = &instance.docker {
        docker::check(docker, &at.key("docker"), findings);
    }
    file_systems(instance, at, findings);
    let commands = at.key("setupCommands");
    for (index, command) in instance.setup_commands.iter().enumerate() {
        let path = commands.item(index);
        if command.trim().is_empty() {
            findings.push(Finding::new(path, "must not be empty"));
        } else {
            findings.extend(rules::no_nul(command, path));
        }
    }
    ray_start::check(&instance.ray_start, &at.key("rayStart"), findings);
    env(&instance.env, &at.key("env"), findings);
}

fn types(types: &[String], at: &Path, findings: &mut Vec<Finding>) {
    if types.is_empty() {
        findings.push(Finding::new(at.clone(), "must have at least one, such as g5.xlarge"));
    }
    for (index, text) in types.iter().enumerate() {
        if !is_type(text) {
            let meant = text.trim().to_lowercase();
            let help = match is_type(&meant) {
                true => Some(format!("did you mean {meant}?")),
                false if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric()) => {
                    Some(format!("a size belongs to it: {}.xlarge", text.to_lowercase()))
                }
                false => None,
            };
            let message = format!("must be an instance type such as g5.xlarge, found {}", quoted(text));
            findings.push(Finding::new(at.item(index), message).help_if(help));
        }
    }
    distinct(types.iter().enumerate().map(|(index, text)| (text.as_str(), at.item(index))), findings);
}

pub(super) fn is_type(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.split_once('.').is_some_and(|(family, size)| plain(family) && plain(size))
}

fn image(image: &Image, at: &Path) -> Option<Finding> {
    match image {
        Image::Id(text) => {
            let finding = id(text, "ami", at.key("id"))?;
            let parameter = text.strip_prefix("resolve:ssm:").unwrap_or(text);
            let help = parameter.starts_with('/').then(|| format!("write {{parameter: {parameter}}}"));
            Some(if help.is_some() { finding.help_if(help) } else { finding })
        }
        Image::Parameter(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
            let is_name = |text: &str| {
                text.len() <= MAX_PARAMETER
                    && text.strip_prefix('/').is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain))
            };
            if is_name(text) {
                return None;
            }
            let rule = "must be a parameter's name, letters, digits and `_.-/`, beginning with `/`";
            let finding = Finding::new(at.key("parameter"), format!("{rule}, found {}", quoted(text)));
            let meant = text.strip_prefix("resolve:ssm:").unwrap_or(text);
            Some(if id(text, "ami", Path::default()).is_none() {
                finding.help(format!("write {{id: {text}}}"))
            } else {
                finding.help_if((meant != text && is_name(meant)).then(|| format!("write {meant}")))
            })
        }
    }
}

fn file_systems(instance: &Instance, at: &Path, findings: &mut Vec<Finding>) {
    let list = at.key("fileSystems");
    for (index, system) in instance.file_systems.iter().enumerate() {
        let FileSystem { id: name, mount_path, path } = system;
        let item = list.item(index);
        findings.extend(id(name, "fs", item.key("id")));
        findings.extend(directory(path, item.key("path")));
        let mounted = item.key("mountPath");
        match mount_point(mount_path, mounted.clone()) {
            Some(finding) => findings.push(finding),
            None => {
                let data = instance.data_path.as_deref().filter(|data| lies_in(data, mount_path));
                if data.is_some() {
                    let finding = Finding::new(mounted, "must not be where dataPath is, nor above it");
                    findings.push(finding.also(at.key("dataPath"), "it would be hidden"));
                }
            }
        }
    }
    let mounts = instance.file_systems.iter().enumerate();
    let mounts =
        mounts.map(|(index, system)| (system.mount_path.as_str(), list.item(index).key("mountPath")));
    distinct(mounts, findings);
}

/// Where something may be mounted.
fn mount_point(text: &str, path: Path) -> Option<Finding> {
    if let Some(finding) = directory(text, path.clone()) {
        return Some(finding);
    }
    let system = SYSTEM.iter().any(|system| lies_in(text, system));
    let finding = match text {
        "/" => Finding::new(path, "must not be `/`, where the system is"),
        _ if system || SHARED.contains(&text) => {
            Finding::new(path, format!("must not be a directory of the system, found {}", quoted(text)))
        }
        _ => return None,
    };
    Some(finding.help("give it a directory of its own, such as /mnt/data"))
}

/// The path of a directory on the instance, in its plain form: it stands in many commands.
fn directory(text: &str, path: Path) -> Option<Finding> {
    let finding = |rule: &str| Finding::new(path.clone(), format!("{rule}, found {}", quoted(text)));
    let Some(rest) = text.strip_prefix('/') else {
        let help = text.starts_with('~').then_some("`~` is not expanded; write the path out");
        return Some(finding("must be an absolute path").help_if(help));
    };
    if rest.is_empty() {
        return None;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+@/".contains(c);
    if !rest.chars().all(plain) {
        return Some(finding("must be letters, digits and `_-.+@/`"));
    }
    let parts: Vec<_> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Some(finding("must be without `..`"));
    }
    let canonical = format!("/{}", parts.join("/"));
    (canonical != text).then(|| finding("must be in its shortest form").help(format!("write {canonical}")))
}

/// Whether a path is another, or below it.
fn lies_in(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn env(env: &[EnvVar], at: &Path, findings: &mut Vec<Finding>) {
    findings.extend(rules::variable_names(env, at, |name, path| {
        if OURS.contains(&name) {
            Some(Finding::new(path, format!("must not be {name}, which Rayconcile sets itself")))
        } else if name.starts_with(HEALTH_CHECKS) {
            let message = format!("must not begin with {HEALTH_CHECKS}: Rayconcile sets these");
            Some(Finding::new(path, message).help("they follow from nodeFailureTimeout"))
        } else if SECRETS.contains(&name) {
            let help = "give the instance profile's role the permission instead";
            Some(Finding::new(path, format!("must not be {name}: {NO_SECRETS}")).help(help))
        } else {
            None
        }
    }));
    for (index, variable) in env.iter().enumerate() {
        let at = at.item(index);
        let finding = match (&variable.value, &variable.value_from) {
            (_, Some(_)) => {
                let message = format!("must be `value`: {NO_SECRETS}");
                let help = "the env of a job takes `valueFrom`, and keeps it out of the user data";
                Some(Finding::new(at.key("valueFrom"), message).at_key().help(help))
            }
            (None, None) => Some(Finding::new(at, "must have `value`")),
            (Some(value), None) => rules::no_nul(value, at.key("value")),
        };
        findings.extend(finding);
    }
}
