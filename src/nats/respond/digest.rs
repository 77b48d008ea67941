//! The hash by which full resolvers compare what they store: XOR of the SHA-256 of each token, expired ones excepted, which
//! they remove (nats-server `server/dirstore.go`).
//!
//! Of a million accounts it would take ten seconds to compute, and every full resolver asks once a minute. So the accounts
//! are divided by the first bits of their keys, and the hash of each part is kept. Only parts with changes are read again.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::pages::Pages;
use crate::jwt::AccountKey;
use crate::resolver::{ReadError, Resolver, Revision};
use crate::tasks::off_the_workers;

/// The accounts are divided by this many bits: with a million of them a part has about sixty, which are read in a
/// millisecond. All parts take 640 KiB.
const BITS: u32 = 14;
const PARTS: usize = 1 << BITS;

/// Changes that are read at once.
const CHANGES: usize = 1024;

pub(super) type Hash = [u8; 32];

/// The hash of what is stored here. Clones are the same.
#[derive(Clone)]
pub(super) struct Digest {
    resolver: Resolver,
    known: Arc<Mutex<Option<Known>>>,
}

/// The parts as of a revision, or later.
struct Known {
    parts: Parts,
    revision: Revision,
}

impl Digest {
    /// Nothing is read before the first request.
    pub(super) fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            known: Arc::default(),
        }
    }

    /// The hash now. Reads what has changed since it was asked for last, at the first time everything. It cannot
    /// be said while a row cannot be read.
    pub(super) async fn current(&self) -> Result<Hash, ReadError> {
        let mut known = self.known.lock().await;
        // Taken out, so that half of an update is not left behind if this is not driven to its end.
        let mut now = known.take().unwrap_or_else(|| Known {
            parts: Parts::new(),
            revision: self.resolver.revision(),
        });
        self.follow(&mut now).await?;
        now.parts.expire(self.resolver.now());
        for run in now.parts.stale() {
            self.read(&mut now.parts, run).await?;
        }
        let hash = now.parts.hash();
        *known = Some(now);
        Ok(hash)
    }

    /// Finds out which parts have changed.
    async fn follow(&self, known: &mut Known) -> Result<(), ReadError> {
        loop {
            if known.parts.are_all_stale() {
                known.revision = self.resolver.revision();
                return Ok(());
            }
            let changes = self.resolver.changes(known.revision, CHANGES).await?;
            changes.rows.iter().for_each(|row| known.parts.changed(row.account));
            known.revision = changes.position;
            if !changes.more {
                return Ok(());
            }
        }
    }

    /// Reads the parts in `run` again.
    async fn read(&self, parts: &mut Parts, run: Range<usize>) -> Result<(), ReadError> {
        let now = self.resolver.now();
        parts.begin(run.clone());
        let mut pages = Pages::after(self.resolver.clone(), before(run.start));
        while let Some(rows) = pages.next().await? {
            let tokens = rows
                .into_iter()
                .filter(|listed| part_of(listed.account) < run.end)
                .map(|listed| {
                    let row = listed.row.map_err(ReadError::Damaged)?;
                    Ok((row.account, row.expires_at, row.token.clone()))
                })
                .collect::<Result<Vec<_>, ReadError>>()?;
            if tokens.is_empty() {
                break;
            }
            let hashing = off_the_workers(move || {
                let hashed = tokens
                    .iter()
                    .map(|(account, expires_at, token)| (*account, *expires_at, Sha256::digest(token).into()));
                hashed.collect::<Vec<(AccountKey, i64, Hash)>>()
            });
            for (account, expires_at, hash) in hashing.await {
                parts.add(account, expires_at, hash, now);
            }
            pages.rest().await;
        }
        Ok(())
    }
}

/// The part that an account belongs to.
fn part_of(account: AccountKey) -> usize {
    let [first, second, ..] = *account.as_bytes();
    usize::from(u16::from_be_bytes([first, second])) >> (16 - BITS)
}

/// The last key that could be before those of `part`; `None` if it is the first part.
fn before(part: usize) -> Option<AccountKey> {
    let first = u16::try_from(part << (16 - BITS)).ok()?;
    let mut bytes = [0xFF; 32];
    bytes[..2].copy_from_slice(&first.checked_sub(1)?.to_be_bytes());
    Some(AccountKey::from_bytes(bytes))
}

