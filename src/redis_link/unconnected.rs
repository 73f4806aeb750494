//! In a build without the client, no server is connected to.

use super::absent::{Connection, RedisResult, no_client};
use super::server::{Certificates, OnPush, Server};
use crate::redis_address::RedisAddress;

impl Server {
    pub(crate) async fn connect(&self) -> RedisResult<Connection> {
        Err(no_client())
    }

    pub(crate) async fn connect_to_node_of(&self, _: &str, _: Option<OnPush>) -> RedisResult<Connection> {
        Err(no_client())
    }

    pub(crate) async fn master(&self) -> RedisResult<Option<String>> {
        Err(no_client())
    }
}

impl Certificates {
    pub(crate) fn check(&self, _: &RedisAddress) -> Result<(), String> {
        Err(no_client().to_string())
    }
}
