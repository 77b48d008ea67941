//! Records what concurrent clients saw of a store of accounts and checks that it is linearizable: that every operation
//! has an instant between its call and its return such that, in this order, each account behaves as one register.
//! The register holds the `iat` of the stored token and only ever grows, which takes the guessing out of the search of
//! Wing and Gong: [`linearize`] has one best move in every position, and needs neither backtracking nor a memo.

use Operation::{Read, Upload};
use Outcome::{NotStored, Stored, Superseded, Unknown};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{cmp::Ordering, collections::BTreeMap, fmt};

/// What the client learned about its upload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Applied, or the very same `iat` was already there.
    Stored,
    /// Refused, because something newer is stored.
    Superseded,
    /// No answer: it takes effect at any time after its call, or never.
    Unknown,
    /// Certainly had no effect, and so says nothing about the register.
    NotStored,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Upload(i64, Outcome),
    Read(Option<i64>),
}

/// One operation on an account, with times since the start of the history.
#[derive(PartialEq)]
struct Event {
    called: Duration,
    returned: Duration,
    what: Operation,
}

impl Event {
    /// Where the register is, seen from the values at which the operation is legal and changes nothing.
    fn compare(&self, register: Option<i64>) -> Ordering {
        match self.what {
            Upload(iat, Superseded) if register > Some(iat) => Ordering::Equal,
            Upload(_, Superseded) => Ordering::Less,
            Upload(iat, _) => register.cmp(&Some(iat)),
            Read(found) => register.cmp(&found),
        }
    }

    /// The value that the operation can write.
    fn writes(&self) -> Option<i64> {
        match self.what {
            Upload(iat, Stored | Unknown) => Some(iat),
            _ => None,
        }
    }
}

/// Looks for a linearization of the operations on one account, given in the order of their calls. Those that may come
/// next are `open`: called before the first of them returned. There is never a choice to take back. (1) What is legal
/// now and changes nothing is best placed now. (2) If nothing is, the register has to be raised now, and best to the
/// lowest `iat` on offer: an acknowledged upload could not follow a higher one, and an unknown one does no harm just
/// before a higher one. A used unknown upload is at or below the register, and so needs no mark of its use.
fn linearize(events: &[Event]) -> Result<(), Violation> {
    let is_unknown = |event: &&Event| matches!(event.what, Upload(_, Unknown));
    let (mut unknown, known): (Vec<_>, Vec<_>) = events.iter().partition(is_unknown);
    let (mut waiting, mut open) = (known.into_iter().peekable(), Vec::<&Event>::new());
    let (mut register, mut cause) = (None, None);
    loop {
        while let Some(event) = waiting.next_if(|next| open.iter().all(|event| next.called <= event.returned)) {
            open.push(event);
        }
        if let Some(place) = open.iter().position(|event| event.compare(register).is_eq()) {
            open.remove(place);
            continue;
        }
        let Some(&due) = open.iter().min_by_key(|event| event.returned) else {
            return Ok(());
        };
        unknown.retain(|event| event.writes() > register);
        let late = unknown.iter().filter(|event| event.called <= due.returned);
        let raised = open.iter().chain(late).filter_map(|event| event.writes()).min();
        // What the register has passed, or passes now as no client can write a value below the lowest on offer, is lost.
        let lost = open.iter().find(|event| event.compare(raised.max(register)).is_gt());
        if let Some(lost) = lost.or(raised.is_none().then_some(&due)) {
            return Err(Violation::new(lost, register, cause, events));
        }
        (register, cause) = (raised, Some(due));
    }
}

/// The size of a history that was found linearizable.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) operations: usize,
    pub(crate) accounts: usize,
}

/// Explains which operation has no place in any order, and shows the operations around it.
#[derive(Debug)]
pub(crate) struct Violation(String);

