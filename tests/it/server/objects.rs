//! Objects: made, found, changed and deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::{create, names, refused, settled};
use crate::world::{World, address, suspended_cluster, waiting_job};

#[test]
fn an_object_lives_from_its_creation_to_its_deletion() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let at = address("rayclusters", "c");
    let made = create(&api, "c");
    assert_eq!((&made["apiVersion"], &made["kind"]), (&json!("rayconcile.dev/v1"), &json!("RayCluster")));
    let metadata = &made["metadata"];
    assert_eq!(
        (&metadata["generation"], &metadata["finalizers"]),
        (&json!(1), &json!(["rayconcile.dev/graceful-stop"]))
    );
    assert!(
        metadata["resourceVersion"].is_string() && metadata["uid"].as_str().unwrap().len() == 36,
        "{metadata}"
    );

    let again = api.put(Method::POST, &address("rayclusters", ""), &suspended_cluster("c"));
    assert_eq!(refused(&again, 409, "AlreadyExists"), "RayCluster default/c exists already");

    // Changed by whom has read its newest version; the spec's changes are counted.
    let mut cluster = settled(&world, &api, "c");
    let stale = made["metadata"]["resourceVersion"].clone();
    cluster["spec"]["workerGroups"] = json!([{"name": "g", "maxNodes": 2}]);
    let changed = api.put(Method::PUT, &at, &cluster);
    assert_eq!(
        (changed.code, &changed.headers["x-applied"]),
        (200, &"configured".parse().unwrap()),
        "{changed:?}"
    );
    assert_eq!(changed.body["metadata"]["generation"], 2);
    assert_eq!(changed.body["metadata"]["uid"], made["metadata"]["uid"]);
    cluster["metadata"]["resourceVersion"] = stale;
    let message = refused(&api.put(Method::PUT, &at, &cluster), 409, "Conflict");
    assert!(
        message.starts_with("RayCluster default/c was changed in the meantime: its resourceVersion is "),
        "{message}"
    );
    // Without a version it is made as it is given, and the same again is no change.
    cluster["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let same = api.put(Method::PUT, &at, &cluster);
    assert_eq!((same.code, &same.headers["x-applied"]), (200, &"unchanged".parse().unwrap()));

    // Nor by whom has read another that had its name.
    cluster["metadata"]["uid"] = json!("another");
    refused(&api.put(Method::PUT, &at, &cluster), 409, "Conflict");

    // What is not there is not made by a change, unless that is asked for, as our command line does.
    let other = address("rayclusters", "other");
    for metadata in [json!({"name": "other", "resourceVersion": "1"}), json!({"name": "other"})] {
        cluster["metadata"] = metadata;
        let absent = api.put(Method::PUT, &other, &cluster);
        assert_eq!(refused(&absent, 404, "NotFound"), "there is no RayCluster default/other");
    }
    let asked = api.put(Method::PUT, &format!("{other}?create=true"), &cluster);
    assert_eq!((asked.code, &asked.headers["x-applied"]), (201, &"created".parse().unwrap()), "{asked:?}");

    let deleted = api.delete(&at);
    assert_eq!(deleted.code, 200);
    assert!(deleted.body["metadata"]["deletionTimestamp"].is_string(), "{deleted:?}");
    world.wait("it is gone", || (api.get(&at).code == 404).then_some(()));
    assert_eq!(refused(&api.get(&at), 404, "NotFound"), "there is no RayCluster default/c");
    refused(&api.delete(&at), 404, "NotFound");
    refused(&api.send(api.request(Method::PATCH, &at).json(&json!({}))), 404, "NotFound");
    assert_ne!(create(&api, "c")["metadata"]["uid"], made["metadata"]["uid"]);
    world.finish();
}

