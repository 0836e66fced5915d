//! What a job leaves, kept in S3: moto's, behind faults on demand.

use std::fs;

use serde_json::{Value, json};

use crate::region::Region;
use crate::support::{World, cluster, job, phase, replicas};

/// A region with a bucket, and a world with a controller that finds it.
fn bucket() -> (Region, World) {
    let region = Region::start(&[]);
    region.boto(
        "s3.create_bucket(Bucket='team', CreateBucketConfiguration={'LocationConstraint': 'us-west-2'})",
    );
    let world = region.world();
    (region, world)
}

/// The names of the bucket's objects.
fn objects(region: &Region) -> Vec<String> {
    let code = "print(*(o['Key'] for o in s3.list_objects_v2(Bucket='team').get('Contents', [])), sep='\\n')";
    region.boto(code).lines().map(str::to_owned).collect()
}

fn condition<'a>(job: &'a Value, kind: &str) -> &'a Value {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn steps(job: &Value) -> u64 {
    job["status"]["progress"]["steps"].as_u64().unwrap_or(0)
}

#[test]
fn a_job_goes_on_from_a_checkpoint_in_s3_when_the_machine_has_none() {
    let (region, mut world) = bucket();
    let enough = world.path("enough");
    let rest = "scaling: {policy: Fixed, replicas: 1}\n  \
                checkpoint: {interval: 1s, storage: {url: 's3://team/runs'}}\n  \
                artifacts: {paths: [model.pt], destination: 's3://team/models/digits'}";
    let manifest =
        cluster("c", 1) + "---\n" + &job("digits", "c", &format!("--until, {}", enough.display()), rest);
    world.write("job.yaml", &manifest);
    world.ok(&["apply", "-f", "job.yaml"]);
    // Two are kept, and a third was there.
    let third = |job: &Value| job["status"]["checkpoint"]["id"]["number"].as_u64() >= Some(3);
    world.wait_job("digits", "it has saved three times", third);
    world.ok(&["suspend", "digits"]);
    let resting = world.wait_job("digits", "it rests", |job| phase(job) == "Suspended");
    let (newest, uid) = (&resting["status"]["checkpoint"], resting["metadata"]["uid"].as_str().unwrap());
    let digest = newest["digest"].as_str().unwrap();
    let durable = condition(&resting, "CheckpointDurable");
    assert_eq!(
        (&durable["status"], &durable["reason"]),
        (&json!("True"), &json!("ObjectStorage")),
        "{durable}"
    );

    let kept = world.wait("the surplus is dropped", || Some(objects(&region)).filter(|kept| kept.len() == 2));
    let name = format!("-{}.tar", &digest[..12]);
    let key = kept.iter().find(|key| key.ends_with(&name)).unwrap_or_else(|| panic!("{name} in {kept:?}"));
    assert!(key.starts_with(&format!("runs/default/digits/{uid}/checkpoint-0-")), "{key}");
    let read = format!(
        "import hashlib\nfound = s3.get_object(Bucket='team', Key='{key}')\n\
         print(found['Metadata']['sha256'], hashlib.sha256(found['Body'].read()).hexdigest())"
    );
    assert_eq!(region.boto(&read), format!("{digest} {digest}"));
    assert_eq!(world.ok(&["checkpoint", "ls", "digits"]).lines().count(), 3);
    let got = world.ok(&["checkpoint", "get", "digits", "-o", "got"]);
    assert!(fs::read_dir(world.path(got.trim())).unwrap().count() > 0);

    // Nothing of it is on this machine, nor needs to be.
    world.kill_controller();
    let mut files = walk(&world.path("state/jobs"));
    files.retain(|file| file.ends_with(".tar"));
    assert_eq!(files, Vec::<String>::new());
    fs::remove_dir_all(world.path("state/jobs")).unwrap();
    world.start(&[], &region.environment());
    world.ok(&["resume", "digits"]);
    let again = world.wait_job("digits", "it trains again", |job| replicas(job) == 1);
    let group = again["status"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!(group["restored"], newest["id"]);
    world.wait_job("digits", "it goes on", |job| steps(job) > steps(&resting));

    world.write("enough", "");
    world.wait_job("digits", "it is done", |job| phase(job) == "Succeeded");
    assert!(objects(&region).contains(&"models/digits/model.pt".to_owned()), "{:?}", objects(&region));
    world.finish();
}

#[test]
fn what_s3_does_not_take_stays_on_the_cluster_until_it_does() {
    let (region, mut world) = bucket();
    region.faults(json!([{"action": "s3:PUT", "error": "AccessDenied"}]));
    let enough = world.path("enough");
    let rest = "scaling: {policy: Fixed, replicas: 1}\n  \
                checkpoint: {interval: 1s, storage: {url: 's3://team'}}";
    let manifest =
        cluster("c", 1) + "---\n" + &job("digits", "c", &format!("--until, {}", enough.display()), rest);
    world.write("job.yaml", &manifest);
    world.ok(&["apply", "-f", "job.yaml"]);
    let refused = |job: &Value| condition(job, "CheckpointDurable")["reason"] == "NotKept";
    let job = world.wait_job("digits", "S3 has refused", refused);
    let told = condition(&job, "CheckpointDurable")["message"].as_str().unwrap();
    for part in [
        "still only on the cluster, none is kept yet: cannot write s3://team/default/digits/",
        "AccessDenied",
    ] {
        assert!(told.contains(part), "{told}");
    }
    // A newer checkpoint takes the place of one that was refused, and is tried at once.
    let said = || world.ok(&["status"]).contains("CheckpointDurable NotKept").then_some(());
    world.wait("its status says so", said);
    assert!(world.ok(&["events", "-A"]).contains("FetchCheckpointFailed"));

    // It is not let go while its state is nowhere else; another kind of refusal makes no difference.
    region.faults(json!([{"action": "s3:PUT", "error": "SlowDown"}]));
    world.ok(&["suspend", "digits"]);
    world.wait_job("digits", "it waits for S3", |job| {
        phase(job) == "Stopping"
            && condition(job, "CheckpointDurable")["message"].to_string().contains("SlowDown")
    });
    assert_eq!(objects(&region), Vec::<String>::new());
    assert!(region.calls("s3:PUT") < 100, "{} calls", region.calls("s3:PUT"));
    region.faults(json!([]));
    let resting = world.wait_job("digits", "it rests", |job| phase(job) == "Suspended");
    assert_eq!(objects(&region).len(), 1);

    // A bucket that cannot be seen says nothing of what is in it.
    world.kill_controller();
    let elsewhere = Region::start(&[]);
    world.start(&[], &elsewhere.environment());
    world.ok(&["resume", "digits"]);
    world.wait("it cannot be restored", || world.log().contains("NoSuchBucket").then_some(()));
    assert_eq!(world.job("digits")["status"]["checkpoint"]["id"], resting["status"]["checkpoint"]["id"]);
    world.kill_controller();
    world.start(&[], &region.environment());
    let again = world.wait_job("digits", "it trains again", |job| replicas(job) == 1);
    let group = again["status"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!(group["restored"], resting["status"]["checkpoint"]["id"]);
    world.finish();
}

#[test]
fn large_artifacts_are_put_in_parts_whole_or_not_at_all() {
    let (region, world) = bucket();
    let write = "mkdir -p 'out/a b' && yes 0123456789abcdef | head -c 20000000 > 'out/a b/big.bin'";
    let manifest = format!(
        "{}---\napiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: big}}\nspec:\n  clusterRef: \
         {{name: c}}\n  command: [sh, -c, \"{write}\"]\n  artifacts: {{paths: [out], destination: 's3://team/big'}}\n",
        cluster("c", 1)
    );
    world.write("job.yaml", &manifest);
    // The third part does not arrive, nor does it when it is tried again.
    let third = json!({"action": "s3:PUT", "match": {"partNumber": "3"}, "error": "InternalError"});
    region.faults(json!([third]));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait("S3 has failed", || {
        world.ok(&["events", "-A"]).contains("DeliverArtifactsFailed").then_some(())
    });
    assert_eq!(objects(&region), Vec::<String>::new());
    let uploads = "print(len(s3.list_multipart_uploads(Bucket='team').get('Uploads', [])))";
    // It is tried again and again: between two tries nothing is begun.
    world.wait("what was begun is ended", || (region.boto(uploads) == "0").then_some(()));
    region.faults(json!([]));
    world.wait_job("big", "it is delivered", |job| phase(job) == "Succeeded");
    let read = "found = s3.get_object(Bucket='team', Key='big/out/a b/big.bin')['Body'].read()\n\
                print(found == (b'0123456789abcdef\\n' * 1176471)[:20000000])";
    assert_eq!(region.boto(read), "True");
    world.finish();
}

/// The files below a directory.
fn walk(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => walk(&path),
        path => vec![path.display().to_string()],
    });
    found.collect()
}
