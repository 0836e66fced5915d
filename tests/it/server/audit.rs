//! The audit log: what was done, by whom, and whether it was only tried.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use super::{TOKENS, create, somebody};
use crate::world::{World, address};

/// The lines of a log.
fn lines(world: &World, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.path(&format!("state/{name}"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_noted_is_what_was_done() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    somebody(&api, "edit");
    let clusters = address("rayclusters", "");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = |query: &str| {
        let path = format!("{}?{query}", address("rayclusters", "c"));
        let request =
            api.request(Method::PATCH, &path).header("content-type", "application/merge-patch+json");
        assert_eq!(api.send(request.body(label.to_string())).code, 200, "{query}");
    };
    patched("fieldManager=dryRun=All");
    patched("dryRun=All");
    let only_try = api.request(Method::DELETE, &format!("{clusters}?labelSelector=a=b"));
    assert_eq!(api.send(only_try.body(r#"{"dryRun": ["All"]}"#)).code, 200);
    assert_eq!(api.delete(&format!("{TOKENS}/edit")).code, 200);
    let pause = json!({"source": "nowhere", "action": "pause"});
    assert_eq!(api.put(Method::POST, "/apis/rayconcile.dev/v1/sources", &pause).code, 404);
    for number in 0..20 {
        let stranger = api.with_token("");
        assert_eq!(stranger.delete(&format!("{clusters}/{number}")).code, 401);
    }

    let noted = lines(&world, "audit.log");
    let told: Vec<Value> = noted
        .iter()
        .map(|line| json!([line["verb"], line["object"], line["what"], line["dryRun"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["create", "default/c", null, false]),
            json!(["create", null, "token edit, role edit", false]),
            json!(["patch", "default/c", null, false]),
            json!(["patch", "default/c", null, true]),
            json!(["delete", null, "labels a=b; 1 object: c", true]),
            json!(["delete", null, "token edit", false]),
            json!(["create", null, null, null]),
        ]
    );
    let strangers = lines(&world, "audit-strangers.log");
    assert!(strangers.len() == 20 && strangers.iter().all(|line| line["who"].is_null()), "{strangers:?}");
    world.finish();
}
