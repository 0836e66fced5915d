//! What is asked of a job's scale, and of its end: no more is done than was asked.

use reqwest::Method;
use serde_json::{Value, json};

use super::refused;
use super::training::Training;
use crate::world::{Answer, address};

fn job(training: &Training) -> Value {
    training.api.get(&address("adaptdljobs", "digits")).body
}

#[test]
fn a_mistake_is_no_wish_for_fewer_workers() {
    let training = Training::new();
    let at = format!("{}/scale", address("adaptdljobs", "digits"));
    let put = |body: Value| training.api.put(Method::PUT, &at, &body);
    let patch = |kind: &'static str, body: Value| -> Answer {
        let request = training.api.request(Method::PATCH, &at).header("content-type", kind);
        training.api.send(request.body(body.to_string()))
    };
    let merge = "application/merge-patch+json";
    let before = job(&training);
    assert_eq!(before["spec"]["scaling"]["policy"], "Goodput");
    for (body, field) in [
        (json!({"spec": {"replica": 3}}), "spec.replica:"),
        (json!({"replicas": 3, "spec": {}}), "replicas:"),
        (json!({}), "spec:"),
        (json!({"spec": {"replicas": "3"}}), "spec.replicas:"),
    ] {
        let message = refused(&put(body.clone()), 422, "Invalid");
        assert!(message.starts_with(field), "{body}: {message}");
    }
    refused(&put(json!({"kind": "Deployment", "spec": {"replicas": 3}})), 400, "BadRequest");
    refused(&put(json!({"metadata": {"name": "other"}, "spec": {"replicas": 3}})), 400, "BadRequest");
    refused(&put(json!({"metadata": {"uid": "other"}, "spec": {"replicas": 3}})), 409, "Conflict");
    refused(&patch(merge, json!({"spec": {"replica": 3}})), 422, "Invalid");
    refused(&patch(merge, json!({"spec": null})), 422, "Invalid");
    // A patch that leaves the number alone does, too.
    assert_eq!(patch(merge, json!({"metadata": {"labels": {"a": "b"}}})).code, 200);
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 2}]);
    assert_eq!(patch("application/json-patch+json", test).code, 200);
    assert_eq!(job(&training), before);
    // To ask for as many as there are is to ask for no other number, from now on.
    assert_eq!(patch(merge, json!({"spec": {"replicas": 2}})).code, 200);
    let scaling = job(&training)["spec"]["scaling"].clone();
    assert_eq!((&scaling["policy"], &scaling["replicas"]), (&json!("Fixed"), &json!(2)));
    let three = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    assert_eq!(patch("application/json-patch+json", three).body["spec"]["replicas"], 3);
    // Programs in Go leave out what is 0.
    assert_eq!(put(json!({"metadata": {"name": "digits"}, "spec": {}})).body["spec"], json!({"replicas": 0}));
    assert_eq!(job(&training)["spec"]["suspend"], true);
}

#[test]
fn a_grace_period_is_a_change_of_the_spec() {
    let training = Training::new();
    let delete = |seconds: u64| {
        let options = json!({"gracePeriodSeconds": seconds});
        let request = training.api.request(Method::DELETE, &address("adaptdljobs", "digits")).json(&options);
        let job = training.api.send(request).body;
        (job["spec"]["terminationGracePeriod"].clone(), job["metadata"]["generation"].clone())
    };
    assert_eq!(delete(7), (json!("7s"), json!(2)));
    assert_eq!(delete(9), (json!("7s"), json!(2)), "who is going gets no more time");
    assert_eq!(delete(3), (json!("3s"), json!(3)));
}
