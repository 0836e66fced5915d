//! What people do with kubectl, beyond the transcript.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::json;

use crate::support::{Kube, NIGHT};

/// A world with a suspended cluster and job, made by kubectl.
fn night() -> Kube {
    let kube = Kube::new(&[]);
    kube.write("night.yaml", NIGHT);
    let made = kube.kubectl("apply -f night.yaml");
    assert_eq!(made, "raycluster.rayconcile.dev/lab created\nadaptdljob.rayconcile.dev/night created\n");
    kube
}

#[test]
fn objects_are_applied_edited_patched_and_deleted() {
    let kube = night();
    let unchanged = kube.kubectl("apply -f night.yaml");
    assert_eq!(
        unchanged,
        "raycluster.rayconcile.dev/lab unchanged\nadaptdljob.rayconcile.dev/night unchanged\n"
    );
    kube.write("night.yaml", &NIGHT.replace("maxReplicas: 4", "maxReplicas: 5"));
    let diff = kube.sh("kubectl diff -f night.yaml");
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.out.contains("-  maxReplicas: 4\n+  maxReplicas: 5\n"), "{diff:?}");
    assert!(
        kube.kubectl("apply --dry-run=server -f night.yaml").contains("night configured (server dry run)")
    );
    assert_eq!(kube.json("get job night")["spec"]["maxReplicas"], 4, "it was only tried");
    assert!(kube.kubectl("apply -f night.yaml").contains("night configured"));
    assert_eq!(kube.json("get job night")["spec"]["maxReplicas"], 5);

    // Edited, with an editor that is a script.
    kube.write_program("editor", "#!/bin/bash\nsed -i 's/maxReplicas: 5/maxReplicas: 6/' \"$1\"\n");
    assert_eq!(
        kube.sh("EDITOR=./editor kubectl edit job night").out,
        "adaptdljob.rayconcile.dev/night edited\n"
    );
    assert_eq!(kube.json("get job night")["spec"]["maxReplicas"], 6);
    kube.write_program("editor", "#!/bin/bash\nexec true\n");
    let said = kube.sh("EDITOR=./editor kubectl edit job night");
    assert!(said.code == 0 && said.err.contains("no changes made"), "{said:?}");

    // Each kind of patch; strategic is what kubectl takes if nothing is said.
    kube.kubectl(r#"patch job night -p '{"spec":{"env":[{"name":"MORE","value":"2"}]}}'"#);
    let env = json!([{"name": "SEED", "value": "1"}, {"name": "MORE", "value": "2"}]);
    assert_eq!(kube.json("get job night")["spec"]["env"], env);
    kube.kubectl(r#"patch job night --type merge -p '{"spec":{"env":[{"name":"ONLY","value":"3"}]}}'"#);
    assert_eq!(kube.json("get job night")["spec"]["env"], json!([{"name": "ONLY", "value": "3"}]));
    kube.kubectl(r#"patch job night --type json -p '[{"op":"replace","path":"/spec/priority","value":7}]'"#);
    assert_eq!(kube.json("get job night")["spec"]["priority"], 7);
    let refused =
        kube.refused(r#"patch job night --type json -p '[{"op":"test","path":"/spec/priority","value":8}]'"#);
    assert!(refused.contains("operation 0"), "{refused}");
    let refused = kube.refused(r#"patch job night --type merge -p '{"spec":{"maxReplicas":"many"}}'"#);
    assert!(refused.contains("spec.maxReplicas"), "{refused}");

    kube.kubectl("label job night tier=gold");
    kube.kubectl("annotate job night note='by hand'");
    let metadata = &kube.json("get job night")["metadata"];
    assert_eq!(
        (&metadata["labels"]["tier"], &metadata["annotations"]["note"]),
        (&json!("gold"), &json!("by hand"))
    );
    assert_eq!(
        kube.kubectl("get jobs -l 'tier in (gold,silver),team' -o name"),
        "adaptdljob.rayconcile.dev/night\n"
    );
    assert_eq!(kube.kubectl("get jobs -l tier=silver -o name"), "");
    kube.kubectl("label job night tier-");

    // Scaled: so many, until further notice. 0 is suspended.
    kube.kubectl("scale job night --replicas=3 --current-replicas=0");
    let spec = kube.json("get job night")["spec"].clone();
    let scaled =
        json!([spec["scaling"]["policy"], spec["scaling"]["replicas"], spec["suspend"], spec["maxReplicas"]]);
    assert_eq!(scaled, json!(["Fixed", 3, false, 6]));
    assert!(kube.refused("scale job night --replicas=7").contains("maxReplicas (6)"));
    assert!(
        kube.refused("scale job night --replicas=1 --current-replicas=2")
            .contains("Expected replicas to be 2, was 3")
    );
    kube.kubectl("scale job night --replicas=0 --current-replicas=3");
    assert_eq!(kube.json("get job night")["spec"]["suspend"], true);
    assert!(kube.refused("scale cluster lab --replicas=1").contains("(NotFound)"));

    // What is refused says what is wrong, before and after it is sent.
    kube.write("wrong.yaml", &NIGHT.replace("maxReplicas", "maxReplica"));
    assert!(kube.refused("apply -f wrong.yaml").contains("unknown field \"maxReplica\""));
    assert!(kube.refused("apply --validate=false -f wrong.yaml").contains("did you mean `maxReplicas`?"));
    kube.kubectl("create -f - <<< '{\"apiVersion\": \"rayconcile.dev/v1\", \"kind\": \"AdaptDLJob\", \"metadata\": {\"generateName\": \"try-\"}, \"spec\": {\"clusterRef\": {\"name\": \"lab\"}, \"command\": [\"true\"], \"suspend\": true}}'");
    let names = kube.kubectl("get jobs -o name");
    assert!(names.contains("adaptdljob.rayconcile.dev/try-"), "{names}");
    assert!(kube.refused("create --dry-run=server -f night.yaml").contains("exists already"));

    let deleted = kube.kubectl("delete job night --timeout=60s --grace-period=5");
    assert_eq!(deleted, "adaptdljob.rayconcile.dev \"night\" deleted\n");
    assert!(kube.refused("get job night").contains("(NotFound)"));
    assert!(kube.refused("delete cluster lab --cascade=orphan").contains("cannot be left behind"));
    assert!(kube.kubectl("delete jobs,clusters --all --timeout=60s").contains("\"lab\" deleted"));
    assert_eq!(kube.kubectl("get all -o name"), "");
    kube.finish();
}

#[test]
fn objects_are_shown_watched_and_waited_for() {
    let kube = night();
    kube.kubectl("wait job night --for=condition=Converged --timeout=60s");
    let table = kube.kubectl("get jobs");
    let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "PHASE", "WORKERS", "STEP", "EPOCH", "CHECKPOINT", "AGE"]);
    for arguments in ["get jobs", "get jobs -o wide", "get clusters -o wide"] {
        let words = |text: &str| -> Vec<String> {
            let header = text.lines().next().unwrap();
            header.split_whitespace().map(str::to_owned).collect()
        };
        let ours = kube.ok(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(
            words(&kube.kubectl(arguments)),
            words(&ours),
            "{arguments}: as our own command shows them"
        );
    }
    assert!(kube.kubectl("get all -A").contains("adaptdljob.rayconcile.dev/night"));
    assert_eq!(kube.kubectl("get aj night -o jsonpath='{.status.phase}'"), "Suspended");
    assert_eq!(kube.kubectl("get rc -o custom-columns=N:.metadata.name --no-headers"), "lab\n");
    assert!(kube.kubectl("get jobs --show-labels").contains("team=vision"));
    assert!(kube.kubectl("get job night -o yaml").contains("phase: Suspended"));
    assert_eq!(
        kube.kubectl("get jobs --field-selector metadata.name=night -o name"),
        "adaptdljob.rayconcile.dev/night\n"
    );
    assert_eq!(kube.kubectl("get namespaces -o name"), "namespace/default\n");
    assert!(kube.kubectl("get nodes 2>&1").contains("No resources found"));
    assert!(kube.refused("create namespace other").contains("cannot be written"));

    let mut watch = kube.shell("kubectl get jobs -w").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.find(|line| line.starts_with("night")).is_some());
    kube.kubectl("patch job night --type merge -p '{\"spec\":{\"suspend\":false}}'");
    assert!(lines.find(|line| line.starts_with("night") && line.contains("Pending")).is_some());
    kube.kubectl("delete job night");
    watch.kill().unwrap();
    watch.wait().unwrap();

    let described = kube.kubectl("describe cluster lab");
    for word in ["Name:         lab", "Kind:         RayCluster", "Phase:", "Suspend:"] {
        assert!(described.contains(word), "{word}: {described}");
    }
    let explained = kube.kubectl("explain adaptdljob.spec.checkpoint");
    assert!(
        explained.contains("RESOURCE: checkpoint <Object>") && explained.contains("interval\t<string>"),
        "{explained}"
    );
    assert!(kube.kubectl("explain raycluster.spec.provider.local").contains("FIELDS"));
    let explained = kube.kubectl("explain adaptdljob.status.conditions");
    assert!(explained.contains("lastTransitionTime\t<string>"), "{explained}");
    let resources = kube.kubectl("api-resources");
    for word in ["adaptdljobs", "rayclusters", "rayconcile.dev/v1", "pods", "nodes"] {
        assert!(resources.contains(word), "{resources}");
    }
    let version = kube.json("version");
    assert_eq!(
        (&version["serverVersion"]["major"], &version["serverVersion"]["minor"]),
        (&json!("1"), &json!("20"))
    );
    assert!(kube.kubectl("api-versions").contains("rayconcile.dev/v1"));
    kube.finish();
}

#[test]
fn server_side_apply_knows_whose_fields_are_whose() {
    let kube = night();
    kube.kubectl("delete job night");
    let job = |replicas: u32, rest: &str| {
        let spec = format!(
            "clusterRef: {{name: lab}}\n  command: [\"true\"]\n  suspend: true\n  maxReplicas: {replicas}{rest}"
        );
        format!(
            "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: owned}}\nspec:\n  {spec}\n"
        )
    };
    kube.write("owned.yaml", &job(3, "\n  priority: 5"));
    let one = "apply --server-side --field-manager=one -f owned.yaml";
    assert_eq!(kube.kubectl(one), "adaptdljob.rayconcile.dev/owned serverside-applied\n");
    kube.kubectl(one);
    // Another wants something else of a field, and is told whose it is.
    kube.write("owned.yaml", &job(4, ""));
    let two = "apply --server-side --field-manager=two -f owned.yaml";
    let conflict = kube.refused(two);
    assert!(
        conflict.contains("conflict with \"one\"") && conflict.contains(".spec.maxReplicas"),
        "{conflict}"
    );
    assert_eq!(kube.json("get job owned")["spec"]["maxReplicas"], 3);
    kube.kubectl(&format!("{two} --force-conflicts"));
    let owned = kube.json("get job owned");
    assert_eq!((&owned["spec"]["maxReplicas"], &owned["spec"]["priority"]), (&json!(4), &json!(5)));
    let of = |name: &str| {
        let managers = owned["metadata"]["managedFields"].as_array().unwrap();
        managers.iter().find(|entry| entry["manager"] == name).unwrap()["fieldsV1"]["f:spec"].clone()
    };
    assert_eq!((&of("one")["f:priority"], &of("two")["f:maxReplicas"]), (&json!({}), &json!({})));
    assert!(of("one")["f:maxReplicas"].is_null(), "it was taken over");
    // What one applies no more, and nobody else wants, goes back to its default.
    kube.write("owned.yaml", &job(4, ""));
    kube.kubectl(one);
    assert_eq!(kube.json("get job owned")["spec"]["priority"], 0);
    // Whoever changes a field in any other way has it, too.
    kube.kubectl("patch job owned --type merge -p '{\"spec\":{\"maxReplicas\":6}}'");
    assert!(kube.refused(one).contains("conflict with \"kubectl-patch\""));
    let tried = kube.kubectl(&format!("{one} --force-conflicts --dry-run=server"));
    assert!(tried.contains("(server dry run)"), "{tried}");
    assert_eq!(kube.json("get job owned")["spec"]["maxReplicas"], 6);
    kube.finish();
}
