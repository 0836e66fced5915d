//! What becomes of manifests on the machine they are read on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rayconcile::api::cluster::Provider;
use rayconcile::api::object::AnyObject;
use rayconcile::manifest::{self, Manifest};
use serde_json::json;

use super::{lines, write};

/// A directory with a program, and one for packages.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("code/main.py", "print(1)"),
        ("code/lib/util.py", ""),
        ("code/requirements.txt", "# What it needs.\ntimm==1.0\n\n  torchvision\n"),
        ("code/nested.txt", "-r other.txt\n"),
        ("code/skipped.py", ""),
        ("code/.rayignore", "skipped.py\n"),
        ("token", "secret"),
    ];
    write(directory.path(), &files);
    let packages = directory.path().join("packages");
    (directory, packages)
}

/// Reads jobs and clusters of the given specs from a file of the directory.
fn manifests(directory: &Path, specs: &[&str]) -> Vec<Manifest> {
    let documents = specs.iter().enumerate().map(|(index, spec)| {
        let kind = if spec.contains("provider") { "RayCluster" } else { "AdaptDLJob" };
        format!(
            "---\napiVersion: rayconcile.dev/v1\nkind: {kind}\nmetadata: {{name: x{index}}}\nspec: {spec}\n"
        )
    });
    let file = directory.join("test.yaml");
    fs::write(&file, documents.collect::<String>()).unwrap();
    let (sources, _) = manifest::collect(&[file], false);
    let loaded = manifest::read(sources, "default");
    assert_eq!(lines(&loaded.problems, directory), "");
    loaded.manifests
}

#[test]
fn an_admitted_job_does_not_depend_on_where_it_was_read() {
    let (directory, packages) = place();
    let at = directory.path();
    let spec = "
  workingDir: code
  entrypoint: ./main.py
  runtimeEnv: {pip: requirements.txt}
  env: [{name: TOKEN, valueFrom: {file: ./token}}]
  checkpoint: {storage: {path: ../ckpt}}
  artifacts: {paths: [model.pt], destination: out}
";
    let manifest = &manifests(at, &[spec])[0];
    assert_eq!(lines(&manifest.validate(), at), "");
    let AnyObject::Job(job) = manifest.admit(&packages).unwrap() else { panic!() };
    let spec = job.spec;
    let digest = spec.working_dir_digest.unwrap();
    assert!(packages.join(format!("{digest}.zip")).is_file());
    assert_eq!(spec.working_dir.as_deref(), Some("code"));
    assert_eq!(spec.runtime_env["pip"], json!(["timm==1.0", "torchvision"]));
    let absolute = |path: &str| Some(at.join(path).display().to_string());
    assert_eq!(spec.env[0].value_from.as_ref().unwrap().file, absolute("token"));
    assert_eq!(spec.checkpoint.storage.path, absolute("../ckpt"));
    assert_eq!(spec.artifacts.destination, absolute("out"));
}

#[test]
fn an_admitted_cluster_neither() {
    let (directory, packages) = place();
    let at = directory.path();
    write(at, &[("venv/bin/python", "")]);
    let specs = [
        "{provider: {local: {python: venv/bin/python}}}",
        "{provider: {local: {python: python3.11}}}",
        "{provider: {existing: {address: 'http://h:1'}}, auth: {tokenFrom: {file: token}}}",
    ];
    let admitted: Vec<_> = manifests(at, &specs)
        .iter()
        .map(|manifest| match manifest.admit(&packages).unwrap() {
            AnyObject::Cluster(cluster) => cluster.spec,
            AnyObject::Job(_) => panic!(),
        })
        .collect();
    let python = |index: usize| match &admitted[index].provider {
        Provider::Local(local) => local.python.clone().unwrap(),
        Provider::Existing(_) | Provider::Aws(_) => panic!(),
    };
    assert_eq!(python(0), at.join("venv/bin/python").display().to_string());
    assert_eq!(python(1), "python3.11");
    let token = admitted[2].auth.token_from.as_ref().unwrap().file.clone();
    assert_eq!(token, Some(at.join("token").display().to_string()));
    assert_eq!(admitted[0].head.resources.cpu.unwrap().0, 0);
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_its_place() {
    let (directory, packages) = place();
    let at = directory.path();
    symlink("/etc", at.join("etc")).unwrap();
    write(at, &[("out", ""), ("linked/main.py", ""), ("code/large.txt", &"torch\n".repeat(200_000))]);
    symlink("/etc/hostname", at.join("linked/hostname")).unwrap();
    let specs = [
        "{workingDir: cod, entrypoint: main.py}",
        "{workingDir: token, entrypoint: main.py}",
        "{workingDir: code, entrypoint: man.py}",
        "{workingDir: code, entrypoint: lib}",
        "{workingDir: code, entrypoint: skipped.py}",
        "{workingDir: linked, entrypoint: main.py}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: require.txt}}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: nested.txt}}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: ../token}}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: /dev/zero}}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: lib}}",
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: large.txt}}",
        "{workingDir: code, entrypoint: main.py, artifacts: {paths: [x], destination: out}}",
        "{provider: {local: {python: ./venv/bin/python}}}",
    ];
    let manifests = manifests(at, &specs);
    let told: Vec<_> =
        manifests.iter().map(|manifest| lines(&manifest.admit(&packages).unwrap_err(), at)).collect();
    insta::assert_snapshot!(told.join("\n"));
    for (manifest, told) in manifests.iter().zip(&told) {
        assert_eq!(&lines(&manifest.validate(), at), told);
    }
    assert!(!packages.exists());
}

