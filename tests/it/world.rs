//! A directory of a test's own, the program in it, and its API: for tests with real processes but without Ray.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::Value;

/// The program under test.
pub(crate) const RAYCONCILE: &str = env!("CARGO_BIN_EXE_rayconcile");

/// How long a test waits for what must come; long, for a machine may be busy, but not for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a state directory in it, and the controller that serves it.
pub(crate) struct World {
    directory: tempfile::TempDir,
    controller: RefCell<Option<Child>>,
}

/// How a command ended, and what it said where.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// A world without a controller.
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), controller: RefCell::new(None) }
    }

    /// A world with a controller that has these arguments.
    pub(crate) fn with_controller(arguments: &[&str]) -> Self {
        let world = Self::new();
        world.start(arguments);
        world
    }

    /// A path in the world's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in the world's directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a program; a running one is replaced as a whole.
    pub(crate) fn write_program(&self, name: &str, text: &str) -> PathBuf {
        let new = self.write(&format!("{name}.new"), text);
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        let path = self.path(name);
        fs::rename(new, &path).unwrap();
        path
    }

    /// A command of the program, against this world's state, with nothing of the user's environment in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(arguments);
        command.env("RAYCONCILE_STATE_DIR", self.path("state"));
        command
    }

    /// The same, against no particular state.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        self.run_by(&[RAYCONCILE], arguments)
    }

    fn run_by(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command
            .args(&program[1..])
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/home/somebody");
        command.env("TZ", "UTC").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.current_dir(self.directory.path());
        command
    }

    /// Runs a command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(&self.command(arguments).output().unwrap())
    }

    /// Runs a command; it must succeed. Gives what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert!(said.code == 0, "{arguments:?} failed: {said:#?}\n{}", self.log());
        said.out
    }

    /// Starts the controller, with its log in a file, and waits until it answers.
    pub(crate) fn start(&self, arguments: &[&str]) {
        self.start_with(arguments, &[]);
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(&self, arguments: &[&str], environment: &[(&str, &str)]) {
        self.start_by(&[], arguments, environment);
    }

    /// The same, by another program, which becomes the controller.
    pub(crate) fn start_by(&self, program: &[&str], arguments: &[&str], environment: &[(&str, &str)]) {
        assert!(self.controller.borrow().is_none());
        let log = fs::File::options().create(true).append(true).open(self.path("controller.log")).unwrap();
        let mut command =
            self.run_by(&[program, &[RAYCONCILE]].concat(), &["controller", "--idle-timeout", "1s"]);
        command.env("RAYCONCILE_STATE_DIR", self.path("state")).envs(environment.iter().copied());
        let child = command.args(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.controller.borrow_mut() = Some(child);
        self.wait("the controller answers", || {
            let ended = self.controller.borrow_mut().as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the controller did not start:\n{}", self.log());
            (self.run(&["status"]).code == 0).then_some(())
        });
    }

    /// The controller's process id.
    pub(crate) fn controller(&self) -> u32 {
        self.controller.borrow().as_ref().unwrap().id()
    }

    /// Kills the controller as the kernel would.
    pub(crate) fn kill(&self) {
        let mut child = self.controller.borrow_mut().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the controller to end, and sees that it does, and well.
    pub(crate) fn stop(&self) {
        let mut child = self.controller.borrow_mut().take().unwrap();
        terminate(child.id());
        let status = ends(&mut child);
        assert!(status.is_some_and(|status| status.success()), "it ended badly: {status:?}\n{}", self.log());
    }

    /// What the controller has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("controller.log")).unwrap_or_default()
    }

    /// An object as JSON, or null if it is not there.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.run(&["get", kind, name, "-o", "json"]).out).unwrap_or_default()
    }

    /// Waits until something can be had.
    pub(crate) fn wait<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        wait(probe).unwrap_or_else(|| {
            let (status, events) = (self.run(&["status"]), self.run(&["events", "-A"]));
            panic!("waited too long until {what}\n{status:#?}\n{events:#?}\n{}", self.log())
        })
    }

    /// Waits until a page of the program shows something, and gives the page.
    pub(crate) fn wait_page(&self, arguments: &[&str], words: &[&str]) -> String {
        self.wait(&format!("{arguments:?} shows {words:?}"), || {
            let page = self.run(arguments).out;
            words.iter().all(|word| page.contains(word)).then_some(page)
        })
    }

    /// A client of the controller's API.
    pub(crate) fn api(&self) -> Api {
        Api::of(&self.path("state")).unwrap()
    }

    /// Deletes everything, and sees the controller out: nothing may be left.
    pub(crate) fn finish(self) {
        let names = |kind: &str| self.ok(&["get", kind, "-o", "name"]);
        for kind in ["jobs", "clusters"] {
            let names = names(kind);
            for name in names.lines() {
                // It may be going already, or go by itself.
                self.run(&["delete", "--no-wait", name]);
            }
            self.wait("everything is gone", || {
                self.ok(&["get", kind, "-o", "name"]).is_empty().then_some(())
            });
        }
        self.stop();
        assert_eq!(self.launched(), Vec::<u32>::new(), "processes were left behind");
    }

    /// The processes that this world's controller has launched: they know its state directory.
    fn launched(&self) -> Vec<u32> {
        let mark = format!("RAYCONCILE_STATE_DIR={}", self.path("state").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes());
            found.extend(pid.filter(|_| marked));
        }
        found
    }
}