#[derive(Clone)]
struct Part {
    /// XOR of the hashes of its tokens that have not expired.
    hash: Hash,
    /// When the first of these tokens expires.
    expires_at: i64,
    /// Whether it has to be read again.
    is_stale: bool,
}

const EMPTY: Part = Part {
    hash: [0; 32],
    expires_at: i64::MAX,
    is_stale: false,
};

/// The accounts, in parts.
struct Parts(Vec<Part>);

impl Parts {
    /// Nothing is known.
    fn new() -> Self {
        let unknown = Part {
            is_stale: true,
            ..EMPTY
        };
        Self(vec![unknown; PARTS])
    }

    fn are_all_stale(&self) -> bool {
        self.0.iter().all(|part| part.is_stale)
    }

    /// `account` has another token now.
    fn changed(&mut self, account: AccountKey) {
        self.0[part_of(account)].is_stale = true;
    }

    /// It is `now`. A token has expired when its time has passed, as in a pack.
    fn expire(&mut self, now: i64) {
        for part in &mut self.0 {
            part.is_stale |= part.expires_at < now;
        }
    }

    /// The parts to be read again, in runs.
    fn stale(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in (0..PARTS).filter(|at| self.0[*at].is_stale) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    /// The parts in `run` are read again.
    fn begin(&mut self, run: Range<usize>) {
        self.0[run].fill(EMPTY);
    }

    /// `account` has a token with this hash.
    fn add(&mut self, account: AccountKey, expires_at: i64, hash: Hash, now: i64) {
        if expires_at != 0 && expires_at < now {
            return;
        }
        let part = &mut self.0[part_of(account)];
        if expires_at != 0 {
            part.expires_at = part.expires_at.min(expires_at);
        }
        xor(&mut part.hash, &hash);
    }

    fn hash(&self) -> Hash {
        let mut all = [0; 32];
        self.0.iter().for_each(|part| xor(&mut all, &part.hash));
        all
    }
}

fn xor(into: &mut Hash, other: &Hash) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(first: u16, last: u8) -> AccountKey {
        let mut bytes = [last; 32];
        bytes[..2].copy_from_slice(&first.to_be_bytes());
        AccountKey::from_bytes(bytes)
    }

    #[test]
    fn the_parts_follow_each_other_in_the_order_of_the_keys() {
        let step = 1_u16 << (16 - BITS);
        assert_eq!((part_of(account(0, 0)), before(0)), (0, None));
        for part in [1, 2, 77, PARTS - 1] {
            let first = u16::try_from(part).unwrap() * step;
            assert_eq!(part_of(account(first, 0)), part);
            assert_eq!(part_of(account(first + (step - 1), 0xFF)), part);
            let before = before(part).expect("not the first");
            assert_eq!((part_of(before), before), (part - 1, account(first - 1, 0xFF)));
        }
    }

    /// Where the runs that are to be read again begin and end.
    fn stale(parts: &Parts) -> Vec<(usize, usize)> {
        parts.stale().into_iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn only_parts_with_changes_or_expired_tokens_are_read_again() {
        let mut parts = Parts::new();
        assert!(parts.are_all_stale());
        assert_eq!(stale(&parts), [(0, PARTS)]);
        parts.begin(0..PARTS);
        assert_eq!(stale(&parts), []);
        let (one, other) = (account(0, 1), account(0xFFFF, 1));
        parts.add(one, 0, [1; 32], 100);
        parts.add(other, 100, [2; 32], 100);
        parts.add(other, 99, [4; 32], 100);
        assert_eq!(parts.hash(), [3; 32], "one has expired");
        parts.expire(100);
        assert_eq!(stale(&parts), []);
        parts.expire(101);
        assert_eq!(stale(&parts), [(PARTS - 1, PARTS)]);
        parts.changed(one);
        parts.changed(account(1 << (16 - BITS), 0));
        assert_eq!(stale(&parts), [(0, 2), (PARTS - 1, PARTS)]);
        parts.begin(0..2);
        parts.begin(PARTS - 1..PARTS);
        assert_eq!(parts.hash(), [0; 32], "as an empty store");
    }
}
