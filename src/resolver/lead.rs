//! What a leader does with the commands of other nodes: it verifies again what they carry, so that one node that was broken
//! into cannot store what no operator has signed.
//!
//! What an administrator may do at any node, such a node can do too: put an older JWT that was signed back, or name
//! another operator in the place of one.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::error::SubmitError;
use super::handle::Resolver;
use super::remove::{check_closing_item, check_delete};
use crate::clock::UnixSeconds;
use crate::jwt::{AccountClaims, AccountKey, OperatorClaims, Token, TrustedKeys, Verified};
use crate::raft::peer::{Leading, Led, NotLed};
use crate::state::{
    AccountOutcome, Command, KillAccount, MAX_SERVERS_OF_A_COMMAND, Outcomes, OverrideAccount, PutAccount,
    PutAccountIf, PutAccounts, PutClosing, PutOperator, PutOperators, ReplaceOperator, Revision, Server, UpdateRoster,
};

impl Leading for Resolver {
    fn lead(&self, from: u64, command: Command) -> BoxFuture<'static, Result<Led, NotLed>> {
        let resolver = self.clone();
        Box::pin(async move { resolver.led(from, command).await })
    }

    fn resend(&self, account: [u8; 32]) {
        // Without a NATS cluster there is no receiver, and nothing to send.
        let _ = self.0.republish.send(AccountKey::from_bytes(account));
    }

    fn ask_publisher(&self, question: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let resolver = self.clone();
        Box::pin(async move { resolver.answer_peer(question).await })
    }
}

fn refused(error: impl std::fmt::Display) -> NotLed {
    NotLed::Refused(error.to_string())
}

impl Resolver {
    async fn led(&self, from: u64, command: Command) -> Result<Led, NotLed> {
        let command = match command {
            Command::PutAccounts(PutAccounts { trust_epoch, items }) => {
                let epoch = self.trust().epoch;
                if trust_epoch != epoch {
                    // What applying it would say; the node that sent it verifies it again.
                    let stale = AccountOutcome::StaleTrust { trust_epoch: epoch };
                    return Ok(self.led_to(Outcomes::Accounts(vec![stale; items.len()])));
                }
                let items = self.checked(items).await?;
                Command::PutAccounts(PutAccounts { trust_epoch, items })
            }
            Command::PutAccountIf(put) => {
                let item = self.checked(vec![put.item]).await?.remove(0);
                Command::PutAccountIf(PutAccountIf { item, ..put })
            }
            Command::OverrideAccount(put) => {
                let item = self.checked(vec![put.item]).await?.remove(0);
                // Its own history is the newest.
                let barred = self.barred(item.account).await.map_err(refused)?;
                Command::OverrideAccount(OverrideAccount { item, barred, ..put })
            }
            Command::PutOperators(_) if self.trust().epoch == 0 => {
                return Err(refused(
                    "the first trust comes from the configuration of the node that leads",
                ));
            }
            Command::PutOperators(PutOperators { items }) => {
                let verified: Result<Vec<_>, _> = items.iter().map(check_operator).collect();
                self.check_operators(&verified?).map_err(refused)?;
                Command::PutOperators(PutOperators { items })
            }
            Command::ReplaceOperator(ReplaceOperator { old, new }) => {
                let verified = check_operator(&new)?;
                self.check_successor(old, &verified).map_err(refused)?;
                Command::ReplaceOperator(ReplaceOperator { old, new })
            }
            Command::MarkPropagated(mark) => {
                check_name(&mark.nats_cluster)?;
                self.check_position(mark.position)?;
                Command::MarkPropagated(mark)
            }
            Command::TakeLease(take) => {
                check_name(&take.nats_cluster)?;
                // No node takes one for another node, or gives another node's away.
                let present = self.lease(&take.nats_cluster).map_or(0, |lease| lease.holder);
                if take.holder != from && (take.holder, present) != (0, from) {
                    return Err(refused("a lease for another node"));
                }
                Command::TakeLease(take)
            }
            Command::UpdateRoster(update) => {
                self.check_update(&update, from)?;
                Command::UpdateRoster(update)
            }
            Command::UpdateRosterIf(update) => {
                self.check_update(&update.update, from)?;
                Command::UpdateRosterIf(update)
            }
            Command::ForgetServer(forget) => {
                check_name(&forget.nats_cluster)?;
                check_id(&forget.id)?;
                Command::ForgetServer(forget)
            }
            Command::DeleteAccounts(_)
            | Command::PutClosing(_)
            | Command::RemoveClosing(_)
            | Command::KillAccount(_) => self.checked_removal(command).await?,
        };
        let outcomes = self.0.raft.lead(command).await.map_err(NotLed::NotAgreed)?;
        Ok(self.led_to(outcomes))
    }