impl Drop for World {
    /// After a failed test: what was started is ended all the same, by process id.
    fn drop(&mut self) {
        if let Some(mut child) = self.controller.get_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.launched() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Waits until something can be had, but not for ever.
pub(crate) fn wait<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
}

/// Waits for a process to end; one that does not is killed.
pub(crate) fn ends(child: &mut Child) -> Option<std::process::ExitStatus> {
    let status = wait(|| child.try_wait().unwrap());
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    status
}

/// What a process that was to end has said.
pub(crate) fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The API of a controller, as programs see it.
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) token: String,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Api {
    /// The API of the controller that serves a state directory, once it is there.
    pub(crate) fn of(state: &Path) -> Option<Self> {
        let endpoint: Value = serde_json::from_str(&fs::read_to_string(state.join("api.json")).ok()?).ok()?;
        Some(Self::new(endpoint["url"].as_str()?, &fs::read_to_string(state.join("api-token")).ok()?))
    }

    fn new(base: &str, token: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { base: base.to_owned(), token: token.to_owned(), runtime, client }
    }

    /// The same API, for somebody with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self::new(&self.base, token)
    }

    /// A request, to be changed before it is sent.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// Sends a request. What is not JSON is a string.
    pub(crate) fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.runtime.block_on(async {
            let response = request.send().await.unwrap();
            let (code, headers) = (response.status().as_u16(), response.headers().clone());
            let text = response.text().await.unwrap();
            Answer { code, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
        })
    }

    /// Asks for something.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path))
    }

    /// Sends an object.
    pub(crate) fn put(&self, method: Method, path: &str, object: &Value) -> Answer {
        self.send(self.request(method, path).json(object))
    }

    /// Asks for something to go.
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path))
    }

    /// Begins to watch.
    pub(crate) fn watch(&self, path: &str) -> Watch<'_> {
        let response = self.runtime.block_on(async { self.request(Method::GET, path).send().await }).unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Watch { api: self, response, buffer: Vec::new() }
    }
}

/// The lines of an answer, as they come.
pub(crate) struct Watch<'a> {
    api: &'a Api,
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Watch<'_> {
    /// The next line.
    pub(crate) fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let chunk = self.api.runtime.block_on(self.response.chunk()).unwrap();
            self.buffer.extend(chunk.expect("the watch ended"));
        }
    }

    /// What else is told until the watch is ended.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        while let Some(chunk) = self.api.runtime.block_on(self.response.chunk()).unwrap() {
            self.buffer.extend(chunk);
        }
        let lines = self.buffer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// The next change: its type, and the name of the object.
    pub(crate) fn change(&mut self) -> (String, String) {
        let line = self.next();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&line["type"]), text(&line["object"]["metadata"]["name"]))
    }
}

/// The address of the objects of a kind in the default namespace, or of one of them.
pub(crate) fn address(plural: &str, name: &str) -> String {
    let collection = format!("/apis/rayconcile.dev/v1/namespaces/default/{plural}");
    if name.is_empty() { collection } else { format!("{collection}/{name}") }
}

/// A cluster that is suspended, so that nothing is ever started for it.
pub(crate) fn suspended_cluster(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "RayCluster",
        "metadata": {"name": name},
        "spec": {"provider": {"local": {}}, "suspend": true},
    })
}

/// A job for a cluster that is not there, or not running.
pub(crate) fn waiting_job(name: &str, cluster: &str) -> Value {
    serde_json::json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "AdaptDLJob",
        "metadata": {"name": name},
        "spec": {"clusterRef": {"name": cluster}, "command": ["true"]},
    })
}

/// Everything a file or pipe has to say, up to its end.
pub(crate) fn read_all(mut from: impl std::io::Read) -> String {
    let mut text = String::new();
    let _ = from.read_to_string(&mut text);
    text
}

/// Whether a path has this mode.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
