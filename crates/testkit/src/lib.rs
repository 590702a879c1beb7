//! Real servers for tests: private, on free loopback ports, gone when dropped.

mod redis_server;

pub use redis_server::{RedisServer, RedisSetup};

use std::net::TcpListener;

/// A loopback port that nobody listens on now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
