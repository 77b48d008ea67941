//! Where a token is in force, as text for people.

use std::io::Write;

use super::output::plain;
use crate::api::{Enforced, Propagation};

/// "9 of 9 servers in 3 NATS clusters".
pub(super) fn where_in_force(found: &Propagation) -> String {
    format!(
        "{} of {} servers in {} NATS cluster{}",
        found.in_force,
        found.servers,
        found.nats.len(),
        if found.nats.len() == 1 { "" } else { "s" }
    )
}

/// Each server that has not confirmed it, and each NATS cluster of which no server is known.
pub(super) fn print_open(out: &mut impl Write, found: &Propagation) -> std::io::Result<()> {
    for nats in &found.nats {
        if nats.servers.is_empty() {
            writeln!(
                out,
                "not known   no server of NATS cluster {} has been heard yet",
                plain(&nats.name)
            )?;
        }
        let is_open = |server: &&Enforced| server.state != "in-force";
        for server in nats.servers.iter().filter(is_open) {
            writeln!(
                out,
                "{:<10}  {} ({}) in {}",
                server.state,
                plain(&server.name),
                plain(&server.id),
                plain(&nats.name)
            )?;
        }
    }
    Ok(())
}