    /// `command`, which deletes or shuts accounts, verified; any other command as it is.
    async fn checked_removal(&self, command: Command) -> Result<Command, NotLed> {
        Ok(match command {
            Command::DeleteAccounts(delete) => {
                self.check_removable(&delete.accounts).map_err(refused)?;
                let (trust, now, bytes) = (self.trust(), self.now(), delete.claim.len());
                let check = move || check_delete(&delete, &trust.keys, now).map(|is_right| (delete, is_right));
                let (delete, is_right) = self.weighed(&self.0.checking, bytes, check).await??;
                if !is_right {
                    return Err(refused(
                        "a request to delete accounts says something else than its command",
                    ));
                }
                // Also where the other node has asked: it may run with an older configuration. Where it has, the servers answer
                // at once.
                self.check_streams(&delete.accounts).await.map_err(refused)?;
                Command::DeleteAccounts(delete)
            }
            Command::PutClosing(PutClosing { trust_epoch, item }) => {
                let item = self.checked_closing(item, false).await?;
                Command::PutClosing(PutClosing { trust_epoch, item })
            }
            Command::KillAccount(KillAccount { trust_epoch, item }) => {
                self.check_removable(&[item.account]).map_err(refused)?;
                let item = self.checked_closing(item, true).await?;
                Command::KillAccount(KillAccount { trust_epoch, item })
            }
            other => other,
        })
    }

    fn check_update(&self, update: &UpdateRoster, from: u64) -> Result<(), NotLed> {
        let holder = self.lease(&update.nats_cluster).map_or(0, |lease| lease.holder);
        check_roster(update, from, holder)?;
        self.check_position(update.position)
    }

    /// A position never goes back. No node has applied what the leader has not in its log.
    fn check_position(&self, position: Revision) -> Result<(), NotLed> {
        if position > self.0.raft.last_entry() {
            return Err(refused(format!("no change {position} that could have been propagated")));
        }
        Ok(())
    }

    /// A client of the other node reads at least what can be read here now.
    fn led_to(&self, outcomes: Outcomes) -> Led {
        Led {
            revision: self.view().revision,
            outcomes,
        }
    }

    /// `item`, verified as by [`Self::checked`], and found to shut its account.
    async fn checked_closing(&self, item: PutAccount, is_kept: bool) -> Result<PutAccount, NotLed> {
        let item = self.checked(vec![item]).await?.remove(0);
        let (trust, now, bytes) = (self.trust(), self.now(), item.token.len());
        let check = move || check_closing_item(&item, &trust.keys, now, is_kept).map(|()| item);
        Ok(self.weighed(&self.0.checking, bytes, check).await??)
    }

    /// `items`, each of them verified under the trust that holds here.
    async fn checked(&self, items: Vec<PutAccount>) -> Result<Vec<PutAccount>, NotLed> {
        let (keys, now) = (self.trust(), self.now());
        let bytes = items.iter().map(|item| item.token.len()).sum();
        let checked = move || {
            items.iter().try_for_each(|item| check_account(item, &keys.keys, now))?;
            Ok(items)
        };
        self.weighed(&self.0.checking, bytes, checked).await?
    }
}

/// The most bytes of the name of a NATS cluster, as in `cluster.toml`.
const MAX_NAME: usize = 63;

fn check_name(nats_cluster: &str) -> Result<(), NotLed> {
    if nats_cluster.len() > MAX_NAME || nats_cluster.contains('/') {
        return Err(refused("no name of a NATS cluster"));
    }
    Ok(())
}

fn check_id(server: &str) -> Result<(), NotLed> {
    if server.len() > Server::MAX_ID_BYTES {
        return Err(refused("no id of a nats-server"));
    }
    Ok(())
}

