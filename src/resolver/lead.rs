//! What a leader does with the commands of other nodes: it verifies again what they carry, so that one node that was broken
//! into cannot store what no operator has signed.
//!
//! What an administrator may do at any node, such a node can do too: put an older JWT that was signed back, or name
//! another operator in the place of one.

use futures::future::BoxFuture;

use super::error::SubmitError;
use super::handle::Resolver;
use crate::clock::UnixSeconds;
use crate::jwt::{AccountClaims, AccountKey, OperatorClaims, Token, TrustedKeys, Verified};
use crate::raft::peer::{Leading, Led, NotLed};
use crate::state::{
    AccountOutcome, Command, Outcomes, OverrideAccount, PutAccount, PutAccounts, PutOperator, PutOperators,
    ReplaceOperator,
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
            Command::OverrideAccount(OverrideAccount { trust_epoch, item, .. }) => {
                let item = self.checked(vec![item]).await?.remove(0);
                // Its own history is the newest.
                let barred = self.barred(item.account).await.map_err(refused)?;
                Command::OverrideAccount(OverrideAccount {
                    trust_epoch,
                    item,
                    barred,
                })
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
                // A position never goes back. No node has applied what the leader has not in its log.
                if mark.position > self.0.raft.last_entry() {
                    return Err(refused(format!(
                        "no change {} that could have been propagated",
                        mark.position
                    )));
                }
                Command::MarkPropagated(mark)
            }
            Command::TakeLease(take) => {
                check_name(&take.nats_cluster)?;
                // Nobody takes one for another node, or gives another node's away.
                let present = self.lease(&take.nats_cluster).map_or(0, |lease| lease.holder);
                if take.holder != from && (take.holder, present) != (0, from) {
                    return Err(refused("a lease for another node"));
                }
                Command::TakeLease(take)
            }
        };
        let outcomes = self.0.raft.lead(command).await.map_err(NotLed::NotAgreed)?;
        Ok(self.led_to(outcomes))
    }

    /// Whoever is answered reads at least what can be read here now.
    fn led_to(&self, outcomes: Outcomes) -> Led {
        Led {
            revision: self.view().revision,
            outcomes,
        }
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
