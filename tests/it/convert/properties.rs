//! Whatever a configuration says, it is in the manifest, which is valid; and whatever it is, nothing breaks.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{converted, is_valid};

/// A configuration that `ray up` takes, with things in it that nobody knows: their texts begin with `mark`.
fn configuration() -> impl Strategy<Value = Value> {
    let node = (
        select(vec!["m5.large", "g5.xlarge", "m7g.large"]),
        option::of(select(vec!["ami-0aaa", "latest_dlami", "resolve:ssm:/a/b"])),
        option::of(select(vec!["subnet-0a", "subnet-0b"])),
        option::of(select(vec!["sg-0a", "sg-0b"])),
        option::of(select(vec!["a", "b"])),
        option::of(0u32..400),
        any::<bool>(),
        0u32..3,
    );
    let config = node.prop_map(|(kind, image, subnet, group, profile, size, spot, min)| {
        let mut config = json!({"InstanceType": kind});
        let mut set = |name: &str, value: Option<Value>| {
            value.into_iter().for_each(|value| config[name] = value);
        };
        set("ImageId", image.map(Value::from));
        set("SubnetId", subnet.map(Value::from));
        set("SecurityGroupIds", group.map(|group| json!([group])));
        let tags = |key| json!([{"ResourceType": "instance", "Tags": [{"Key": key, "Value": "x"}]}]);
        set("TagSpecifications", profile.map(tags));
        set("IamInstanceProfile", profile.map(|name| json!({"Name": name})));
        let ebs = |size| json!([{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": size}}]);
        set("BlockDeviceMappings", size.map(ebs));
        set("InstanceMarketOptions", spot.then(|| json!({"MarketType": "spot", "SpotOptions": {"MaxPrice": 0.5}})));
        let resources = json!({"CPU": min});
        let mut node =
            json!({"node_config": config, "min_workers": min, "max_workers": min + 1, "resources": resources});
        if spot {
            node["docker"] = json!({"worker_image": "ray"});
            node["labels"] = json!({"a": "b"});
            node["idle_timeout_s"] = json!(30);
        }
        node
    });
    let commands = vec(text(), 0..3);
    let options = vec(
        select(vec!["-v /a:/b", "--gpus all", "-e A=b", "-p 1:1", "--name x", "-v $X:/b", "x", "-d"]),
        0..4,
    );
    let start = "ulimit -n 65536; ray start --head --port=6379";
    let starts =
        vec(select(vec![start, "ray start --num-gpus=2 --x=y --head", "conda activate x", "ray stop"]), 0..3);
    (vec(config, 1..4), commands, options, starts, any::<bool>()).prop_map(
        |(types, commands, options, starts, docker)| {
            let names = types.into_iter().enumerate().map(|(index, node)| (format!("type_{index}"), node));
            let mut all = json!({
                "cluster_name": "any",
                "max_workers": 20,
                "idle_timeout_minutes": 5,
                "provider": {
                    "type": "aws", "region": "us-west-2", "availability_zone": "us-west-2a",
                    "key_pair": {"key_name": "a"}, "security_group": {"GroupName": "b"},
                },
                "auth": {"ssh_user": "ubuntu"},
                "available_node_types": names.collect::<Map<_, _>>(),
                "head_node_type": "type_0",
                "setup_commands": commands.clone(),
                "initialization_commands": commands,
                "head_start_ray_commands": starts.clone(),
                "worker_start_ray_commands": starts,
                "file_mounts": {"/a": "b"},
            });
            if docker {
                all["docker"] = json!({"image": "ray", "container_name": "x", "run_options": options});
            }
            all
        },
    )
}

/// Any text, and some that would be something else outside of quotes.
fn text() -> impl Strategy<Value = String> {
    let tricky = [
        "# x",
        "- x",
        "a: b",
        "'",
        "\"",
        "a\nb",
        "a\n\n",
        " x ",
        "\t",
        "{a}",
        "x\u{2028}y",
        "x\u{85}y: z",
        "!x",
        "%x",
    ];
    prop_oneof!["[ -~]{1,20}", "\\PC{1,12}", select(tricky.to_vec()).prop_map(str::to_owned)]
}

/// What `ray up` would not take in most places.
fn others() -> Vec<Value> {
    let scalars = [json!(null), json!(true), json!(1.5), json!(-1), json!(u64::MAX), json!(""), json!("x")];
    let others = [json!([]), json!([[1]]), json!({}), json!({"a": {"b": [null]}})];
    scalars.into_iter().chain(others).collect()
}

/// The paths of all mappings in a value.
fn mappings(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(path.to_owned());
            fields.iter().for_each(|(name, value)| mappings(value, &format!("{path}/{name}"), found));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| mappings(item, &format!("{path}/{index}"), found));
        }
        _ => {}
    }
}

/// As YAML of two kinds: blocks, and JSON.
fn written(value: &Value, block: bool) -> String {
    if block {
        rayconcile::manifest::to_yaml(value).unwrap()
    } else {
        serde_json::to_string_pretty(value).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_configuration_becomes_a_valid_manifest(all in configuration(), block: bool) {
        let conversion = converted(&written(&all, block));
        let conversion = conversion.map_err(|problems| TestCaseError::fail(format!("{problems:#?}")))?;
        is_valid(&conversion.manifest);
        prop_assert!(conversion.manifest.matches("Not converted: ").count() <= conversion.comments);
        prop_assert_eq!(converted(&written(&all, block)).unwrap(), conversion);
    }

    #[test]
    fn nothing_is_lost_for_being_unknown(
        all in configuration(), which: prop::sample::Index, texts in vec(text(), 1..3), block: bool,
    ) {
        let mut all = all;
        let mut paths = Vec::new();
        mappings(&all, "", &mut paths);
        // Their keys are the user's own, and so is what is under them.
        let own = ["/available_node_types", "/file_mounts", "/resources", "/labels"];
        paths.retain(|path| !own.iter().any(|end| path.ends_with(end)));
        let path = which.get(&paths).clone();
        let unknown = json!({"mark_inner": texts, "other": [{"mark_deep": "mark_value"}]});
        all.pointer_mut(&path).unwrap()["mark_outer"] = unknown;
        match converted(&written(&all, block)) {
            Ok(conversion) => {
                is_valid(&conversion.manifest);
                for mark in ["mark_outer", "mark_inner", "mark_deep", "mark_value"] {
                    prop_assert!(conversion.manifest.contains(mark), "{path}: {mark} is lost: {}", conversion.manifest);
                }
            }
            Err(problems) => prop_assert!(false, "{path}: {problems:#?}"),
        }
    }

    #[test]
    fn nothing_breaks_whatever_it_is_given(
        all in configuration(), which: prop::sample::Index, other in select(others()),
    ) {
        let mut all = all;
        let mut paths = Vec::new();
        mappings(&all, "", &mut paths);
        let path = which.get(&paths).clone();
        let fields = all.pointer_mut(&path).unwrap().as_object_mut().unwrap();
        let names: Vec<_> = fields.keys().cloned().collect();
        if !names.is_empty() {
            fields[which.get(&names)] = other;
        }
        match converted(&written(&all, true)) {
            Ok(conversion) => is_valid(&conversion.manifest),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| problem.position.is_some()), "{problems:?}");
            }
        }
    }
}