#[test]
fn a_digest_stands_for_a_package_that_was_made() {
    let (directory, packages) = place();
    let digest = "0".repeat(64);
    let spec = format!("{{workingDir: elsewhere, entrypoint: main.py, workingDirDigest: '{digest}'}}");
    let object = manifests(directory.path(), &[&spec])[0].admit(&packages).unwrap();
    assert_eq!(object.spec()["workingDirDigest"], json!(digest));
    assert!(!packages.exists());
}

#[test]
fn what_is_admitted_can_be_read_and_admitted_again() {
    let (directory, packages) = place();
    let specs = [
        "{workingDir: code, entrypoint: main.py, runtimeEnv: {pip: requirements.txt}}",
        "{provider: {local: {}}, workerGroups: [{name: cpu, maxNodes: 1}]}",
        "{provider: {existing: {address: 'http://head:8265'}}}",
        "{provider: {aws: {region: us-west-2, subnets: [subnet-0], iamInstanceProfile: ray}},
          head: {instance: {types: [m6i.large], image: {id: ami-0}}}, workerGroups: [{name: cpu, maxNodes: 1,
          template: {instance: {types: [m6i.large], image: {id: ami-0}}}}]}",
    ];
    for manifest in manifests(directory.path(), &specs) {
        let admitted = manifest.admit(&packages).unwrap();
        let again = manifest::read_json(admitted.to_json(), "default", None).unwrap();
        assert_eq!(again.admit(&packages).unwrap(), admitted);
    }
}

#[test]
fn relative_paths_from_the_api_are_refused() {
    let (directory, packages) = place();
    let job = json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "AdaptDLJob",
        "metadata": {"name": "x"},
        "spec": {
            "workingDir": "code",
            "entrypoint": "main.py",
            "env": [{"name": "TOKEN", "valueFrom": {"file": "token"}}],
            "checkpoint": {"storage": {"path": "ckpt"}},
            "artifacts": {"paths": ["model.pt"], "destination": "out"},
        },
    });
    let read = |base| manifest::read_json(job.clone(), "default", base).unwrap();
    let problems = read(None).admit(&packages).unwrap_err();
    insta::assert_snapshot!(lines(&problems, directory.path()));
    read(Some(directory.path().to_owned())).admit(&packages).unwrap();
}

#[test]
fn through_the_api_no_file_is_looked_at() {
    let (directory, packages) = place();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let job = |spec: serde_json::Value| json!({"apiVersion": "rayconcile.dev/v1", "kind": "AdaptDLJob", "metadata": {"name": "x"}, "spec": spec});
    let admit = |value| manifest::read_json(value, "default", None).unwrap().admit(&packages);
    // Whether there is such a directory or file makes no difference.
    let told = |directory: String, pip: String| {
        let spec = json!({"command": ["x"], "workingDir": directory, "runtimeEnv": {"pip": pip}});
        lines(&admit(job(spec)).unwrap_err(), Path::new("/"))
    };
    insta::assert_snapshot!(told(at("code"), at("token")));
    assert_eq!(told(at("code"), at("token")), told(at("nowhere"), at("nothing")));
    for place in ["token", "nothing"] {
        let spec = json!({"command": ["x"], "checkpoint": {"storage": {"path": at(place)}}});
        assert!(admit(job(spec)).is_ok(), "{place}");
    }
    assert!(!packages.exists());
}
