//! The pod and its container: the program, its environment, and what each worker is given.

use std::path::{Component, Path as FilePath};

use serde_json::{Map, Value, json};

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::words::found;
use super::{Fields, Reader, lost};

/// Reads the pod.
pub(super) fn pod(reader: &mut Reader, mut pod: Fields<'_>) {
    let at = pod.at.clone();
    let volumes = pod.take("volumes");
    let containers = pod.take("containers");
    reader.lose(&mut pod, lost::POD);
    let Some((containers, path)) = containers else {
        reader.errors.push(Finding::new(at, "must have `containers`").at_key());
        return;
    };
    let items = reader.list(containers, &path);
    if let Some(second) = items.get(1) {
        let name = second["name"].as_str().unwrap_or("another one");
        let message = format!("must be one container, found {} ({name} is the second)", items.len());
        let help = "each worker is one process: leave one container, the one that trains";
        reader.errors.push(Finding::new(path.item(1), message).help(help));
        return;
    }
    let Some(first) = items.first() else {
        if containers.is_array() {
            reader.errors.push(Finding::new(path, "must have a container").at_key());
        }
        return;
    };
    let Some(mut container) = reader.map(Some(first), path.item(0)) else { return };
    program(reader, &mut container);
    environment(reader, &mut container);
    if let Some((resources, path)) = container.take("resources") {
        self::resources(reader, resources, path);
    }
    mounts(reader, &mut container, volumes);
    reader.lose(&mut container, lost::CONTAINER);
}

// --- The program -----------------------------------------------------------------------------------------------------

fn program(reader: &mut Reader, container: &mut Fields<'_>) {
    let at = container.at.clone();
    let command = words(reader, container.take("command"));
    let args = words(reader, container.take("args"));
    let variables = variables(container);
    for (words, path) in command.iter().chain(&args) {
        words
            .iter()
            .enumerate()
            .for_each(|(index, word)| references(reader, word, &variables, &path.item(index)));
    }
    let directory = container.take("workingDir");
    let directory = directory.map(|(value, path)| (value.as_str().map(str::to_owned), path));
    let Some((command, path)) = command else {
        let help = "the image's own command is not known here: write it out";
        reader.errors.push(Finding::new(at, "must have `command`").at_key().help(help));
        return;
    };
    let inside = directory.as_ref().and_then(|(text, _)| text.as_deref());
    match script(&command, inside) {
        Some((script, rest)) => {
            reader.say("entrypoint", json!(script), &path);
            reader.say("workingDir", json!("."), &path);
            let given = args.iter().flat_map(|(words, _)| words.clone());
            let all: Vec<String> = rest.into_iter().chain(given).collect();
            if !all.is_empty() {
                let from = args.as_ref().map_or(&path, |(_, path)| path);
                reader.say("args", json!(all), from);
            }
            let why =
                format!("is taken for {script} beside the manifest (workingDir: ., entrypoint: {script})");
            reader.remark(path, why);
        }
        None => {
            absolute(reader, &command, &path);
            reader.say("command", json!(command), &path);
            if let Some((args, from)) = args {
                reader.say("args", json!(args), &from);
            }
            if let Some((_, path)) = directory {
                let why = "has no meaning here: a program begins in its spec.workingDir, which is packed and brought \
                           along";
                reader.warn(path, why);
            }
        }
    }
}

/// A list of words, where there is one.
fn words(reader: &mut Reader, given: Option<(&Value, Path)>) -> Option<(Vec<String>, Path)> {
    let (value, path) = given?;
    let items = reader.list(value, &path).iter().enumerate();
    let mut words = Vec::new();
    for (index, item) in items {
        match item {
            Value::String(text) => words.push(text.clone()),
            other => {
                let message = format!("must be a string, found {}", found(other));
                reader.errors.push(Finding::new(path.item(index), message).help("put it in quotes"));
            }
        }
    }
    Some((words, path))
}

/// The names of the variables that a container is given.
fn variables(container: &Fields<'_>) -> Vec<String> {
    let given = container.left.iter().find(|(name, _)| *name == "env");
    let given = given.and_then(|(_, value)| value.as_array()).into_iter().flatten();
    given.filter_map(|variable| variable["name"].as_str().map(str::to_owned)).collect()
}

