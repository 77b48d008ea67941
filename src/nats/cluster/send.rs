//! Sends an account's current token, as far as the servers take it.

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::others::LIMIT_LASTS;
use super::{End, Publisher};
use crate::jwt::{AccountKey, Token};
use crate::nats::connection::Connection;
use crate::nats::payload::{self, Learned, Limit};
use crate::nats::subjects;
use crate::resolver::{ReadError, Resolver, Revision};
use crate::tasks::chain;

/// Accounts that are sent again when a limit is raised; further ones are sent when they change, or when their turn comes.
const LEFT_OUT: usize = 1_024;

impl Publisher {
    pub(super) async fn send(&mut self, connection: &Connection, account: AccountKey) -> Result<(), String> {
        // Looked up now and not earlier: nats-server takes an account of any age, so the
        // token that is sent last must be the current one.
        let (revision, token) = match self.resolver.to_enforce(account).await {
            Ok(Some(enforced)) => enforced,
            Ok(None) => {
                self.propagation.gone(account);
                return Ok(());
            }
            // The resolver has logged it. The other accounts must be sent all the same.
            Err(ReadError::Damaged(_)) => {
                self.propagation.unsendable(account, self.now());
                return Ok(());
            }
            Err(error) => return Err(chain(&error)),
        };
        let bytes = token.len();
        if let Some(limit) = self.limit_below(connection, bytes).await {
            self.notices.too_large(account, revision, bytes, limit);
            self.propagation.unsendable(account, self.now());
            self.is_shown = false;
            if self.left_out.len() < LEFT_OUT {
                self.left_out.insert(account);
            }
            return Ok(());
        }
        // The lookup may have waited for a disk, and another node may have sent a newer one meanwhile.
        if !self.lease.is_held() {
            self.is_publishing = false;
            self.notices.lease(false);
            return Ok(());
        }
        self.unanswered.sent(account, revision, bytes);
        let reply = subjects::reply_to(connection.inbox(), account, revision, &self.mesh);
        connection
            .publish(subjects::update(account), reply, token.clone())
            .await?;
        let (lease, mesh, now) = (&self.lease, &self.mesh, self.now());
        let published = self.others.publish(|other| {
            let reply = subjects::reply_to(other.inbox(), account, revision, mesh);
            lease
                .is_held()
                .then(|| (subjects::update(account), reply, token.clone()))
        });
        if published.is_lost {
            self.propagation.another_lost(now);
        }
        for (url, limit) in published.too_large {
            self.notices.too_large_there(&url, account, revision, bytes, limit);
        }
        self.propagation.sent(account, revision, self.now());
        Ok(())
    }

    /// The limit that a message of `bytes` is above; `None` if it may be sent.
    async fn limit_below(&mut self, connection: &Connection, bytes: usize) -> Option<Limit> {
        let announced = Limit::Server(connection.max_payload());
        if !announced.allows(bytes) {
            return Some(announced);
        }
        let learned = self.learned.as_ref().filter(|learned| !learned.limit.allows(bytes))?;
        let (limit, until, then) = (learned.limit, learned.until, learned.account);
        let now = user_account(self.resolver.clone(), connection).await.0;
        if now == then && Instant::now() < until {
            return Some(limit);
        }
        self.learned = None;
        None
    }

    /// Learns how large a message may be, if a server ended the connection because one was larger. It says so in words,
    /// which may be lost with the connection; then what the JWTs state is as good.
    pub(super) async fn learn_limit(&mut self, connection: &Connection, end: &End) -> bool {
        let said = matches!(end, End::TooLarge(_));
        let Some(largest) = self
            .unanswered
            .largest()
            .filter(|_| said || matches!(end, End::Lost(_)))
        else {
            return false;
        };
        let (account, claims) = user_account(self.resolver.clone(), connection).await;
        let limit = Limit::learned(largest, payload::stated(connection.user(), &claims));
        let is_known = said || matches!(limit, Limit::Stated(_));
        if is_known {
            self.learned = Some(Learned {
                limit,
                account,
                until: Instant::now() + LIMIT_LASTS,
            });
        }
        is_known
    }

    /// The server of the first connection has taken `revision` of our user's `account`, which may raise the limit: what was
    /// left out is sent again, and shows whether it does.
    ///
    /// A limit that no JWT of that revision explains is doubted too, once: the server may have ended the connection over a
    /// message that it read before it had taken that revision, while both were on their way.
    pub(super) fn own_account_taken(&mut self, account: AccountKey, revision: Revision) {
        let taken = (account, revision);
        let is_of_that = |learned: &&Learned| learned.account == Some((account, Some(revision)));
        if let Some(learned) = self.learned.as_ref().filter(is_of_that) {
            if !matches!(learned.limit, Limit::Below(_)) || self.doubted == Some(taken) {
                return;
            }
            self.doubted = Some(taken);
        }
        self.learned = None;
        self.may_send_left_out = true;
        self.propagation.limit_raised(self.now());
    }

    /// Sends what was left out because it was too large, as far as there is room.
    pub(super) fn send_left_out(&mut self) {
        let now = self.now();
        while self.may_send_left_out
            && let Some(account) = self.left_out.pop_first()
        {
            if !self.propagation.ask(account, 0, now) {
                self.left_out.insert(account);
                return;
            }
        }
        self.may_send_left_out = false;
    }

    pub(super) async fn asked(&mut self, asked: Result<AccountKey, RecvError>) {
        if !self.is_publishing {
            // Whoever publishes was asked too.
            return;
        }
        let account = match asked {
            Ok(account) => account,
            Err(RecvError::Lagged(lost)) => return self.notices.requests_dropped(lost),
            Err(RecvError::Closed) => return,
        };
        let Ok(Some((revision, _))) = self.resolver.to_enforce(account).await else {
            return;
        };
        if !self.propagation.ask(account, revision, self.now()) {
            self.notices.no_room(account);
        }
    }
}

/// The account of our user: its key and current revision, and its claims.
async fn user_account(
    resolver: Resolver,
    connection: &Connection,
) -> (Option<(AccountKey, Option<u64>)>, serde_json::Value) {
    let Some(account) = connection.account() else {
        return Default::default();
    };
    let row = resolver.lookup(account).await.ok().flatten();
    let claims = row
        .as_ref()
        .and_then(|row| Token::parse(&row.token).ok()?.unverified_claims());
    let revision = row.map(|row| row.revision);
    (Some((account, revision)), claims.unwrap_or_default())
}
