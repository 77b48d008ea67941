//! Where the pinned programs are.

use std::path::{Path, PathBuf};

/// The nats-server lines that a URL resolver is used with; the last one is the newest.
pub(crate) const NATS_SERVER_VERSIONS: [&str; 4] = ["2.10.26", "2.12.8", "2.14.6", "2.15.1"];

/// The newest of them.
pub(crate) const NEWEST: &str = "2.15.1";

/// The program called `name`, such as `nsc` or `nats-server-2.15.1`.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `tests/tools/fetch` once, it installs what these tests run against",
        path.display()
    );
    path
}
