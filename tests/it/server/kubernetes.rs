//! What clients of Kubernetes expect beyond objects: discovery, tables, pages, bookmarks, kinds of deletion, views.

use reqwest::Method;
use serde_json::{Value, json};

use super::training::Training;
use super::{create, names, refused, settled};
use crate::world::{Api, World, address, suspended_cluster, waiting_job};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn accepting(api: &Api, accept: &str, path: &str) -> crate::world::Answer {
    api.send(api.request(Method::GET, path).header("accept", accept))
}

#[test]
fn what_there_is_can_be_discovered() {
    let world = World::with_controller(&[]);
    let api = world.api();
    assert_eq!(api.get("/api").body["versions"], json!(["v1"]));
    let groups = api.get("/apis").body;
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "rayconcile.dev");
    assert_eq!(group.unwrap()["preferredVersion"]["groupVersion"], "rayconcile.dev/v1");
    assert_eq!(api.get("/apis/rayconcile.dev").body["kind"], "APIGroup");
    let ours = api.get("/apis/rayconcile.dev/v1").body;
    let find = |name: &str| {
        let resources = ours["resources"].as_array().unwrap();
        resources.iter().find(|resource| resource["name"] == name).unwrap().clone()
    };
    let jobs = find("adaptdljobs");
    assert_eq!(
        (&jobs["kind"], &jobs["singularName"], &jobs["shortNames"], &jobs["categories"], &jobs["namespaced"]),
        (
            &json!("AdaptDLJob"),
            &json!("adaptdljob"),
            &json!(["aj", "job", "jobs"]),
            &json!(["all"]),
            &json!(true)
        )
    );
    assert_eq!(find("adaptdljobs/scale")["kind"], "Scale");
    assert_eq!(find("rayclusters/status")["verbs"], json!(["get"]));
    let core = api.get("/api/v1").body;
    assert!(core["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == "pods/log"));
    refused(&api.get("/apis/apps"), 404, "NotFound");
    refused(&api.get("/apis/apps/v1"), 404, "NotFound");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let found = accepting(&api, aggregated, "/apis");
    assert!(found.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    assert_eq!(
        found.body["items"][0]["versions"][0]["resources"][0]["subresources"][1]["responseKind"]["kind"],
        "Scale"
    );
    let version = api.get("/version").body;
    assert_eq!((&version["major"], &version["version"]), (&json!("1"), &json!(env!("CARGO_PKG_VERSION"))));
    let openapi = api.get("/openapi/v2").body;
    let gvk = &openapi["definitions"]["dev.rayconcile.v1.AdaptDLJob"]["x-kubernetes-group-version-kind"];
    assert_eq!(gvk, &json!([{"group": "rayconcile.dev", "version": "v1", "kind": "AdaptDLJob"}]));
    let url = api.get("/openapi/v3").body["paths"]["apis/rayconcile.dev/v1"]["serverRelativeURL"].clone();
    assert_eq!(api.get(url.as_str().unwrap()).body["openapi"], "3.0.0");
    refused(
        &accepting(&api, "application/vnd.kubernetes.protobuf", &address("rayclusters", "")),
        406,
        "NotAcceptable",
    );
    refused(&accepting(&api, "image/png", &address("rayclusters", "")), 406, "NotAcceptable");
    world.finish();
}

#[test]
fn lists_are_tables_and_pages_where_that_is_wanted() {
    let world = World::with_controller(&[]);
    let api = world.api();
    for name in ["a", "b", "c"] {
        create(&api, name);
        settled(&world, &api, name);
    }
    let at = address("rayclusters", "");
    let table = accepting(&api, TABLE, &at).body;
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns = table["columnDefinitions"].as_array().unwrap();
    assert_eq!(
        (&columns[0]["name"], &columns[0]["format"], &columns[4]["priority"]),
        (&json!("Name"), &json!("name"), &json!(1))
    );
    let row = &table["rows"][1];
    assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("b"), &json!("Suspended")));
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["spec"]),
        (&json!("PartialObjectMetadata"), &Value::Null)
    );
    let whole = accepting(&api, TABLE, &format!("{at}?includeObject=Object")).body;
    assert_eq!(whole["rows"][0]["object"]["spec"]["suspend"], true);
    assert!(accepting(&api, TABLE, &format!("{at}?includeObject=None")).body["rows"][0]["object"].is_null());
    refused(&accepting(&api, TABLE, &format!("{at}?includeObject=All")), 400, "BadRequest");
    assert_eq!(accepting(&api, TABLE, &format!("{at}/a")).body["rows"][0]["cells"][0], "a");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    assert_eq!(accepting(&api, partial, &at).body["kind"], "PartialObjectMetadataList");

    // All pages are of one moment, whatever happens meanwhile.
    let first = api.get(&format!("{at}?limit=2")).body;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(1)));
    api.delete(&address("rayclusters", "c"));
    world.wait("it is gone", || (api.get(&address("rayclusters", "c")).code == 404).then_some(()));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let last = api.get(&format!("{at}?limit=2&continue={token}")).body;
    assert_eq!(
        (names(&last), &last["metadata"]["resourceVersion"]),
        (vec!["c"], &first["metadata"]["resourceVersion"])
    );
    assert!(last["metadata"]["continue"].is_null());
    refused(&api.get(&format!("{}?continue={token}", address("adaptdljobs", ""))), 400, "BadRequest");
    refused(&api.get(&format!("{at}?continue=x.0")), 410, "Expired");

    // Lists are of now: not of what is to come, and not of what has been.
    assert_eq!(api.get(&format!("{at}?resourceVersion=1")).code, 200);
    refused(&api.get(&format!("{at}?resourceVersion=1&resourceVersionMatch=Exact")), 410, "Expired");
    let future = api.get(&format!("{at}?resourceVersion=999999"));
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    refused(&future, 504, "Timeout");
    world.finish();
}

