//! `nats list`, `nats servers` and `nats forget`: who is told of changes, and who may enforce something older.

use std::io::Write;

use clap::Args;

use crate::api::{NatsCluster, NatsClusters, NatsServer, NatsServers};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{json, plain};
use crate::cli::target::Target;
use crate::client::AdminClient;

/// Lists the NATS clusters, who publishes to each, and how many of its servers may enforce something older.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let clusters = self.target.client()?.nats_clusters().await?;
        if self.json {
            json(out, &clusters)?;
        } else {
            clusters_table(out, &clusters)?;
        }
        Ok(Exit::Done)
    }
}

fn clusters_table(out: &mut impl Write, clusters: &NatsClusters) -> std::io::Result<()> {
    let width = clusters
        .items
        .iter()
        .map(|nats| nats.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    writeln!(
        out,
        "{:<width$}  SERVERS  BEHIND  PUBLISHER         CONNECTED TO",
        "NATS"
    )?;
    for nats in &clusters.items {
        let NatsCluster {
            name, servers, behind, ..
        } = nats;
        writeln!(
            out,
            "{:<width$}  {servers:<7}  {behind:<6}  {:<16}  {}",
            plain(name),
            plain(nats.publisher.as_deref().unwrap_or("none")),
            plain(nats.connected.as_deref().unwrap_or("-"))
        )?;
    }
    for problem in clusters.items.iter().flat_map(|nats| &nats.problems) {
        writeln!(out, "problem   {}", plain(problem))?;
    }
    Ok(())
}

/// Lists the servers of the NATS clusters, and from which revision each one may enforce something older.
#[derive(Debug, Args)]
pub(in crate::cli) struct Servers {
    /// Only those of this NATS cluster
    #[arg(value_name = "NATS")]
    nats: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Servers {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let servers = NatsServers {
            items: servers_of(&client, self.nats.as_deref()).await?,
        };
        if self.json {
            json(out, &servers)?;
        } else {
            servers_table(out, &servers.items)?;
        }
        Ok(Exit::Done)
    }
}

/// The servers of the NATS cluster `wanted`, or of all.
async fn servers_of(client: &AdminClient, wanted: Option<&str>) -> Result<Vec<NatsServer>, Failure> {
    let names = match wanted {
        Some(name) => vec![name.to_owned()],
        None => {
            let clusters = client.nats_clusters().await?.items;
            clusters.into_iter().map(|nats| nats.name).collect()
        }
    };
    let mut servers = Vec::new();
    for name in names {
        servers.extend(client.nats_servers(&name).await?.items);
    }
    Ok(servers)
}

fn servers_table(out: &mut impl Write, servers: &[NatsServer]) -> std::io::Result<()> {
    let longest = |text: fn(&NatsServer) -> &str| servers.iter().map(|server| text(server).len()).max().unwrap_or(0);
    let (nats, name) = (
        longest(|server| &server.nats).max(4),
        longest(|server| &server.name).max(4),
    );
    writeln!(
        out,
        "{:<nats$}  {:<name$}  VERSION    STATE       UP TO REVISION  ID",
        "NATS", "NAME"
    )?;
    for server in servers {
        let behind = server
            .behind
            .map_or_else(|| "-".to_owned(), |behind| behind.to_string());
        writeln!(
            out,
            "{:<nats$}  {:<name$}  {:<9}  {:<10}  {behind:<14}  {}",
            plain(&server.nats),
            plain(&server.name),
            plain(&server.version),
            server.state,
            plain(&server.id)
        )?;
    }
    for server in servers.iter().filter(|server| server.adopted + server.overruled > 0) {
        writeln!(
            out,
            "{}: {} of the JWTs that it enforced were newer and are adopted, {} were older or refused and are overruled (the log \
             names accounts)",
            plain(&server.name),
            server.adopted,
            server.overruled
        )?;
    }
    Ok(())
}

/// Forgets a server that was shut down for good.
///
/// A server that says that it ends, or whose name runs as another process, is forgotten by itself. One that still runs is
/// noticed again when it reports, within seconds; until then no proof waits for it, so forgetting one that is up to date
/// needs --yes.
#[derive(Debug, Args)]
pub(in crate::cli) struct Forget {
    /// The server's id, or its name
    #[arg(value_name = "SERVER")]
    server: String,
    /// Forget it although it is up to date
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Forget {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let client = self.target.client()?;
        let servers = servers_of(&client, None).await?;
        let found = find(&servers, &self.server)?;
        if found.state == UP_TO_DATE && !self.yes {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} ({}) is up to date, so it was heard lately: if it was shut down for good all the same, add --yes",
                    plain(&found.name),
                    plain(&found.id)
                ),
            ));
        }
        let forgotten = client.forget_server(&found.nats, &found.id).await?;
        if self.json {
            json(out, &forgotten)?;
        } else {
            writeln!(
                out,
                "{} ({}) of NATS cluster {} is forgotten",
                plain(&forgotten.name),
                plain(&forgotten.id),
                plain(&forgotten.nats)
            )?;
        }
        Ok(Exit::Done)
    }
}

/// The state of a server that enforces every change.
const UP_TO_DATE: &str = "up-to-date";

/// The server that `wanted` names, by its id or its name.
fn find<'s>(servers: &'s [NatsServer], wanted: &str) -> Result<&'s NatsServer, Failure> {
    let mut found = servers
        .iter()
        .filter(|server| server.id == wanted || server.name == wanted);
    match (found.next(), found.next()) {
        (Some(server), None) => Ok(server),
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Usage,
            format!("several servers are called {wanted:?}: give the id, see `jwtmesh nats servers`"),
        )),
        (None, _) => Err(Failure::new(
            Exit::NotFound,
            format!("no server {wanted:?} is known; see `jwtmesh nats servers`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_id_or_by_a_name_that_no_other_has() {
        let server = |id: &str, name: &str| NatsServer {
            nats: "fra".to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
            cluster: String::new(),
            version: "2.15.1".to_owned(),
            state: "missing".to_owned(),
            behind: Some(3),
            adopted: 0,
            overruled: 0,
        };
        let servers = [server("NA", "n1"), server("NB", "n1"), server("NC", "n2")];
        for (wanted, found) in [
            ("NB", Ok("NB")),
            ("n2", Ok("NC")),
            ("n1", Err(Exit::Usage)),
            ("n3", Err(Exit::NotFound)),
        ] {
            let id = find(&servers, wanted).map(|server| server.id.as_str());
            assert_eq!(id.map_err(|failure| failure.exit), found, "{wanted}");
        }
    }
}
