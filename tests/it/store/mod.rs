//! The `store` room: what it refuses to open, what survives a crash, and what is told of changes.

use jiff::Timestamp;
use rayconcile::api::ids::Uid;
use rayconcile::api::object::AnyObject;
use rayconcile::store::{Store, Tx};
use serde_json::Value;

use crate::world::{suspended_cluster, waiting_job};

mod archive;
mod changes;
mod crashes;
mod damaged;
mod disk;
mod logs;
mod opening;

/// An object as it would be applied.
fn object(value: &Value) -> AnyObject {
    rayconcile::manifest::read_json(value.clone(), "default", None).unwrap().object
}

fn cluster(name: &str) -> AnyObject {
    object(&suspended_cluster(name))
}

fn job(name: &str) -> AnyObject {
    object(&waiting_job(name, "c"))
}

/// Applies an object within a transaction; it gets its name as its uid.
fn apply(tx: &Tx<'_>, object: AnyObject) -> AnyObject {
    let uid = Uid::from(object.key().name);
    tx.apply(object, None, uid, Timestamp::now()).unwrap().1
}

/// Applies an object in a transaction of its own.
fn put(store: &Store, object: AnyObject) -> AnyObject {
    store.write_now(|tx| Ok(apply(tx, object))).unwrap()
}
