//! Has the mesh agree how far the NATS cluster has been updated, and which servers it has.

use tokio::time::{Instant, timeout_at};

use super::{CLOSE_PATIENCE, Publisher};
use crate::nats::publish::{Agreement, Step};
use crate::nats::wait::outcome;
use crate::resolver::{UpdateRoster, UpdateRosterIf};

impl Publisher {
    pub(super) fn mark(&mut self, agreement: Agreement) {
        let Agreement { position, seen, gone } = agreement;
        let (resolver, nats_cluster) = (self.resolver.clone(), self.cluster.name.clone());
        let update = UpdateRoster {
            nats_cluster: nats_cluster.clone(),
            term: self.term,
            position,
            seen,
            gone,
        };
        // Read with what is to be agreed, not when it is proposed: an earlier one may be late, and must not come after this one.
        let present = resolver.roster_revision(&nats_cluster);
        let update = UpdateRosterIf { update, present };
        self.marking = Some(Box::pin(async move {
            let agreed = resolver.update_roster(update).await;
            if let Err(error) = &agreed {
                // Nothing is lost: after a restart a few changes are sent again needlessly.
                tracing::debug!(%nats_cluster, position, %error, "the position is not agreed yet");
            }
            // Where it is refused, another node publishes, or an earlier one has come late.
            (position, agreed.unwrap_or(false))
        }));
    }

    pub(super) fn marked(&mut self, (position, agreed): (u64, bool)) {
        self.marking = None;
        self.propagation.marked(position, agreed, self.now());
    }

    /// Has the position agreed a last time, so that the next start has nothing to repeat.
    pub(super) async fn last_mark(&mut self) {
        if !self.is_publishing {
            return;
        }
        let until = Instant::now() + CLOSE_PATIENCE;
        loop {
            if self.marking.is_some() {
                let Ok(done) = timeout_at(until, outcome(&mut self.marking)).await else {
                    return;
                };
                self.marked(done);
            }
            match self.propagation.next(self.now()) {
                Step::Mark(agreement) => self.mark(agreement),
                Step::News(_) => {}
                _ => return,
            }
        }
    }
}
