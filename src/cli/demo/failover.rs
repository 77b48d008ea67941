//! The demo of a mesh: its leader is killed, a user is revoked through a node that is left, and the client is
//! disconnected all the same.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::mesh::Mesh;
use super::show::{self, Client};
use super::stage::{Stage, Steps};
use crate::cli::exit::{Exit, Failure};

/// How often the leadership may come to the node that nats-server uses.
const HANDOVERS: usize = 5;

/// Starts the nodes and forms the mesh.
pub(super) async fn form(mesh: &mut Mesh, steps: &mut Steps<'_, impl Write>) -> Result<(), Failure> {
    mesh.start().await?;
    for at in 0..mesh.len() {
        let text = format!("{}, process {}, serves {}", mesh.name(at), mesh.id(at), mesh.url(at));
        steps.line("node", &text)?;
    }
    let formed = mesh.form().await?;
    let leader = mesh.leader().await?;
    let text = format!("a mesh of {} nodes, {} leads", formed.items.len(), mesh.name(leader));
    let what = if formed.outcome == "formed" { "formed" } else { "kept" };
    Ok(steps.line(what, &text)?)
}

/// Kills the leader and shows a revocation without it. nats-server fetches accounts from the node `resolver`, which is not
/// killed.
pub(super) async fn revoke_bob(
    stage: &Stage,
    mesh: &mut Mesh,
    resolver: usize,
    steps: &mut Steps<'_, impl Write>,
) -> Result<(), Failure> {
    let Stage {
        folder, keys, clock, ..
    } = stage;
    let url = stage.nats_url();
    show::nodes_are_connected(&url, keys, clock, mesh.len()).await?;
    let text = format!(
        "the {} nodes to nats-server; {} publishes to it",
        mesh.len(),
        mesh.name(mesh.publisher().await?)
    );
    steps.line("connected", &text)?;
    let mut client = Client::connect(&url, keys, folder, clock).await?;
    steps.line("connected", "a client as user bob")?;

    let leader = leader_to_kill(mesh, resolver, steps).await?;
    let published = mesh.publisher().await? == leader;
    // Not nats-server's node: any node takes uploads.
    let through = (0..mesh.len()).find(|at| ![leader, resolver].contains(at));
    let through = through.unwrap_or(resolver);
    let killed = Instant::now();
    mesh.kill(leader).await?;
    let role = if published {
        "the leader, and the publisher too; another node takes that over within about five seconds"
    } else {
        "the leader"
    };
    steps.line("killed", &format!("{} with SIGKILL: {role}", mesh.name(leader)))?;

    let (measured, (next, leaderless), (publisher, silent)) = tokio::try_join!(
        client.revoke(keys, mesh.public(through), clock),
        async { Ok((mesh.leader_after(leader).await?, killed.elapsed())) },
        async { Ok((mesh.publisher().await?, killed.elapsed())) },
    )?;
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    let text = format!("{}, after {} without one", mesh.name(next), ms(leaderless));
    steps.line("leader", &text)?;
    let attempt = match measured.refusals {
        0 => String::new(),
        refusals => format!(", at attempt {}", refusals + 1),
    };
    let text = format!(
        "bob, through {}; on disk at a majority, answered after {}{attempt}",
        mesh.name(through),
        ms(measured.acknowledged_after)
    );
    steps.line("revoked", &text)?;
    let text = if published {
        format!("{} took over after {}", mesh.name(publisher), ms(silent))
    } else {
        format!("{} as before, since it was not killed", mesh.name(publisher))
    };
    steps.line("publisher", &text)?;
    let text = format!("client cut off after {}", ms(measured.disconnected_after));
    steps.line("measured", &text)?;
    let refusal = client.reconnect_refused(&url).await?;
    steps.line("refused", &format!("bob's reconnect: {refusal}"))?;

    let started = Instant::now();
    mesh.bring_back(leader, next).await?;
    let text = format!(
        "{}, process {}, has everything {} after its start",
        mesh.name(leader),
        mesh.id(leader),
        ms(started.elapsed())
    );
    Ok(steps.line("returned", &text)?)
}

/// The node that leads. If it is the one that nats-server fetches accounts from, that one is restarted first, so that
/// another leads: nodes may elect at any time on a busy machine.
async fn leader_to_kill(mesh: &mut Mesh, resolver: usize, steps: &mut Steps<'_, impl Write>) -> Result<usize, Failure> {
    for _ in 0..HANDOVERS {
        let leader = mesh.leader().await?;
        if leader != resolver {
            return Ok(leader);
        }
        let name = mesh.name(resolver);
        let text = format!("{name}, which leads now and which nats-server uses, so that another node leads");
        steps.line("restarted", &text)?;
        mesh.restart(resolver).await?;
    }
    let sentence = "the node that nats-server uses leads again and again: is this machine very busy? Try again";
    Err(Failure::new(Exit::Failed, sentence))
}
