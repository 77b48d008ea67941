//! The exact lines of configuration with which nats-server and nsc use this mesh.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::api::Operator;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{for_shell, plain};

/// The URL of the public port, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct BaseUrl(String);

impl BaseUrl {
    /// Accepts the bare URL, and the longer forms that nsc (`/jwt/v1`) and nats-server (`/jwt/v1/accounts/`) use.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, Failure> {
        if text.contains('@') {
            // Checked first, and reported without the URL: the other errors show it, and so does the configuration.
            return Err(Failure::new(
                Exit::Usage,
                "the URL has a user or password, which jwtmesh does not use: remove everything up to the @",
            ));
        }
        let wrong = |why: &str| Err(Failure::new(Exit::Usage, format!("the URL {text:?} {why}")));
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '(' | ')')) {
            return wrong("has a character that would end the URL in nats-server's configuration: remove it");
        }
        if text.contains(['?', '#']) {
            // nats-server appends the account's key to the end of the URL, even after a query.
            return wrong("has a query or a fragment; nats-server would append the account's key to it");
        }
        let base = text.trim_end_matches('/');
        let base = base.strip_suffix("/accounts").unwrap_or(base).trim_end_matches('/');
        let base = base.strip_suffix("/jwt/v1").unwrap_or(base).trim_end_matches('/');
        match base.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() => Ok(Self(base.to_owned())),
            _ => wrong("is not one that nats-server can fetch from: write http://HOST:PORT or https://HOST:PORT"),
        }
    }

    pub(in crate::cli) fn text(&self) -> &str {
        &self.0
    }

    pub(in crate::cli) fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The URL for nsc, also the operator's `account_server_url`.
    pub(in crate::cli) fn account_server(&self) -> String {
        format!("{}/jwt/v1", self.0)
    }

    /// The URL for nats-server's `resolver`.
    pub(in crate::cli) fn resolver(&self) -> String {
        format!("{}/jwt/v1/accounts/", self.0)
    }

    /// Whether it names the machine itself.
    pub(in crate::cli) fn is_loopback(&self) -> bool {
        ["127.", "[::1]", "localhost"]
            .iter()
            .any(|own| self.host().starts_with(own))
    }

    /// What follows the scheme: host and port.
    fn host(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        // nats-server, server/opts.go: the regular expression for MEM is tried first and is not anchored.
        if self.resolver().to_ascii_lowercase().contains("mem") {
            warnings.push(format!(
                "{} contains \"mem\", and nats-server uses its MEMORY resolver for every URL with these letters: use another host name or an IP address",
                self.0
            ));
        }
        let host = self.host();
        if host.starts_with("0.0.0.0") || host.starts_with("[::]") {
            warnings.push(format!(
                "{} is the address that the node listens on, not one to connect to: give --url with a name or address that nats-server can reach",
                self.0
            ));
        }
        warnings
    }
}

/// How nats-server verifies the public port's certificate.
#[derive(Debug, Clone)]
pub(in crate::cli) struct ResolverTls {
    /// The authority's file, as a path on nats-server's machine; `None` for the system's authorities.
    pub(in crate::cli) ca: Option<PathBuf>,
    /// The files of nats-server's own certificate and key.
    pub(in crate::cli) client: Option<(PathBuf, PathBuf)>,
}

/// Everything that nats-server and nsc need to use this mesh.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Pointing {
    operator: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_account: Option<String>,
    resolver: String,
    account_server_url: String,
    nsc: String,
    pub(in crate::cli) warnings: Vec<String>,
    /// The lines for nats-server's configuration file.
    pub(in crate::cli) config: String,
}

impl Pointing {
    /// The configuration has the operator's token inline, or the path `operator_file` if there is one, and `warnings` as
    /// comments, beside those about what is given here.
    pub(in crate::cli) fn new(
        operator: &Operator,
        url: &BaseUrl,
        tls: Option<&ResolverTls>,
        operator_file: Option<&Path>,
        mut warnings: Vec<String>,
    ) -> Self {
        let nsc = format!("nsc edit operator --account-jwt-server-url {}", url.account_server());
        warnings.extend(url.warnings());
        if operator.system_account.is_none() {
            warnings.push(format!(
                "operator {} names no system account, so jwtmesh cannot send changes to nats-servers: run nsc add account --name SYS, then nsc edit operator --system-account SYS",
                plain(&operator.name)
            ));
        }
        Self {
            operator: operator.operator.clone(),
            system_account: operator.system_account.clone(),
            resolver: url.resolver(),
            account_server_url: url.account_server(),
            config: config(operator, url, tls, operator_file, &nsc, &warnings),
            nsc,
            warnings,
        }
    }
}

