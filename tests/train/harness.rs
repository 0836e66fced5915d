//! Replicas as real processes, started by a slot and told by a supervisor that do what Rayconcile's do.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Words of the control page.
const STEPS: usize = 0;
const BATCH: usize = 5;
const SAVE_ASKED: usize = 6;
const SAVES: usize = 7;
const LEAVING: usize = 11;
const CONTROL_BYTES: usize = 4096;

/// A job: one program, whose groups follow each other.
pub(crate) struct Job {
    pub(crate) directory: tempfile::TempDir,
    program: &'static str,
    options: Value,
    groups: u64,
    /// The newest save of the groups so far.
    newest: Option<PathBuf>,
}

/// What a supervisor was told, and may say.
#[derive(Default)]
struct Told {
    released: bool,
    hints: Vec<Value>,
    words: Vec<String>,
    /// How many replicas have asked for their release.
    asked: usize,
}

/// One group's replicas.
pub(crate) struct Group {
    replicas: Vec<Child>,
    directory: PathBuf,
    number: u64,
    told: Arc<Mutex<Told>>,
}

impl Job {
    /// A job of a program in `programs.rs`.
    pub(crate) fn new(program: &'static str, mut options: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        options["directory"] = json!(directory.path());
        Self { directory, program, options, groups: 0, newest: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The lines that all replicas of all groups have appended to a file.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Starts the next group.
    pub(crate) fn start(&mut self, replicas: u32) -> Group {
        let group = self.prepare(replicas);
        group.release();
        group
    }

    /// Starts the next group, which waits for its release.
    pub(crate) fn prepare(&mut self, replicas: u32) -> Group {
        let number = self.groups;
        self.groups += 1;
        let directory = self.path(&format!("group-{number}"));
        let told = Arc::new(Mutex::new(Told::default()));
        let port = serve(Arc::clone(&told), replicas);
        let master_port = free_port();
        let restored = directory.join("restored");
        fs::create_dir_all(&restored).unwrap();
        if let Some(save) = &self.newest {
            std::os::unix::fs::symlink(save, restored.join(save.file_name().unwrap())).unwrap();
        }
        let start = |rank: u32| {
            let own = directory.join(format!("rank-{rank}"));
            fs::create_dir_all(own.join("saves")).unwrap();
            fs::write(own.join("control"), [0; CONTROL_BYTES]).unwrap();
            let config = json!({
                "control": own.join("control"), "saves": own.join("saves"), "rank": rank,
                "supervisor": ["127.0.0.1", port, "secret"], "groupSecret": format!("secret of {number}"),
            });
            fs::write(own.join("config.json"), config.to_string()).unwrap();
            let output = fs::File::create(own.join("output")).unwrap();
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "programs::program", "--nocapture", "--test-threads=1"])
                .env("TRAIN_PROGRAM", self.program)
                .env("TRAIN_OPTIONS", self.options.to_string())
                .env("OMP_NUM_THREADS", "1")
                .env("ADAPTDL_JOB_ID", "default/job")
                .env("ADAPTDL_REPLICA_RANK", rank.to_string())
                .env("ADAPTDL_NUM_REPLICAS", replicas.to_string())
                .env("ADAPTDL_NUM_NODES", "1")
                .env("ADAPTDL_NUM_RESTARTS", number.to_string())
                .env("ADAPTDL_MASTER_PORT", master_port.to_string())
                .env("ADAPTDL_SUPERVISOR_URL", format!("http://127.0.0.1:{port}/secret"))
                .env("ADAPTDL_CHECKPOINT_PATH", &restored)
                .env("RAYCONCILE_WORKER", own.join("config.json"))
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap()
        };
        Group { replicas: (0..replicas).map(start).collect(), directory: directory.clone(), number, told }
    }

    /// Has a group save and end, and the next one go on from there.
    pub(crate) fn stop(&mut self, mut group: Group) {
        for rank in 0..group.replicas.len() {
            group.signal(rank, Signal::SIGTERM);
        }
        for rank in 0..group.replicas.len() {
            let status = group.wait(rank);
            assert_eq!(status.code(), Some(143), "{}", group.output(rank));
            assert_eq!(group.word(rank, LEAVING), 1);
        }
        assert_eq!(
            group.told.lock().unwrap().words.iter().filter(|word| *word == "left").count(),
            group.replicas.len()
        );
        self.keep(&group);
    }

    /// Has the next group go on from the newest save of this one.
    pub(crate) fn keep(&mut self, group: &Group) {
        let number = group.word(0, SAVES);
        assert!(number > 0, "nothing is saved: {}", group.output(0));
        let save = group.directory.join(format!("rank-0/saves/{number}/checkpoint-{}", group.number));
        assert!(save.is_dir(), "{} is not there", save.display());
        self.newest = Some(save);
    }
}

