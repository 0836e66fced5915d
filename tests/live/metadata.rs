//! EC2's instance metadata service, as far as notices are concerned, for any number of nodes.
//!
//! A cluster whose `metadataEndpoint` is [`Metadata::endpoint`] asks it: each node below its own address. It answers
//! as EC2 does (its user guide: "Use IMDSv2", "Spot Instance interruption notices", "EC2 instance rebalance
//! recommendations", "View scheduled events"), or, if told so, as it should not.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As EC2 does when tokens are required.
    Tokens,
    /// As a service that knows no tokens.
    NoTokens,
    /// With an error, whatever is asked.
    Broken,
    /// Right, but so much later.
    Slow(Duration),
}

/// The service. It ends with this value.
pub(crate) struct Metadata {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    mode: Mode,
    ended: bool,
    /// When each token expires.
    tokens: BTreeMap<String, Instant>,
    /// What is announced, by node and path.
    announced: BTreeMap<(String, &'static str), String>,
    /// How often each node has asked for something.
    asked: BTreeMap<String, u64>,
}

const INTERRUPTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const MAINTENANCE: &str = "/latest/meta-data/events/maintenance/scheduled";
const TOKEN: &str = "/latest/api/token";

impl Metadata {
    /// Starts it, with nothing announced.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Tokens,
            ended: false,
            tokens: BTreeMap::new(),
            announced: BTreeMap::new(),
            asked: BTreeMap::new(),
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.lock().unwrap().ended {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let _ = serve(stream, &shared); // Whoever hangs up has no answer.
                });
            }
        });
        Self { port, state }
    }

    /// What a cluster's `metadataEndpoint` is.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{{address}}", self.port)
    }

    /// Answers like this from now on.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state().mode = mode;
    }

    /// How often a node has asked for something.
    pub(crate) fn asked(&self, address: &str) -> u64 {
        self.state().asked.get(address).copied().unwrap_or(0)
    }

    /// A node's spot instance is reclaimed in so long.
    pub(crate) fn interrupt(&self, address: &str, after: Duration) {
        let time = (Timestamp::now() + after).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.announce(address, INTERRUPTION, json!({"action": "terminate", "time": time}).to_string());
    }

    /// A node's spot instance is more likely than others to be reclaimed soon.
    pub(crate) fn recommend_rebalance(&self, address: &str) {
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.announce(address, REBALANCE, json!({"noticeTime": time}).to_string());
    }

    /// A node's host is mended in so long.
    pub(crate) fn schedule_maintenance(&self, address: &str, after: Duration) {
        let time = |after: Duration| (Timestamp::now() + after).strftime("%d %b %Y %H:%M:%S GMT").to_string();
        let event = json!({
            "Code": "system-reboot",
            "Description": "scheduled reboot",
            "State": "active",
            "EventId": "instance-event-0d59937288b749b32",
            "NotBefore": time(after),
            "NotAfter": time(after + Duration::from_secs(900)),
            "NotBeforeDeadline": time(after + Duration::from_secs(86400)),
        });
        self.announce(address, MAINTENANCE, json!([event]).to_string());
    }

    /// Nothing is announced of a node any more.
    pub(crate) fn clear(&self, address: &str) {
        self.state().announced.retain(|(node, _), _| node != address);
    }

    fn announce(&self, address: &str, path: &'static str, text: String) {
        self.state().announced.insert((address.to_owned(), path), text);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.state().ended = true;
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // Wakes who listens.
    }
}

/// A request, as far as it matters.
struct Request {
    method: String,
    /// The first part of the path.
    node: String,
    /// The rest of it.
    path: String,
    token: Option<String>,
    ttl: Option<u64>,
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(request) = read(&stream)? else { return Ok(()) };
    let mode = state.lock().unwrap().mode;
    if let Mode::Slow(delay) = mode {
        std::thread::sleep(delay);
    }
    let (status, body) = answer(&mut state.lock().unwrap(), &request);
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream.take(1 << 16));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let Some((first, headers)) = lines.split_first() else { return Ok(None) };
    let header = |name: &str| {
        let named = headers.iter().filter_map(|line| line.split_once(':'));
        named
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .next()
    };
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (node, path) = target.trim_start_matches('/').split_once('/').unwrap_or_default();
    Ok(Some(Request {
        method: method.to_owned(),
        node: node.to_owned(),
        path: format!("/{path}"),
        token: header("X-aws-ec2-metadata-token"),
        ttl: header("X-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse().ok()),
    }))
}

fn answer(state: &mut State, request: &Request) -> (&'static str, String) {
    *state.asked.entry(request.node.clone()).or_default() += 1;
    if state.mode == Mode::Broken {
        return ("503 Service Unavailable", String::new());
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("PUT", TOKEN) if state.mode == Mode::NoTokens => ("405 Method Not Allowed", String::new()),
        ("PUT", TOKEN) => match request.ttl {
            Some(ttl @ 1..=21600) => {
                let token = format!("{:032x}", fastrand::u128(..));
                state.tokens.insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
                ("200 OK", token)
            }
            _ => ("400 Bad Request", String::new()),
        },
        ("GET", path) => {
            let expiry = request.token.as_ref().and_then(|token| state.tokens.get(token));
            if state.mode != Mode::NoTokens && expiry.is_none_or(|expiry| *expiry < Instant::now()) {
                return ("401 Unauthorized", String::new());
            }
            let announced =
                state.announced.iter().find(|((node, what), _)| *node == request.node && *what == path);
            match announced {
                Some((_, text)) => ("200 OK", text.clone()),
                None if path == MAINTENANCE => ("200 OK", "[]".to_owned()),
                None => ("404 Not Found", String::new()),
            }
        }
        _ => ("405 Method Not Allowed", String::new()),
    }
}
