//! Records that are not what they should be, though the database is whole: an edit by hand, or a defect.

use proptest::prelude::*;
use rayconcile::api::ids::Uid;
use rayconcile::api::meta::ObjectKey;
use rayconcile::api::object::Kind;
use rayconcile::store::{Store, StoreError};
use rusqlite::{Connection, params};

use super::{cluster, job, put};

/// Everything that is read of a cluster and its job.
fn read(store: &Store) -> Result<(), StoreError> {
    store.read_now(|tx| {
        let key = ObjectKey::new("default", "c");
        tx.domain(&key)?;
        tx.observations(&key)?;
        tx.list(Kind::RayCluster)?;
        tx.list(Kind::AdaptDLJob)?;
        tx.checkpoints(&Uid::from("j".to_owned()))?;
        tx.retired()?;
        tx.events_since(0)?;
        tx.domains()?;
        Ok(())
    })
}

/// What could stand where a record should.
fn body() -> impl Strategy<Value = String> {
    let values = [
        "",
        "null",
        "{}",
        "[]",
        "{\"nodes\": {\"\": {}}}",
        "{\"launched\": 18446744073709551616}",
        "{\"launched\": -1}",
        "{\"groups\": 1}",
        "{\"revision\": 1e999}",
        "{\"binding\": {\"cluster\": \"a/b\"}}",
        "{\"id\": \"x\", \"effect\": \"\"}",
        "\"\\ud800\"",
        "{\"nodes\": {}, \"nodes\": {}}",
    ];
    let deep = format!("{}1{}", "[".repeat(4000), "]".repeat(4000));
    prop_oneof![
        prop::sample::select(values.to_vec()).prop_map(str::to_owned),
        Just(deep),
        "\\PC{0,40}",
        "[\\[{\"a:1,}\\]]{0,40}",
    ]
}

proptest! {
    // Each case opens a database, which is synced to disk.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(8), ..ProptestConfig::default() })]
    #[test]
    fn records_that_cannot_be_read_are_told_of(column in 0usize..8, body in body()) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        put(&store, cluster("c"));
        put(&store, job("j"));
        drop(store);
        let statement = [
            "UPDATE objects SET spec = ?1 WHERE name = 'j'",
            "UPDATE objects SET status = ?1 WHERE name = 'c'",
            "UPDATE objects SET metadata = ?1 WHERE name = 'c'",
            "INSERT INTO cluster_records VALUES ('default/c', ?1)",
            "INSERT INTO job_records VALUES ('j', 'default/c', ?1)",
            "INSERT INTO groups VALUES ('j', 3, ?1)",
            "INSERT INTO checkpoints VALUES ('j', 1, 1, ?1)",
            "INSERT INTO intents VALUES ('i', 'default/c', ?1)",
        ][column];
        let sql = Connection::open(directory.path().join("rayconcile.db")).unwrap();
        sql.execute(statement, params![body]).unwrap();
        drop(sql);
        let store = Store::open(directory.path()).unwrap();
        match read(&store) {
            Ok(()) | Err(StoreError::Malformed { .. }) => {}
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}

#[test]
fn one_object_that_cannot_be_read_breaks_no_list() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for name in ["c", "d", "e"] {
        put(&store, cluster(name));
    }
    put(&store, job("j"));
    drop(store);
    let sql = Connection::open(directory.path().join("rayconcile.db")).unwrap();
    sql.execute("UPDATE objects SET metadata = '{' WHERE name IN ('d', 'j')", []).unwrap();
    drop(sql);
    let store = Store::open(directory.path()).unwrap();
    let listed = store.read_now(|tx| tx.list(Kind::RayCluster)).unwrap();
    assert_eq!(listed.iter().map(|object| object.metadata().name.as_str()).collect::<Vec<_>>(), ["c", "e"]);
    // To whoever plans a job that is left out would be one that is gone.
    assert!(store.read_now(|tx| tx.domain(&ObjectKey::new("default", "c")).map(|_| ())).is_err());
}