/// Says of a text that Kubernetes would put the values of variables into it. What names no variable of the container it
/// leaves as it is, too.
fn references(reader: &mut Reader, text: &str, variables: &[String], path: &Path) {
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        let (_, after) = rest.split_at(position + 1);
        let name = after.strip_prefix('(').and_then(|name| name.split_once(')')).map(|(name, _)| name);
        if let Some(name) = name.filter(|name| variables.iter().any(|known| known == name)) {
            let how = format!(
                "is taken as it stands, with $({name}): Kubernetes would put the variable's value there. Write the \
                 value, or have the program read the variable"
            );
            return reader.remark(path.clone(), how);
        }
        // Doubled, it is a dollar sign and nothing else.
        rest = after.strip_prefix('$').unwrap_or(after);
    }
}

/// The script that a command has Python run, in the package that stands for the image's working directory, and the
/// words after it; nothing if it is anything else.
fn script(command: &[String], directory: Option<&str>) -> Option<(String, Vec<String>)> {
    let (program, rest) = command.split_first()?;
    let program = FilePath::new(program).file_name()?.to_str()?;
    let version = program.strip_prefix("python")?;
    if !version.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    // That output is not buffered goes without saying.
    let rest = rest.strip_prefix(&["-u".to_owned()]).unwrap_or(rest);
    let (script, rest) = rest.split_first()?;
    let script = FilePath::new(script.trim());
    let script = match directory {
        Some(directory) if script.is_absolute() => script.strip_prefix(directory).ok()?,
        _ => script,
    };
    let is_script = script.extension().is_some_and(|extension| extension == "py");
    let inside = script.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (is_script && inside).then(|| Some((script.to_str()?.to_owned(), rest.to_vec())))?
}