#[test]
fn a_watch_says_how_far_it_is_and_ends_in_time() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "a");
    settled(&world, &api, "a");
    let at = address("rayclusters", "");
    let query = "watch=1&allowWatchBookmarks=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let text = match api.get(&format!("{at}?{query}")).body {
        Value::String(text) => text,
        other => panic!("{other}"),
    };
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ADDED", "BOOKMARK", "BOOKMARK"]);
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version = lines[2]["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    let mut resumed = api.watch(&format!("{at}?watch=true&resourceVersion={version}"));
    create(&api, "b");
    assert_eq!(resumed.change(), ("ADDED".to_owned(), "b".to_owned()));
    let tables = api
        .send(api.request(Method::GET, &format!("{at}?watch=true&timeoutSeconds=1")).header("accept", TABLE));
    let Value::String(tables) = tables.body else { panic!("it should be lines") };
    let rows: Vec<Value> = tables.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&rows[0]["object"]["kind"], &rows[0]["object"]["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
    let columns = |row: &Value| row["object"]["columnDefinitions"].as_array().unwrap().len();
    assert_eq!((columns(&rows[0]) > 0, columns(&rows[1])), (true, 0), "columns are described once");
    drop(resumed);
    world.finish();
}

#[test]
fn deletion_takes_options() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let delete = |name: &str, options: Value| {
        api.send(api.request(Method::DELETE, &address("adaptdljobs", name)).json(&options))
    };
    let make = |name: &str, labels: Value| {
        let mut job = waiting_job(name, "none");
        job["metadata"]["labels"] = labels;
        let made = api.put(Method::POST, &address("adaptdljobs", ""), &job);
        assert_eq!(made.code, 201, "{made:?}");
        made.body["metadata"]["uid"].clone()
    };
    let uid = make("a", json!({}));
    for (options, code, reason) in [
        (json!({"preconditions": {"uid": "other"}}), 409, "Conflict"),
        (json!({"preconditions": {"resourceVersion": "999"}}), 409, "Conflict"),
        (json!({"propagationPolicy": "Orphan"}), 422, "Invalid"),
        (json!({"orphanDependents": true}), 422, "Invalid"),
        (json!({"propagationPolicy": "Sideways"}), 400, "BadRequest"),
        (json!({"gracePeriodSeconds": -1}), 400, "BadRequest"),
        (json!({"dryRun": ["Some"]}), 400, "BadRequest"),
        (json!(["All"]), 400, "BadRequest"),
    ] {
        refused(&delete("a", options), code, reason);
    }
    assert_eq!(delete("a", json!({"dryRun": ["All"]})).code, 200);
    assert!(api.get(&address("adaptdljobs", "a")).body["metadata"]["deletionTimestamp"].is_null());
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 7,
                         "propagationPolicy": "Foreground", "preconditions": {"uid": uid}});
    let deleted = delete("a", options);
    assert_eq!(
        (deleted.code, &deleted.body["spec"]["terminationGracePeriod"]),
        (200, &json!("7s")),
        "{deleted:?}"
    );

    for name in ["x", "y", "z"] {
        make(name, json!({"team": if name == "z" { "other" } else { "one" }}));
    }
    let collection = format!("{}?labelSelector=team%3Done", address("adaptdljobs", ""));
    assert_eq!(names(&api.delete(&collection).body), ["x", "y"]);
    world
        .wait("they are gone", || (names(&api.get(&address("adaptdljobs", "")).body) == ["z"]).then_some(()));
    world.finish();
}

