//! Where the stores are, and the programs.

use std::{collections::BTreeMap, path::PathBuf};

/// Every local setting: what `localstack/local.env` says, unless the environment says otherwise.
pub fn settings() -> BTreeMap<String, String> {
    include_str!("../../localstack/local.env")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, local)| (name.to_owned(), std::env::var(name).unwrap_or_else(|_| local.to_owned())))
        .collect()
}

/// A compiled program of the workspace, built with the same profile as the tests.
pub fn program(name: &str) -> PathBuf {
    // target/debug/deps/all-0123456789abcdef
    let test = std::env::current_exe().expect("the path of the test program");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("the test program lies in target/<profile>/deps");
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not there: these tests run the compiled programs. Build them first: cargo build --workspace",
        program.display()
    );
    program
}
