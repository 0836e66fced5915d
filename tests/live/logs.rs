//! Workers' output in S3: moto's, behind faults on demand.

use std::time::Duration;

use serde_json::{Value, json};

use crate::region::Region;
use crate::support::{World, cluster, phase};

/// What a worker does: ten megabytes of numbered lines, slowly enough for everybody to follow, and then a few more until
/// a file is there.
const WRITES: &str = "for block in $(seq 0 29); do seq -f 'line %08.0f of what a worker has to say, line by line' \
                      $((block * 5000 + 1)) $(((block + 1) * 5000)); sleep 0.2; done; n=150000; \
                      while [ ! -e FILE ]; do n=$((n + 1)); printf 'line %08d\\\\n' $n; sleep 0.05; done; echo done";

/// Reads all that there is of the first worker: every object begins where the one before ends, and together they are
/// what was written, each line once.
const READ: &str = r#"
prefix = 'runs/default/w/UID/group-0/rank-0/'
pages = s3.get_paginator('list_objects_v2').paginate(Bucket='team', Prefix=prefix)
objects = [found['Key'] for page in pages for found in page.get('Contents', [])]
text = b''
for key in objects:
    assert key == f'{prefix}{len(text):016}.log', (key, len(text))
    text += s3.get_object(Bucket='team', Key=key)['Body'].read()
numbers = [int(line[5:13]) for line in text.decode().splitlines() if line.startswith('line ')]
assert numbers == list(range(1, len(numbers) + 1)), 'some are missing, or there twice'
print(len(objects), len(numbers), text == open('KEPT', 'rb').read() if 'KEPT' else None, text.endswith(b'done\n'))
"#;

fn read(region: &Region, uid: &str, kept: &str) -> (u64, u64, String) {
    let said = region.boto(&READ.replace("UID", uid).replace("KEPT", kept));
    let mut words = said.splitn(3, ' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    (number(), number(), words.next().unwrap().to_owned())
}

fn durable(job: &Value) -> &Value {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == "LogsDurable").unwrap_or(&Value::Null)
}

#[test]
fn output_comes_to_s3_once_whatever_is_killed_or_refused() {
    let region = Region::start(&[]);
    region.boto(
        "s3.create_bucket(Bucket='team', CreateBucketConfiguration={'LocationConstraint': 'us-west-2'})",
    );
    let mut world = World::new();
    let enough = world.path("enough");
    let writes = WRITES.replace("FILE", enough.to_str().unwrap());
    let manifest = format!(
        "{}---\napiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: w}}\nspec:\n  clusterRef: \
         {{name: c}}\n  command: [bash, -c, \"{writes}\"]\n  logs: {{url: 's3://team/runs'}}\n",
        cluster("c", 1)
    );
    world.write("job.yaml", &manifest);

    // It is killed when something is there and that is not written down here yet.
    let mut environment = region.environment();
    environment.push(("RAYCONCILE_CRASH_AT", "archived"));
    world.start(&[], &environment);
    world.ok(&["apply", "-f", "job.yaml"]);
    assert!(world.controller_dies(Duration::from_secs(120)), "nothing was brought there\n{}", world.log());
    world.start(&[], &region.environment());
    let job = world.wait_job("w", "its output is there", |job| durable(job)["status"] == "True");
    let uid = job["metadata"]["uid"].as_str().unwrap().to_owned();
    let message = format!("its workers' output is kept in s3://team/runs/default/w/{uid}");
    assert_eq!(
        (&durable(&job)["reason"], &durable(&job)["message"]),
        (&json!("ObjectStorage"), &json!(message))
    );
    let before = world.wait("the first lines are there", || {
        Some(read(&region, &uid, "")).filter(|(_, lines, _)| *lines >= 150_000)
    });
    assert!(before.0 >= 2, "they are in several objects");

    region.faults(json!([{"action": "s3:PUT", "error": "AccessDenied"}]));
    let refused = world.wait_job("w", "S3 has refused", |job| durable(job)["reason"] == "NotKept");
    let told = durable(&refused)["message"].as_str().unwrap();
    assert!(
        told.contains("cannot write s3://team/runs/default/w/") && told.contains("AccessDenied"),
        "{told}"
    );
    assert_eq!(phase(&refused), "Running", "the job goes on");
    assert!(world.ok(&["status"]).contains("LogsDurable NotKept"));
    assert!(world.ok(&["events", "-A"]).contains("LogsNotKept"));
    // Nobody says what came of one try; the next is the same.
    let calls = region.calls("s3:PUT");
    region.faults(json!([{"action": "s3:PUT", "drop": true, "times": 2}]));
    world.wait_job("w", "it is kept again", |job| durable(job)["status"] == "True");
    assert!(region.calls("s3:PUT") - calls < 20, "{} calls", region.calls("s3:PUT") - calls);
    world.kill_controller();
    world.start(&[], &region.environment());

    world.write("enough", "");
    world.wait_job("w", "it is done", |job| phase(job) == "Succeeded");
    let kept = world.write("kept.log", &world.ok(&["logs", "w"]));
    let (_, lines, whole) = read(&region, &uid, kept.to_str().unwrap());
    assert!(lines > before.1 && whole == "True True", "{lines} lines, {whole}");
    let described = world.ok(&["describe", "job", "w"]);
    assert!(described.contains(&format!("logs        s3://team/runs/default/w/{uid}")), "{described}");

    // What is here may go; what is there stays, without the job too.
    world.ok(&["delete", "job", "w"]);
    world.wait("it is gone", || world.job("w").is_null().then_some(()));
    assert_eq!(read(&region, &uid, "").1, lines);
    world.finish();
}
