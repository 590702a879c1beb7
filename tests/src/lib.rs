//! An Onsale for tests: the compiled programs against real stores, isolated, killed when the test ends.
//!
//! [`Stack`] is a gateway and a stream-processor with a ledger, topics and tables of their own. [`Api`] asks it
//! as a buyer does. [`runtime_api::Function`] is one function as AWS Lambda runs it. Nothing here measures time: what
//! takes a while is waited for with [`eventually`].
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be set up fails the test where it stands")]

mod api;
mod eventually;
mod log;
mod process;
pub mod runtime_api;
mod settings;
mod stack;

pub use api::{Answer, Api, send, token, units_of};
pub use eventually::{PATIENCE, eventually};
pub use log::DeadRecord;
pub use process::Process;
pub use settings::{program, settings};
pub use stack::{Gateway, LedgerRow, Options, Stack};
