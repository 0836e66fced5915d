//! Opening: one at a time, and nothing that is not ours or not whole.

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use rayconcile::api::object::Kind;
use rayconcile::store::{Store, StoreError};
use rusqlite::Connection;

use super::{cluster, job, put};
use crate::world::{World, mode};

/// A state directory with a database that has something in it.
fn used() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, cluster("c"));
    for number in 0..200 {
        put(&store, job(&format!("j{number}")));
    }
    drop(store);
    let database = directory.path().join("rayconcile.db");
    (directory, database)
}

/// Why a state directory cannot be opened; in words, with the directory left out.
fn refusal(directory: &Path) -> (StoreError, String) {
    let error = Store::open(directory).err().expect("it was opened");
    let words = error.to_string().replace(directory.to_str().unwrap(), "DIR");
    (error, words)
}

#[test]
fn a_state_directory_is_made_for_its_user_alone() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("not/yet/there");
    drop(Store::open(&state).unwrap());
    assert_eq!((mode(&state), mode(&state.join("rayconcile.db"))), (0o700, 0o600));
}

#[test]
fn a_state_directory_that_cannot_be_made_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let (_, words) = refusal(&directory.path().join("file"));
    assert_eq!(words, "cannot create DIR: File exists (os error 17)");
    let (_, words) = refusal(&directory.path().join("file/state"));
    assert_eq!(words, "cannot create DIR: Not a directory (os error 20)");
    let (_, words) = refusal(Path::new("/proc/rayconcile"));
    assert!(words.starts_with("cannot create DIR: "), "{words}");
    let state = directory.path().join("state");
    fs::create_dir_all(state.join("lock")).unwrap();
    assert_eq!(refusal(&state).1, "cannot open DIR/lock: Is a directory (os error 21)");
    fs::remove_dir(state.join("lock")).unwrap();
    fs::create_dir(state.join("rayconcile.db")).unwrap();
    assert_eq!(refusal(&state).1, "cannot open DIR/rayconcile.db: Is a directory (os error 21)");
    fs::remove_dir(state.join("rayconcile.db")).unwrap();
    symlink("/nowhere/at/all", state.join("rayconcile.db")).unwrap();
    assert_eq!(refusal(&state).1, "cannot open DIR/rayconcile.db: No such file or directory (os error 2)");
}

#[test]
fn a_database_of_somebody_else_is_refused_and_left_as_it_is() {
    let (directory, database) = used();
    let foreign = [
        (
            "a text",
            Box::new(|path: &Path| fs::write(path, "dear diary, ".repeat(1000)).unwrap())
                as Box<dyn Fn(&Path)>,
        ),
        (
            "a table",
            Box::new(|path| Connection::open(path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap()),
        ),
        (
            "an application",
            Box::new(|path| {
                Connection::open(path).unwrap().execute_batch("PRAGMA application_id = 7").unwrap()
            }),
        ),
    ];
    for (what, make) in foreign {
        fs::remove_file(&database).unwrap();
        make(&database);
        let (before, mode_before) = (fs::read(&database).unwrap(), mode(&database));
        let (error, words) = refusal(directory.path());
        assert!(matches!(error, StoreError::Foreign { .. }), "{what}: {error:?}");
        assert_eq!(words, "DIR/rayconcile.db is not a rayconcile database; use another --state-dir");
        assert_eq!((fs::read(&database).unwrap(), mode(&database)), (before, mode_before), "{what}");
    }
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let (directory, database) = used();
    Connection::open(&database).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let (error, words) = refusal(directory.path());
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 2, .. }), "{error:?}");
    assert!(
        words.contains("has version 99") && words.contains("use a newer rayconcile, or another"),
        "{words}"
    );
}

#[test]
fn a_damaged_database_is_refused_wherever_the_damage_is() {
    let (directory, database) = used();
    let whole = fs::read(&database).unwrap();
    assert!(whole.len() > 40 * 4096, "{} bytes", whole.len());
    // The second half is lost, as after a copy that was broken off.
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let (error, words) = refusal(directory.path());
    assert!(matches!(error, StoreError::Corrupted { .. }), "{error:?}");
    assert!(words.contains("restore it from a backup, or move it away to begin anew"), "{words}");
    // A page is written over. Not all damage can be seen without a checksum; what can be seen is told, and none is
    // a panic.
    let mut refused = 0;
    let pages = whole.len() as u64 / 4096;
    for page in (0..pages).step_by(5) {
        fs::write(&database, &whole).unwrap();
        let file = fs::File::options().write(true).open(&database).unwrap();
        file.write_all_at(&[0xa5; 512], page * 4096).unwrap();
        match Store::open(directory.path()) {
            Err(StoreError::Corrupted { .. } | StoreError::Foreign { .. }) => refused += 1,
            Err(other) => panic!("page {page}: {other:?}"),
            Ok(store) => {
                let _ = store.read_now(|tx| tx.list(Kind::AdaptDLJob));
            }
        }
    }
    assert!(refused * 10 > pages, "{refused} of {pages}");
    // As it was, it is as good as it was.
    fs::write(&database, &whole).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.read_now(|tx| tx.list(Kind::AdaptDLJob)).unwrap().len(), 200);
}

#[test]
fn a_database_of_an_earlier_version_becomes_todays() {
    let (directory, database) = used();
    // As the first version had it.
    let sql = "DROP TABLE tokens; PRAGMA user_version = 1";
    Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.read_now(|tx| tx.list(Kind::AdaptDLJob)).unwrap().len(), 200);
    assert_eq!(store.read_now(|tx| tx.tokens()).unwrap(), []);
}

#[test]
fn the_tables_are_those_of_their_version() {
    let (_directory, database) = used();
    let sql = Connection::open(&database).unwrap();
    let number = |name| sql.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("user_version"), number("application_id")), (2, 0x5243_4e43));
    let mut statement =
        sql.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let tables: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    // Databases with these tables are in the world. Another version needs a migration from this one.
    insta::assert_snapshot!(tables.join("\n"));
}

#[test]
fn two_controllers_cannot_have_the_same_state() {
    let world = World::with_controller(&[]);
    world.write("c.yaml", &serde_json::to_string(&crate::world::suspended_cluster("c")).unwrap());
    world.ok(&["apply", "-f", "c.yaml"]);
    let pid = world.controller();
    let second = world.run(&["controller"]);
    assert_eq!((second.code, second.out.as_str()), (1, ""));
    let used = format!("is used by another controller (process {pid})");
    assert!(second.err.contains(&used) && second.err.contains("hint: use that controller"), "{}", second.err);
    world.ok(&["get", "clusters"]);
    // Killed, it leaves nothing that would keep the next one out.
    world.kill();
    world.start(&[]);
    assert_eq!(world.get("cluster", "c")["metadata"]["name"], "c");
    world.finish();
}
