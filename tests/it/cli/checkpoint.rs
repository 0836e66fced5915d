//! `checkpoint now`, against an API without a controller behind it: the test says what a cluster would have said.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};

use jiff::Timestamp;
use rayconcile::api::ids::{CheckpointId, Digest, GroupNumber, NodeName, Uid};
use rayconcile::api::job::AdaptDLJobSpec;
use rayconcile::api::meta::{CHECKPOINT_NOW, ObjectKey, ObjectMeta};
use rayconcile::api::object::{AdaptDLJob, AnyObject, Kind, Object};
use rayconcile::api::record::CheckpointRequest;
use rayconcile::api::status::{AdaptDLJobStatus, CheckpointStatus, GroupStatus, JobPhase, WorkerStatus};
use rayconcile::api::units::Bytes;
use rayconcile::server::Server;
use rayconcile::store::Store;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{run, some_objects, told};
use crate::world::{World, said, wait};

#[test]
fn a_job_that_does_not_train_has_nothing_to_save() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    insta::assert_snapshot!("now-missing", run(&world, &["checkpoint", "now", "nobody"]));
    insta::assert_snapshot!("now-suspended", run(&world, &["checkpoint", "now", "night"]));
    insta::assert_snapshot!("now-pending", run(&world, &["checkpoint", "now", "waits"]));
    assert_eq!(world.get("job", "night")["metadata"]["annotations"], Value::Null);
    world.finish();
}

/// A world with an API over a store that has one job, `digits`, which trains in group 3.
pub(super) struct Training {
    pub(super) world: World,
    pub(super) store: Store,
    _runtime: tokio::runtime::Runtime,
}

impl Training {
    pub(super) fn new() -> Self {
        let world = World::new();
        let state = world.path("state");
        let store = Store::open(&state).unwrap();
        let spec: AdaptDLJobSpec = serde_json::from_value(json!({"command": ["true"]})).unwrap();
        let metadata = ObjectMeta::named("default", "digits");
        let job = AnyObject::Job(Box::new(Object { metadata, spec, status: Default::default() }));
        store.write_now(|tx| tx.apply(job, None, Uid::from("u".to_owned()), Timestamp::now())).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sources = rayconcile::gitops::Sources::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listening = Server::listen(address, store.clone(), &state, sources, CancellationToken::new());
        runtime.spawn(runtime.block_on(listening).unwrap().serve());
        let training = Self { world, store, _runtime: runtime };
        training.say(|status| {
            status.phase = JobPhase::Running;
            status.group = Some(GroupNumber(3));
            status.workers = vec![worker("Training")];
            status.history = vec![group(true)];
            status.checkpoint = Some(checkpoint(1));
        });
        training
    }

    pub(super) fn job(&self) -> AdaptDLJob {
        let key = ObjectKey::new("default", "digits");
        match self.store.read_now(|tx| tx.get(Kind::AdaptDLJob, &key)).unwrap() {
            Some(AnyObject::Job(job)) => *job,
            other => panic!("{other:?}"),
        }
    }

    /// Changes the job's status, as only a controller does.
    fn say(&self, change: impl FnOnce(&mut AdaptDLJobStatus)) {
        let mut job = self.job();
        change(&mut job.status);
        let status = serde_json::to_value(&job.status).unwrap();
        self.store.write_now(|tx| tx.set_status(&job.metadata.uid, status)).unwrap();
    }