/// Says of a program in the image that it is not brought along.
fn absolute(reader: &mut Reader, command: &[String], path: &Path) {
    let Some(file) =
        command.iter().skip(1).find(|word| word.starts_with('/') && word.trim().ends_with(".py"))
    else {
        return;
    };
    let name = FilePath::new(file.trim()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = format!(
        "is run as it stands: {} must be on every node. If it is beside the manifest, write spec.workingDir: . and \
         spec.entrypoint: {name} instead",
        file.trim()
    );
    reader.remark(path.clone(), why);
}

// --- Its environment -------------------------------------------------------------------------------------------------

fn environment(reader: &mut Reader, container: &mut Fields<'_>) {
    if let Some((_, path)) = container.take("envFrom") {
        let help = "name each variable in env; a value may come from valueFrom: {env: NAME} or {file: PATH} on the \
                    controller's machine";
        reader.errors.push(
            Finding::new(path, "cannot be had: there are no ConfigMaps and Secrets here").at_key().help(help),
        );
    }
    let names = variables(container);
    let Some((variables, path)) = container.take("env") else { return };
    let mut kept = Vec::new();
    for (index, variable) in reader.list(variables, &path).iter().enumerate() {
        let at = path.item(index);
        let Some(mut fields) = reader.map(Some(variable), at.clone()) else { continue };
        let Some((name, _)) = fields.take("name") else {
            reader.errors.push(Finding::new(at, "must have `name`").at_key());
            continue;
        };
        let value = fields.take("value");
        let from = fields.take("valueFrom");
        reader.lose(&mut fields, &[]);
        if name.as_str().is_some_and(|name| name.starts_with("ADAPTDL_")) {
            reader.warn(at, "has no meaning here: Rayconcile sets what begins with ADAPTDL_");
            continue;
        }
        if let Some((from, path)) = from {
            value_from(reader, name, from, path, at);
            continue;
        }
        // What is not written is empty, in Kubernetes.
        let (value, path) =
            value.map_or_else(|| (json!(""), at.clone()), |(value, path)| (value.clone(), path));
        references(reader, value.as_str().unwrap_or_default(), &names, &path);
        reader.origins.push((Path::of("spec.env").item(kept.len()), at));
        kept.push(json!({"name": name, "value": value}));
    }
    if !kept.is_empty() {
        reader.spec.insert("env".to_owned(), json!(kept));
    }
}

/// A value that Kubernetes would look up.
fn value_from(reader: &mut Reader, name: &Value, from: &Value, path: Path, whole: Path) {
    let name = name.as_str().unwrap_or("NAME");
    let kind = ["secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef"]
        .into_iter()
        .find(|kind| from.get(*kind).is_some());
    let what = match kind {
        Some("secretKeyRef") => "there are no Secrets here",
        Some("configMapKeyRef") => "there are no ConfigMaps here",
        _ => "there is no pod here to look it up in",
    };
    let optional = kind.is_some_and(|kind| from[kind]["optional"] == true);
    if optional {
        return reader.warn(whole, format!("is left out: {what}, and it is optional"));
    }
    let help = format!(
        "valueFrom: {{env: {name}}} takes it from the controller's environment, {{file: PATH}} from a file of its \
         machine; neither is stored"
    );
    reader.errors.push(Finding::new(path, format!("cannot be had: {what}")).at_key().help(help));
}

// --- What each worker is given ---------------------------------------------------------------------------------------

fn resources(reader: &mut Reader, resources: &Value, at: Path) {
    let Some(mut fields) = reader.map(Some(resources), at.clone()) else { return };
    let (limits, requests) = (fields.take("limits"), fields.take("requests"));
    reader.lose(&mut fields, &[]);
    let amounts = |reader: &mut Reader, given: Option<(&Value, Path)>| -> Vec<(String, Value, Path)> {
        let Some((value, path)) = given else { return Vec::new() };
        let fields = reader.map(Some(value), path.clone());
        let left = fields.into_iter().flat_map(|fields| fields.left);
        left.map(|(name, value)| (name.clone(), value.clone(), path.key(name))).collect()
    };
    let (limits, requests) = (amounts(reader, limits), amounts(reader, requests));
    // What is asked for is reserved; what is only limited is asked for, in Kubernetes.
    let limited = limits.iter().filter(|(name, ..)| !requests.iter().any(|(other, ..)| other == name));
    let mut custom = Map::new();
    for (name, value, path) in requests.iter().chain(limited) {
        match name.as_str() {
            "cpu" => reader.say("resources.cpu", value.clone(), path),
            "memory" => reader.say("resources.memory", value.clone(), path),
            "nvidia.com/gpu" => {
                let count = value.as_str().and_then(|text| text.parse::<u64>().ok());
                reader.say("resources.gpu", count.map_or_else(|| value.clone(), Value::from), path);
            }
            "ephemeral-storage" => reader.warn(path.clone(), "has no meaning here: disks are not divided"),
            _ => {
                let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
                match number {
                    Some(number) => {
                        custom.insert(name.clone(), json!(number));
                        let why = format!(
                            "is asked of Ray as the custom resource {name:?}: its nodes must offer it"
                        );
                        reader.remark(path.clone(), why);
                    }
                    None => reader.warn(path.clone(), lost::UNKNOWN),
                }
            }
        }
    }
    if !custom.is_empty() {
        reader.say("resources.custom", Value::Object(custom), &at);
    }
    for (name, value, path) in &limits {
        let asked = requests.iter().find(|(other, ..)| other == name).map(|(_, value, _)| value);
        if asked.is_some_and(|asked| asked != value) {
            reader.warn(
                path.clone(),
                "has no meaning here: what is requested is reserved, and nothing is limited",
            );
        }
    }
}

/// Volumes: what is shared is a directory that the nodes have.
fn mounts(reader: &mut Reader, container: &mut Fields<'_>, volumes: Option<(&Value, Path)>) {
    let mounted = container.take("volumeMounts");
    let claims = |name: &Value| -> Option<&str> {
        let volume = volumes.as_ref()?.0.as_array()?.iter().find(|volume| volume["name"] == *name)?;
        ["persistentVolumeClaim", "hostPath", "nfs", "cephfs", "emptyDir", "configMap", "secret"]
            .into_iter()
            .find(|kind| volume.get(*kind).is_some())
    };
    let mut told = false;
    if let Some((mounts, path)) = &mounted {
        for (index, mount) in reader.list(mounts, path).iter().enumerate() {
            let place = mount["mountPath"].as_str().unwrap_or("its path");
            let why = match claims(&mount["name"]) {
                Some("emptyDir") => {
                    "is not mounted: a worker's own files belong in its working directory".to_owned()
                }
                Some("configMap" | "secret") => {
                    format!("is not mounted: bring {place} along in spec.workingDir, or have it on the nodes")
                }
                _ => format!(
                    "is not mounted: {place} must be on every node (on EC2: fileSystems of a template); if it is for \
                     ADAPTDL_SHARE_PATH, write spec.sharePath: {place}"
                ),
            };
            reader.warn(path.item(index), why);
            told = true;
        }
    }
    if let Some((_, path)) =
        volumes.filter(|(value, _)| !told && value.as_array().is_none_or(|it| !it.is_empty()))
    {
        reader.warn(path, "has no meaning here: what workers read must be on their nodes");
    }
}
