//! What is read from manifests that are right.

use rayconcile::api::object::AnyObject;
use rayconcile::manifest;
use serde_json::{Value, json};

use super::read;

fn only(text: &str) -> AnyObject {
    let loaded = read(text);
    let problems: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(loaded.manifests.len(), 1);
    loaded.manifests.into_iter().next().unwrap().object
}

const JOB: &str = "
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: digits}
spec: {workingDir: ., entrypoint: main.py}
";

#[test]
fn the_stored_object_shows_every_default() {
    insta::assert_snapshot!(manifest::to_yaml(&only(JOB).spec()).unwrap());
}

#[test]
fn the_defaults_of_a_cluster_depend_on_where_they_stand() {
    let text = "
apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata: {name: small}
spec: {provider: {local: {}}, workerGroups: [{name: cpu, maxNodes: 2}]}
";
    let manifest = &read(text).manifests[0];
    let admitted = manifest.admit(std::path::Path::new("/nowhere")).unwrap();
    insta::assert_snapshot!(manifest::to_yaml(&admitted.spec()).unwrap());
}

#[test]
fn a_cluster_on_ec2_leaves_resources_to_the_instance_types() {
    let text = "
apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata: {name: cloud}
spec:
  provider: {aws: {region: us-west-2, subnets: [subnet-0a1b], iamInstanceProfile: ray-node}}
  head: {instance: {types: [m6i.large], image: {id: ami-0a1b}}}
  workerGroups:
    - name: gpu
      maxNodes: 5000
      market: {spot: }
      template:
        instance:
          types: [g5.xlarge]
          image: {parameter: /images/gpu}
          blockDevices: [{deviceName: /dev/sdf, size: 100Gi}]
          docker: {image: ray, runOptions: [-v, /data:/data]}
          fileSystems: [{id: fs-0a1b, mountPath: /efs}]
    - name: cpu
      maxNodes: 1
      template: {resources: {cpu: 2}, instance: {types: [m6i.large], image: {id: ami-0a1b}}}
";
    let admitted = read(text).manifests[0].admit(std::path::Path::new("/nowhere")).unwrap();
    insta::assert_snapshot!(manifest::to_yaml(&admitted.spec()).unwrap());
}

#[test]
fn what_has_no_value_counts_as_left_out() {
    let text = "
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: digits, namespace: , labels: ~, annotations: null}
spec:
  workingDir: .
  entrypoint: main.py
  suspend:
  scaling: null
  maxReplicas: ~
  resources: {memory: , cpu: }
  runtimeEnv: {pip: null}
status:
";
    let AnyObject::Job(read) = only(text) else { panic!() };
    let AnyObject::Job(mut expected) = only(JOB) else { panic!() };
    expected.spec.runtime_env.insert("pip".to_owned(), Value::Null);
    assert_eq!(read, expected);
}

#[test]
fn what_the_store_has_set_is_ignored() {
    let mut object = only(JOB);
    let metadata = object.metadata_mut();
    metadata.uid = "1234".into();
    metadata.generation = 3;
    metadata.resource_version = 17;
    metadata.creation_timestamp = Some("2026-11-23T00:00:00Z".parse().unwrap());
    metadata.finalizers = vec!["rayconcile.dev/graceful-stop".to_owned()];
    let mut stored = object.to_json();
    stored["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
    stored["status"] = json!({"phase": "Running", "something": ["new"]});
    assert_eq!(only(&manifest::to_yaml(&stored).unwrap()), only(JOB));
}

#[test]
fn lists_are_read_item_by_item() {
    let list = json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "AdaptDLJobList",
        "metadata": {"resourceVersion": "7"},
        "items": [only(JOB).to_json()],
    });
    assert_eq!(only(&manifest::to_yaml(&list).unwrap()), only(JOB));
}

#[test]
fn yaml_may_be_json_and_have_anchors_and_merge_keys() {
    let json = serde_json::to_string_pretty(&only(JOB).to_json()).unwrap();
    assert_eq!(only(&json), only(JOB));
    let text = "
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: &name digits, labels: &labels {app: digits}, annotations: {<<: *labels, name: *name}}
spec: {workingDir: ., entrypoint: main.py}
";
    let object = only(text);
    assert_eq!(object.metadata().annotations["app"], "digits");
    assert_eq!(object.metadata().annotations["name"], "digits");
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark_do_not_matter() {
    assert_eq!(only(&JOB.replace('\n', "\r\n")), only(JOB));
}

#[test]
fn an_object_without_a_namespace_is_in_the_one_that_was_asked_for() {
    let source = |text: String| vec![manifest::Source::new("x", text, None)];
    let loaded = manifest::read(source(JOB.to_owned()), "team");
    assert_eq!(loaded.manifests[0].object.key().to_string(), "team/digits");
    let named = JOB.replace("{name: digits}", "{name: digits, namespace: own}");
    assert_eq!(manifest::read(source(named), "team").manifests[0].object.key().to_string(), "own/digits");
}

#[test]
fn json_is_read_by_the_same_rules() {
    let manifest = manifest::read_json(only(JOB).to_json(), "default", None).unwrap();
    assert_eq!(manifest.object, only(JOB));
    let bad = json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "AdaptDLJob",
        "metadata": {"name": "digits"},
        "spec": {"minReplicas": 2, "maxReplica": 1},
    });
    let problems = manifest::read_json(bad, "default", None).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].to_string(), "spec.maxReplica: there is no such field");
    assert_eq!(problems[0].help.as_deref(), Some("did you mean `maxReplicas`?"));
}
