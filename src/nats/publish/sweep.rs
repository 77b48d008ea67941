//! Looks at what servers hold, in turn: every account that each has loaded, and those of which its word is no proof.
//!
//! One server at a time is asked which accounts it has loaded; then each of them is looked at. The pace is a budget: a look
//! costs this node about 40 us of a core, and the server about 150. A server is looked at again a minute later at the
//! earliest. The first round over a connection goes faster, since older changes wait for a look of their own until it is over
//! (`reading.rs`).
//!
//! A server with a directory resolver says "updated" of what it does not enforce. So after each change those servers are
//! looked at whose word is not known to be proof (`Known::is_believed`).

use std::collections::{BTreeMap, VecDeque};

use super::roster::{Due, Held, Roster, Slot};
use super::step::{Question, Step};
use crate::jwt::AccountKey;
use crate::resolver::Standing;

/// Without an answer after this long, a server is missing.
const ANSWER_MS: u64 = 2_000;

/// Looks a second, so that they take less than one percent of a core (`benches/audit.rs`: 40 us each in groups of [`LOOKS`],
/// six times that one by one, nearly all of it for waking up): 100 servers with 10,000 accounts each are looked at in an hour
/// and a half.
const LOOKS_A_SECOND: u64 = 200;

/// Looks that a publisher may make faster when it is connected: three servers with 5,000 accounts each in 15 seconds.
const BURST: u64 = 16_384;

/// How often it may, where connections are lost again and again.
const HURRY_EVERY_MS: u64 = 300_000;

/// The pause between two looks at least, even then and after changes: 1,000 a second are 4 % of a core here, and a sixth of
/// one at a single server.
const PAUSE_MS: u64 = 1;

/// How soon a server is looked at again.
const EVERY_MS: u64 = 60_000;

/// The pause before a server whose round had no result is looked at again.
const AGAIN_MS: u64 = 2_000;

/// Looks that are not answered, of the round and of those after changes: over a 50 ms round trip 320 a second.
const LOOKS: usize = 16;

/// What a group of looks takes, in thousandths.
const GROUP_CREDIT: u64 = 1_000 * LOOKS as u64;

/// Looks after changes that wait. At 1,000 a second they are made within five seconds; those beyond are left to the
/// server's turn.
const AFTER: usize = 4_096;

/// What is looked at in turn.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    connected: bool,
    /// When each server was looked at last.
    swept: BTreeMap<Slot, u64>,
    round: Option<Round>,
    /// No server is due before this time, unless there is a new one.
    choose_at: u64,
    known: usize,
    /// What is to be looked at after a change, and what was asked about it when; `None`: the answer is being judged.
    after: VecDeque<(Slot, AccountKey)>,
    after_asked: BTreeMap<(Slot, AccountKey), Option<u64>>,
    /// The next look is not made before this time.
    look_at: u64,
    /// Looks that are left of the group which is being made.
    group: usize,
    /// Looks of rounds that may be made now, in thousandths, and when that was so; `None`: a whole burst.
    credit: Option<(u64, u64)>,
    /// When a whole burst was granted last.
    hurried_at: Option<u64>,
}

/// The server whose turn it is.
#[derive(Debug)]
struct Round {
    slot: Slot,
    /// When it was asked for its accounts, until it has answered.
    listing: Option<u64>,
    todo: Vec<AccountKey>,
    /// When it was asked about each; `None`: the answer is being judged.
    asked: BTreeMap<AccountKey, Option<u64>>,
    /// Whether something could not be found out.
    has_failed: bool,
}

impl Sweep {
    /// A connection is up. What others have published to the servers meanwhile was not heard.
    pub(super) fn connected(&mut self, now: u64) {
        self.disconnected();
        self.is_unswept_everywhere();
        self.connected = true;
        if self.hurried_at.is_none_or(|at| at + HURRY_EVERY_MS <= now) {
            (self.hurried_at, self.credit) = (Some(now), None);
        }
    }

