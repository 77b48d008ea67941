//! `cluster.example.toml` can be read, names every setting, and its lines behind a # are defaults or valid choices.

use std::path::Path;

use jwtmesh::config::{Config, Timing};

const EXAMPLE: &str = include_str!("../cluster.example.toml");

fn parse(text: &str) -> Config {
    Config::parse(Path::new("etc/cluster.toml"), text, None).unwrap_or_else(|error| panic!("{error}"))
}

/// The example with the line that begins `# {setting}` uncommented.
fn with(setting: &str) -> String {
    let line = EXAMPLE
        .lines()
        .find(|line| line.starts_with(&format!("# {setting}")))
        .unwrap_or_else(|| panic!("{setting} is not in the example"));
    EXAMPLE.replacen(line, &line["# ".len()..], 1)
}

#[test]
fn the_example_is_read() {
    let config = parse(EXAMPLE);
    assert_eq!(config.cluster, "payments");
    assert_eq!(config.node, "fra-1");
    assert_eq!(config.data, Path::new("/var/lib/jwtmesh"));
    assert_eq!(config.operators, [Path::new("etc/trust/operator.jwt")]);
    assert_eq!(config.nats[0].servers.len(), 2);
    let tls = config.tls.expect("the example is encrypted");
    assert_eq!(tls.cert, Path::new("etc/tls/fra-1.pem"));
    assert!(!tls.client_required);
    assert_eq!(tls.client_ca, None);
}

#[test]
fn a_default_written_out_changes_nothing() {
    for setting in [
        "timing = ",
        "acknowledge = ",
        "older_servers = ",
        "delete_with_streams = ",
        "protected_accounts = ",
        "nodes = ",
        "peer = ",
        "tls_first = ",
        "respond = ",
    ] {
        assert_eq!(parse(&with(setting)), parse(EXAMPLE), "{setting}");
    }
    assert_eq!(parse(EXAMPLE).timing, Timing::Lan);
}

#[test]
fn every_other_choice_is_read_too() {
    assert!(parse(&with("ca = ")).nats[0].ca.is_some());
    let silent = with("respond = ").replacen("respond = true", "respond = false", 1);
    assert!(!parse(&silent).nats[0].respond && parse(EXAMPLE).nats[0].respond);
    let client = with("cert = ").replacen("# key = ", "key = ", 1);
    assert!(parse(&client).nats[0].client.is_some());
    // The example has two forms of this setting, and TOML allows a key only once.
    let mtls = with("tls = { cert").replacen(
        "\ntls = { cert = \"tls/{node}.pem\", key = \"tls/{node}.key\" }\n",
        "\n",
        1,
    );
    assert!(parse(&mtls).tls.expect("encrypted").client_ca.is_some());
    let peer = with("[peer]").replacen("# tls = { ca", "tls = { ca", 1);
    assert_eq!(parse(&peer), parse(EXAMPLE));
}

#[test]
fn every_setting_is_in_the_example() {
    // The fields of the grammar, read from its own source: a new one must be explained.
    let source = include_str!("../src/config/text.rs");
    let texts = source
        .split("struct ")
        .filter(|part| part.split_once(' ').is_some_and(|(name, _)| name.ends_with("Text")));
    let mut seen = 0;
    for text in texts {
        let fields = text.split('\n').skip(1).take_while(|line| *line != "}");
        for field in fields.filter_map(|line| line.trim().split_once(": ").map(|(name, _)| name)) {
            let name = field.trim_start_matches("pub(super) ").trim_start_matches('_');
            if name.starts_with('#') || name.starts_with('/') {
                continue;
            }
            seen += 1;
            let said = [format!("{name} = "), format!("[{name}]")];
            let is_whole = |at: usize| !EXAMPLE[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            assert!(
                said.iter()
                    .any(|said| EXAMPLE.match_indices(said).any(|(at, _)| is_whole(at))),
                "{name} is not in cluster.example.toml"
            );
        }
    }
    assert!(seen > 15, "found only {seen} settings in src/config/text.rs");
}