    /// Begins a command, and waits until its wish, another than the one before, is written down.
    fn ask(&self, before: Option<&str>) -> (Child, String) {
        let mut command = self.world.command(&["checkpoint", "now", "digits"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let wish = wait(|| {
            self.job()
                .metadata
                .annotations
                .get(CHECKPOINT_NOW)
                .cloned()
                .filter(|w| Some(w.as_str()) != before)
        });
        (child, wish.expect("nothing was asked for"))
    }

    fn see(&self, name: &str, child: Child) {
        insta::assert_snapshot!(name, told(&self.world, &said(&child.wait_with_output().unwrap())));
    }
}

fn worker(state: &str) -> WorkerStatus {
    WorkerStatus { rank: 0, node: NodeName::from("cpu-1".to_owned()), pid: Some(1), state: state.to_owned() }
}

fn group(stepped: bool) -> GroupStatus {
    let group = json!({
        "number": 3, "created": Timestamp::now(), "reason": "Started", "message": "it begins", "fromReplicas": 0,
        "replicas": 1, "nodes": ["cpu-1"], "timeline": if stepped { json!({"firstStep": Timestamp::now()}) } else { json!({}) },
    });
    serde_json::from_value(group).unwrap()
}

fn id(number: u64) -> CheckpointId {
    CheckpointId { group: GroupNumber(3), number }
}

fn checkpoint(number: u64) -> CheckpointStatus {
    CheckpointStatus {
        id: id(number),
        digest: Digest::from("d".repeat(64)),
        size: Bytes(1_258_291),
        files: 4,
        steps: 412,
        save_ms: 6.2,
        saved: Timestamp::now(),
    }
}

fn request(wish: &str, checkpoint: Option<CheckpointId>) -> Option<CheckpointRequest> {
    Some(CheckpointRequest { id: wish.to_owned(), checkpoint })
}

#[test]
fn a_checkpoint_is_waited_for_until_it_is_durable() {
    let training = Training::new();
    let (mut child, wish) = training.ask(None);
    assert_eq!(training.job().metadata.generation, 1);
    let mut still = |what: &str| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(child.try_wait().unwrap(), None, "{what}");
    };
    still("it is not even taken");
    training.say(|status| status.checkpoint_request = request(&wish, None));
    still("it is not made");
    training.say(|status| status.checkpoint_request = request(&wish, Some(id(2))));
    still("it is not durable");
    training.say(|status| status.checkpoint = Some(checkpoint(2)));
    training.see("now", child);

    // Of two who ask, the later one's checkpoint is good for both.
    let (one, first) = training.ask(Some(&wish));
    let (other, second) = training.ask(Some(&first));
    training.say(|status| status.checkpoint_request = request(&second, Some(id(3))));
    training.say(|status| status.checkpoint = Some(checkpoint(4)));
    training.see("now-both", one);
    training.see("now-both", other);
    insta::assert_snapshot!(
        "now-no-wait",
        run(&training.world, &["checkpoint", "now", "digits", "--no-wait"])
    );
}

#[test]
fn a_checkpoint_that_does_not_come_is_told_of_with_what_it_waits_for() {
    let training = Training::new();
    let late = ["checkpoint", "now", "digits", "--timeout", "300ms"];
    insta::assert_snapshot!("now-late-cluster", run(&training.world, &late));
    training.say(|status| status.history = vec![group(false)]);
    insta::assert_snapshot!("now-late-step", run(&training.world, &late));
    training.say(|status| status.workers = vec![worker("Running")]);
    insta::assert_snapshot!("now-late-adaptdl", run(&training.world, &late));
    training.say(|status| {
        status.phase = JobPhase::Starting;
        status.workers.clear();
    });
    insta::assert_snapshot!("now-late-workers", run(&training.world, &late));
    training.say(|status| {
        status.phase = JobPhase::Running;
        status.workers = vec![worker("Training")];
        status.history = vec![group(true)];
    });

    // It ends, or somebody takes the wish back: that is waited for no longer.
    let before = training.job().metadata.annotations[CHECKPOINT_NOW].clone();
    let (child, wish) = training.ask(Some(&before));
    training.say(|status| {
        status.checkpoint_request = request(&wish, None);
        status.phase = JobPhase::Failed;
    });
    training.see("now-failed", child);
    training.say(|status| status.phase = JobPhase::Running);
    let (child, _) = training.ask(Some(&wish));
    let mut job = training.job();
    job.metadata.annotations.clear();
    training.store.write_now(|tx| tx.update(AnyObject::Job(Box::new(job)))).unwrap();
    training.see("now-taken-back", child);
}
