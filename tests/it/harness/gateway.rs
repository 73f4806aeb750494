//! The gateway under test: described in sentences, started in this process or as the real binary.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;

use bearward::{App, Clock, Config, Hooks, Local, Manual, Token};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Answer, Raw, Upstream};

/// A gateway that is not started yet.
pub struct Gateway {
    upstream: String,
    upstream_fields: String,
    more_upstreams: String,
    keys_fields: String,
    config: String,
    keys: Vec<(String, String)>,
    tls: bool,
    listener_fields: String,
    admin: String,
    admin_fields: String,
    has_admin_token: bool,
    hooks: Hooks,
    clock: Option<Clock>,
}

/// The way in: where the gateway is, and the keys to it.
pub struct Door {
    pub address: SocketAddr,
    ca: Option<String>,
    tokens: HashMap<String, String>,
}

/// A gateway that serves, in this process. Dropping it stops it.
pub struct Running {
    door: Door,
    pub admin: SocketAddr,
    directory: TempDir,
    run: JoinHandle<std::io::Result<bool>>,
    _stops_when_dropped: oneshot::Sender<()>,
}

/// A gateway that serves, as a process of its own.
pub struct Binary {
    door: Door,
    pub admin: Option<SocketAddr>,
    pub child: Child,
    pub directory: TempDir,
    lines: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Running {
    /// How the server ends, which nothing has asked for.
    pub async fn ended(self) -> std::io::Result<bool> {
        super::in_time("the server's end", self.run).await.unwrap()
    }
}

impl Gateway {
    pub fn guarding(upstream: &Upstream) -> Self {
        Self::at(&format!("http://{}", upstream.address))
    }

    /// `endpoint`: its address, or endpoints with slots in flow style.
    pub fn at(endpoint: &str) -> Self {
        Gateway {
            upstream: endpoint.to_owned(),
            upstream_fields: String::new(),
            more_upstreams: String::new(),
            keys_fields: String::new(),
            config: String::new(),
            keys: Vec::new(),
            tls: false,
            listener_fields: String::new(),
            admin: "127.0.0.1:0".to_owned(),
            admin_fields: String::new(),
            has_admin_token: true,
            hooks: Hooks::default(),
            clock: None,
        }
    }

    /// A key with these fields of a key file, as in `permissions: [read]`.
    pub fn key(mut self, name: &str, fields: &str) -> Self {
        self.keys.push((name.to_owned(), fields.to_owned()));
        self
    }

    /// Lines of the configuration, at its top level.
    pub fn config(mut self, yaml: &str) -> Self {
        self.config.push_str(yaml);
        self.config.push('\n');
        self
    }

    /// Fields of the upstream, in flow style: `timeouts: {idle: 1s}`.
    pub fn upstream(mut self, fields: &str) -> Self {
        write!(self.upstream_fields, ", {fields}").unwrap();
        self
    }

    /// Further upstreams, behind the first one: lines that begin with `  - `.
    pub fn more_upstreams(mut self, lines: &str) -> Self {
        writeln!(self.more_upstreams, "{lines}").unwrap();
        self
    }

    /// Fields of `keys`, in flow style.
    pub fn keys(mut self, fields: &str) -> Self {
        write!(self.keys_fields, ", {fields}").unwrap();
        self
    }

    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Fields of the listener, in flow style: `serves: ext_authz`.
    pub fn listener(mut self, fields: &str) -> Self {
        write!(self.listener_fields, ", {fields}").unwrap();
        self
    }

    /// Where the admin listener is.
    pub fn admin_on(mut self, address: &str) -> Self {
        self.admin = address.to_owned();
        self
    }

    /// Nobody has the admin token: only keys with `admin` can change keys.
    pub fn without_admin_token(mut self) -> Self {
        self.has_admin_token = false;
        self
    }

