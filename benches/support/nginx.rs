//! The peer for lookups: nginx, serving the same tokens as files.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::mint::Minted;
use super::process::{Program, find_program, free_port};
use super::tls::Identity;

/// A running nginx.
pub(crate) struct Nginx {
    /// The process whose children serve.
    pub(crate) program: Program,
    /// Its plain port.
    pub(crate) http: SocketAddr,
    /// Its port with TLS 1.3.
    pub(crate) https: SocketAddr,
}

impl Nginx {
    /// Starts one that serves `accounts` under the same paths as a node does, from files in `folder`.
    pub(crate) fn start(folder: &Path, accounts: &[Minted], identity: &Identity) -> Self {
        let tokens = folder.join("www/jwt/v1/accounts");
        fs::create_dir_all(&tokens).expect("the bench's own folder is writable");
        for account in accounts {
            fs::write(tokens.join(&account.id), &account.token).expect("the bench's own folder is writable");
        }
        let (http, https) = (free_port(), free_port());
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(folder, identity, http, https)).expect("the bench's own folder is writable");
        let mut command = Command::new(find_program("nginx", "nginx-light"));
        command
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(folder)
            .arg("-e")
            .arg(folder.join("nginx.log"));
        let mut program = Program::start(command, folder, "nginx");
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        program.wait_until(|_| TcpStream::connect(address(https)).is_ok());
        Self {
            program,
            http: address(http),
            https: address(https),
        }
    }
}

/// nginx at its best for this work: one worker a core, no access log, sendfile, connections kept forever, and no
/// session tickets, which a client that never resumes has no use for and which cost a server time.
fn configuration(folder: &Path, identity: &Identity, http: u16, https: u16) -> String {
    let folder = folder.display();
    let (cert, key) = (identity.cert.display(), identity.key.display());
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {folder}/nginx-{name};\n"))
        .collect();
    // Started by root, workers would otherwise be `www-data`, who may not read the bench's folder.
    format!(
        "daemon off;\nuser root root;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{scratch}  access_log off;\n  sendfile on;\n  keepalive_requests 1000000000;\n  \
         default_type application/jwt;\n  root {folder}/www;\n  server {{ listen 127.0.0.1:{http}; }}\n  server {{\n    \
         listen 127.0.0.1:{https} ssl;\n    ssl_certificate {cert};\n    ssl_certificate_key {key};\n    \
         ssl_protocols TLSv1.3;\n    ssl_session_tickets off;\n    ssl_session_cache off;\n  }}\n}}\n"
    )
}
