//! Histories: the planner in a simulated world in which everything goes wrong that can.
//!
//! `RAYCONCILE_SEED=17 cargo test --test it simulate::histories::one -- --nocapture` tells one history in full.

use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::job::AdaptDLJobSpec;
use rayconcile::api::meta::{ObjectKey, ObjectMeta};
use rayconcile::api::object::{AnyObject, Object};
use rayconcile::api::units::{Bytes, Span};
use rayconcile::goodput::Hints;
use rayconcile::plan::guards::Guards;
use rayconcile::plan::snapshot::{Machine, Settings};
use rayconcile::simulate::Options;
use serde_json::json;

pub(crate) mod chance;
mod clouds;
mod guards;
mod histories;
mod honest;
mod independent;

/// What the command line has, but for a quicker end of the built-in cluster.
pub(crate) fn settings() -> Settings {
    Settings {
        lease: Span::from_secs(15),
        built_in_idle: Span::from_secs(60),
        join_timeout: Span::from_secs(60),
        machine: Machine { cpus: 4, gpus: 0, memory: Bytes(16 << 30) },
    }
}

pub(crate) fn options(seed: u64) -> Options {
    Options { seed, steady: false, settings: settings(), guards: Guards::default(), transcript: 0 }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

pub(crate) fn cluster(name: &str, spec: RayClusterSpec) -> AnyObject {
    let metadata = ObjectMeta::named("default", name);
    AnyObject::Cluster(Box::new(Object { metadata, spec, status: Default::default() }))
}

pub(crate) fn job(name: &str, spec: AdaptDLJobSpec) -> AnyObject {
    let metadata = ObjectMeta::named("default", name);
    AnyObject::Job(Box::new(Object { metadata, spec, status: Default::default() }))
}

/// A job that scales: compute for a batch of 128 takes `compute` seconds, a gradient exchange `exchange`.
pub(crate) fn hints(compute: f64, exchange: f64) -> Hints {
    let perf = json!({
        "alpha_c": compute / 10.0, "beta_c": compute / 128.0,
        "alpha_n": exchange, "beta_n": 0.0, "alpha_r": exchange / 2.0, "beta_r": 0.0, "gamma": 1.2,
    });
    let hints = json!({
        "initBatchSize": 128, "maxBatchSize": 1024, "localBszBounds": [32, 256], "maxProfiledReplicas": 1,
        "gradParams": {"norm": 1.0, "var": 20.0}, "perfParams": perf,
    });
    Hints::from_json(&hints).unwrap()
}
