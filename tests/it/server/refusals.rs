//! Whom the API lets in, and what it says to requests that are wrong.

use reqwest::Method;
use serde_json::json;

use super::{create, names, refused};
use crate::world::{World, address, mode, suspended_cluster, waiting_job};

#[test]
fn only_who_has_the_token_is_let_in() {
    let world = World::with_controller(&[]);
    let api = world.api();
    assert!(api.base.starts_with("http://127.0.0.1:") && api.token.len() == 64, "{}", api.base);
    assert_eq!((mode(&world.path("state/api-token")), mode(&world.path("state/api.json"))), (0o600, 0o600));
    assert_eq!(mode(&world.path("state")), 0o700);
    for token in ["", "wrong", &"0".repeat(64), &format!("{}x", api.token), &api.token[..63]] {
        let stranger = api.with_token(token);
        for path in
            [&address("rayclusters", ""), "/api/v1/events", "/apis/rayconcile.dev/v1/sources", "/nowhere"]
        {
            let answer = stranger.get(path);
            refused(&answer, 401, "Unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        refused(
            &stranger.put(Method::POST, &address("rayclusters", ""), &suspended_cluster("c")),
            401,
            "Unauthorized",
        );
        refused(&stranger.delete(&address("rayclusters", "c")), 401, "Unauthorized");
    }
    let header = |value: String| {
        let request = api
            .with_token("")
            .request(Method::GET, &address("rayclusters", ""))
            .header("authorization", value);
        api.send(request).code
    };
    assert_eq!(header(format!("bearer {}", api.token)), 200, "the scheme's case does not matter");
    assert_eq!(
        (header(format!("Basic {}", api.token)), header(api.token.clone()), header("Bearer ".to_owned())),
        (401, 401, 401)
    );
    // Whether it is there, and what it is, anybody may know.
    assert_eq!(api.with_token("").get("/healthz").body, "ok");
    assert_eq!(api.with_token("").get("/version").body["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(names(&api.get(&address("rayclusters", "")).body), Vec::<&str>::new());

    // The token stays the same for the next controller; one that lets everybody in is replaced.
    world.stop();
    assert!(!world.path("state/api.json").exists(), "it says where no API is");
    world.start(&[]);
    assert_eq!(world.api().token, api.token);
    world.stop();
    world.write("state/api-token", "");
    world.start(&[]);
    assert_eq!(world.api().token.len(), 64);
    refused(&world.api().with_token("").get("/api/v1/events"), 401, "Unauthorized");
    world.finish();
}

#[test]
fn what_is_wrong_with_an_object_is_said_field_by_field() {
    let world = World::with_controller(&[]);
    let api = world.api();
    let mut job = waiting_job("j", "c");
    job["spec"]["minReplica"] = json!(1);
    job["spec"]["maxReplicas"] = json!("many");
    job["spec"]["env"] = json!([{"name": "A"}, {"value": "x"}]);
    let answer = api.put(Method::POST, &address("adaptdljobs", ""), &job);
    let message = refused(&answer, 422, "Invalid");
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    for field in ["spec.minReplica", "spec.maxReplicas", "spec.env[1]"] {
        assert!(fields.iter().any(|found| found.starts_with(field)), "{field} is not in {fields:?}");
        assert!(message.contains(field), "{message}");
    }
    assert!(
        causes.iter().all(|cause| cause["reason"] == "FieldValueInvalid" && cause["message"].is_string())
    );

    for (plural, object, field) in [
        ("adaptdljobs", json!({"kind": "AdaptDLJob"}), ""),
        ("adaptdljobs", json!([]), ""),
        (
            "rayclusters",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}}),
            "apiVersion",
        ),
        (
            "rayclusters",
            json!({"apiVersion": "rayconcile.dev/v1", "kind": "RayClutser", "metadata": {"name": "x"}}),
            "kind",
        ),
        ("rayclusters", suspended_cluster("Not_A_Name"), "metadata.name"),
    ] {
        let answer = api.put(Method::POST, &address(plural, ""), &object);
        refused(&answer, 422, "Invalid");
        let causes = answer.body["details"]["causes"].as_array().unwrap();
        assert!(causes.iter().any(|cause| cause["field"] == field), "{field:?} is not in {causes:?}");
    }
    let mut packed = waiting_job("j", "c");
    packed["spec"]["workingDirDigest"] = json!("0".repeat(64));
    packed["spec"]["workingDir"] = json!("/somewhere");
    let answer = api.put(Method::POST, &address("adaptdljobs", ""), &packed);
    refused(&answer, 422, "Invalid");
    assert_eq!(answer.body["details"]["causes"][0]["field"], "spec.workingDirDigest");

    // The object must be what the address says.
    let elsewhere = api.put(Method::POST, &address("adaptdljobs", ""), &suspended_cluster("c"));
    assert_eq!(refused(&elsewhere, 400, "BadRequest"), "a RayCluster cannot be put where adaptdljobs are");
    refused(&api.put(Method::PUT, &address("rayclusters", "d"), &suspended_cluster("c")), 400, "BadRequest");
    let mut namespaced = suspended_cluster("c");
    namespaced["metadata"]["namespace"] = json!("other");
    refused(&api.put(Method::POST, &address("rayclusters", ""), &namespaced), 400, "BadRequest");
    for version in [json!(7), json!("seven"), json!("-1")] {
        let mut versioned = suspended_cluster("c");
        versioned["metadata"]["resourceVersion"] = version;
        refused(&api.put(Method::PUT, &address("rayclusters", "c"), &versioned), 400, "BadRequest");
    }
    world.finish();
}

