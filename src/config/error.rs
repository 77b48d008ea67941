//! Why a `cluster.toml` cannot be used, in sentences that never show a password.

use std::path::PathBuf;

/// Why a `cluster.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("cannot read {}: {source}. {}", path.display(), way_out(source, "Give the configuration with --config FILE"))]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no TOML, or has keys or types that do not belong there.
    #[error("{}: {detail}", path.display())]
    Grammar {
        /// Which file.
        path: PathBuf,
        /// Line, column and defect.
        detail: String,
    },
    /// Every word is known, but together they make no sense.
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

/// What to do about a file that cannot be read: `otherwise`, unless it is there and closed.
pub(super) fn way_out(error: &std::io::Error, otherwise: &str) -> String {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        "Make it readable for the user that runs jwtmesh".to_owned()
    } else {
        otherwise.to_owned()
    }
}

/// `text` for people, without what a URL in it may carry before its `@`: the parser's sentences quote whole lines of
/// the file, and a line with a mistake may be one with a password.
pub(super) fn without_userinfo(text: &str) -> String {
    let line = |line: &str| {
        let Some((before, after)) = line.rsplit_once('@') else {
            return line.to_owned();
        };
        // A password may hold anything, so everything goes from where the value begins; where that cannot be said
        // for certain, as nothing is quoted, the whole line.
        let value = before.find(['"', '\'', '=']).map(|at| before.split_at(at + 1).0);
        let key = value.filter(|key| !key.replace(": ", "").contains(':'));
        format!("{}***@{after}", key.unwrap_or_default())
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