    /// The connection is gone, and with it every question.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.round = None;
        self.choose_at = 0;
        self.after.clear();
        self.after_asked.clear();
    }

    /// Whether every account that each of `servers` has loaded was looked at.
    pub(super) fn is_complete(&self, servers: &Roster) -> bool {
        self.swept.len() == servers.count()
    }

    /// Every account of the server in `slot` was looked at.
    pub(super) fn is_swept(&mut self, slot: Slot, now: u64) {
        self.swept.insert(slot, now);
        self.choose_at = 0;
    }

    /// Every server may hold anything again.
    pub(super) fn is_unswept_everywhere(&mut self) {
        self.swept.clear();
        self.choose_at = 0;
    }

    /// The server in `slot` may hold anything again.
    pub(super) fn is_unswept(&mut self, slot: Slot) {
        self.swept.remove(&slot);
        self.choose_at = 0;
    }

    /// The server in `slot` is gone.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.swept.remove(&slot);
        self.missed(slot);
    }

    /// The server in `slot` does not answer.
    pub(super) fn missed(&mut self, slot: Slot) {
        self.round.take_if(|round| round.slot == slot);
        self.after.retain(|(other, _)| *other != slot);
        self.after_asked.retain(|(other, _), _| *other != slot);
        self.choose_at = 0;
    }

    /// The server in `slot` says that it has taken a change of `account`, which is to be looked at.
    pub(super) fn look_after(&mut self, slot: Slot, account: AccountKey) {
        if self.after.len() < AFTER {
            self.after.push_back((slot, account));
        }
    }

    /// Whether the server in `slot` was asked for its accounts.
    pub(super) fn is_listing(&self, slot: Slot) -> bool {
        let round = self.round.as_ref();
        round.is_some_and(|round| round.slot == slot && round.listing.is_some())
    }

    /// The server in `slot` has these accounts loaded.
    pub(super) fn listed(&mut self, slot: Slot, accounts: Vec<AccountKey>) {
        if let Some(round) = self.round.as_mut().filter(|round| round.slot == slot) {
            round.listing = None;
            round.todo = accounts;
        }
    }

    /// Whether the server in `slot` was asked what it holds of `account`; its answer is being judged.
    pub(super) fn arrived(&mut self, slot: Slot, account: AccountKey) -> bool {
        let round = self.round.as_mut().filter(|round| round.slot == slot);
        let asked = [
            round.and_then(|round| round.asked.get_mut(&account)),
            self.after_asked.get_mut(&(slot, account)),
        ];
        let mut was_asked = false;
        for at in asked.into_iter().flatten() {
            *at = None;
            was_asked = true;
        }
        was_asked
    }

    /// What the server in `slot` holds of `account`.
    pub(super) fn held(&mut self, slot: Slot, account: AccountKey, held: Held) {
        self.after_asked.remove(&(slot, account));
        if let Some(round) = self.round.as_mut().filter(|round| round.slot == slot) {
            let was_asked = round.asked.remove(&account).is_some();
            round.has_failed |= was_asked && held == Held::Undecided;
        }
    }

    /// What to ask next. `is_busy`: the server in a slot is being looked at for another reason.
    pub(super) fn next(&mut self, roster: &Roster, is_busy: impl Fn(Slot) -> bool, now: u64) -> Due {
        if !self.connected {
            return Due::Wait(None);
        }
        if let Some(slot) = self.overdue(now) {
            self.missed(slot);
            return Due::Missing(slot);
        }
        self.end_round(now);
        let asked = self.asked_first();
        let mut wake = asked.map(|at| at + ANSWER_MS);
        let mut until = |at: u64| wake = Some(wake.map_or(at, |wake: u64| wake.min(at)));
        if self.round.is_none() {
            match self.choose(roster, is_busy, now) {
                Ok(step) => return Due::Step(step),
                Err(Some(at)) => until(at),
                Err(None) => {}
            }
        }
        let credit = self.credit(now);
        if self.group == 0 && credit >= GROUP_CREDIT {
            self.group = LOOKS;
        }
        let has_credit = self.group > 0 && credit >= 1_000;
        let round = self.round.as_ref();
        let round = round.is_some_and(|round| !round.todo.is_empty() && round.asked.len() < LOOKS);
        let after = !self.after.is_empty() && self.after_asked.len() < LOOKS;
        if after || (round && has_credit) {
            if now >= self.look_at {
                return self.look(roster, after, now);
            }
            until(self.look_at);
        } else if round {
            until(now + GROUP_CREDIT.saturating_sub(credit).div_ceil(LOOKS_A_SECOND).max(1));
        }
        Due::Wait(wake)
    }

    fn look(&mut self, roster: &Roster, is_after: bool, now: u64) -> Due {
        // A group is made at once.
        let is_slow = !is_after && self.credit(now) <= 1_000 * LOOKS_A_SECOND;
        self.look_at = now + if is_slow { 0 } else { PAUSE_MS };
        let chosen = if is_after {
            let chosen = self.after.pop_front();
            self.after_asked.extend(chosen.map(|chosen| (chosen, Some(now))));
            chosen
        } else {
            let credit = self.credit(now).saturating_sub(1_000);
            self.credit = Some((credit, now));
            self.group = self.group.saturating_sub(1);
            self.round.as_mut().and_then(|round| {
                let account = round.todo.pop()?;
                round.asked.insert(account, Some(now));
                Some((round.slot, account))
            })
        };
        let question = chosen.and_then(|(slot, account)| {
            let known = roster.get(slot)?;
            Some(Question::Held(known.server.id.clone(), account))
        });
        match question {
            Some(question) => Due::Step(Step::Ask(question)),
            None => Due::Wait(Some(now + PAUSE_MS)),
        }
    }

    /// When the first question was asked that is not answered.
    fn asked_first(&self) -> Option<u64> {
        let round = self.round.as_ref();
        let listing = round.and_then(|round| round.listing);
        let looks = round.into_iter().flat_map(|round| round.asked.values());
        let asked = looks.chain(self.after_asked.values()).copied().flatten();
        asked.chain(listing).min()
    }

    /// A server that has not answered in time.
    fn overdue(&self, now: u64) -> Option<Slot> {
        let is_over = |at: &Option<u64>| at.is_some_and(|at| at + ANSWER_MS <= now);
        let late = self.after_asked.iter().find(|(_, at)| is_over(at));
        let round = self.round.as_ref().filter(|round| {
            let mut asked = round.asked.values().chain([&round.listing]);
            asked.any(is_over)
        });
        late.map(|((slot, _), _)| *slot).or(round.map(|round| round.slot))
    }

    fn end_round(&mut self, now: u64) {
        let is_over = |round: &mut Round| round.listing.is_none() && round.todo.is_empty() && round.asked.is_empty();
        if let Some(round) = self.round.take_if(is_over) {
            if round.has_failed {
                self.choose_at = now + AGAIN_MS;
            } else {
                self.is_swept(round.slot, now);
            }
        }
    }

    /// Whose turn it is: of the servers that answer, the one that was looked at first or never. Otherwise when it is one's.
    fn choose(&mut self, roster: &Roster, is_busy: impl Fn(Slot) -> bool, now: u64) -> Result<Step, Option<u64>> {
        if now < self.choose_at && self.known == roster.count() {
            return Err(Some(self.choose_at));
        }
        self.known = roster.count();
        let reached = roster.iter().filter(|(_, known)| known.standing != Standing::Missing);
        let due = reached.map(|(slot, known)| {
            let at = self.swept.get(&slot).map_or(0, |at| at + EVERY_MS);
            (if is_busy(slot) { at.max(now + AGAIN_MS) } else { at }, slot, known)
        });
        let first = due.min_by_key(|(at, slot, _)| (*at, *slot));
        let Some((_, slot, known)) = first.filter(|(at, ..)| *at <= now) else {
            self.choose_at = first.map_or(u64::MAX, |(at, ..)| at);
            return Err(first.map(|(at, ..)| at));
        };
        self.round = Some(Round {
            slot,
            listing: Some(now),
            todo: Vec::new(),
            asked: BTreeMap::new(),
            has_failed: false,
        });
        Ok(Step::Ask(Question::Loaded(known.server.id.clone())))
    }

    /// Thousandths of looks that the round may make now: a whole burst at first, and later those of one second.
    fn credit(&self, now: u64) -> u64 {
        let Some((credit, at)) = self.credit else {
            return BURST * 1_000;
        };
        let more = (now - at) * LOOKS_A_SECOND;
        credit.max((credit + more).min(LOOKS_A_SECOND * 1_000))
    }
}
