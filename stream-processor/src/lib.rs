//! The stream-processor: takes the log into the ledger.
//!
//! Read [`consumer`] → [`pipeline`] → [`ledger`] → [`settle`]: a record's way. [`leader`] does what only one processor
//! does at a time; [`audit`] checks that all of it adds up.

pub mod audit;
pub mod config;
pub mod consumer;
pub mod leader;
pub mod ledger;
pub mod pipeline;
pub mod run;
pub mod server;
pub mod settle;
