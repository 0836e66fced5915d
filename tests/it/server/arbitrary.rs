//! Whatever is sent: an answer comes, it is an object or a refusal, and the controller goes on.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use super::create;
use crate::world::{Api, World, address, waiting_job};

/// JSON of any shape, deep or wide, with names and numbers that mean something here.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![1e308, -1e308, 5e-324, 0.1, 9_007_199_254_740_993.0]).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(Value::from("x".repeat(100_000))),
        prop::sample::select(vec!["delete", "replace", "lab", "1", "99999999999999999999Gi", "\u{0}"])
            .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "annotations",
        "managedFields",
        "resourceVersion",
        "generateName",
        "env",
        "value",
        "workerGroups",
        "maxReplicas",
        "suspend",
        "provider",
        "local",
        "$patch",
        "$retainKeys",
        "$setElementOrder/env",
        "$deleteFromPrimitiveList/args",
        "args",
        "replicas",
        "",
        "~",
    ]);
    leaf.prop_recursive(8, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

/// A body: JSON, or an object with something of it replaced, or a list of operations, or no JSON at all.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let field = prop::sample::select(vec![
        "metadata",
        "spec",
        "spec/env",
        "metadata/labels",
        "metadata/managedFields",
    ]);
    let operation = (
        prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]),
        "(/(spec|metadata|env|0|-|labels|args)){0,4}",
        "(/(spec|metadata|env|0|-|labels|args)){0,4}",
        any_json(),
    );
    let operations = prop::collection::vec(operation, 0..8).prop_map(|operations| {
        let list = operations.into_iter();
        list.map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
            .collect::<Value>()
    });
    prop_oneof![
        any_json().prop_map(|value| value.to_string().into_bytes()),
        operations.prop_map(|value: Value| value.to_string().into_bytes()),
        (field, any_json()).prop_map(|(field, value)| {
            let mut object = waiting_job("a", "none");
            object["spec"]["suspend"] = json!(true);
            let place = field.split('/').fold(&mut object, |place, name| &mut place[name]);
            *place = value;
            object.to_string().into_bytes()
        }),
        prop::collection::vec(any::<u8>(), 0..64),
        (1..3000_usize).prop_map(|depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()),
        (1..3000_usize)
            .prop_map(|depth| format!("{}1{}", "{\"spec\":".repeat(depth), "}".repeat(depth)).into_bytes()),
        (1..140_usize).prop_map(|depth| {
            let mut object = waiting_job("a", "none");
            object["spec"]["runtimeEnv"] = (0..depth).fold(json!(1), |inner, _| json!({"x": inner}));
            object.to_string().into_bytes()
        }),
        (1..30_usize).prop_map(|many| {
            let bomb =
                (1..many).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)).collect::<String>();
            format!("a0: &a0 [x, x]\n{bomb}").into_bytes()
        }),
    ]
}

/// Each way to change something.
fn request() -> impl Strategy<Value = (Method, String, &'static str)> {
    let jobs = || address("adaptdljobs", "");
    let one = || address("adaptdljobs", "a");
    let patch = |kind: &'static str| (Method::PATCH, format!("{}?fieldManager=m&force=true", one()), kind);
    let json = "application/json";
    prop::sample::select(vec![
        (Method::POST, jobs(), json),
        (Method::PUT, one(), json),
        patch("application/merge-patch+json"),
        patch("application/json-patch+json"),
        patch("application/strategic-merge-patch+json"),
        patch("application/apply-patch+yaml"),
        (Method::PATCH, format!("{}/scale", one()), "application/merge-patch+json"),
        (Method::PUT, format!("{}/scale", one()), json),
        (Method::DELETE, format!("{}?dryRun=All", one()), json),
        (Method::DELETE, format!("{}?dryRun=All", jobs()), json),
        (Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(), json),
        (
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
            "application/vnd.kubernetes.protobuf",
        ),
        (Method::POST, "/apis/rayconcile.dev/v1/tokens".to_owned(), json),
    ])
}

fn is_answer(
    api: &Api,
    (method, path, kind): (Method, String, &'static str),
    body: Vec<u8>,
) -> Result<(), TestCaseError> {
    let answer = api.send(api.request(method.clone(), &path).header("content-type", kind).body(body));
    prop_assert!(answer.code < 500, "{method} {path} {kind}: {answer:?}");
    prop_assert!(answer.body.is_object(), "{method} {path} {kind}: {answer:?}");
    let is_status = answer.body["kind"] == "Status" && answer.body["code"] == answer.code;
    prop_assert!(answer.code < 300 || is_status, "{answer:?}");
    // Whatever became of it is still one that can be read.
    for name in ["a", ""] {
        prop_assert_eq!(api.get(&address("adaptdljobs", name)).code, 200);
    }
    Ok(())
}

#[test]
fn whatever_is_sent_is_answered() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "none");
    let mut job = waiting_job("a", "none");
    job["spec"]["suspend"] = json!(true);
    assert_eq!(api.put(Method::POST, &address("adaptdljobs", ""), &job).code, 201);
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome =
        TestRunner::new(config).run(&(request(), body()), |(request, body)| is_answer(&api, request, body));
    outcome.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.controller())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kilobytes < 512 << 10, "it took {kilobytes} kB");
    world.finish();
}
