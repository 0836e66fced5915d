//! Clients that do not behave: none keeps others from being served, or the controller from ending.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::{create, names};
use crate::world::{Api, World, address};

/// A connection to the API, on which something was said.
fn connection(api: &Api, said: &str) -> TcpStream {
    let mut connection = TcpStream::connect(api.base.strip_prefix("http://").unwrap()).unwrap();
    connection.write_all(said.as_bytes()).unwrap();
    connection
}

/// A request for the clusters, as it goes over the wire.
fn request(api: &Api, query: &str) -> String {
    format!(
        "GET {}{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        address("rayclusters", ""),
        api.token
    )
}

#[test]
fn clients_that_do_not_behave_harm_nobody() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let whole = request(&api, "");
    let long = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{",
        address("rayclusters", ""),
        api.token
    );
    let mut held = Vec::new();
    for _ in 0..20 {
        // Silent, half a request, half a body; below, who never reads what was asked for.
        held.push(connection(&api, ""));
        held.push(connection(&api, &whole[..whole.len() - 2]));
        held.push(connection(&api, &long));
    }
    for _ in 0..3 {
        held.push(connection(&api, &request(&api, "?watch=true")));
    }
    for nonsense in [
        "\0\0\0\0",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        "DELETE * HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nx: \r\r\n\r\n",
    ] {
        let mut connection = connection(&api, nonsense);
        connection.shutdown(Shutdown::Write).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{nonsense:?}: {answer:?}");
    }
    let endless = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(100_000));
    let mut connection = TcpStream::connect(api.base.strip_prefix("http://").unwrap()).unwrap();
    let _ = connection.write_all(endless.as_bytes());

    // More changes than fit into any buffer, which those who watch and do not read are not waited for.
    let note = "x".repeat(100_000);
    for number in 0..100 {
        let patch = json!({"metadata": {"annotations": {"note": format!("{number}{note}")}}});
        let answer = api.send(api.request(Method::PATCH, &address("rayclusters", "c")).json(&patch));
        assert_eq!(answer.code, 200);
    }
    // Who leaves in the middle is forgotten.
    for connection in held.drain(..20) {
        drop(connection);
    }
    assert_eq!(names(&api.get(&address("rayclusters", "")).body), ["c"]);
    assert_eq!(world.get("cluster", "c")["metadata"]["name"], "c");

    // Asked to end, the controller does, whoever still holds on.
    let asked = Instant::now();
    world.stop();
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    drop(held);
}
