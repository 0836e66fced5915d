//! A `ray up` configuration becomes a manifest: on standard output or in a file, with what is to be said on standard
//! error.

use std::io::Write as _;
use std::process::Stdio;

use super::run;
use crate::world::{World, said};

const CLUSTER: &str = "\
cluster_name: gpu
upscaling_speed: 1.0
provider: {type: aws, region: us-west-2, availability_zone: us-west-2a}
auth: {ssh_user: ubuntu}
docker: {image: rayproject/ray, container_name: ray}
";

#[test]
fn the_manifest_is_data_and_the_rest_is_talk() {
    let world = World::new();
    world.write("cluster.yaml", CLUSTER);
    insta::assert_snapshot!("convert", run(&world, &["convert", "cluster.yaml"]));
    let printed = world.ok(&["convert", "cluster.yaml"]);
    insta::assert_snapshot!("convert-output", run(&world, &["convert", "cluster.yaml", "-o", "gpu.yaml"]));
    assert_eq!(std::fs::read_to_string(world.path("gpu.yaml")).unwrap(), printed);
    assert_eq!(world.ok(&["validate", "-f", "gpu.yaml"]), "raycluster/gpu is valid\n");

    let mut command = world.command(&["convert", "-", "--name", "lab"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(CLUSTER.as_bytes()).unwrap();
    let said = said(&child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    let expected = printed.replace("name: gpu", "name: lab").replace("From cluster.yaml", "From <stdin>");
    assert_eq!(said.out, expected);
}

#[test]
fn what_cannot_be_converted_is_told_of_with_exit_code_2() {
    let world = World::new();
    world.write("cluster.yaml", CLUSTER);
    world.write("gcp.yaml", &CLUSTER.replace("aws", "gcp"));
    for (name, arguments) in [
        ("convert-gcp", &["convert", "gcp.yaml", "-o", "out.yaml"] as &[&str]),
        ("convert-missing", &["convert", "clustr.yaml"]),
        ("convert-directory", &["convert", "."]),
        ("convert-name", &["convert", "cluster.yaml", "--name", "My_Cluster"]),
        ("convert-over", &["convert", "cluster.yaml", "-o", "./cluster.yaml"]),
    ] {
        let said = run(&world, arguments);
        assert!(said.starts_with("exit code 2\n--- stderr\n"), "{arguments:?}: {said}");
        insta::assert_snapshot!(name, said);
    }
    assert!(!world.path("out.yaml").exists());
    assert_eq!(std::fs::read_to_string(world.path("cluster.yaml")).unwrap(), CLUSTER);
    let said = run(&world, &["convert", "cluster.yaml", "-o", "no/where.yaml"]);
    assert!(said.starts_with("exit code 1\n--- stderr\nerror: cannot write no/where.yaml"), "{said}");
}
