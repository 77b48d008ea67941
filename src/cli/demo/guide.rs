//! The texts that the demo writes: cluster.toml, nats-server's configuration, and the commands to try next.

use std::path::Path;

use super::certificates::{CA, MESH_CA};
use super::folder::{Folder, Member, Ports};
use super::keys::{ALICE_CREDS, BOB_CREDS, KEYS, Keys, NODE_CREDS, OPERATOR, token_file};
use super::server::CONFIG;
use crate::cli::exit::Failure;
use crate::cli::nats::{BaseUrl, Pointing, ResolverTls};
use crate::cli::output::for_shell;

/// The folder of a mesh's data folders, each called as its node.
pub(super) const MESH_DATA: &str = "data";

/// The whole configuration, of a single node or of a mesh.
pub(super) fn cluster_toml(ports: &Ports) -> String {
    let Ports { public, nats, .. } = ports;
    let members = ports.members();
    let mut nodes = String::new();
    if members.is_empty() {
        nodes = format!("[[node]]\nname = \"demo-1\"\ndata = \"data\"\npublic = \"127.0.0.1:{public}\"\n\n");
    } else {
        nodes += &format!(
            "[peer]\ntls = {{ ca = \"{MESH_CA}\", cert = \"tls/{{node}}.peer.pem\", key = \"tls/{{node}}.peer.key\" }}\n\n"
        );
    }
    for Member { name, public, peer } in members {
        nodes += &format!(
            "[[node]]\nname = \"{name}\"\ndata = \"{MESH_DATA}/{{node}}\"\npublic = \"127.0.0.1:{public}\"\n\
             peer = \"127.0.0.1:{peer}\"\n\n"
        );
    }
    format!(
        r#"# Made by `jwtmesh demo`. Every setting is explained in cluster.example.toml.

[cluster]
name = "demo"
operators = ["{OPERATOR}"]

[public]
tls = {{ cert = "tls/node.pem", key = "tls/node.key" }}

{nodes}[[nats]]
name = "demo"
servers = ["nats://127.0.0.1:{nats}"]
creds = "{NODE_CREDS}"
"#
    )
}

/// nats-server's configuration: the lines of `jwtmesh nats config`, a name and an address to listen on. It fetches
/// accounts from the node with the public port `public`.
pub(super) fn nats_server(folder: &Folder, keys: &Keys, public: u16) -> Result<String, Failure> {
    let url = BaseUrl::parse(&format!("https://127.0.0.1:{public}"))?;
    let tls = ResolverTls {
        ca: Some(folder.absolute(CA)?),
        client: None,
    };
    let operator = folder.absolute(OPERATOR)?;
    let pointing = Pointing::new(&keys.operator(), &url, Some(&tls), Some(&operator), Vec::new());
    Ok(format!(
        "server_name: demo\nlisten: \"127.0.0.1:{}\"\n\n{}",
        folder.ports.nats, pointing.config
    ))
}

/// Every command to try next, ready to copy.
pub(super) fn try_next(folder: &Folder, keys: &Keys, has_server: bool) -> anyhow::Result<String> {
    let path = |name: &str| for_shell(&folder.path(name));
    let program = std::env::args_os().next().unwrap_or_else(|| "jwtmesh".into());
    let us = for_shell(Path::new(&program));
    let mesh = !folder.ports.members().is_empty();
    let (config, status) = if mesh {
        let config = format!("--config {} --node demo-1", path("cluster.toml"));
        // Shows the members and the leader.
        let status = format!("{us} status {config}\n");
        (config, status)
    } else {
        (format!("--config {}", path("cluster.toml")), String::new())
    };
    let app = keys.app()?;
    let Ports { public, nats, .. } = folder.ports;
    let nsc = format!("nsc -H {}", path("nsc"));
    let start_server = if has_server {
        "# The nats-server above was started like this"
    } else {
        "# Start a nats-server; to see a revocation, start the demo again with it in PATH or with --nats-server FILE"
    };
    // Without a nats-server no revocation is shown, and no user bob is created.
    let bob_line = if has_server {
        format!(
            "nats --server nats://127.0.0.1:{nats} --creds {} pub greeting hello\n",
            path(BOB_CREDS)
        )
    } else {
        String::new()
    };
    Ok(format!(
        "\
# Ask {whom}
{status}{us} account list {config}
{us} account show {app} {config}
{us} operator show {config}
{us} verify {config}
{us} nats config {config} --ca {ca_absolute}
{us} inspect {app_token} --operator {operator}
curl --cacert {ca} https://127.0.0.1:{public}/jwt/v1/accounts/{app}

{start_server}
nats-server -c {server_config}

# A client that may connect{bob_too}
nats --server nats://127.0.0.1:{nats} --creds {alice} pub greeting hello
{bob_line}
# nsc, in a store of its own: revoke alice too
export SSL_CERT_FILE={ca_absolute}
{nsc} import keys --dir {seeds}
{nsc} add operator -u https://127.0.0.1:{public}/jwt/v1/operator
{nsc} import account --file {system_token}
{us} account pull {app} {config} > {app_token}
{nsc} import account --file {app_token}
{nsc} revocations add-user --account APP --user-public-key {user}
{nsc} push --account APP
",
        whom = if mesh { "a node" } else { "the node" },
        ca = path(CA),
        ca_absolute = for_shell(&folder.absolute(CA)?),
        operator = path(OPERATOR),
        app_token = path(&token_file("APP")),
        system_token = path(&token_file("SYS")),
        server_config = path(CONFIG),
        alice = path(ALICE_CREDS),
        bob_too = if has_server { ", and the revoked one" } else { "" },
        seeds = path(KEYS),
        user = keys.alice,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_demos_cluster_toml_means_what_it_should() {
        let parent = tempfile::tempdir().unwrap();
        for nodes in [1, 3, 5] {
            let root = parent.path().join(nodes.to_string());
            let folder = Folder::open(&root, Some(nodes)).unwrap_or_else(|failure| panic!("{failure:?}"));
            let text = cluster_toml(&folder.ports);
            let read = |node: Option<&str>| Config::parse(Path::new("demo/cluster.toml"), &text, node).unwrap();
            let alone = read((nodes > 1).then_some("demo-1"));
            assert_eq!(alone.public.port(), folder.ports.public);
            assert_eq!(
                alone.nats[0].servers,
                [format!("nats://127.0.0.1:{}", folder.ports.nats)]
            );
            assert!(alone.tls.is_some());
            let members = folder.ports.members();
            assert_eq!(members.len(), if nodes > 1 { nodes } else { 0 });
            if nodes == 1 {
                assert_eq!(alone.data, Path::new("demo/data"));
                assert!(alone.peering.is_none());
            }
            for member in members {
                let config = read(Some(&member.name));
                assert_eq!(config.data, Path::new("demo").join(MESH_DATA).join(&member.name));
                assert_eq!(config.public.port(), member.public);
                let peering = config.peering.expect("nodes of a mesh have peers");
                assert_eq!(peering.nodes[&member.name], format!("127.0.0.1:{}", member.peer));
                assert!(peering.tls.cert.ends_with(format!("tls/{}.peer.pem", member.name)));
            }
        }
    }

    #[test]
    fn a_path_with_blanks_and_quotes_is_one_word_for_a_shell() {
        assert_eq!(for_shell(Path::new("/a/b-c.pem")), "/a/b-c.pem");
        assert_eq!(for_shell(Path::new("/my demo")), "'/my demo'");
        assert_eq!(for_shell(Path::new("it's")), "'it'\\''s'");
    }
}
