//! Why a `cluster.toml` cannot be used, in sentences that never show a password.

use std::path::PathBuf;

/// Why a `cluster.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("cannot read {}: {source}. {}", path.display(), remedy(source, "Give the configuration with --config FILE"))]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{}: {detail}", path.display())]
    Grammar {
        /// Which file.
        path: PathBuf,
        /// Line, column and defect.
        detail: String,
    },
    /// A file that it names cannot be read. That may pass: a secret or a mount that is not there yet.
    #[error("{}:{line}: {defect}", path.display())]
    File {
        /// Which configuration file.
        path: PathBuf,
        /// The line that names the file, counted from 1.
        line: usize,
        /// The defect and what to do.
        defect: String,
    },
    /// It can be parsed, but a value or a combination of settings is wrong.
    #[error("{}:{line}: {defect}", path.display())]
    Meaning {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The defect and what to do.
        defect: String,
    },
}

/// What to do about a file that cannot be read: `otherwise`, unless the reason is a missing permission.
pub(super) fn remedy(error: &std::io::Error, otherwise: &str) -> String {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        "Make it readable for the user that runs jwtmesh".to_owned()
    } else {
        otherwise.to_owned()
    }
}

/// `text` without the user and password that a URL in it may have before its `@`. The TOML parser's errors quote whole
/// lines of the file, and the line with the mistake may have a password in it.
pub(super) fn without_userinfo(text: &str) -> String {
    let line = |line: &str| {
        let Some((before, after)) = line.rsplit_once('@') else {
            return line.to_owned();
        };
        // A password may contain any character, so everything from the start of the value to the last `@` is hidden.
        // Where that start is uncertain, as when nothing is quoted, everything from the start of the line is hidden.
        let value = before.find(['"', '\'', '=']).map(|at| before.split_at(at + 1).0);
        let key = value.filter(|key| !key.replace(": ", "").contains(':'));
        format!("{}***@{after}", key.unwrap_or_default())
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