    /// Fields of `admin`, in flow style.
    pub fn admin_fields(mut self, fields: &str) -> Self {
        write!(self.admin_fields, ", {fields}").unwrap();
        self
    }

    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    /// A clock that stands still until it is moved.
    pub fn clock(mut self, wall: &str) -> (Self, Arc<Manual>) {
        let (clock, hands) = Clock::manual(wall.parse().unwrap());
        self.clock = Some(clock);
        (self, hands)
    }

    /// Writes configuration, keys and certificate into a directory of the test's own.
    fn write(&self) -> (TempDir, PathBuf, HashMap<String, String>, Option<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut tokens = HashMap::new();
        let mut keys = String::from("keys:\n");
        for (name, fields) in &self.keys {
            let token = Token::generate().unwrap();
            let (id, hash) = (token.key_id(), token.hash().to_stored());
            writeln!(keys, "  - {{id: {id}, name: {name}, hash: \"{hash}\", {fields}}}").unwrap();
            tokens.insert(name.clone(), token.reveal().to_owned());
        }
        if self.keys.is_empty() {
            let hash = Token::generate().unwrap().hash().to_stored();
            writeln!(keys, "  - {{id: key_nobody, hash: \"{hash}\", permissions: [read]}}").unwrap();
        }
        std::fs::write(path("keys.yaml"), keys).unwrap();
        let mut listener = format!("address: 127.0.0.1:0{}", self.listener_fields);
        let mut ca = None;
        if self.tls {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            std::fs::write(path("certificate.pem"), made.cert.pem()).unwrap();
            std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
            let (certificate, key) = (path("certificate.pem"), path("key.pem"));
            write!(
                listener,
                ", tls: {{certificate: {}, private_key: {}}}",
                certificate.display(),
                key.display()
            )
            .unwrap();
            ca = Some(made.cert.pem());
        }
        let config = format!(
            "listeners:\n  - {{{listener}}}\nupstreams:\n  - {{name: model, endpoints: [{}]{}}}\n{}keys: {{path: {}{}}}\nadmin: {{address: \"{}\"{}{}}}\nworkers: 2\n{}",
            match self.upstream.starts_with('{') {
                true => self.upstream.clone(),
                false => format!("\"{}\"", self.upstream),
            },
            self.upstream_fields,
            self.more_upstreams,
            path("keys.yaml").display(),
            self.keys_fields,
            self.admin,
            match self.has_admin_token {
                true => format!(", token_file: {}", path("admin.token").display()),
                false => String::new(),
            },
            self.admin_fields,
            self.config
        );
        std::fs::write(path("admin.token"), "the-admin-token\n").unwrap();
        std::fs::write(path("bearward.yaml"), config).unwrap();
        let config = path("bearward.yaml");
        (directory, config, tokens, ca)
    }

    pub async fn start(self) -> Running {
        let (directory, path, tokens, ca) = self.write();
        let config = Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        let clock = self.clock.unwrap_or_else(Clock::system);
        let app = App::bind(&config, clock, self.hooks).unwrap_or_else(|error| panic!("{error}"));
        let Some(Local::Tcp(address)) = app.addresses().into_iter().next() else { panic!("no address") };
        let Some(Local::Tcp(admin)) = app.admin_address() else { panic!("no admin address") };
        let (stop, stopping) = oneshot::channel::<()>();
        let run = tokio::spawn(app.run(async { drop(stopping.await) }));
        Running { door: Door { address, ca, tokens }, admin, directory, run, _stops_when_dropped: stop }
    }

    /// Starts the real binary.
    pub async fn start_binary(self) -> Binary {
        let (directory, path, tokens, ca) = self.write();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.arg("run").arg("--config").arg(&path).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (found, addresses) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let of_thread = lines.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((message, address)) = listening(&line) {
                    let _gone = found.send((message == "admin listening", address));
                }
                of_thread.lock().unwrap().push(line);
            }
        });
        let next = || match addresses.recv_timeout(super::DEADLINE) {
            Ok(address) => address,
            Err(_) => panic!("the binary does not listen: {:?}", lines.lock().unwrap()),
        };
        let (_, address) = next();
        let admin = Some(next()).filter(|(is_admin, _)| *is_admin).map(|(_, address)| address);
        Binary { door: Door { address, ca, tokens }, admin, child, directory, lines }
    }
}