#[test]
fn merge_patches_change_what_they_name() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let at = address("rayclusters", "c");
    let made = create(&api, "c");
    let patch = |kind: &'static str, patch: &Value| {
        let request = api.request(Method::PATCH, &at).header("content-type", kind);
        api.send(request.body(patch.to_string()))
    };
    let merge = "application/merge-patch+json";
    // The controller writes what it sees of the new object at the same time: that is nobody's conflict.
    for number in 0..20 {
        assert_eq!(patch(merge, &json!({"metadata": {"annotations": {"n": number.to_string()}}})).code, 200);
    }
    settled(&world, &api, "c");
    let labelled = patch(merge, &json!({"metadata": {"labels": {"a": "1", "b": "2"}}}));
    assert_eq!((labelled.code, &labelled.body["metadata"]["generation"]), (200, &json!(1)), "{labelled:?}");
    let relabelled =
        patch(merge, &json!({"metadata": {"labels": {"a": null}}, "spec": {"head": {"labels": {"x": "y"}}}}));
    assert_eq!(relabelled.body["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(
        (&relabelled.body["metadata"]["generation"], &relabelled.body["spec"]["head"]["labels"]["x"]),
        (&json!(2), &json!("y"))
    );
    assert_eq!(
        patch("application/json; charset=utf-8", &json!({"spec": {"suspend": true}})).headers["x-applied"],
        "unchanged"
    );

    // Only who says which version was read minds what happened since.
    let old = made["metadata"]["resourceVersion"].clone();
    refused(
        &patch(merge, &json!({"metadata": {"resourceVersion": old, "labels": {"c": "3"}}})),
        409,
        "Conflict",
    );

    // However it is said.
    let (json_patch, uid) = ("application/json-patch+json", &made["metadata"]["uid"]);
    for (field, value) in [("resourceVersion", "1"), ("uid", "x")] {
        let path = format!("/metadata/{field}");
        let locked = json!([{"op": "replace", "path": path, "value": value},
                            {"op": "add", "path": "/metadata/labels/c", "value": "3"}]);
        refused(&patch(json_patch, &locked), 409, "Conflict");
        let mut wanted = json!({"metadata": {"labels": {"c": "3"}}});
        wanted["metadata"][field] = json!(value);
        refused(&patch("application/strategic-merge-patch+json", &wanted), 409, "Conflict");
    }
    let known = json!([{"op": "replace", "path": "/metadata/uid", "value": uid}]);
    assert_eq!(patch(json_patch, &known).headers["x-applied"], "unchanged");

    // What is the store's cannot be patched; what is not understood is not guessed.
    let status = patch(merge, &json!({"status": {"phase": "Ready"}, "metadata": {"generation": 99}}));
    assert_eq!((status.code, &status.body["status"]["phase"]), (200, &json!("Suspended")), "{status:?}");
    assert_eq!(status.body["metadata"]["generation"], 2);
    for kind in ["text/plain", "application/octet-stream", ""] {
        let message =
            refused(&patch(kind, &json!([{"op": "remove", "path": "/spec"}])), 415, "UnsupportedMediaType");
        assert!(message.contains("application/merge-patch+json"), "{kind}: {message}");
    }
    let invalid = patch(merge, &json!({"spec": {"workerGroups": [{"name": "g"}], "suspnd": true}}));
    refused(&invalid, 422, "Invalid");
    refused(&patch(merge, &json!([])), 400, "BadRequest");
    refused(&patch(merge, &json!({"metadata": {"name": "d"}})), 400, "BadRequest");
    world.finish();
}

#[test]
fn a_rehearsal_changes_nothing_and_says_what_would_be() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let (at, dry) =
        (address("rayclusters", "c"), |name: &str| format!("{}?dryRun=All", address("rayclusters", name)));
    let made = api.put(Method::POST, &dry(""), &suspended_cluster("c"));
    assert_eq!((made.code, &made.body["metadata"]["generation"]), (201, &json!(1)), "{made:?}");
    assert_eq!(api.get(&at).code, 404);
    create(&api, "c");
    let before = settled(&world, &api, "c");
    refused(&api.put(Method::POST, &dry(""), &suspended_cluster("c")), 409, "AlreadyExists");
    let mut wanted = before.clone();
    wanted["metadata"]["labels"] = json!({"a": "b"});
    let labelled = api.put(Method::PUT, &dry("c"), &wanted);
    assert_eq!(labelled.headers["x-applied"], "configured", "labels count as well");
    wanted["metadata"]["resourceVersion"] = json!("1");
    refused(&api.put(Method::PUT, &dry("c"), &wanted), 409, "Conflict");
    wanted = before.clone();
    wanted["spec"]["provider"] = json!({"existing": {"address": "http://localhost:1"}});
    refused(&api.put(Method::PUT, &dry("c"), &wanted), 422, "Invalid");
    let patched = api.send(api.request(Method::PATCH, &dry("c")).json(&json!({"spec": {"suspend": false}})));
    assert_eq!((patched.code, &patched.body["spec"]["suspend"]), (200, &json!(false)));
    let deleted = api.delete(&dry("c"));
    assert!(deleted.code == 200 && deleted.body["metadata"]["deletionTimestamp"].is_string(), "{deleted:?}");
    refused(&api.delete(&dry("other")), 404, "NotFound");
    refused(&api.delete(&format!("{at}?dryRun=Some")), 400, "BadRequest");
    assert_eq!(api.get(&at).body, before);
    world.finish();
}

