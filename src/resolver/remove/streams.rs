//! Refuses to delete accounts that have JetStream streams, where the configuration says so.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::jwt::AccountKey;
use crate::resolver::error::{ReadError, RemovalError, SubmitError};
use crate::resolver::handle::Resolver;

/// How long the servers may take to answer. A request over NATS is answered within 700 ms, and is still to be agreed on.
const PATIENCE: Duration = Duration::from_millis(400);

/// How much longer for each account: a server looks at one after the other.
const FOR_EACH: Duration = Duration::from_micros(500);

/// The longest of all: the client waits.
const LONGEST: Duration = Duration::from_millis(1_800);

impl Resolver {
    /// From now on accounts that have JetStream streams are not deleted.
    pub fn refuse_deletes_with_streams(&self) {
        self.0.refuses_with_streams.store(true, Ordering::Relaxed);
    }

    /// Refuses `accounts`, which are to be deleted, if one of them has streams in a NATS cluster, or if that cannot be found
    /// out; if the configuration says so. One that is deleted already may be deleted again.
    pub(in crate::resolver) async fn check_streams(&self, accounts: &[AccountKey]) -> Result<(), SubmitError> {
        if !self.0.refuses_with_streams.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut wanted = Vec::with_capacity(accounts.len());
        for account in accounts {
            match self.current(*account).await {
                Ok(Some(row)) if row.is_deleted() => {}
                Ok(_) | Err(ReadError::Damaged(_)) => wanted.push(*account),
                Err(error) => return Err(error.into()),
            }
        }
        let Some((account, others)) = wanted.split_first() else {
            return Ok(());
        };
        let each = u32::try_from(wanted.len()).map_or(LONGEST, |count| FOR_EACH * count);
        let until = Instant::now() + (PATIENCE + each).min(LONGEST);
        // Those that the mesh had servers of, and this node is not to connect to, have none any more. One that it had no server of
        // yet, and this node is not to connect to, is unknown here: its publisher has the mesh agree on its servers within seconds
        // of its first connection.
        let clusters = self.nats_clusters().into_iter();
        let clusters = clusters.filter(|cluster| !cluster.servers.is_empty() || self.attends(&cluster.name));
        let asked = clusters.map(async |cluster| (self.streams_of(&cluster.name, &wanted, until).await, cluster.name));
        let mut unknown = None;
        for (answered, nats_cluster) in join_all(asked).await {
            match answered {
                Ok(found) => {
                    if let Some((account, streams)) = found.first().copied() {
                        return Err(RemovalError::HasStreams {
                            account,
                            streams,
                            nats_cluster,
                        }
                        .into());
                    }
                }
                Err(why) => unknown = unknown.or(Some((nats_cluster, why))),
            }
        }
        match unknown {
            None => Ok(()),
            Some((nats_cluster, why)) => Err(RemovalError::StreamsUnknown {
                account: *account,
                others: others.len(),
                nats_cluster,
                why,
            }
            .into()),
        }
    }
}