/// Whether the member `from` may send `update` while `holder` has the lease. While no node has it, the term alone tells
/// whether an update comes too late.
fn check_roster(update: &UpdateRoster, from: u64, holder: u64) -> Result<(), NotLed> {
    check_name(&update.nats_cluster)?;
    let most = MAX_SERVERS_OF_A_COMMAND;
    if update.seen.len() > most || update.gone.len() > most {
        return Err(refused(format!("more than {most} nats-servers in one update")));
    }
    if !update.seen.iter().all(Server::is_within_bounds) {
        return Err(refused("a nats-server with a text that is too long"));
    }
    update.gone.iter().try_for_each(|id| check_id(id))?;
    if holder != from && holder != 0 {
        return Err(refused(
            "the nats-servers of a NATS cluster that another node publishes to",
        ));
    }
    Ok(())
}

fn check_account(item: &PutAccount, keys: &TrustedKeys, now: UnixSeconds) -> Result<(), NotLed> {
    let verified = Token::parse(&item.token).and_then(|token| Verified::<AccountClaims>::verify(token, keys, now));
    let verified = verified.map_err(refused)?;
    let claims = verified.claims();
    let found = (
        claims.account,
        claims.operator,
        claims.issued_at,
        claims.expires_at,
        &claims.name,
    );
    if found != (item.account, item.operator, item.issued_at, item.expires_at, &item.name) {
        return Err(refused(format!(
            "the JWT of account {} says something else than its command",
            claims.account
        )));
    }
    Ok(())
}

fn check_operator(item: &PutOperator) -> Result<Verified<OperatorClaims>, NotLed> {
    let verified = Token::parse(&item.token).and_then(Verified::<OperatorClaims>::verify);
    let verified = verified.map_err(refused)?;
    let claims = verified.claims();
    if (claims.operator, claims.issued_at) != (item.operator, item.issued_at) {
        return Err(refused(format!(
            "the JWT of operator {} says something else than its command",
            claims.operator
        )));
    }
    Ok(verified)
}

/// The same sentence as for a client.
impl From<SubmitError> for NotLed {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::NotAgreed(error) => Self::NotAgreed(error),
            error => refused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str) -> Server {
        Server {
            id: id.to_owned(),
            name: "n".repeat(Server::MAX_NAME_BYTES),
            cluster: "c".repeat(Server::MAX_CLUSTER_BYTES),
            version: "2".repeat(Server::MAX_VERSION_BYTES),
            behind: None,
        }
    }

    fn update(seen: Vec<Server>, gone: Vec<String>) -> UpdateRoster {
        UpdateRoster {
            nats_cluster: "e".repeat(MAX_NAME),
            term: 0,
            position: 0,
            seen,
            gone,
        }
    }

    #[test]
    fn only_the_holder_of_the_lease_changes_the_servers_of_a_nats_cluster() {
        let update = update(vec![server("NA")], Vec::new());
        for (from, holder, is_taken) in [(1, 1, true), (1, 0, true), (1, 2, false)] {
            assert_eq!(
                check_roster(&update, from, holder).is_ok(),
                is_taken,
                "{from}, {holder}"
            );
        }
    }

    #[test]
    fn g12_an_update_of_servers_from_another_node_is_bounded() {
        let id = || "N".repeat(Server::MAX_ID_BYTES);
        let most = MAX_SERVERS_OF_A_COMMAND;
        let largest = update(vec![server(&id()); most], vec![id(); most]);
        assert_eq!(check_roster(&largest, 1, 1), Ok(()));
        let longer = |text: String| text + "x";
        let refused = [
            update(vec![server("NA"); most + 1], Vec::new()),
            update(Vec::new(), vec![id(); most + 1]),
            update(vec![server(&longer(id()))], Vec::new()),
            update(Vec::new(), vec![longer(id())]),
            UpdateRoster {
                nats_cluster: longer("e".repeat(MAX_NAME)),
                ..update(Vec::new(), Vec::new())
            },
            UpdateRoster {
                nats_cluster: "east/term".to_owned(),
                ..update(Vec::new(), Vec::new())
            },
        ];
        for (at, update) in refused.iter().enumerate() {
            assert!(matches!(check_roster(update, 1, 1), Err(NotLed::Refused(_))), "{at}");
        }
    }
}
