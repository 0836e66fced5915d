//! A stand-in of a Ray cluster: its dashboard and our agent on one port. Whatever it is told to run runs at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How many nodes it has, and how many CPUs each.
const NODES: usize = 4;
const CPUS: f64 = 64.0;

/// What there is.
#[derive(Clone, Default)]
struct Cluster {
    version: i64,
    submitted: BTreeMap<String, Value>,
    jobs: BTreeMap<String, Value>,
}

type Shared = Arc<watch::Sender<Cluster>>;

/// Starts one; gives the address of its dashboard.
pub(crate) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shared: Shared = Arc::new(watch::channel(Cluster::default()).0);
    let router = Router::new()
        .route("/api/version", get(|| async { Json(json!({"ray_version": "2.60.0"})) }))
        .route("/api/packages/gcs/{name}", get(|| async { "" }))
        .route("/api/jobs/", post(submit))
        .route("/api/jobs/{submission}", get(submission))
        .route("/v1/state", get(state))
        .route("/v1/life", get(|| async { Json(json!({"controllerS": null})) }))
        .route("/v1/resources", put(|| async { "" }))
        .route("/v1/jobs/{uid}", put(put_job).delete(delete_job))
        .with_state(shared);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn submit(State(shared): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    let id = body["submission_id"].as_str().unwrap_or_default().to_owned();
    shared.send_modify(|cluster| drop(cluster.submitted.insert(id.clone(), body)));
    Json(json!({"submission_id": id}))
}

async fn submission(State(shared): State<Shared>, Path(id): Path<String>) -> impl IntoResponse {
    match shared.borrow().submitted.contains_key(&id) {
        true => Ok(Json(json!({"status": "RUNNING", "message": null}))),
        false => Err(axum::http::StatusCode::NOT_FOUND),
    }
}

async fn put_job(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    Json(document): Json<Value>,
) -> Json<Value> {
    shared.send_modify(|cluster| {
        cluster.version += 1;
        let report = report(&document);
        cluster.jobs.insert(uid, report);
    });
    Json(json!({}))
}

async fn delete_job(State(shared): State<Shared>, Path(uid): Path<String>) -> Json<Value> {
    shared.send_modify(|cluster| {
        cluster.version += 1;
        cluster.jobs.remove(&uid);
    });
    Json(json!({}))
}

async fn state(State(shared): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let (seen, patience) = (number("seen") as i64, Duration::from_secs_f64(number("timeout")));
    let mut news = shared.subscribe();
    let _ = tokio::time::timeout(patience, news.wait_for(|cluster| cluster.version > seen)).await;
    let cluster = shared.borrow().clone();
    let nodes: Vec<Value> = (0..=NODES).map(node).collect();
    Json(json!({
        "protocol": rayconcile::api::wire::PROTOCOL,
        "rayVersion": "2.60.0",
        "instance": "agent",
        "version": cluster.version,
        "head": id(0),
        "nodes": nodes,
        "requested": null,
        "jobs": cluster.jobs,
    }))
}

fn id(index: usize) -> String {
    format!("{index:056x}")
}

/// A node; the first one is the head, on which nothing runs.
fn node(index: usize) -> Value {
    let cpus = if index == 0 { 0.0 } else { CPUS };
    json!({
        "id": id(index),
        "address": format!("10.0.0.{index}"),
        "alive": true,
        "draining": false,
        "head": index == 0,
        "resources": {"CPU": cpus, "memory": 256e9},
        "labels": {},
    })
}

/// What a bridge says that has done at once what its document says.
fn report(document: &Value) -> Value {
    let mut groups = Vec::new();
    let mut slots = Vec::new();
    let desired = &document["desired"];
    if desired["kind"] == "Run" {
        let group = &desired["group"];
        let ranks = group["ranks"].as_array().map_or(&[][..], Vec::as_slice);
        let node = |slot: &Value| document["slots"][slot.as_str().unwrap_or_default()]["node"].clone();
        slots = ranks
            .iter()
            .map(|slot| json!({"id": slot, "node": node(slot), "state": "Ready", "message": null}))
            .collect();
        let rank = |(number, slot): (usize, &Value)| {
            json!({
                "rank": number, "slot": slot, "node": node(slot), "pid": 4000 + number,
                "arrived": true, "joined": true, "exit": null,
            })
        };
        let running = desired["activate"] == true;
        let events = ["created", "started", "prepared", "released"];
        let times: BTreeMap<&str, f64> =
            events.iter().take(if running { 4 } else { 3 }).map(|event| (*event, 1000.0)).collect();
        groups.push(json!({
            "number": group["number"],
            "alone": null,
            "phase": if running { "Running" } else { "Prepared" },
            "ranks": ranks.iter().enumerate().map(rank).collect::<Vec<_>>(),
            "times": times,
            "outcome": null, "restored": null, "steps": 0, "firstStep": null, "lastStep": null,
            "epoch": null, "progress": null, "batchSize": null, "hints": null, "hintsNumber": 0,
        }));
    }
    json!({
        "ageMs": 0.0,
        "phase": if groups.is_empty() { "Idle" } else { "Active" },
        "bridge": "bridge",
        "revision": document["revision"],
        "slots": slots,
        "groups": groups,
        "blobs": [], "notices": [], "saveRequest": null, "notes": [], "logs": [], "message": null,
    })
}
