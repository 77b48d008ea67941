//! Turns the text of the file into its meaning, and reports each defect with its line.

mod nats;
mod peers;

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::{ConfigError, remedy, without_userinfo};
use super::meaning::{Config, PublicTls};
use super::text::{ConfigText, NodeText, PublicTlsText};

impl Config {
    /// Reads `path` for the node called `node`; with one node in the file the name may be left out.
    pub fn load(path: &Path, node: Option<&str>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Reader {
            path,
            text: &text,
            check_files: true,
        }
        .config(node)
    }

    /// The names of the nodes in configuration text that stands in `path`.
    pub fn nodes(path: &Path, text: &str) -> Result<Vec<String>, ConfigError> {
        let reader = Reader {
            path,
            text,
            check_files: false,
        };
        let nodes = reader.grammar()?.node;
        Ok(nodes.iter().map(|node| node.get_ref().name.get_ref().clone()).collect())
    }

    /// Reads configuration text as if it stood in `path`, without checking whether the files it names exist.
    pub fn parse(path: &Path, text: &str, node: Option<&str>) -> Result<Self, ConfigError> {
        Reader {
            path,
            text,
            check_files: false,
        }
        .config(node)
    }
}

/// Turns one file's text into its meaning, and a defect's place in the text into a line number.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    /// Whether the files it names must be readable now.
    check_files: bool,
}