/// What an event says of a listener, in either form of the log.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    if let Ok(event) = serde_json::from_str::<serde_json::Value>(line) {
        let address = event["address"].as_str()?.parse().ok()?;
        return Some((event["message"].as_str()?.to_owned(), address));
    }
    let (before, after) = line.split_once("listening address=")?;
    let message = if before.ends_with("admin ") { "admin listening" } else { "listening" };
    Some((message.to_owned(), after.split(' ').next()?.parse().ok()?))
}

/// What a test does with a gateway, whichever way it was started.
impl Door {
    /// Of a server that a test has started itself.
    pub fn at(address: SocketAddr) -> Self {
        Door { address, ca: None, tokens: HashMap::new() }
    }

    pub fn token(&self, name: &str) -> &str {
        self.tokens.get(name).unwrap_or_else(|| panic!("no key {name}"))
    }

    pub fn bearer(&self, name: &str) -> String {
        format!("Authorization: Bearer {}\r\n", self.token(name))
    }

    pub async fn raw(&self) -> Raw {
        match &self.ca {
            Some(ca) => Raw::connect_tls(self.address, ca, "http/1.1").await,
            None => Raw::connect(self.address).await,
        }
    }

    /// A client of HTTP/2 on a connection that a test has made itself.
    pub async fn h2_over(&self, stream: TcpStream) -> Raw {
        match &self.ca {
            Some(ca) => Raw::over_tls(stream, ca, "h2").await,
            None => Raw::over(stream),
        }
    }

    /// A connection that agreed on HTTP/2, on which nothing was sent yet.
    pub async fn raw_h2(&self) -> Raw {
        Raw::connect_tls(self.address, self.ca.as_ref().unwrap(), "h2").await
    }

    /// Sends bytes on a connection of their own, and returns the answer.
    pub async fn sends(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut raw = self.raw().await;
        raw.send(bytes).await;
        raw.answer().await
    }

    /// A plain GET with a key.
    pub async fn get(&self, path: &str, key: &str) -> Answer {
        self.sends(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{}\r\n", self.bearer(key))).await
    }

    /// A POST with a key and a body.
    pub async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        let bearer = self.bearer(key);
        let length = body.len();
        self.sends(format!(
            "POST {path} HTTP/1.1\r\nHost: a.example\r\n{bearer}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    /// A client of HTTP/1.1 or HTTP/2 that trusts the gateway's certificate.
    pub fn client(&self, http2: bool) -> reqwest::Client {
        let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder().no_proxy().resolve("localhost", self.address);
        if let Some(ca) = &self.ca {
            let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
            builder = builder.tls_certs_only([ca]);
        }
        let builder = if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
        builder.build().unwrap()
    }
}

impl Deref for Running {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Deref for Binary {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Running {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file as a careful program does: whole, by a rename.
    pub fn rename_in(&self, name: &str, content: &str) {
        std::fs::write(self.path("renamed-in"), content).unwrap();
        std::fs::rename(self.path("renamed-in"), self.path(name)).unwrap();
    }

    /// A request to the admin listener.
    pub async fn admin(&self, request_line: &str, credential: &str) -> Answer {
        let mut raw = Raw::connect(self.admin).await;
        let bearer = match credential {
            "" => String::new(),
            word => format!("Authorization: Bearer {word}\r\n"),
        };
        raw.send(format!("{request_line} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n")).await;
        raw.answer().await
    }

    /// Has the gateway reload, and returns what it says.
    pub async fn reload(&self) -> Answer {
        self.admin("POST /api/v1/reload", "the-admin-token").await
    }
}

impl Binary {
    /// Everything that the process has said.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The access lines, as JSON.
    pub fn access_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.log();
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        parsed.filter(|line| line["message"] == "request").collect()
    }

    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The process's exit code, once it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = std::time::Instant::now() + super::DEADLINE;
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("the process does not end: {:?}", self.log());
    }

    pub fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status"))
                .unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
