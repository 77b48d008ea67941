//! What a running nats-server would refuse: an account JWT must be acceptable to the oldest server that gets it.
//!
//! A server that refuses a JWT refuses all of it, a revocation in it included, and after a restart it cannot load the account.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::error::{OlderServer, SubmitError};
use super::handle::Resolver;
use super::nats::Versions;
use crate::jwt::{AccountClaims, Refusal, ServerVersion, Verified, refusals};

/// Logs what older servers refuse of a JWT that was stored all the same.
pub(super) fn warn_of(refused: Option<&OlderServer>) {
    if let Some(refused) = refused {
        tracing::warn!(account = %refused.account, "{refused}");
    }
}

impl Resolver {
    /// Takes JWTs that older servers refuse from now on, with a warning in the log.
    pub fn take_what_older_servers_refuse(&self) {
        self.0.takes_refused.store(true, Ordering::Relaxed);
    }

    /// Refuses `verified` if a server of a NATS cluster would. Where the configuration or `only_warns` says that it is taken all
    /// the same, or what is stored is no better, gives what is to be warned of once it is stored: attempts are repeated.
    pub(super) async fn check_servers(
        &self,
        verified: &Verified<AccountClaims>,
        only_warns: bool,
    ) -> Result<Option<OlderServer>, SubmitError> {
        let versions = self.versions();
        let servers: Vec<ServerVersion> = versions.servers.keys().copied().collect();
        let refused = self.refusals(verified.token().bytes(), servers).await?;
        let Some(refusal) = refused.into_iter().next() else {
            return Ok(None);
        };
        let account = verified.claims().account;
        let Some((nats_cluster, server)) = versions.servers.get(&refusal.server) else {
            return Ok(None);
        };
        let reason = refusal.issues.into_iter().next().map(|issue| issue.detail);
        let error = OlderServer {
            account,
            server: server.name.clone(),
            version: server.version.clone(),
            nats_cluster: nats_cluster.clone(),
            reason: reason.unwrap_or_default(),
        };
        let takes = self.0.takes_refused.load(Ordering::Relaxed);
        // A revocation must not wait for what was stored before.
        let is_no_worse = match self.lookup(account).await {
            Ok(Some(stored)) => !self.refusals(&stored.token, vec![refusal.server]).await?.is_empty(),
            // A row that cannot be read says nothing.
            _ => false,
        };
        if only_warns || is_no_worse || takes {
            return Ok(Some(error));
        }
        Err(SubmitError::OlderServer(Box::new(error)))
    }

    /// Which of `servers` refuse `token`, in the order given. A large one is read where it holds nothing up.
    pub(super) async fn refusals(
        &self,
        token: &Bytes,
        servers: Vec<ServerVersion>,
    ) -> Result<Vec<Refusal>, SubmitError> {
        if servers.is_empty() {
            return Ok(Vec::new());
        }
        let (token, bytes) = (token.clone(), token.len());
        // What cannot be read was refused before.
        let judge = move || refusals(&token, &servers).unwrap_or_default();
        self.weighed(&self.0.verifying, bytes, judge).await
    }

    fn versions(&self) -> Arc<Versions> {
        let rosters = self.0.state.rosters();
        let known = self.0.versions.load_full();
        if Arc::ptr_eq(&known.rosters, &rosters) {
            return known;
        }
        let found = Arc::new(Versions::of(rosters));
        self.0.versions.store(found.clone());
        found
    }
}
