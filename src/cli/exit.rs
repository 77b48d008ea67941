//! How the program ends: exit codes, and the failures that lead to them.

use std::process::ExitCode;

use crate::client::ClientError;
use crate::config::ConfigError;
use crate::node::StartError;
use crate::tasks::chain;

/// The exit codes, for the help text.
pub(in crate::cli) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a fault, or part of the command failed
  2  the command line or the configuration is wrong
  3  not found
  4  a token was refused (rejected or superseded)
  5  no node answers, or it is not ready
A command over several items ends with the first of 2, 4, 1, 3, 5 that one of them had.
`serve` stopped by a second signal: 128 + the signal's number";

/// How the program ends. The codes are an interface: scripts compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cli) enum Exit {
    /// Everything was done.
    #[default]
    Done,
    /// A fault, or part of the command failed.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The requested item does not exist.
    NotFound,
    /// A token was rejected or superseded.
    Refused,
    /// No node answers.
    Unreachable,
    /// A second signal ended the process before its graceful shutdown was complete.
    Signal(u8),
}

impl Exit {
    /// Of two items' exits, the command's: the one that needs a person more. A refusal needs one, a node that does not
    /// answer only another try.
    pub(in crate::cli) fn or_worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Done => 0,
            Self::Unreachable => 1,
            Self::NotFound => 2,
            Self::Failed => 3,
            Self::Refused => 4,
            Self::Usage => 5,
            Self::Signal(_) => 6,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Refused => 4,
            Exit::Unreachable => 5,
            Exit::Signal(number) => 128 + number,
        })
    }
}

/// Why a command ends early: the exit code, and the sentence that becomes the last line on stderr.
#[derive(Debug)]
pub(in crate::cli) struct Failure {
    pub(in crate::cli) exit: Exit,
    pub(in crate::cli) message: String,
}

impl Failure {
    pub(in crate::cli) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Unreachable { .. } => Exit::Unreachable,
            ClientError::Problem(problem) => match (problem.code.as_str(), problem.status) {
                ("node-silent" | "no-state", _) => Exit::Unreachable,
                ("not-formed", _) => Exit::Failed,
                (_, 421) => Exit::Usage,
                (_, 404) => Exit::NotFound,
                (_, 400..=403 | 409 | 412 | 413 | 422) => Exit::Refused,
                _ => Exit::Failed,
            },
            ClientError::Broken { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let exit = match &error {
            ConfigError::File { .. } => Exit::Failed,
            _ => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Configuration(_) => Exit::Usage,
            StartError::Failed(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, chain(error.as_ref()))
    }
}

/// For errors while printing. An error about a file is made where the file's name is known.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // The reader has closed the pipe, as in `jwtmesh account list | head`: not a failure, and no reader is left.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Failed, format!("cannot print: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Problem;

    #[test]
    fn a_refused_token_a_missing_account_and_a_busy_node_end_differently() {
        let problem = |status| {
            Failure::from(ClientError::Problem(Problem {
                code: "x".to_owned(),
                status,
                title: String::new(),
                detail: "why".to_owned(),
            }))
        };
        for (status, exit) in [
            (400, Exit::Refused),
            (403, Exit::Refused),
            (404, Exit::NotFound),
            (409, Exit::Refused),
            (412, Exit::Refused),
            (413, Exit::Refused),
            (429, Exit::Failed),
            (500, Exit::Failed),
            (503, Exit::Failed),
        ] {
            assert_eq!(problem(status).exit, exit, "{status}");
            assert_eq!(problem(status).message, "why");
        }
    }
}
