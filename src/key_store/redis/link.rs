//! A connection to the server for threads that may block.

use std::time::Duration;

use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::names::Names;
use super::registration::{ANNOUNCED, registration};
use super::scripts::{Scripts, StoreScript, bytes, changes, list, message, pairs, version, word};
use super::version::{Changes, Version};
use crate::config::KeyServer;
use crate::config::fault::Fault;
use crate::key_store::jsonl::MAX_LINE;
use crate::random_id::random_id;
use crate::redis_link::{
    Certificates, ErrorKind, MultiplexedConnection, OnPush, RedisError, RedisResult, Server, ServerErrorKind,
    Value, cmd,
};

/// The longest time that one command takes.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The number of changed entries up to which only these entries are read.
const MOST_CHANGES: usize = 200;
/// About how many entries are read at a time.
const PIECE: usize = 200;

/// The reason why a command failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkError {
    pub(super) message: String,
    /// Whether it is unknown if the server has run the command.
    pub(super) is_open: bool,
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let is_answer = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
        LinkError { message: message(&error), is_open: !is_answer }
    }
}

/// One piece of a scan.
pub(super) struct Piece {
    pub(super) version: Option<Version>,
    pub(super) next: Vec<u8>,
    pub(super) entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A connection that is opened when it is needed.
pub(super) struct Link {
    server: KeyServer,
    pub(super) scripts: Scripts,
    runtime: Option<Runtime>,
    connection: Option<MultiplexedConnection>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The last owner may be a thread that may not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects to the node with the store. The password and the certificates are read anew.
///
/// # Errors
///
/// Why there is no connection. The text has no secret.
pub(super) async fn connect(
    server: &KeyServer,
    names: &Names,
    on_push: Option<OnPush>,
) -> Result<MultiplexedConnection, LinkError> {
    Ok(reached(server)?.connect_to_node_of(&names.entries, on_push).await?)
}

/// Returns the server with its password and certificates as they are now.
///
/// # Errors
///
/// A file can't be read.
pub(super) fn reached(server: &KeyServer) -> Result<Server, LinkError> {
    let of_file = |fault: Fault| LinkError { message: fault.to_string(), is_open: false };
    let (ca, client) = server.current_certificates().map_err(of_file)?;
    let password = server.current_password().map_err(of_file)?;
    let certificates = Certificates { ca, client };
    let unusable = |message| LinkError { message, is_open: false };
    certificates.check(&server.address).map_err(unusable)?;
    Ok(Server {
        address: server.address.clone(),
        password,
        certificates,
        timeout: TIMEOUT,
        has_long_answers: true,
    })
}

/// Asks for push messages about the entries and the state.
pub(super) async fn track(connection: &mut MultiplexedConnection, names: &Names) -> RedisResult<()> {
    let mut tracking = cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").arg("BCAST");
    for name in [&names.entries, &names.state] {
        tracking.arg("PREFIX").arg(name);
    }
    tracking.query_async(connection).await
}

impl Link {
    /// Lets the next command open a new connection.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) fn new(server: KeyServer) -> Self {
        Link { server, scripts: Scripts::default(), runtime: None, connection: None }
    }

    /// Runs a script that may run twice. If the connection was lost meanwhile, runs it on a new one.
    fn read(
        &mut self,
        names: &Names,
        script: impl Fn(&Scripts) -> &StoreScript,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, LinkError> {
        let is_old = self.connection.is_some();
        match self.run(names, &script, keys, arguments) {
            // A node that is no longer the master may answer with an error, too.
            Err(_) if is_old => self.run(names, &script, keys, arguments),
            answer => answer,
        }
    }

    /// Runs a script once.
    pub(super) fn run(
        &mut self,
        names: &Names,
        script: impl Fn(&Scripts) -> &StoreScript,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, LinkError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| LinkError { message: format!("no runtime: {error}"), is_open: false })?,
        };
        let (server, scripts, connection) = (&self.server, &self.scripts, &mut self.connection);
        let answer = runtime.block_on(async {
            let of_connection = match connection {
                Some(connection) => connection,
                None => connection.insert(connect(server, names, None).await?),
            };
            Ok(script(scripts).run(of_connection, keys, arguments).await?)
        });
        self.runtime = Some(runtime);
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    pub(super) fn changes(&mut self, names: &Names, since: &Version) -> Result<Changes, LinkError> {
        let generation = since.generation.to_string();
        let (most, longest) = (MOST_CHANGES.to_string(), MAX_LINE.to_string());
        let arguments = [&since.store, &generation, &most, &longest].map(|text| text.as_bytes());
        let keys = [names.entries.as_str(), &names.state, &names.changes];
        Ok(changes(self.read(names, |scripts| &scripts.changes, &keys, &arguments)?)?)
    }