impl Group {
    pub(crate) fn release(&self) {
        self.told.lock().unwrap().released = true;
    }

    pub(crate) fn signal(&self, rank: usize, signal: Signal) {
        let _ = kill(Pid::from_raw(self.replicas[rank].id() as i32), signal);
    }

    /// Waits until a replica has ended.
    pub(crate) fn wait(&mut self, rank: usize) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.replicas[rank].try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "rank {rank} does not end: {}", self.output(rank));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all have ended as a program does whose work is done.
    pub(crate) fn succeed(mut self) {
        for rank in 0..self.replicas.len() {
            let status = self.wait(rank);
            assert_eq!(status.code(), Some(0), "rank {rank}: {}", self.output(rank));
        }
    }

    /// What a replica has printed.
    pub(crate) fn output(&self, rank: usize) -> String {
        fs::read_to_string(self.directory.join(format!("rank-{rank}/output"))).unwrap()
    }

    /// How many replicas have asked for their release.
    pub(crate) fn asked(&self) -> usize {
        self.told.lock().unwrap().asked
    }

    pub(crate) fn hints(&self) -> Vec<Value> {
        self.told.lock().unwrap().hints.clone()
    }

    /// Batches that a replica has processed.
    pub(crate) fn steps(&self, rank: usize) -> u64 {
        self.word(rank, STEPS)
    }

    /// Samples in a step, of all replicas together, as a replica has it.
    pub(crate) fn batch_size(&self, rank: usize) -> u64 {
        self.word(rank, BATCH)
    }

    pub(crate) fn wait_steps(&mut self, steps: u64) {
        self.until(|group| group.steps(0) >= steps);
    }

    /// Asks for a save while training goes on; waits until it is there.
    pub(crate) fn save(&mut self) {
        let number = self.word(0, SAVES) + 1;
        let path = self.directory.join("rank-0/control");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &number.to_ne_bytes(), 8 * SAVE_ASKED as u64)
            .unwrap();
        self.until(|group| group.word(0, SAVES) >= number);
    }

    /// Waits until something is so, which only a living first replica brings about.
    pub(crate) fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self) {
            let ended = self.replicas[0].try_wait().unwrap();
            let (output, hints) = (self.output(0), self.hints());
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {output}{hints:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn word(&self, rank: usize, word: usize) -> u64 {
        let page = fs::read(self.directory.join(format!("rank-{rank}/control"))).unwrap();
        u64::from_ne_bytes(page[8 * word..8 * word + 8].try_into().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            let _ = replica.kill();
            let _ = replica.wait();
        }
    }
}

/// A port that nobody has, above those that the kernel gives to whoever asks for any.
pub(crate) fn free_port() -> u16 {
    let mut drawn = std::iter::repeat_with(|| fastrand::u16(61_000..));
    drawn.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

/// Serves a group's supervisor, as long as this process lives; gives its port.
fn serve(told: Arc<Mutex<Told>>, replicas: u32) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let told = Arc::clone(&told);
            std::thread::spawn(move || answer(&connection, &told, replicas));
        }
    });
    port
}

fn answer(mut connection: &TcpStream, told: &Mutex<Told>, replicas: u32) -> Option<()> {
    let mut reader = BufReader::new(connection);
    let mut lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let request = lines.next()?;
    let length = |line: String| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let length: usize = lines.filter_map(length).last().unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = request.split_whitespace();
    let (method, path) = (words.next()?, words.next()?.strip_prefix("/secret/")?);
    let (status, answer) = match (method, path) {
        ("GET", "release") => {
            told.lock().unwrap().asked += 1;
            while !told.lock().unwrap().released {
                std::thread::sleep(Duration::from_millis(5));
            }
            (200, String::new())
        }
        ("GET", path) if path.starts_with("discover/default/job/") => {
            (200, json!(vec!["127.0.0.1"; replicas as usize]).to_string())
        }
        ("PUT", "hints/default/job") => {
            told.lock().unwrap().hints.push(serde_json::from_slice(&body).ok()?);
            (200, String::new())
        }
        ("POST", word @ ("saved" | "left")) => {
            told.lock().unwrap().words.push(word.to_owned());
            (200, String::new())
        }
        _ => (404, String::new()),
    };
    let head =
        format!("HTTP/1.1 {status} .\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    connection.write_all((head + &answer).as_bytes()).ok()
}

/// The repository's file of that name.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
