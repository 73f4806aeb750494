//! Opens connections.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::bounded::Bounded;
use super::server::{Certificates, OnPush, Server};
use super::tls;
use crate::redis_address::{RedisAddress, RedisKind};

/// Greatest number of bytes that a server may send for a message: about limits, and about keys or usage.
const MOST_OF_LIMITS: usize = 256 << 10;
const MOST_OF_OTHERS: usize = 32 << 20;

/// Time limit of connecting, with TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

impl Certificates {
    /// Checks that the texts are certificates and a key that belong together, and have an effect: the
    /// password of a server without TLS would go over the network as it is.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn check(&self, address: &RedisAddress) -> Result<(), String> {
        let is_given = self.ca.is_some() || self.client.is_some();
        if is_given && !address.is_tls {
            return Err("`tls` has no effect on a server without TLS: write rediss://".to_owned());
        }
        let config = tls::config(self.ca.as_deref(), self.client.as_ref());
        config.map(drop).map_err(|error| error.to_string())
    }
}

/// Highest number of redirections of a cluster that are followed to the node with a name.
const MAX_HOPS: usize = 4;

/// A connection, which many tasks use at the same time. Each command has a time limit.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Server {
    /// Connects to the server, or to the master that the sentinels name.
    ///
    /// # Errors
    ///
    /// Why there is no connection. The text has no secret.
    pub(crate) async fn connect(&self) -> RedisResult<Connection> {
        let connecting = async {
            match &self.address.kind {
                RedisKind::Server => self.connect_to_one().await,
                RedisKind::Sentinel(master) => self.connect_to_master(master).await,
                RedisKind::Cluster => self.connect_to_cluster().await,
            }
        };
        let connection = tokio::time::timeout(2 * CONNECT_TIMEOUT, connecting).await;
        connection.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "connecting takes too long").into()))
    }

    /// Connects to the one node that has the key `name`: the server, the master that the sentinels
    /// name, or the node of the cluster with the key's slot. `on_push` gets the push messages of the
    /// connection.
    ///
    /// # Errors
    ///
    /// Why there is no connection. The text has no secret.
    pub(crate) async fn connect_to_node_of(
        &self,
        name: &str,
        on_push: Option<OnPush>,
    ) -> RedisResult<MultiplexedConnection> {
        let connecting = async {
            match &self.address.kind {
                RedisKind::Server => self.multiplexed(&self.client_of_one()?, on_push).await,
                RedisKind::Sentinel(master) => {
                    self.multiplexed(&self.client_of_master(master).await?, on_push).await
                }
                RedisKind::Cluster => self.connect_to_slot_of(name, on_push).await,
            }
        };
        let connection = tokio::time::timeout(2 * CONNECT_TIMEOUT, connecting).await;
        connection.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "connecting takes too long").into()))
    }

    /// Asks the sentinels for the address of the master. Returns `None` if there are no sentinels.
    ///
    /// # Errors
    ///
    /// No sentinel answers.
    pub(crate) async fn master(&self) -> RedisResult<Option<String>> {
        let RedisKind::Sentinel(master) = &self.address.kind else { return Ok(None) };
        let client = tokio::time::timeout(CONNECT_TIMEOUT, self.client_of_master(master)).await;
        let client =
            client.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "asking takes too long").into()))?;
        Ok(Some(client.get_connection_info().addr().to_string()))
    }

    /// Asks the nodes of a cluster for a name's slot, and follows their redirections.
    async fn connect_to_slot_of(
        &self,
        name: &str,
        on_push: Option<OnPush>,
    ) -> RedisResult<MultiplexedConnection> {
        let mut failure = no_address();
        for seed in &self.address.hosts {
            let mut node = seed.clone();
            for _ in 0..MAX_HOPS {
                let asked = async {
                    let client = self.client_at(self.address_of(&node))?;
                    let mut connection = self.multiplexed(&client, on_push.clone()).await?;
                    redis::cmd("HLEN").arg(name).query_async::<Value>(&mut connection).await?;
                    Ok(connection)
                };
                match asked.await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => {
                        let next = redirected(&error, &node.0);
                        failure = error;
                        let Some(next) = next else { break };
                        node = next;
                    }
                }
            }
        }
        Err(failure)
    }

    async fn connect_to_one(&self) -> RedisResult<Connection> {
        self.connect_with(&self.client_of_one()?).await
    }

    fn client_of_one(&self) -> RedisResult<Client> {
        self.client_at(self.addresses().next().ok_or_else(no_address)?)
    }

    fn client_at(&self, address: ConnectionAddr) -> RedisResult<Client> {
        let info = address.into_connection_info()?.set_redis_settings(self.settings());
        match self.address.is_tls {
            true => Client::build_with_tls(info, self.tls()),
            false => Client::open(info),
        }
    }

    async fn connect_to_master(&self, master: &str) -> RedisResult<Connection> {
        self.connect_with(&self.client_of_master(master).await?).await
    }

    async fn client_of_master(&self, master: &str) -> RedisResult<Client> {
        let mode = TlsMode::Secure;
        let sentinels = self.addresses();
        let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
            .set_client_to_redis_db(i64::from(self.address.database))
            .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if let Some(user) = &self.address.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = self.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if self.address.is_tls {
            builder = builder
                .set_client_to_redis_tls_mode(mode)
                .set_client_to_redis_certificates(self.tls())
                .set_client_to_sentinel_tls_mode(mode)
                .set_client_to_sentinel_certificates(self.tls());
        }
        builder.build()?.async_get_client().await
    }

    async fn connect_to_cluster(&self) -> RedisResult<Connection> {
        let mut builder = redis::cluster::ClusterClientBuilder::new(self.addresses())
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(4 * self.timeout)
            .retries(0)
            .use_protocol(ProtocolVersion::RESP3);
        if let Some(user) = &self.address.user {
            builder = builder.username(user);
        }
        if let Some(password) = self.password() {
            builder = builder.password(password);
        }
        if self.address.is_tls {
            builder = builder.tls(TlsMode::Secure).certs(self.tls());
        }
        Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
    }

    async fn connect_with(&self, client: &Client) -> RedisResult<Connection> {
        Ok(Connection::One(self.multiplexed(client, None).await?))
    }

    /// Opens a connection to the node that the client is for.
    async fn multiplexed(
        &self,
        client: &Client,
        on_push: Option<OnPush>,
    ) -> RedisResult<MultiplexedConnection> {
        let opening = tokio::time::timeout(CONNECT_TIMEOUT, self.open(client, on_push));
        opening.await.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "connecting takes too long").into()))
    }

    async fn open(&self, client: &Client, on_push: Option<OnPush>) -> RedisResult<MultiplexedConnection> {
        // Requests have a time limit of their own: one answer that is late is no broken connection.
        let (most, response_timeout) = match self.has_long_answers {
            true => (MOST_OF_OTHERS, Some(self.timeout)),
            false => (MOST_OF_LIMITS, None),
        };
        let mut config = AsyncConnectionConfig::new().set_response_timeout(response_timeout);
        if let Some(on_push) = on_push {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), std::convert::Infallible>(())
            });
        }
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
            client.get_connection_info().addr()
        else {
            return Err(no_address());
        };
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        // The stream is our own, because the client's bounds no answer.
        match self.address.is_tls {
            true => {
                let Certificates { ca, client } = &self.certificates;
                let stream = tls::begin(stream, host, ca.as_deref(), client.as_ref()).await?;
                self.begin(Bounded::new(stream, most), config).await
            }
            false => self.begin(Bounded::new(stream, most), config).await,
        }
    }

    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&self.settings(), stream, config).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    fn addresses(&self) -> impl Iterator<Item = ConnectionAddr> + '_ {
        self.address.hosts.iter().map(|host| self.address_of(host))
    }

    fn address_of(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        match self.address.is_tls {
            true => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
            false => ConnectionAddr::Tcp(host.clone(), *port),
        }
    }

    /// Returns the password. A user without one has an empty one: the client would leave out a user
    /// without a password, and go on as the server's default user.
    fn password(&self) -> Option<&str> {
        let password = self.password.as_ref().map(|password| password.as_str());
        password.or(self.address.user.as_ref().map(|_| ""))
    }

    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(i64::from(self.address.database))
            .set_skip_set_lib_name();
        if let Some(user) = &self.address.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password() {
            settings = settings.set_password(password);
        }
        settings
    }

    fn tls(&self) -> TlsCertificates {
        let Certificates { ca, client } = self.certificates.clone();
        let client = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        TlsCertificates { client_tls: client, root_cert: ca }
    }
}

/// Returns the node that an error of a cluster names. An address without a host means the host that
/// answered, `from`.
fn redirected(error: &RedisError, from: &str) -> Option<(String, u16)> {
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let host = if host.is_empty() { from } else { host.trim_start_matches('[').trim_end_matches(']') };
    Some((host.to_owned(), port.parse().ok()?))
}

fn no_address() -> RedisError {
    (redis::ErrorKind::InvalidClientConfig, "no address").into()
}

impl Connection {
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(command),
            Connection::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(connection) => connection.req_packed_commands(commands, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}