#[test]
fn names_are_made_where_that_is_wanted() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let mut cluster = suspended_cluster("");
    cluster["metadata"] = json!({"generateName": "try-"});
    let made = api.put(Method::POST, &address("rayclusters", ""), &cluster);
    let name = made.body["metadata"]["name"].as_str().unwrap();
    assert!(made.code == 201 && name.starts_with("try-") && name.len() == 9, "{made:?}");
    cluster["metadata"] = json!({"generateName": "Not_A_Name"});
    refused(&api.put(Method::POST, &address("rayclusters", ""), &cluster), 422, "Invalid");
    cluster["metadata"] = json!({"generateName": "x".repeat(200)});
    let long = api.put(Method::POST, &address("rayclusters", ""), &cluster);
    assert_eq!(long.body["metadata"]["name"].as_str().unwrap().len(), 63);
    world.finish();
}

#[test]
fn machines_are_nodes_and_workers_are_pods() {
    let training = Training::new();
    let api = &training.api;
    let nodes = api.get("/api/v1/nodes").body;
    assert_eq!((&nodes["kind"], names(&nodes)), (&json!("NodeList"), vec!["lab-cpu-1", "lab-head"]));
    let head = api.get("/api/v1/nodes/lab-head").body;
    assert_eq!(head["status"]["capacity"], json!({"cpu": "2", "memory": "3.5Gi"}));
    assert_eq!(head["status"]["addresses"][1]["address"], "127.1.0.1");
    assert_eq!(nodes["items"][0]["spec"]["unschedulable"], true);
    let row = accepting(api, TABLE, "/api/v1/nodes").body["rows"][0]["cells"].clone();
    assert_eq!(
        (&row[1], &row[2], &row[4]),
        (&json!("Ready,SchedulingDisabled"), &json!("cpu"), &json!("ray-2.60.0"))
    );

    let pods = "/api/v1/namespaces/default/pods";
    let found = api.get(pods).body;
    assert_eq!(names(&found), ["digits-0", "digits-1"]);
    let (first, second) = (&found["items"][0], &found["items"][1]);
    assert_eq!(
        (&first["status"]["phase"], &second["status"]["phase"]),
        (&json!("Running"), &json!("Pending"))
    );
    assert_eq!(
        (&first["spec"]["nodeName"], &first["metadata"]["ownerReferences"][0]["uid"]),
        (&json!("lab-head"), &json!("uid-digits"))
    );
    assert!(!found.to_string().contains("hidden"), "the environment may hold secrets");
    assert_eq!(
        names(
            &api.get(&format!("{pods}?labelSelector=rayconcile.dev/job=digits,rayconcile.dev/rank=1")).body
        ),
        ["digits-1"]
    );
    assert_eq!(names(&api.get(&format!("{pods}?fieldSelector=spec.nodeName=lab-head")).body), ["digits-0"]);
    assert_eq!(names(&api.get("/api/v1/namespaces/other/pods").body), Vec::<&str>::new());
    assert_eq!(names(&api.get("/api/v1/namespaces").body), ["default"]);

    // A watch goes on from a list, also if something happened in between.
    let since = found["metadata"]["resourceVersion"].as_str().unwrap();
    training.say(json!([{"rank": 0, "node": "lab-head", "pid": 7, "state": "Saving"}]));
    let mut watch = api.watch(&format!("{pods}?watch=true&resourceVersion={since}"));
    assert_eq!(watch.change(), ("DELETED".to_owned(), "digits-1".to_owned()));
    assert_eq!(watch.change(), ("MODIFIED".to_owned(), "digits-0".to_owned()));
    training.say(json!([]));
    assert_eq!(watch.change(), ("DELETED".to_owned(), "digits-0".to_owned()));

    for (method, path) in [
        (Method::POST, pods.to_owned()),
        (Method::DELETE, format!("{pods}/digits-0")),
        (Method::PATCH, "/api/v1/nodes/lab-head".to_owned()),
        (Method::POST, "/api/v1/namespaces".to_owned()),
        (Method::POST, "/api/v1/namespaces/default/events".to_owned()),
    ] {
        let answer = api.send(api.request(method, &path).json(&json!({})));
        assert!(refused(&answer, 405, "MethodNotAllowed").contains("cannot be written"), "{path}");
    }
    let status = format!("{}/status", address("adaptdljobs", "digits"));
    assert_eq!(api.get(&status).body["status"]["phase"], "Running");
    let written = api.send(api.request(Method::PATCH, &status).json(&json!({"status": {"phase": "Failed"}})));
    assert!(refused(&written, 405, "MethodNotAllowed").contains("only it writes it"));
    let scale = api.get(&format!("{}/scale", address("adaptdljobs", "digits"))).body;
    assert_eq!(scale["spec"]["replicas"], 0, "{scale}");
    refused(&api.get(&format!("{pods}/digits-9/log")), 404, "NotFound");
    refused(&api.get("/api/v1/secrets"), 404, "NotFound");
}
