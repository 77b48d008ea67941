//! Who publishes to a NATS cluster: one node at a time, by a lease in the agreed state.
//!
//! A server that uses a URL resolver takes an account of any age, so an old token that a lagging node sends late would
//! undo a revocation. The holder measures the term from before it asked for the lease, and stops sending a while before
//! the end; another node measures it from when it saw the lease, and waits a while longer. So in between no node sends,
//! whatever the clocks say, as long as they run about equally fast, and what was sent last arrives meanwhile. The entry
//! that gives the lease is a barrier: once it is applied here, everything that was agreed on before it is applied too.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::resolver::{Resolver, Revision};

/// How long a lease lasts. After its holder has died no node publishes for so long.
const TERM: Duration = Duration::from_secs(4);

/// How much earlier the holder stops, and how much longer others wait: clocks that differ by a hundredth, and a message
/// that was on its way.
const MARGIN: Duration = Duration::from_millis(500);

/// How long a message may be on its way: no other node sends for so long after the holder has stopped.
const ON_ITS_WAY: Duration = MARGIN.saturating_mul(2);

/// A holder renews its lease when this much of it has passed.
const RENEW_AFTER: Duration = Duration::from_millis(1_500);

/// The pause after an attempt that failed, because there is no leader or another node was faster.
const AGAIN: Duration = Duration::from_millis(250);

/// How long giving the lease back may take. Without a leader it would take longer than the lease lasts.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// An attempt that goes on.
pub type Asking = Pin<Box<dyn Future<Output = Asked> + Send>>;

/// An attempt to take or renew the lease.
pub struct Asked {
    begun: Instant,
    granted: Option<Revision>,
}

/// A lease that this node has, or had.
struct Held {
    granted: Revision,
    /// Until when this node may send.
    until: Instant,
}

/// One node's part in the lease of one NATS cluster.
pub struct Lease {
    resolver: Resolver,
    nats_cluster: String,
    /// The lease as it was last seen here, and since when.
    seen: Option<(Revision, Instant)>,
    /// When this life of the node began to take part.
    begun: Instant,
    /// The lease that this node was granted last, if no other node was since.
    held: Option<Held>,
    renew_at: Instant,
    /// No attempt before this.
    not_before: Instant,
    /// What is to be driven, and its end given to [`Self::asked`].
    pub asking: Option<Asking>,
}

impl Lease {
    /// The part of the node of `resolver`, which holds nothing yet.
    pub fn new(resolver: Resolver, nats_cluster: &str) -> Self {
        let now = Instant::now();
        Self {
            resolver,
            nats_cluster: nats_cluster.to_owned(),
            seen: None,
            begun: now,
            held: None,
            renew_at: now,
            not_before: now,
            asking: None,
        }
    }

    /// Whether this node may send now. Alone it always may.
    pub fn is_held(&self) -> bool {
        self.resolver.is_alone() || self.held_until().is_some_and(|until| Instant::now() < until)
    }

    /// Until when this node may send by the lease; `None` if it does not have it.
    pub fn held_until(&self) -> Option<Instant> {
        Some(self.held.as_ref()?.until)
    }

    /// Looks at the agreed lease, and asks for it when that is due. Gives when to look again.
    pub fn pursue(&mut self) -> Option<Instant> {
        if self.resolver.is_alone() {
            return None;
        }
        let now = Instant::now();
        let lease = self.resolver.lease(&self.nats_cluster);
        let granted = lease.map_or(0, |lease| lease.granted);
        let (_, since) = *self.seen.insert(match self.seen {
            Some((known, since)) if known == granted => (known, since),
            _ => (granted, now),
        });
        match (lease, &mut self.held) {
            // The answer to an attempt may have been lost.
            (Some(lease), Some(held)) if Some(lease.holder) == self.resolver.member_id() => {
                held.granted = lease.granted
            }
            (Some(_), held) => *held = None,
            (None, _) => {}
        }
        if self.asking.is_some() {
            return None;
        }
        let due = match lease {
            _ if self.is_held() => self.renew_at,
            // It was never taken. A node that was alone needed none, and what it sent last may be on its way.
            None => since + ON_ITS_WAY,
            Some(lease) if lease.holder == 0 => now,
            // This node had it, maybe in an earlier life, which sends nothing any more.
            Some(lease) if Some(lease.holder) == self.resolver.member_id() => self.begun + ON_ITS_WAY,
            Some(_) => since + TERM + MARGIN,
        };
        let due = due.max(self.not_before);
        if now < due {
            return Some(due);
        }
        let (resolver, nats_cluster) = (self.resolver.clone(), self.nats_cluster.clone());
        self.asking = Some(Box::pin(async move {
            let asked = resolver.take_lease(&nats_cluster, granted, true).await;
            Asked {
                begun: now,
                granted: asked.ok().flatten(),
            }
        }));
        None
    }

    /// Takes in what an attempt came to.
    pub fn asked(&mut self, asked: Asked) {
        self.asking = None;
        let Some(granted) = asked.granted else {
            self.not_before = Instant::now() + AGAIN;
            return;
        };
        self.seen = Some((granted, Instant::now()));
        self.held = Some(Held {
            granted,
            until: asked.begun + TERM - MARGIN,
        });
        self.renew_at = asked.begun + RENEW_AFTER;
    }

    /// Gives the lease back, if this node has it, so that another one need not wait for its end. This node sends nothing
    /// from now on; what it sent without an answer, if `is_unanswered`, is waited for.
    pub async fn give_back(&mut self, is_unanswered: bool) {
        self.asking = None;
        let Some(held) = self.held.take() else { return };
        if is_unanswered {
            tokio::time::sleep(ON_ITS_WAY).await;
        }
        // What was granted to this node and nothing newer: the lease of another node that has it since is not this one's to
        // give. If it fails, others wait for the end.
        let giving = self.resolver.take_lease(&self.nats_cluster, held.granted, false);
        let _ = tokio::time::timeout(GIVING_BACK, giving).await;
    }
}
