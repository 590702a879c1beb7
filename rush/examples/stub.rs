//! A server that answers as the gateway does and does nothing, to measure what the generator alone can send:
//! `cargo run --release -p rush --example stub [CAPACITY] [PORT]` (none for sale, port 3999).
#![allow(clippy::expect_used, reason = "a tool for measuring ends with a message")]

#[path = "../tests/stub/mod.rs"]
mod stub;

use std::env;
use stub::Stub;

#[tokio::main]
async fn main() {
    let mut args = env::args().skip(1);
    let capacity = args.next().map_or(0, |a| a.parse().expect("CAPACITY is a number"));
    let port = args.next().map_or(3999, |a| a.parse().expect("PORT is a number"));
    let running = Stub { capacity, ..Stub::default() }.start(port).await;
    eprintln!("http://{} until Ctrl-C", running.address);
    tokio::signal::ctrl_c().await.expect("a signal handler");
    eprintln!("{} users", running.users());
}
