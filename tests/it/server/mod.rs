//! The API, as programs see it that know Kubernetes', from a real controller over real connections.

use serde_json::{Value, json};

use crate::world::{Answer, Api, World, address, suspended_cluster};

mod arbitrary;
mod audit;
mod hostile;
mod kubernetes;
mod limits;
mod logs;
mod objects;
mod refusals;
mod scale;
mod training;
mod watching;

/// Where tokens are made.
const TOKENS: &str = "/apis/rayconcile.dev/v1/tokens";

/// Creates a suspended cluster.
fn create(api: &Api, name: &str) -> Value {
    let answer = api.put(reqwest::Method::POST, &address("rayclusters", ""), &suspended_cluster(name));
    assert_eq!(answer.code, 201, "{answer:?}");
    answer.body
}

/// The API for somebody with a token of a role, by the role's name.
fn somebody(api: &Api, role: &str) -> Api {
    let made = api.put(reqwest::Method::POST, TOKENS, &json!({"name": role, "role": role}));
    assert_eq!(made.code, 201, "{made:?}");
    api.with_token(made.body["token"].as_str().unwrap())
}

/// Waits until the controller has said all it has to say of a suspended cluster, and gives it.
fn settled(world: &World, api: &Api, name: &str) -> Value {
    world.wait("the cluster is known to be suspended", || {
        let cluster = api.get(&address("rayclusters", name)).body;
        (cluster["status"]["phase"] == "Suspended").then_some(cluster)
    })
}

/// Sees that a refusal is one as Kubernetes gives it; gives its message.
fn refused(answer: &Answer, code: u16, reason: &str) -> String {
    let told =
        json!([answer.body["apiVersion"], answer.body["kind"], answer.body["status"], answer.body["code"]]);
    assert_eq!(told, json!(["v1", "Status", "Failure", code]), "{answer:?}");
    assert_eq!((answer.code, &answer.body["reason"]), (code, &json!(reason)), "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json");
    let message = answer.body["message"].as_str().unwrap();
    assert!(!message.is_empty(), "{answer:?}");
    message.to_owned()
}

/// The names of the objects of a list.
fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}