impl Reader<'_> {
    fn wrong<T>(&self, at: Range<usize>, defect: impl Into<String>) -> Result<T, ConfigError> {
        Err(ConfigError::Meaning {
            path: self.path.to_owned(),
            line: self.line(&at),
            defect: defect.into(),
        })
    }

    /// The line where `at` begins, counted from 1.
    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    fn grammar(&self) -> Result<ConfigText, ConfigError> {
        toml::from_str(self.text).map_err(|error| ConfigError::Grammar {
            path: self.path.to_owned(),
            detail: without_userinfo(error.to_string().trim_end()),
        })
    }

    fn config(&self, wanted: Option<&str>) -> Result<Config, ConfigError> {
        let text = self.grammar()?;
        self.name(&text.cluster.name, "the mesh")?;
        let node = self.node(&text.node, wanted)?;
        let name = node.name.get_ref().as_str();
        if text.cluster.operators.get_ref().is_empty() {
            return self.wrong(
                text.cluster.operators.span(),
                "operators is empty: name at least one file with an operator JWT, such as `nsc describe operator --raw` prints",
            );
        }
        let mut operators = Vec::new();
        for written in text.cluster.operators.get_ref() {
            operators.push(self.file(written, name, "the operator JWT")?);
        }
        let no_address = |_| {
            let written = without_userinfo(node.public.get_ref());
            let defect =
                format!("public = {written:?} is no address: write IP:PORT, such as 0.0.0.0:9090 or [::]:9090");
            self.wrong(node.public.span(), defect)
        };
        let public = node.public.get_ref().parse().or_else(no_address)?;
        Ok(Config {
            cluster: text.cluster.name.get_ref().clone(),
            operators,
            timing: text.cluster.timing,
            acknowledge: text.cluster.acknowledge,
            older_servers: text.cluster.older_servers,
            delete_with_streams: text.cluster.delete_with_streams,
            protected_accounts: self.protected(&text.cluster.protected_accounts)?,
            node: name.to_owned(),
            data: self.data(&node.data, name)?,
            public,
            tls: text
                .public
                .tls
                .as_ref()
                .map(|tls| self.public_tls(tls, name))
                .transpose()?,
            peering: self.peering(&text, name)?,
            nats: self.nats(&text, name)?,
        })
    }

    /// A DNS label: it becomes a dNSName in certificates and a word in logs and file names.
    fn name(&self, name: &Spanned<String>, of: &str) -> Result<(), ConfigError> {
        let text = name.get_ref();
        let label = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if label {
            return Ok(());
        }
        self.wrong(
            name.span(),
            format!(
                "{:?} cannot name {of}: use 1 to 63 characters of a-z, 0-9 and -, with no - at either end",
                without_userinfo(text)
            ),
        )
    }

    fn node<'t>(&self, nodes: &'t [Spanned<NodeText>], wanted: Option<&str>) -> Result<&'t NodeText, ConfigError> {
        let mut names: Vec<&str> = Vec::new();
        for node in nodes {
            let name = &node.get_ref().name;
            self.name(name, "a node")?;
            if names.contains(&name.get_ref().as_str()) {
                return self.wrong(
                    name.span(),
                    format!("two nodes are called {:?}: give each its own name", name.get_ref()),
                );
            }
            names.push(name.get_ref());
        }
        match (nodes, wanted) {
            ([], _) => self.wrong(
                self.text.len()..self.text.len(),
                "no [[node]]: describe at least the one to run",
            ),
            ([only], None) => Ok(only.get_ref()),
            ([only], Some(wanted)) if only.get_ref().name.get_ref() == wanted => Ok(only.get_ref()),
            ([only], Some(wanted)) => self.wrong(
                only.span(),
                format!(
                    "no node is called {wanted:?}; the file has {:?}",
                    only.get_ref().name.get_ref()
                ),
            ),
            (several, Some(wanted)) => {
                let mut found = several.iter().map(Spanned::get_ref);
                match found.find(|node| node.name.get_ref() == wanted) {
                    Some(node) => Ok(node),
                    None => self.wrong(
                        several[0].span(),
                        format!("no node is called {wanted:?}; the file has {}", names.join(", ")),
                    ),
                }
            }
            ([first, ..], None) => self.wrong(
                first.span(),
                format!(
                    "the file has several nodes: say which one this is, with --node ({})",
                    names.join(", ")
                ),
            ),
        }
    }

    /// The accounts that stay: public keys, by their form. Whether each is one is for those who know keys.
    fn protected(&self, written: &[Spanned<String>]) -> Result<Vec<String>, ConfigError> {
        let account = |key: &Spanned<String>| {
            let text = key.get_ref();
            let is_base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
            if text.len() != 56 || !text.starts_with('A') || !text.bytes().all(is_base32) {
                return self.wrong(
                    key.span(),
                    "protected_accounts lists the public keys of accounts, which have 56 characters and begin with A: \
                     `jwtmesh account list` shows them",
                );
            }
            Ok(text.clone())
        };
        written.iter().map(account).collect()
    }

    /// The data folder. An empty text would be the folder of the configuration itself.
    fn data(&self, written: &Spanned<String>, node: &str) -> Result<PathBuf, ConfigError> {
        if written.get_ref().trim().is_empty() {
            return self.wrong(
                written.span(),
                "data is empty: name a folder for this node's data, such as /var/lib/jwtmesh",
            );
        }
        Ok(self.resolve(written.get_ref(), node))
    }

    fn resolve(&self, written: &str, node: &str) -> PathBuf {
        let named = written.replace("{node}", node);
        self.path.parent().unwrap_or(Path::new("")).join(named)
    }

    fn file(&self, written: &Spanned<String>, node: &str, what: &str) -> Result<PathBuf, ConfigError> {
        if written.get_ref().trim().is_empty() {
            return self.wrong(written.span(), format!("{what}: the path is empty: name the file"));
        }
        let path = self.resolve(written.get_ref(), node);
        if !self.check_files {
            return Ok(path);
        }
        let shown = path.display();
        match std::fs::File::open(&path).and_then(|file| file.metadata()) {
            // A folder opens like a file and fails only when it is read, with an error that does not name the line.
            Ok(found) if found.is_dir() => self.wrong(
                written.span(),
                format!("{what} {shown} is a folder: name the file in it"),
            ),
            Ok(_) => Ok(path),
            Err(error) => {
                let start = format!("Relative paths start at the folder of {}", self.path.display());
                Err(ConfigError::File {
                    path: self.path.to_owned(),
                    line: self.line(&written.span()),
                    defect: format!("cannot read {what} {shown}: {error}. {}", remedy(&error, &start)),
                })
            }
        }
    }

    fn public_tls(&self, tls: &PublicTlsText, node: &str) -> Result<PublicTls, ConfigError> {
        if let (Some(required), None) = (&tls.client_required, &tls.client_ca) {
            return self.wrong(
                required.span(),
                "client_required without client_ca: name the authority that signs the clients' certificates",
            );
        }
        Ok(PublicTls {
            cert: self.file(&tls.cert, node, "the public certificate")?,
            key: self.file(&tls.key, node, "the public certificate's key")?,
            client_ca: tls
                .client_ca
                .as_ref()
                .map(|ca| self.file(ca, node, "the clients' authority"))
                .transpose()?,
            client_required: tls.client_required.as_ref().is_some_and(|required| *required.get_ref()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timing;

    const SMALL: &str = "[cluster]\nname = \"m\"\noperators = [\"o.jwt\"]\n\n[[node]]\nname = \"n1\"\ndata = \"d/{node}\"\npublic = \"127.0.0.1:0\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("etc/cluster.toml"), text, None).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_start_at_the_files_folder_and_may_contain_the_node() {
        let config = parse(SMALL).expect("it is complete");
        assert_eq!(config.data, Path::new("etc/d/n1"));
        assert_eq!(config.operators, [Path::new("etc/o.jwt")]);
        assert_eq!(config.timing, Timing::Lan);
        assert_eq!(config.tls, None);
    }

    #[test]
    fn each_defect_is_named_with_its_line() {
        let nats = |line: &str| {
            format!("{SMALL}[[nats]]\nname = \"fra\"\nservers = [\"nats://h:4222\"]\ncreds = \"c\"\n{line}\n")
        };
        for (text, said) in [
            (
                SMALL.replace("\n\n[[node]]", "\nprotected_accounts = [\"OABC\"]\n\n[[node]]"),
                "cluster.toml:4: protected_accounts lists the public keys of accounts",
            ),
            (
                SMALL.replace("\"m\"", "\"M_1\""),
                "etc/cluster.toml:2: \"M_1\" cannot name the mesh",
            ),
            (SMALL.replace("[\"o.jwt\"]", "[]"), ":3: operators is empty"),
            (
                SMALL.replace("127.0.0.1:0", "localhost"),
                ":8: public = \"localhost\" is no address",
            ),
            (format!("{SMALL}colour = 1\n"), "unknown field `colour`"),
            (format!("{SMALL}colour = 1\n"), "line 9"),
            (
                format!("{SMALL}{}", &SMALL[SMALL.find("[[node]]").unwrap()..]),
                ":10: two nodes are called \"n1\"",
            ),
            (nats("nodes = [\"n2\"]"), ":13: no [[node]] is called \"n2\""),
            (nats("cert = \"c.pem\""), ":13: cert without key"),
            (nats("key = \"c.key\""), ":13: key without cert"),
            (
                nats("").replace("nats://h", "nats://u:p@h"),
                ":11: a server URL must not carry",
            ),
            (nats("").replace("nats://h", "ws://h"), ":11: \"ws://h:4222\""),
            (nats("").replace("nats://h", "h"), ":11: \"h:4222\" is no server URL"),
            (
                nats("").replace("h:4222", "a:4222,nats://b:4222"),
                ":11: \"nats://a:4222,nats://b:4222\" is more than one server URL",
            ),
            (
                nats("").replace("h:4222", "h:x"),
                ":11: \"nats://h:x\" is no server URL (NATS",
            ),
            (
                nats("").replace("h:4222", "h:99999"),
                ":11: \"nats://h:99999\" is no server URL (NATS",
            ),
            (
                nats("").replace("nats://h:4222", "nats://"),
                ":11: \"nats://\" is no server URL",
            ),
            (
                SMALL.replace(
                    "[[node]]",
                    "[public]\ntls = { cert = \"c\", key = \"k\", client_required = true }\n[[node]]",
                ),
                ":6: client_required without client_ca",
            ),
        ] {
            let error = parse(&text).expect_err(said);
            assert!(error.contains(said), "wanted {said:?}, got {error:?}");
        }
    }

    /// For each setting, values that cannot work.
    const WRONG_VALUES: &[(&str, &[&str])] = &[
        ("name = \"m\"", &["", "M", "a_b", "-a", "a-", "a.b", " m"]),
        ("operators = [\"o.jwt\"]", &["", " "]),
        ("name = \"n1\"", &["", "N1", "n1 "]),
        ("data = \"d/{node}\"", &["", "  "]),
        (
            "public = \"127.0.0.1:0\"",
            &[
                "",
                "127.0.0.1",
                ":9090",
                "127.0.0.1:99999",
                "localhost:9090",
                "127.0.0.1:-1",
                "::1:9090",
                "http://127.0.0.1:9090",
            ],
        ),
        ("name = \"fra\"", &["", "Fra", "fra."]),
        (
            "servers = [\"nats://h:4222\"]",
            &[
                "",
                " ",
                "h",
                "h:4222",
                "nats://",
                "nats://:4222",
                "nats:h",
                "nats://a b",
                "nats://h:99999",
                "nats://h:x",
                "nats://h:-1",
                "nats://h:0",
                "nats://a:4222,nats://b:4222",
                "nats://a:4222, b:4222",
                "nats://a nats://b",
                "nats://h:4222/path",
                "nats://h:4222?a=b",
                "nats://h#f",
                "nats:///h",
                "nats://[::1",
                "ws://h",
                "http://h:4222",
                " nats://h",
                "nats://h ",
                "nats://h\\\\n",
            ],
        ),
        ("creds = \"c\"", &["", " "]),
        ("ca = \"a\"", &["", " "]),
        ("cert = \"e\"", &["", " "]),
        ("key = \"k\"", &["", " "]),
        ("nodes = [\"n1\"]", &["", "n2", "N1"]),
        ("cert = \"s\"", &["", " "]),
        ("key = \"t\"", &["", " "]),
        ("client_ca = \"u\"", &["", " "]),
    ];

    /// Each setting with an empty, an out-of-range and a nearly right value.
    #[test]
    fn no_setting_takes_a_value_that_cannot_work() {
        let all = format!(
            "{SMALL}\n[[nats]]\nname = \"fra\"\nservers = [\"nats://h:4222\"]\ncreds = \"c\"\nca = \"a\"\ncert = \"e\"\n\
             key = \"k\"\nnodes = [\"n1\"]\n\n[public]\ntls = {{ cert = \"s\", key = \"t\", client_ca = \"u\" }}\n"
        );
        assert!(parse(&all).is_ok());
        for (setting, values) in WRONG_VALUES {
            let line = all[..all.find(setting).expect(setting)].matches('\n').count() + 1;
            for value in *values {
                let (open, close) = (setting.find('"').unwrap(), setting.rfind('"').unwrap());
                let written = format!("{}{value}{}", &setting[..=open], &setting[close..]);
                let error = parse(&all.replacen(setting, &written, 1)).expect_err(&written);
                assert!(
                    error.starts_with(&format!("etc/cluster.toml:{line}: ")),
                    "{written}: line {line} is not named: {error}"
                );
            }
        }
        for (setting, empty) in [
            ("operators = [\"o.jwt\"]", "operators = []"),
            ("servers = [\"nats://h:4222\"]", "servers = []"),
            ("nodes = [\"n1\"]", "nodes = []"),
        ] {
            let error = parse(&all.replacen(setting, empty, 1)).expect_err(empty);
            assert!(error.contains("is empty"), "{empty}: {error}");
        }
        for url in [
            "nats://h",
            "tls://h:1",
            "nats://[::1]:4222",
            "nats://10.0.0.1:65535",
            "nats://h:4222/",
            "nats://a-b.c_d",
        ] {
            let written = format!("servers = [\"{url}\"]");
            assert!(
                parse(&all.replacen("servers = [\"nats://h:4222\"]", &written, 1)).is_ok(),
                "{url}"
            );
        }
    }

    /// Each of these lines has a different mistake that an administrator may make.
    #[test]
    fn no_error_shows_the_user_and_password_of_a_url() {
        for line in [
            "servers = [\"nats://sys:secret@h:4222\"]",
            "servers = [\"wss://sys:secret@h:443\"]",
            "servers = [\"sys:secret@h:4222\"]",
            "servers = [\"nats://sys:a\\\"secret@b@h:4222\"]",
            "servers = \"nats://sys:secret@h:4222\"",
            "servers = [nats://sys:secret@h:4222]",
            "server = ['nats://sys:secret@h:4222']",
            "nats://sys:a=secret@h:4222",
            "name = \"nats://sys:secret@h:4222\"",
        ] {
            let name = if line.starts_with("name") {
                ""
            } else {
                "name = \"fra\"\n"
            };
            let error = parse(&format!("{SMALL}[[nats]]\n{name}creds = \"c\"\n{line}\n")).expect_err(line);
            assert!(!error.contains("secret"), "{line}: {error}");
        }
        let error = parse(&SMALL.replace("127.0.0.1:0", "sys:secret@127.0.0.1:0")).expect_err("no address");
        assert!(
            !error.contains("secret") && error.contains("***@127.0.0.1:0"),
            "{error}"
        );
        let error = parse(&format!("{SMALL}colour = 1\n")).expect_err("no such key");
        assert!(
            error.contains("colour = 1"),
            "where nothing is hidden the line is shown: {error}"
        );
    }

    #[test]
    fn an_unreadable_file_and_a_folder_get_other_errors_than_a_missing_file() {
        let closed = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(remedy(&closed, "x"), "Make it readable for the user that runs jwtmesh");
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(remedy(&missing, "x"), "x");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, SMALL).unwrap();
        std::fs::create_dir(folder.path().join("o.jwt")).unwrap();
        let error = Config::load(&path, None).expect_err("a folder").to_string();
        assert!(
            error.contains("cluster.toml:3: the operator JWT") && error.contains("is a folder: name the file in it"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_line_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, SMALL).unwrap();
        let error = Config::load(&path, None).expect_err("o.jwt is missing").to_string();
        assert!(
            error.contains("cluster.toml:3: cannot read the operator JWT") && error.contains("Relative paths start at"),
            "{error}"
        );
    }
}
