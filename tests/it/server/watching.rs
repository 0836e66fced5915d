//! Watching: every change, once, in its order, from where one was.

use reqwest::Method;
use serde_json::{Value, json};

use super::{create, refused, settled};
use crate::world::{Api, World, address, waiting_job};

fn label(api: &Api, name: &str, value: &Value) -> String {
    let patch = json!({"metadata": {"labels": {"step": value}}});
    let answer = api.send(api.request(Method::PATCH, &address("rayclusters", name)).json(&patch));
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn changes_come_in_order_and_can_be_resumed() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let at = address("rayclusters", "");
    create(&api, "a");
    settled(&world, &api, "a");
    let mut watch = api.watch(&format!("{at}?watch=true"));
    assert_eq!(watch.change(), ("ADDED".to_owned(), "a".to_owned()), "it begins with what there is");

    let list = api.get(&at).body;
    for step in 0..50 {
        label(&api, "a", &json!(step.to_string()));
    }
    api.put(Method::POST, &address("adaptdljobs", ""), &waiting_job("j", "none"));
    create(&api, "b");
    api.delete(&address("rayclusters", "a"));
    let mut seen = Vec::new();
    loop {
        let line = watch.next();
        let end = line["type"] == "DELETED";
        seen.push(line);
        if end {
            break;
        }
    }
    assert!(seen.iter().all(|line| line["object"]["kind"] == "RayCluster"), "only what was asked for");
    let steps = seen.iter().filter_map(|line| line["object"]["metadata"]["labels"]["step"].as_str());
    let mut steps: Vec<u32> = steps.map(|step| step.parse().unwrap()).collect();
    steps.dedup();
    assert_eq!(steps, (0..50).collect::<Vec<_>>(), "none is left out and none comes late");
    let versions: Vec<u64> = seen.iter().map(|line| version(&line["object"])).collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    let (gone, last) = (seen.last().unwrap(), *versions.last().unwrap());
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("a")));

    // From the version of the list, and from that of any object, it goes on: no change twice, none left out.
    for since in [version(&list), versions[20], versions[seen.len() - 2], last] {
        create(&api, &format!("c{since}"));
        let mut resumed = api.watch(&format!("{at}?watch=true&resourceVersion={since}"));
        for line in seen.iter().filter(|line| version(&line["object"]) > since) {
            assert_eq!(&resumed.next(), line, "since {since}");
        }
    }
    world.finish();
}

#[test]
fn who_selects_sees_objects_come_and_go() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let at = address("rayclusters", "");
    let mut by_label = api.watch(&format!("{at}?watch=true&labelSelector=step%3D1"));
    let mut by_name =
        api.watch(&format!("{at}?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Db"));
    for name in ["a", "b"] {
        create(&api, name);
        settled(&world, &api, name);
    }
    let both = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    label(&api, "a", &json!("1"));
    assert_eq!(by_label.change(), both("ADDED", "a"));
    let patch = json!({"metadata": {"annotations": {"note": "x"}}});
    api.send(api.request(Method::PATCH, &address("rayclusters", "a")).json(&patch));
    assert_eq!(by_label.change(), both("MODIFIED", "a"));
    label(&api, "a", &json!("2"));
    assert_eq!(by_label.change(), both("DELETED", "a"));
    label(&api, "b", &json!("1"));
    assert_eq!(by_label.change(), both("ADDED", "b"));
    assert_eq!(by_name.change(), both("ADDED", "b"));
    assert_eq!(by_name.change(), both("MODIFIED", "b"));
    world.finish();
}

#[test]
fn who_was_away_too_long_must_list_again() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let at = address("rayclusters", "");
    create(&api, "a");
    let first = version(&settled(&world, &api, "a"));
    drop(api.watch(&format!("{at}?watch=true&resourceVersion={first}")));
    // The next controller knows only what comes then.
    let last = label(&api, "a", &json!("1"));
    world.stop();
    world.start(&[]);
    let api = world.api();
    let message = refused(&api.get(&format!("{at}?watch=true&resourceVersion={first}")), 410, "Expired");
    assert!(message.contains("list again"), "{message}");
    // A version that nobody was ever given is of another time too.
    refused(&api.get(&format!("{at}?watch=true&resourceVersion=999999")), 410, "Expired");
    let mut watch = api.watch(&format!("{at}?watch=true&resourceVersion={last}"));
    label(&api, "a", &json!("2"));
    assert_eq!(watch.next()["object"]["metadata"]["labels"]["step"], "2");
    drop(watch);
    world.finish();
}
