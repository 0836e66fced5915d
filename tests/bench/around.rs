//! What a controller does around a plan: it reads what is kept, says what is so, and keeps what has changed.

use rayconcile::api::object::AnyObject;
use rayconcile::controller::status::{cluster_status, job_status};
use rayconcile::plan::{Snapshot, plan};
use rayconcile::store::Store;

use crate::region::on_cpu;

/// How long each part takes on a CPU, in milliseconds.
pub(crate) struct Around {
    /// Reading objects, records and intents. A round does so twice.
    pub(crate) read: f64,
    /// Making the status of the cluster and of each job.
    pub(crate) statuses: f64,
    /// Comparing them with those that are kept.
    pub(crate) compare: f64,
    /// Writing the cluster's record and those of all jobs.
    pub(crate) write: f64,
}

/// Takes each part once, for what is as wanted.
pub(crate) fn measure(snapshot: &Snapshot) -> Around {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let cluster = snapshot.cluster.as_ref().unwrap();
    let made = plan(snapshot);
    let statuses = || {
        let jobs = snapshot.jobs.iter().map(|view| {
            let uid = &view.job.metadata.uid;
            let status = job_status(snapshot, &view.job, &made.jobs[uid], &made.report.jobs[uid]);
            (uid, serde_json::to_value(status).unwrap())
        });
        let own = cluster_status(snapshot, cluster, &made.record, &made.report.cluster);
        let own = (&cluster.metadata.uid, serde_json::to_value(own).unwrap());
        jobs.chain([own]).collect::<Vec<_>>()
    };
    let write = || {
        store.write_now(|tx| {
            tx.put_cluster_record(&snapshot.key, &made.record)?;
            made.jobs.iter().try_for_each(|(uid, record)| tx.put_job_record(uid, record))
        })
    };
    let set = |statuses: Vec<_>| {
        store.write_now(|tx| {
            statuses.into_iter().try_for_each(|(uid, status)| tx.set_status(uid, status).map(|_| ()))
        })
    };
    store
        .write_now(|tx| {
            let objects = snapshot.jobs.iter().map(|view| AnyObject::Job(Box::new(view.job.clone())));
            for object in objects.chain([AnyObject::Cluster(Box::new(cluster.clone()))]) {
                let uid = object.uid().clone();
                tx.apply(object, None, uid, snapshot.now)?;
            }
            Ok(())
        })
        .unwrap();
    set(statuses()).unwrap();
    write().unwrap();
    let (read, rows) = timed(|| store.read_now(|tx| tx.domain(&snapshot.key)).unwrap());
    assert_eq!(rows.record, made.record);
    let (said, statuses) = timed(statuses);
    let (compare, ()) = timed(|| set(statuses).unwrap());
    let (write, ()) = timed(|| write().unwrap());
    Around { read, statuses: said, compare, write }
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = on_cpu();
    let result = work();
    (on_cpu() - begun, result)
}