fn config(
    operator: &Operator,
    url: &BaseUrl,
    tls: Option<&ResolverTls>,
    operator_file: Option<&Path>,
    nsc: &str,
    warnings: &[String],
) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |written: String| {
        let _ = writeln!(text, "{written}");
    };
    for warning in warnings {
        line(format!("# WARNING: {warning}"));
    }
    line(format!("# Operator {} ({})", plain(&operator.name), operator.operator));
    line(match operator_file {
        Some(file) => format!("operator: {}", quoted(file)),
        None => format!("operator: {}", operator.token),
    });
    if let Some(system) = &operator.system_account {
        line(format!("system_account: {system}"));
    }
    // Quoted as a whole: nats-server's parser ends the unquoted form at the first bracket of an IPv6 address.
    line(format!("resolver: \"URL({})\"", url.resolver()));
    if let Some(tls) = tls {
        line("resolver_tls {".to_owned());
        if let Some(ca) = &tls.ca {
            line(format!("  ca_file: {}", quoted(ca)));
        }
        if let Some((cert, key)) = &tls.client {
            line(format!("  cert_file: {}", quoted(cert)));
            line(format!("  key_file: {}", quoted(key)));
        }
        line("}".to_owned());
    }
    let ca = tls.and_then(|tls| tls.ca.as_deref());
    if ca.is_none() && url.is_https() {
        line("# The certificate is verified with the system's authorities; for a private one: --ca FILE".to_owned());
    }
    line("# Do not add resolver_preload: nats-server does not start with both it and a URL resolver.".to_owned());
    line("#".to_owned());
    line("# Run once, where nsc has the operator's keys:".to_owned());
    line(format!("#   {nsc}"));
    if let Some(ca) = ca {
        line("# Set in nsc's environment, as its --ca-cert is for nats:// only:".to_owned());
        line(format!("#   export SSL_CERT_FILE={}", for_shell(ca)));
    } else if url.is_https() {
        line("# For a private authority, set in nsc's environment, as its --ca-cert is for nats:// only:".to_owned());
        line("#   export SSL_CERT_FILE=FILE".to_owned());
    }
    text
}

/// A path as a quoted string in nats-server's configuration language.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator() -> Operator {
        Operator {
            operator: "OKEY".to_owned(),
            name: "ACME\nport: 1".to_owned(),
            issued_at: 0,
            signing_keys: Vec::new(),
            strict_signing_key_usage: false,
            system_account: Some("ASYS".to_owned()),
            account_server_url: String::new(),
            token: "eyJ.e30.sig".to_owned(),
        }
    }

    fn base(text: &str) -> BaseUrl {
        BaseUrl::parse(text).map_err(|failure| failure.message).unwrap()
    }

    #[test]
    fn plain_http_prints_these_lines() {
        let pointing = Pointing::new(&operator(), &base("http://h:9090"), None, None, Vec::new());
        assert_eq!(
            pointing.config,
            "# Operator ACME\u{fffd}port: 1 (OKEY)\n\
             operator: eyJ.e30.sig\n\
             system_account: ASYS\n\
             resolver: \"URL(http://h:9090/jwt/v1/accounts/)\"\n\
             # Do not add resolver_preload: nats-server does not start with both it and a URL resolver.\n\
             #\n\
             # Run once, where nsc has the operator's keys:\n\
             #   nsc edit operator --account-jwt-server-url http://h:9090/jwt/v1\n"
        );
        assert_eq!(pointing.warnings, Vec::<String>::new());
    }

    #[test]
    fn https_with_a_private_authority_and_a_client_certificate_prints_these_lines() {
        let tls = ResolverTls {
            ca: Some("/etc/a \"b\"/ca.pem".into()),
            client: Some(("/etc/c.pem".into(), "/etc/c.key".into())),
        };
        let config = Pointing::new(
            &operator(),
            &base("https://h:9090/jwt/v1/accounts/"),
            Some(&tls),
            None,
            Vec::new(),
        )
        .config;
        assert!(
            config.contains(
                "resolver: \"URL(https://h:9090/jwt/v1/accounts/)\"\n\
                 resolver_tls {\n  \
                   ca_file: \"/etc/a \\\"b\\\"/ca.pem\"\n  \
                   cert_file: \"/etc/c.pem\"\n  \
                   key_file: \"/etc/c.key\"\n\
                 }\n"
            ),
            "{config}"
        );
        assert!(config.contains("SSL_CERT_FILE='/etc/a \"b\"/ca.pem'\n"), "{config}");
    }

    #[test]
    fn every_form_of_the_url_means_the_same() {
        for text in [
            "https://h:9090",
            "https://h:9090/",
            "https://h:9090/jwt/v1",
            "https://h:9090/jwt/v1/",
            "https://h:9090/jwt/v1/accounts",
            "https://h:9090/jwt/v1/accounts/",
            "https://h:9090/jwt/v1//accounts//",
        ] {
            assert_eq!(base(text), base("https://h:9090"), "{text}");
        }
        for text in [
            "h:9090",
            "nats://h:4222",
            "https://",
            "https://h/?a=b",
            "https://h/#f",
            "https://h\") port: 1",
            "https://h/\n",
        ] {
            assert_eq!(BaseUrl::parse(text).expect_err(text).exit, Exit::Usage);
        }
        for text in ["https://sys:secret@h:9090", "sys:secret@h", "https://sys:secret@h/?a"] {
            let failure = BaseUrl::parse(text).expect_err(text);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
        }
    }

    #[test]
    fn a_url_that_nats_server_misreads_is_warned_about() {
        for url in [
            "https://members.example.net",
            "http://h/MEM",
            "http://0.0.0.0:9090",
            "http://[::]:9090",
        ] {
            let pointing = Pointing::new(&operator(), &base(url), None, None, Vec::new());
            assert_eq!(pointing.warnings.len(), 1, "{url}: {:?}", pointing.warnings);
            assert!(pointing.config.starts_with("# WARNING: "), "{}", pointing.config);
        }
    }
}