#[test]
fn objects_are_selected_by_namespace_labels_and_fields() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let jobs = "/apis/rayconcile.dev/v1/namespaces/other/adaptdljobs";
    for (name, labels) in
        [("a", json!({"team": "x", "gpu": ""})), ("b", json!({"team": "y"})), ("c", json!({}))]
    {
        let mut job = waiting_job(name, "none");
        job["metadata"]["labels"] = labels;
        assert_eq!(api.put(Method::POST, &address("adaptdljobs", ""), &job).code, 201);
    }
    assert_eq!(api.put(Method::POST, jobs, &waiting_job("a", "none")).code, 201);
    let list =
        |path: &str, query: &[(&str, &str)]| api.send(api.request(Method::GET, path).query(query)).body;
    let all = list("/apis/rayconcile.dev/v1/adaptdljobs", &[]);
    assert_eq!((&all["kind"], names(&all)), (&json!("AdaptDLJobList"), vec!["a", "b", "c", "a"]));
    assert!(all["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() >= 4);
    assert_eq!(names(&list(jobs, &[])), ["a"]);
    let at = address("adaptdljobs", "");
    for (selector, found) in [
        ("team=x", vec!["a"]),
        ("team!=x", vec!["b", "c"]),
        ("team", vec!["a", "b"]),
        ("!team", vec!["c"]),
        ("team,gpu=", vec!["a"]),
        ("team==z", vec![]),
        ("team in (x, y)", vec!["a", "b"]),
        ("team notin (x),!gpu", vec!["b", "c"]),
    ] {
        assert_eq!(names(&list(&at, &[("labelSelector", selector)])), found, "{selector}");
    }
    assert_eq!(names(&list(&at, &[("fieldSelector", "metadata.name=b")])), ["b"]);
    assert_eq!(
        names(&list(&at, &[("fieldSelector", "metadata.name!=b,metadata.namespace=default")])),
        ["a", "c"]
    );
    for (parameter, selector) in
        [("labelSelector", "team within (x,y)"), ("fieldSelector", "status.phase=Running")]
    {
        let answer = api.send(api.request(Method::GET, &at).query(&[(parameter, selector)]));
        let message = refused(&answer, 400, "BadRequest");
        assert!(message.starts_with(parameter) && message.contains("write "), "{message}");
    }
    assert_eq!(names(&api.get("/api/v1/namespaces").body), ["default", "other"]);
    assert_eq!(world.ok(&["get", "jobs", "-n", "other", "-o", "name"]), "adaptdljob/a\n");
    api.delete(&format!("{jobs}/a"));
    world.wait("its namespace has gone with it", || {
        (names(&api.get("/api/v1/namespaces").body) == ["default"]).then_some(())
    });
    world.finish();
}

#[test]
fn events_tell_what_happened() {
    let world = World::with_controller(&[]);
    let api = world.api();
    // A cluster that cannot be had, for there is no such Python.
    let mut cluster = suspended_cluster("c");
    cluster["spec"] = json!({"provider": {"local": {"python": "no-such-python"}}});
    assert_eq!(api.put(Method::POST, &address("rayclusters", ""), &cluster).code, 201);
    let of_cluster = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=c,involvedObject.kind=RayCluster";
    let event = world.wait("its trouble is told", || {
        let list = api.get(of_cluster).body;
        assert_eq!(list["kind"], "EventList");
        list["items"].as_array().unwrap().iter().find(|event| event["reason"] == "CannotOpen").cloned()
    });
    assert_eq!((&event["kind"], &event["type"]), (&json!("Event"), &json!("Warning")));
    assert!(event["message"].as_str().unwrap().contains("no-such-python is not there"), "{event}");
    assert_eq!(event["involvedObject"]["uid"], api.get(&address("rayclusters", "c")).body["metadata"]["uid"]);
    // Again and again is counted, and told to who watches.
    let mut watch = api.watch("/api/v1/events?watch=true&fieldSelector=reason=CannotOpen");
    let counted =
        std::iter::from_fn(|| Some(watch.next())).find(|line| line["object"]["count"].as_u64() >= Some(2));
    let counted = counted.unwrap();
    assert_eq!(
        (&counted["type"], &counted["object"]["metadata"]["name"]),
        (&json!("MODIFIED"), &event["metadata"]["name"])
    );
    let since = api.get("/api/v1/events").body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut newer = api.watch(&format!("/api/v1/events?watch=true&resourceVersion={since}"));
    let version = newer.next()["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    assert!(version.parse::<u64>().unwrap() > since.parse().unwrap(), "only what came after: {version}");
    drop(newer);
    let name = event["metadata"]["name"].as_str().unwrap();
    assert_eq!(api.get(&format!("/api/v1/namespaces/default/events/{name}")).body["reason"], "CannotOpen");
    assert_eq!(api.get("/api/v1/namespaces/other/events").body["items"], json!([]));
    refused(&api.get("/api/v1/events?fieldSelector=colour=Warning"), 400, "BadRequest");
    // A version that nobody was ever given is of another store.
    refused(&api.get("/api/v1/events?watch=true&resourceVersion=999999"), 410, "Expired");
    drop(watch);
    world.finish();
}