    pub(super) fn scan(&mut self, names: &Names, cursor: &[u8]) -> Result<Piece, LinkError> {
        let (count, longest) = (PIECE.to_string(), MAX_LINE.to_string());
        let keys = [names.entries.as_str(), &names.state];
        let arguments = [cursor, count.as_bytes(), longest.as_bytes()];
        let answer = self.read(names, |scripts| &scripts.scan, &keys, &arguments)?;
        let piece = || -> RedisResult<Piece> {
            let mut values = list(answer)?.into_iter();
            let version = version(&mut values)?;
            let next = bytes(values.next())?;
            Ok(Piece { version, next, entries: pairs(&mut values)? })
        };
        Ok(piece()?)
    }

    /// Returns the version, and the text of each entry with one of these ids; an empty text if there
    /// is no such entry.
    pub(super) fn get(
        &mut self,
        names: &Names,
        ids: &[&str],
    ) -> Result<(Option<Version>, Vec<Vec<u8>>), LinkError> {
        let longest = MAX_LINE.to_string();
        let arguments: Vec<&[u8]> =
            std::iter::once(longest.as_bytes()).chain(ids.iter().map(|id| id.as_bytes())).collect();
        let keys = [names.entries.as_str(), &names.state];
        let answer = self.read(names, |scripts| &scripts.get, &keys, &arguments)?;
        let texts = || -> RedisResult<_> {
            let mut values = list(answer)?.into_iter();
            let version = version(&mut values)?;
            Ok((version, values.map(|value| bytes(Some(value))).collect::<RedisResult<_>>()?))
        };
        Ok(texts()?)
    }

    /// Registers a replica that has not applied any version.
    pub(super) fn register(&mut self, names: &Names, id: &str) -> Result<(), LinkError> {
        let arguments = registration(id, ANNOUNCED, None);
        let (arguments, keys) = (arguments.each_ref().map(String::as_bytes), names.of_registration());
        self.read(names, |scripts| &scripts.beat, &keys, &arguments).map(drop)
    }

    /// Returns the id of each registered replica, with the generation and the name of the store that
    /// it has applied.
    pub(super) fn replicas(&mut self, names: &Names) -> Result<Vec<(String, u64, String)>, LinkError> {
        let answer = self.read(names, |scripts| &scripts.replicas, &[&names.replicas], &[])?;
        let replicas = || -> RedisResult<_> {
            let mut values = list(answer)?.into_iter();
            let mut replicas = Vec::new();
            while let Some(id) = values.next() {
                let generation = super::scripts::number(values.next())?;
                replicas.push((word(Some(id))?, generation, word(values.next())?));
            }
            Ok(replicas)
        };
        Ok(replicas()?)
    }

    /// Returns the secret of key ids that the server keeps. If it keeps none, it keeps `new` from now
    /// on, unless `new` is empty.
    pub(super) fn id_secret(&mut self, names: &Names, new: &str) -> Result<Zeroizing<Vec<u8>>, LinkError> {
        let answer = self.read(names, |scripts| &scripts.id_secret, &[&names.secrets], &[new.as_bytes()])?;
        Ok(Zeroizing::new(bytes(Some(answer))?))
    }

    /// Returns the commands that the server's user lacks.
    pub(super) fn permitted(&mut self, names: &Names) -> Result<Vec<String>, LinkError> {
        let unique = random_id();
        let keys = [names.of_own("check", &unique), names.of_own("check2", &unique)];
        let keys = keys.each_ref().map(String::as_str);
        let answer = self.read(names, |scripts| &scripts.permitted, &keys, &[])?;
        let refused = list(answer)?.into_iter().map(|command| word(Some(command)));
        let mut refused = refused.collect::<RedisResult<Vec<String>>>()?;
        if let (Some(runtime), Some(mut connection)) = (&self.runtime, self.connection.take()) {
            match runtime.block_on(track(&mut connection, names)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                    refused.push("client|tracking".to_owned());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(refused)
    }
}
