//! `revoke`: takes users' access away, signed on the administrator's machine, and shows where it is in force.
//!
//! The key never leaves this process. `way.rs` fetches the account's present JWT and pushes the new one, which takes the
//! place of exactly that one: what another administrator changes meanwhile is never undone, but revoked on top of.

mod way;

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::account::Named;
use super::exit::{Exit, Failure};
use super::key::operator_key;
use super::output::{json, plain, time};
use super::proof::{print_open, where_in_force};
use crate::api::Propagation;
use crate::clock::Clock;
use crate::jwt::{AccountKey, KeyKind, kind, without_seeds};
use crate::sign::{Claims, SigningKey};

use way::{Pushed, Way, WayOptions};

/// How often the present JWT is fetched and signed again because another one was stored meanwhile.
const ATTEMPTS: usize = 8;

/// The longest that is waited for, which is the longest that a node waits.
const LONGEST_WAIT: u64 = 60;

/// What is said in place of the number of closed connections.
const COUNT_NOT_KNOWN: &str = "; how many connections were closed is not known (it takes the permission for \
                               $SYS.REQ.SERVER.PING.CONNZ: deploy/nats/README.md)";

/// Every user of the account, as nsc writes it.
const EVERY_USER: &str = "*";

/// Revokes users of an account: signs a new account JWT here, pushes it, and waits until every nats-server enforces it.
///
/// Every JWT that was issued to these users until now is refused from then on, and their connections are closed. A JWT that
/// is issued to them later is valid. To be run where the operator's key is, never on the machine of a node.
///
/// Exit code 0 if it is in force at every server; 1 if it is stored but not confirmed by each of them, which are named.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("whom").required(true),
    // clap's own has the users, as a group, before the account.
    override_usage = "jwtmesh revoke [OPTIONS] --key <FILE> <ACCOUNT> <USER>...\n       jwtmesh revoke [OPTIONS] --key <FILE> <ACCOUNT> --all"
)]
pub(super) struct Revoke {
    /// The account's public key; its name where the admin socket of a node is used
    #[arg(value_name = "ACCOUNT")]
    account: Named,
    /// The public keys of the users
    #[arg(value_name = "USER", group = "whom", value_parser = user)]
    users: Vec<String>,
    /// Every user of the account
    #[arg(long, group = "whom")]
    all: bool,
    /// A file with a seed of the account's operator: its identity or one of its signing keys
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long to wait for the servers, in seconds, at most 60
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=LONGEST_WAIT))]
    timeout: u64,
    #[command(flatten)]
    way: WayOptions,
    /// Print JSON, with every server
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Revoked<'a> {
    /// The revoked users; `*` is all of them.
    users: &'a [String],
    /// JWTs that were issued until then are revoked, Unix seconds.
    until: i64,
    #[serde(flatten)]
    found: &'a Propagation,
}

impl Revoke {
    pub(super) async fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let key = operator_key(&self.key)?;
        let users = if self.all {
            vec![EVERY_USER.to_owned()]
        } else {
            self.users
        };
        let mut way = self.way.open()?;
        let account = way.key(&self.account).await?;
        let done = revoke(&mut way, account, &users, &key, self.timeout).await?;
        let found = &done.found;
        if self.json {
            let revoked = Revoked {
                users: &users,
                until: done.until,
                found,
            };
            json(out, &revoked)?;
        } else {
            done.print(out, &users)?;
        }
        Ok(if found.confirmed { Exit::Done } else { Exit::Failed })
    }
}

/// A revocation that is stored.
struct Done {
    account: AccountKey,
    name: String,
    until: i64,
    found: Propagation,
}

