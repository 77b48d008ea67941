//! The real nsc, with a home of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::mint::User;
use super::tools::tool;

/// One person's nsc: its stores and keys are in a folder of its own.
pub(crate) struct Nsc {
    home: TempDir,
    environment: Vec<(String, PathBuf)>,
}

/// What a command left on the screen and how it ended.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Nsc {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::Builder::new()
                .prefix("nsc-")
                .tempdir()
                .expect("a temporary folder"),
            environment: Vec::new(),
        }
    }

    /// With an operator called O and its system account, called SYS.
    #[track_caller]
    pub(crate) fn with_operator() -> Self {
        let nsc = Self::new();
        nsc.run(&["add", "operator", "--name", "O"]);
        nsc.run(&["add", "account", "--name", "SYS"]);
        nsc.run(&["edit", "operator", "--system-account", "SYS"]);
        nsc
    }

    /// The same stores and keys in a second home, as on a colleague's laptop.
    pub(crate) fn copy(&self) -> Self {
        let other = Self::new();
        copy_folder(self.home.path(), other.home.path());
        other
    }

    /// Trusts the authorities in `file` for https.
    pub(crate) fn trusting(mut self, file: &Path) -> Self {
        self.environment.push(("SSL_CERT_FILE".to_owned(), file.to_owned()));
        self
    }

    /// The folder of its stores.
    pub(crate) fn stores(&self) -> PathBuf {
        self.home.path().join("all")
    }

    /// Runs a command, whether it succeeds or not.
    pub(crate) fn try_run(&self, args: &[&str]) -> Screen {
        let home = self.home.path();
        let done = Command::new(tool("nsc"))
            .arg("--all-dirs")
            .arg(home.join("all"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("data"))
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(home)
            .output()
            .expect("nsc can be started");
        let text = [done.stdout, done.stderr].concat();
        Screen {
            ok: done.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// Runs a command that must succeed; gives what it printed.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let screen = self.try_run(args);
        assert!(screen.ok, "nsc {}:\n{}", args.join(" "), screen.text);
        screen.text
    }

    /// The operator's token.
    #[track_caller]
    pub(crate) fn operator_token(&self) -> String {
        self.run(&["describe", "operator", "--raw"]).trim().to_owned()
    }

    /// An account's token, as nsc has it.
    #[track_caller]
    pub(crate) fn account_token(&self, name: &str) -> String {
        self.run(&["describe", "account", "--name", name, "--raw"])
            .trim()
            .to_owned()
    }

    /// An account's public key.
    #[track_caller]
    pub(crate) fn account_id(&self, name: &str) -> String {
        let token = self.account_token(name);
        super::mint::claims(&token)["sub"]
            .as_str()
            .expect("a token has a subject")
            .to_owned()
    }

    /// Adds an account; gives its public key.
    #[track_caller]
    pub(crate) fn add_account(&self, name: &str) -> String {
        self.run(&["add", "account", "--name", name]);
        self.account_id(name)
    }

    /// Adds a user to an account.
    #[track_caller]
    pub(crate) fn add_user(&self, account: &str, name: &str) -> User {
        self.run(&["add", "user", "--account", account, "--name", name]);
        User::from_creds(&self.run(&["generate", "creds", "--account", account, "--name", name]))
    }

    /// Sets the URL that nsc pushes to and pulls from.
    #[track_caller]
    pub(crate) fn account_server(&self, url: &str) {
        self.run(&["edit", "operator", "--account-jwt-server-url", url]);
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the test's own folder is writable");
    for entry in fs::read_dir(from).expect("the test's own folder is readable") {
        let entry = entry.expect("the test's own folder is readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the test's own folder is writable");
        }
    }
}
