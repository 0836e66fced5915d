//! What a worker finds around it: its own devices, threads, arguments, modules and environment, and no secret that
//! is anybody else's.

use serde_json::Value;

use crate::support::{World, job, phase};

fn seen(world: &World, job: &str, rank: u32) -> Value {
    world.wait("the worker has told what it sees", || {
        let output = world.ok(&["logs", job, "--rank", &rank.to_string()]);
        output.lines().find_map(|line| serde_json::from_str(line.strip_prefix("SEEN ")?).ok())
    })
}

#[test]
fn workers_see_what_is_theirs() {
    let mut world = World::new();
    let secret = world.write("secret", "from a file\n");
    world.start(&[], &[("TEST_SECRET", "from the environment")]);
    let cluster = "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {name: c}\nspec:\n  provider: {local: {}}\n  \
                   workerGroups:\n  - {name: gpu, minNodes: 1, maxNodes: 1, template: {resources: {cpu: 8, gpu: 4, \
                   memory: 2Gi, custom: {license: 2}}, labels: {zone: a}}}\n";
    let rest = format!(
        "resources: {{cpu: 3, gpu: 2, memory: 512Mi, custom: {{license: 1}}}}\n  \
         scaling: {{policy: Fixed, replicas: 2}}\n  env:\n  - {{name: PLAIN, value: 'a value'}}\n  \
         - {{name: FROM_ENV, valueFrom: {{env: TEST_SECRET}}}}\n  - {{name: FROM_FILE, valueFrom: {{file: {}}}}}",
        secret.display()
    );
    let manifest = [
        cluster.to_owned(),
        job("seen", "c", "dump, --flag, 'two words'", &rest).replace("elastic.py", "trouble.py"),
    ];
    world.write("job.yaml", &manifest.join("---\n"));
    world.ok(&["apply", "-f", "job.yaml"]);

    let (first, second) = (seen(&world, "seen", 0), seen(&world, "seen", 1));
    let devices = |seen: &Value| {
        let text = seen["env"]["CUDA_VISIBLE_DEVICES"].as_str().unwrap().to_owned();
        let mut devices: Vec<u32> = text.split(',').map(|device| device.parse().unwrap()).collect();
        devices.sort_unstable();
        devices
    };
    let mut all = [devices(&first), devices(&second)].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "each has two devices, and none has another's");
    for (rank, seen) in [&first, &second].into_iter().enumerate() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(seen["threads"], cores.min(3), "torch starts as many threads as the worker has CPUs");
        assert_eq!(seen["name"], "__main__");
        assert_eq!(seen["argv"], serde_json::json!(["trouble.py", "dump", "--flag", "two words"]));
        assert_eq!(seen["helper"], "a module beside the script");
        assert_eq!(seen["file"], format!("{}/trouble.py", seen["cwd"].as_str().unwrap()));
        assert_eq!(seen["path0"], seen["cwd"]);
        let env = &seen["env"];
        assert_eq!((&env["PLAIN"], &env["FROM_ENV"]), (&"a value".into(), &"from the environment".into()));
        assert_eq!(env["FROM_FILE"], "from a file");
        assert_eq!(env["ADAPTDL_REPLICA_RANK"], rank.to_string());
        assert_eq!((&env["ADAPTDL_NUM_REPLICAS"], &env["ADAPTDL_NUM_NODES"]), (&"2".into(), &"1".into()));
        assert_eq!(env["ADAPTDL_JOB_ID"], "default/seen");
        assert!(env["RAY_AUTH_TOKEN_PATH"].is_null() && env["RAY_ADDRESS"].is_null());
    }
    assert_ne!(first["cwd"], second["cwd"], "nobody writes into another's directory");

    // Secrets are named in what is stored, and not there themselves; nor are they shown.
    world.wait_job("seen", "it is done", |job| phase(job) == "Succeeded");
    let shown = world.ok(&["get", "job", "seen", "-o", "yaml"]) + &world.ok(&["describe", "job", "seen"]);
    let stored = std::fs::read(world.path("state/rayconcile.db")).unwrap();
    let journal = std::fs::read(world.path("state/rayconcile.db-wal")).unwrap_or_default();
    for secret in ["from the environment", "from a file"] {
        assert!(!shown.contains(secret), "{shown}");
        for bytes in [&stored, &journal] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
    let cluster = world.get("cluster", "c");
    assert_eq!(cluster["status"]["nodes"][1]["capacity"], "8 CPU, 4 GPU, 2.0 GiB, 2 license");
    world.finish();
}
