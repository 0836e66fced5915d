//! `checkpoint inspect`: of a job, of a directory, a file and an archive; and how two differ.

use jiff::Timestamp;
use rayconcile::api::ids::{CheckpointId, Digest, GroupNumber};
use rayconcile::api::record::CheckpointRecord;
use rayconcile::api::units::Bytes;
use serde_json::{Value, json};

use super::checkpoint::Training;
use super::run;
use crate::inspect::fixtures::{adaptdl, call, dict, tensor, text, torch};
use crate::world::World;

const WEIGHTS: [f32; 6] = [3.0, 0.0, 0.0, -4.0, 0.5, 0.0];

/// Two checkpoints of one model, and a file beside them.
fn saved(world: &World) {
    adaptdl(&world.path("saved/checkpoint-3"), 2, &WEIGHTS);
    adaptdl(&world.path("later/checkpoint-4"), 5, &[3.0, 0.0, 0.0, -3.0, 0.5, 0.0]);
    let large = dict(&[
        ("encoder", tensor("0", 0, &[3], &[1])),
        ("decoder", tensor("0", 3, &[4], &[1])),
        ("hook", call("os", "system", &[text("true")])),
    ]);
    std::fs::write(world.path("model.pt"), torch(&large, &[("0", &WEIGHTS)])).unwrap();
}

fn archive(world: &World, directory: &str, path: &str) {
    let mut builder = tar::Builder::new(std::fs::File::create(world.path(path)).unwrap());
    builder.append_dir_all("checkpoint-3", world.path(directory)).unwrap();
    builder.finish().unwrap();
}

fn parsed(world: &World, arguments: &[&str]) -> Value {
    serde_json::from_str(&world.run(&[&["checkpoint", "inspect", "-o", "json"], arguments].concat()).out)
        .unwrap()
}

#[test]
fn a_checkpoint_is_shown_with_what_is_known_of_it() {
    let world = World::new();
    saved(&world);
    insta::assert_snapshot!("inspect", run(&world, &["checkpoint", "inspect", "./saved"]));
    insta::assert_snapshot!("inspect-file", run(&world, &["checkpoint", "inspect", "model.pt"]));
    let told = parsed(&world, &["./saved"]);
    insta::assert_snapshot!("inspect-json", serde_json::to_string_pretty(&told).unwrap());
    // A directory with checkpoints, one of them, and an archive of it come to the same.
    archive(&world, "saved/checkpoint-3", "kept.tar");
    for path in ["saved/checkpoint-3", "kept.tar"] {
        let same = parsed(&world, &[path]);
        for part in ["files", "training", "values", "tensors"] {
            assert_eq!(same[part], told[part], "{path}: {part}");
        }
        assert_eq!(same["source"]["group"], 3, "{path}");
    }
    let file = parsed(&world, &["saved/checkpoint-3/adaptdl-metrics"]);
    assert_eq!((&file["training"]["progress"], &file["training"]["batchSize"]), (&json!(41.0), &json!(64)));
}

#[test]
fn what_differs_is_shown() {
    let world = World::new();
    saved(&world);
    let diff = |a: &str, b: &str| run(&world, &["checkpoint", "inspect", "--diff", a, b]);
    insta::assert_snapshot!("inspect-diff", diff("./saved", "./later"));
    insta::assert_snapshot!("inspect-diff-same", diff("./saved", "saved/checkpoint-3"));
    insta::assert_snapshot!(
        "inspect-diff-others",
        diff("model.pt", "saved/checkpoint-3/adaptdl-dataparallel")
    );
    let told = parsed(&world, &["--diff", "./saved", "./later"]);
    insta::assert_snapshot!("inspect-diff-json", serde_json::to_string_pretty(&told).unwrap());
    // What was not read might differ.
    let whole = std::fs::read(world.path("later/checkpoint-4/adaptdl-metrics")).unwrap();
    std::fs::write(world.path("later/checkpoint-4/adaptdl-metrics"), &whole[..whole.len() - 1]).unwrap();
    let said = world.run(&["checkpoint", "inspect", "--diff", "./later", "./later"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("of adaptdl-metrics of ./later not all was read: it ends too early"),
        "{said:?}"
    );
}

#[test]
fn what_is_no_checkpoint_is_told_of() {
    let world = World::new();
    saved(&world);
    world.write("readme.pt", "a text\n");
    world.write("texts/readme", "a text\n");
    std::fs::create_dir(world.path("empty")).unwrap();
    let whole = std::fs::read(world.path("model.pt")).unwrap();
    std::fs::write(world.path("cut.pt"), &whole[..whole.len() / 2]).unwrap();
    let mut pages = String::new();
    for arguments in [
        &["readme.pt"] as &[&str],
        &["./texts"],
        &["./empty"],
        &["cut.pt"],
        &["nowhere.pt"],
        &["saved"],
        &["model.pt", "3-1"],
        &["--diff", "model.pt", "cut.pt"],
    ] {
        let arguments = [&["checkpoint", "inspect"], arguments].concat();
        pages += &format!("$ rayconcile {}\n{}\n", arguments.join(" "), run(&world, &arguments));
    }
    insta::assert_snapshot!("inspect-wrong", pages);
}

#[test]
fn a_jobs_checkpoints_are_fetched_and_shown() {
    let training = Training::new();
    let world = &training.world;
    saved(world);
    archive(world, "saved/checkpoint-3", "state/first.tar");
    archive(world, "later/checkpoint-4", "state/second.tar");
    let record = |number: u64, path: &str| CheckpointRecord {
        id: CheckpointId { group: GroupNumber(3), number },
        digest: Digest::from("d".repeat(64)),
        size: Bytes(std::fs::metadata(world.path(&format!("state/{path}"))).unwrap().len()),
        files: 4,
        steps: 412,
        save_ms: 6.2,
        saved: Timestamp::now(),
        path: path.to_owned(),
    };
    let uid = training.job().metadata.uid;
    let mut job = training.store.read_now(|tx| tx.job_record(&uid)).unwrap();
    job.checkpoints = vec![record(1, "first.tar"), record(2, "second.tar")];
    training.store.write_now(|tx| tx.put_job_record(&uid, &job)).unwrap();

    let epoch = |arguments: &[&str]| parsed(world, arguments)["training"]["epoch"].clone();
    assert_eq!((epoch(&["digits"]), epoch(&["digits", "3-1"])), (json!(5), json!(2)));
    assert_eq!(epoch(&["digits:3-2"]), 5);
    let source = parsed(world, &["digits"])["source"].clone();
    assert_eq!(
        (&source["job"], &source["id"], &source["steps"]),
        (&json!("default/digits"), &json!("3-2"), &json!(412))
    );
    let page = run(world, &["checkpoint", "inspect", "digits"]);
    insta::assert_snapshot!("inspect-job", page.lines().take(6).collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!(
        "inspect-job-diff",
        run(world, &["checkpoint", "inspect", "--diff", "digits:3-1", "digits"])
    );
    insta::assert_snapshot!("inspect-job-missing", run(world, &["checkpoint", "inspect", "digits:3-9"]));
    insta::assert_snapshot!("inspect-no-job", run(world, &["checkpoint", "inspect", "nobody"]));
}
