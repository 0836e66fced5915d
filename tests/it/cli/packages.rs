//! Packages in the state directory: what brings one there, and when it goes.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::world::World;

const JOB: &str = "\
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: packed}
spec: {clusterRef: {name: nosuch}, workingDir: program, entrypoint: main.py}
";

/// The packages that the controller has.
fn packages(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.path("state/packages")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_only_asks_brings_no_package() {
    let world = World::with_controller(&[]);
    world.write("program/main.py", "print(1)\n");
    world.write("job.yaml", JOB);
    let said = world.ok(&["apply", "-f", "job.yaml", "--dry-run=server"]);
    assert_eq!(said, "adaptdljob/packed created (server dry run)\n");
    assert_eq!(world.ok(&["apply", "-f", "job.yaml", "--dry-run"]), "adaptdljob/packed checked (dry run)\n");
    assert_eq!(world.run(&["diff", "-f", "job.yaml"]).code, 1);
    assert_eq!(packages(&world), Vec::<String>::new());
    world.ok(&["apply", "-f", "job.yaml"]);
    assert_eq!(packages(&world).len(), 1);
}

#[test]
fn a_package_that_nothing_has_named_for_a_day_goes() {
    let world = World::with_controller(&[]);
    world.write("program/main.py", "print(1)\n");
    world.write("job.yaml", JOB);
    world.ok(&["apply", "-f", "job.yaml"]);
    let named = packages(&world).remove(0);
    world.stop();
    let (old, new) = (format!("{}.zip", "a1".repeat(32)), format!("{}.zip", "b2".repeat(32)));
    for name in [&old, &new, &named] {
        let path = world.path(&format!("state/packages/{name}"));
        let file = File::options().create(true).append(true).open(path).unwrap();
        if name != &new {
            file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
        }
    }
    world.start(&[]);
    world.wait("the package is gone", || (!packages(&world).contains(&old)).then_some(()));
    let left = packages(&world);
    assert!(left.contains(&named) && left.contains(&new), "{left:?}");
}