impl Done {
    fn print(&self, out: &mut impl Write, users: &[String]) -> std::io::Result<()> {
        let Self {
            account,
            name,
            until,
            found,
        } = self;
        for user in users {
            let whom = if user == EVERY_USER { "every user" } else { user };
            writeln!(
                out,
                "{whom} of {} ({account}): JWTs issued until {} are revoked",
                plain(name),
                time(*until)
            )?;
        }
        let places = where_in_force(found);
        let elapsed_ms = found.elapsed_ms.unwrap_or(0);
        let closed = match found.closed {
            Some(1) => ", 1 connection closed".to_owned(),
            Some(count) => format!(", {count} connections closed"),
            None if found.nats.iter().all(|nats| !nats.servers.is_empty()) => COUNT_NOT_KNOWN.to_owned(),
            // No server has been heard, which is said below.
            None => String::new(),
        };
        match (found.nats.is_empty(), found.confirmed) {
            (true, _) => writeln!(
                out,
                "stored, and sent to no nats-server: the node that answered has no [[nats]] in its cluster.toml"
            )?,
            (false, true) => writeln!(out, "revoked in {elapsed_ms} ms on {places}{closed}")?,
            (false, false) => writeln!(
                out,
                "stored, but after {elapsed_ms} ms in force on {places} only{closed}:"
            )?,
        }
        print_open(out, found)
    }
}

async fn revoke(
    way: &mut Way,
    account: AccountKey,
    users: &[String],
    key: &SigningKey,
    seconds: u64,
) -> Result<Done, Failure> {
    let mut issued_at = 0;
    for _ in 0..ATTEMPTS {
        let present = way.present(account).await?;
        let mut claims = Claims::of_token(&present.token)?;
        let (name, before) = (claims.name().to_owned(), claims.issued_at());
        // The clock of this machine may be behind: then what was issued to the users lately would stay valid.
        let times = [present.time, Some(before), Some(issued_at)];
        let now = times.into_iter().flatten().fold(Clock::system().now(), i64::max);
        for user in users {
            claims.revoke(user, now);
        }
        let token = claims.sign(key, now)?;
        match way.push(account, &token, &present.etag, seconds).await? {
            Pushed::Stored(found) => {
                return Ok(Done {
                    account,
                    name,
                    until: now,
                    found,
                });
            }
            // Signed in this second before, by this command or by another one. Only a new JWT is waited for.
            Pushed::Unchanged => issued_at = now + 1,
            Pushed::Overtaken => {}
        }
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "the JWT of account {account} was changed by others {ATTEMPTS} times while this one was signed, so it is not known to be \
             revoked: run this again"
        ),
    ))
}

/// The public key of a user, as an argument.
fn user(text: &str) -> Result<String, String> {
    if without_seeds(text) != text {
        return Err("this is a private seed: treat it as exposed, and give the user's public key".to_owned());
    }
    match kind(text) {
        Some(KeyKind::User) => Ok(text.to_owned()),
        Some(_) => Err("this is the public key of another kind: a user's begins with U".to_owned()),
        None => Err(
            "this is no public key: a user's begins with U and has 56 characters; --all revokes every user".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Enforced, Propagated};

    fn said(servers: usize, closed: Option<u64>) -> String {
        let server = |number| Enforced {
            id: format!("N{number}"),
            name: format!("n{number}"),
            state: "in-force".to_owned(),
            version: "2.15.1".to_owned(),
        };
        let nats = Propagated {
            name: "fra".to_owned(),
            servers: (0..servers).map(server).collect(),
        };
        let account = AccountKey::from_bytes([7; 32]);
        let found = Propagation {
            account: account.to_string(),
            revision: 7,
            confirmed: servers > 0,
            servers,
            in_force: servers,
            closed,
            elapsed_ms: Some(84),
            nats: vec![nats],
        };
        let done = Done {
            account,
            name: "payments".to_owned(),
            until: 1_700_000_000,
            found,
        };
        let mut text = Vec::new();
        done.print(&mut text, &[EVERY_USER.to_owned()])
            .expect("a vector takes it");
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn g5_where_the_closed_connections_were_not_counted_it_says_why() {
        let counted = said(2, Some(1));
        assert!(counted.ends_with("1 NATS cluster, 1 connection closed\n"), "{counted}");
        let not_counted = said(2, None);
        let words =
            "revoked in 84 ms on 2 of 2 servers in 1 NATS cluster; how many connections were closed is not known";
        assert!(not_counted.contains(words), "{not_counted}");
        assert!(not_counted.contains("CONNZ: deploy/nats/README.md"), "{not_counted}");
        let not_heard = said(0, None);
        assert!(
            !not_heard.contains("CONNZ") && not_heard.contains("no server of NATS cluster fra"),
            "{not_heard}"
        );
    }
}
