//! A job that trains, as far as the API can tell: a store that says so, served without a controller.

use std::net::{Ipv4Addr, SocketAddr};

use jiff::Timestamp;
use rayconcile::api::ids::Uid;
use rayconcile::api::meta::ObjectMeta;
use rayconcile::api::object::{AnyObject, Kind};
use rayconcile::server::Server;
use rayconcile::store::Store;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::world::Api;

/// A store with a cluster and a job that trains on it, served without a controller.
pub(super) struct Training {
    _runtime: tokio::runtime::Runtime,
    pub(super) store: Store,
    pub(super) api: Api,
    pub(super) directory: tempfile::TempDir,
}

impl Training {
    /// A world in which nothing happens but what a test says.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let put = |kind: Kind, name: &str, spec: Value, status: Value| {
            let metadata = ObjectMeta::named("default", name);
            let object = AnyObject::from_parts(kind, metadata, spec, Value::Null).unwrap();
            store
                .write_now(|tx| tx.apply(object, None, Uid::from(format!("uid-{name}")), Timestamp::now()))
                .unwrap();
            store.write_now(|tx| tx.set_status(&Uid::from(format!("uid-{name}")), status)).unwrap();
        };
        let cluster = json!({"phase": "Ready", "rayVersion": "2.60.0", "nodes": [
            {"name": "lab-head", "state": "Ready", "address": "127.1.0.1", "capacity": "2 CPU, 3.5 GiB", "workers": 0},
            {"name": "lab-cpu-1", "group": "cpu", "state": "Draining", "capacity": "4 CPU, 1 GPU", "workers": 1},
        ]});
        put(Kind::RayCluster, "lab", json!({"provider": {"local": {}}}), cluster);
        let job = json!({"phase": "Running", "replicas": 2, "desiredReplicas": 2, "group": 3, "workers": [
            {"rank": 0, "node": "lab-head", "pid": 7, "state": "Training"},
            {"rank": 1, "node": "lab-cpu-1", "state": "Starting"},
        ]});
        let spec = json!({"clusterRef": {"name": "lab"}, "command": ["true"], "maxReplicas": 4, "env": [{"name": "KEY", "value": "hidden"}]});
        put(Kind::AdaptDLJob, "digits", spec, job);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sources = Default::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server =
            Server::listen(address, store.clone(), directory.path(), sources, CancellationToken::new());
        runtime.spawn(runtime.block_on(server).unwrap().serve());
        let api = Api::of(directory.path()).unwrap();
        Self { _runtime: runtime, store, api, directory }
    }

    /// Has the job another status.
    pub(super) fn say(&self, workers: Value) {
        self.set_status(json!({"phase": "Running", "group": 4, "workers": workers}));
    }

    /// Has the job ended.
    pub(super) fn end(&self) {
        self.set_status(json!({"phase": "Succeeded"}));
    }

    fn set_status(&self, status: Value) {
        self.store.write_now(|tx| tx.set_status(&Uid::from("uid-digits".to_owned()), status)).unwrap();
    }
}