#[test]
fn requests_that_are_no_good_are_refused_as_kubernetes_does() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let collection = address("rayclusters", "");
    let post = |kind: &'static str, body: Vec<u8>| {
        api.send(api.request(Method::POST, &collection).header("content-type", kind).body(body))
    };
    refused(&post("application/json", b"{\"kind\": ".to_vec()), 400, "BadRequest");
    refused(&post("application/json", Vec::new()), 400, "BadRequest");
    refused(&post("application/json", vec![0xff, 0xfe]), 400, "BadRequest");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&post("application/json", deep.into_bytes()), 400, "BadRequest");
    refused(&post("application/x-www-form-urlencoded", b"a=b".to_vec()), 415, "UnsupportedMediaType");
    let huge = format!("\"{}\"", "x".repeat(3 << 20));
    refused(&post("application/json", huge.into_bytes()), 413, "RequestEntityTooLarge");

    refused(&api.get("/nowhere/at/all"), 404, "NotFound");
    refused(&api.get("/apis/rayconcile.dev/v1/pods"), 404, "NotFound");
    refused(&api.get(&address("adaptdljobs", "c")), 404, "NotFound");
    let method = api.send(api.request(Method::POST, &address("rayclusters", "c")));
    refused(&method, 405, "MethodNotAllowed");
    assert!(method.headers["allow"].to_str().unwrap().contains("GET"), "{method:?}");
    refused(&api.get(&format!("{collection}?watch=perhaps")), 400, "BadRequest");
    refused(&api.get(&format!("{collection}?resourceVersion=new")), 400, "BadRequest");
    refused(&api.get(&address("rayclusters", "%ff")), 400, "BadRequest");

    // A source may be asked in YAML, too.
    let sources = api.request(Method::POST, "/apis/rayconcile.dev/v1/sources");
    let asked = sources.header("content-type", "application/yaml").body("{source: none, action: pause}");
    refused(&api.send(asked), 404, "NotFound");

    // Packages are named by what they are, and may be larger.
    let package = |digest: &str, bytes: Vec<u8>| {
        api.send(api.request(Method::PUT, &format!("/apis/rayconcile.dev/v1/packages/{digest}")).body(bytes))
    };
    refused(&package("../../api-token", b"x".to_vec()), 404, "NotFound");
    refused(&package("..%2fapi-token", b"x".to_vec()), 400, "BadRequest");
    refused(&package(&"0".repeat(64), vec![0; 4 << 20]), 400, "BadRequest");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    refused(&api.get(&format!("/apis/rayconcile.dev/v1/packages/{empty}")), 404, "NotFound");
    assert_eq!(package(empty, Vec::new()).code, 201);
    assert_eq!(api.get(&format!("/apis/rayconcile.dev/v1/packages/{empty}")).code, 200);

    // Of a job that is not there, nothing is.
    for rest in ["log", "checkpoints", "checkpoints/0-0"] {
        let answer = api.get(&format!("{}/{rest}", address("adaptdljobs", "none")));
        refused(&answer, 404, "NotFound");
        assert_eq!(answer.body["details"]["name"], "none", "{rest}");
    }
    world.finish();
}