impl Violation {
    /// Shows what forced the register past the lost operation, who first wrote what it held, and what ran concurrently.
    fn new(lost: &Event, register: Option<i64>, cause: Option<&Event>, events: &[Event]) -> Self {
        let (cause, why) = if lost.compare(register).is_gt() {
            (cause, "before the call of operation >, as operation * shows")
        } else {
            (None, "and no upload in time explains operation >")
        };
        let writer = events.iter().find(|e| register.is_some() && e.writes() == register);
        let line = |event: &Event| {
            let concurrent = event.called <= lost.returned && lost.called <= event.returned;
            let mark = match Some(event) {
                shown if shown == Some(lost) => '>',
                shown if shown == cause => '*',
                shown if shown == writer || (concurrent && !matches!(event.what, Upload(_, Unknown))) => ' ',
                _ => return None,
            };
            Some(format!("\n{mark} {event}"))
        };
        let lines: String = events.iter().filter_map(line).collect();
        let held = register.map_or("no token".to_owned(), |iat| format!("iat {iat}"));
        Self(format!("it held {held} {why}:{lines}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [called, returned] = [self.called, self.returned].map(|time| time.as_secs_f64() * 1e3);
        write!(f, "{called:10.3} to {returned:10.3} ms: ")?;
        match self.what {
            Upload(iat, outcome) => write!(f, "upload of iat {iat}: {outcome:?}"),
            Read(Some(iat)) => write!(f, "read: iat {iat}"),
            Read(None) => write!(f, "read: no token"),
        }
    }
}

/// The call of an operation that has not returned yet. Dropping it forgets the operation: right for a failed read, but
/// an upload without an answer must be recorded as [`Outcome::Unknown`].
#[must_use]
pub(crate) struct Call(String, Duration);

/// A recorder that many clients can share: a clone records into the same history.
#[derive(Clone)]
pub(crate) struct History(Instant, Arc<Mutex<BTreeMap<String, Vec<Event>>>>);

impl History {
    pub(crate) fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    /// To be taken immediately before the request is sent.
    pub(crate) fn call(&self, account: &str) -> Call {
        Call(account.to_owned(), self.0.elapsed())
    }

    pub(crate) fn upload(&self, call: Call, iat: i64, outcome: Outcome) {
        if outcome != NotStored {
            self.record(call, Upload(iat, outcome));
        }
    }

    pub(crate) fn read(&self, call: Call, found: Option<i64>) {
        self.record(call, Read(found));
    }

    fn record(&self, Call(account, called): Call, what: Operation) {
        // The time is taken before the lock, as waiting for it is no part of the operation.
        let returned = self.0.elapsed();
        let event = Event { called, returned, what };
        let mut accounts = self.1.lock().expect("no holder panics");
        accounts.entry(account).or_default().push(event);
    }

    /// Checks what was recorded so far, each account alone; to be called once all clients are done.
    pub(crate) fn check(&self) -> Result<Checked, Violation> {
        let mut accounts = self.1.lock().expect("no holder panics");
        for (account, events) in accounts.iter_mut() {
            events.sort_by_key(|event| event.called);
            linearize(events).map_err(|why| Violation(format!("account {account} is not linearizable: {why}")))?;
        }
        let (operations, accounts) = (accounts.values().map(Vec::len).sum(), accounts.len());
        Ok(Checked { operations, accounts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(called: u64, returned: u64, what: Operation) -> Event {
        let [called, returned] = [called, returned].map(Duration::from_millis);
        Event { called, returned, what }
    }

    /// Takes operations in the order of their calls, each as `called returned what iat`.
    fn parse(text: &str) -> Vec<Event> {
        let operation = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let iat = words[3].parse().ok();
            let named = |outcome: &Outcome| format!("{outcome:?}") == words[2];
            let outcome = [Stored, Superseded, Unknown].into_iter().find(named);
            let what = outcome.map_or(Read(iat), |outcome| Upload(iat.unwrap(), outcome));
            event(words[0].parse().unwrap(), words[1].parse().unwrap(), what)
        };
        text.split(',').map(operation).collect()
    }

    /// The last operation has no place, for the given reason.
    fn lost(text: &str, why: &str) {
        let (events, Violation(shown)) = (parse(text), linearize(&parse(text)).unwrap_err());
        let last = format!("> {}", events.last().unwrap());
        assert!(shown.contains(why) && shown.contains(&last), "{shown}");
    }

    #[test]
    fn sequential_concurrent_and_late_operations_are_legal() {
        let legal = |text| linearize(&parse(text)).unwrap();
        legal("0 1 Read -, 2 3 Stored 5, 3 4 Read -, 5 6 Stored 5, 7 8 Superseded 4, 9 10 Stored 6, 11 12 Read 6");
        legal("0 9 Stored 5, 1 8 Stored 7, 1 2 Read -, 3 4 Read 5, 3 5 Superseded 5, 6 7 Read 7");
        legal("0 1 Unknown 3, 0 1 Unknown 9, 2 3 Read -, 4 5 Read 3, 6 7 Read 5, 7 8 Unknown 5, 9 10 Superseded 4");
    }

    #[test]
    fn stale_backward_lost_and_invented_values_are_found() {
        lost("0 1 Stored 5, 2 3 Stored 7, 4 5 Read 5", "iat 7 before");
        lost("0 1 Stored 5, 2 9 Stored 7, 3 4 Read 7, 5 6 Read 5", "iat 7 before");
        lost("0 1 Stored 5, 2 3 Read -", "iat 5 before");
        lost("0 1 Unknown 5, 2 3 Read 5, 4 5 Read -", "iat 5 before");
        lost("5 6 Unknown 6, 0 1 Stored 5, 2 9 Stored 7, 3 4 Read 6", "iat 5 and no");
        lost("0 1 Stored 5, 2 3 Superseded 5", "iat 5 and no");
    }

    /// Twelve clients at a real register: each operation happens at an instant between its call and its return, except
    /// that an unknown upload happens long after its client gave up (kind 8) or never (kind 9).
    fn simulate(mut seed: u64) -> Vec<Event> {
        let mut below = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % bound
        };
        let (mut free, mut plan, mut register) = ([0; 12], Vec::new(), None);
        for operation in 0..5_000 {
            let (kind, called, inside) = (below(10), free[operation % 12] + below(9), below(20));
            let returned = called + inside + below(20);
            let instant = called + if kind == 8 { below(900) } else { inside };
            free[operation % 12] = returned + 1;
            plan.push((instant, called, returned, kind, called + below(99)));
        }
        plan.sort_unstable();
        let happen = |(_, called, returned, kind, iat): (u64, u64, u64, u64, u64)| {
            let (before, iat) = (register, iat.cast_signed());
            let what = match kind {
                0..5 => Read(before),
                8.. => Upload(iat, Unknown),
                _ => Upload(iat, if before > Some(iat) { Superseded } else { Stored }),
            };
            register = before.max((5..9).contains(&kind).then_some(iat));
            event(called, returned, what)
        };
        plan.into_iter().map(happen).collect()
    }

    #[test]
    fn a_long_history_is_checked_quickly_and_one_altered_read_is_found() {
        let (history, start) = (History::new(), Instant::now());
        let simulated = (1..=4).map(|seed| (seed.to_string(), simulate(seed)));
        history.1.lock().unwrap().extend(simulated);
        let checked = history.check().unwrap();
        assert!(checked.operations == 20_000 && checked.accounts == 4 && start.elapsed().as_secs() < 1);
        let mut events = history.1.lock().unwrap().remove("3").unwrap();
        let mut reads = events.iter_mut().filter(|event| matches!(event.what, Read(_)));
        let (old, altered) = (reads.nth(9).unwrap(), reads.last().unwrap());
        altered.what = old.what;
        let altered = format!("> {altered}");
        assert!(linearize(&events).unwrap_err().0.contains(&altered));
    }

    #[test]
    fn clones_record_into_one_history() {
        let history = History::new();
        for (account, client) in [("alice", history.clone()), ("bob", history.clone())] {
            client.upload(client.call(account), 5, NotStored);
            client.upload(client.call(account), 7, Stored);
            client.read(client.call(account), Some(7));
        }
        assert_eq!(history.check().unwrap().operations, 4);
    }
}
