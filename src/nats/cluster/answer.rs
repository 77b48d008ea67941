//! Takes in what servers answer and say, and asks them what they have loaded.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::time::Instant;

use super::judge::{Found, Judgement, Known};
use super::others::{Changed, Happened};
use super::{Compared, End, Publisher};
use crate::clock::UnixSeconds;
use crate::jwt::AccountKey;
use crate::nats::connection::{Connection, Incoming};
use crate::nats::publish::{Held, Question, Wanted};
use crate::nats::subjects::{self, About, MissingPermission, Reply, ServerInfo, Verdict};
use crate::resolver::{Inquiry, MAX_SERVERS, ReadError, Revision};
use crate::tasks::{Scope, off_the_workers};

/// Replies read at once before the next steps are taken.
const REPLIES: usize = 256;

/// Questions that wait at once: more than administrators and scripts ask, few enough to be looked at after each reply.
const INQUIRIES: usize = 256;

/// Answers that are judged at once before none is taken that was not asked for, or comes late.
const JUDGED: usize = 1_024;

/// Accounts that servers have loaded and that are refused: so many are reported.
const UNKNOWN_ACCOUNTS: usize = 1_024;

/// How often those are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Publisher {
    /// Handles `first` and what else has arrived, at most `REPLIES` of them. `Some` says why the connection is no
    /// longer used.
    pub(super) fn take_in(&mut self, connection: &mut Connection, first: Incoming, scope: &Scope) -> Option<End> {
        let mut incoming = first;
        for _ in 0..REPLIES {
            match incoming {
                Incoming::Message {
                    subject,
                    reply,
                    payload,
                } => self.message(connection, (&subject, reply.as_deref()), &payload, scope),
                // No server received it; it is sent again when its answer is overdue.
                Incoming::NoResponders { subject } => {
                    if let Some(About::Update(..)) = subjects::about(connection.inbox(), &subject) {
                        self.notices.no_responders();
                    }
                }
                Incoming::Complaint(words) if subjects::is_payload_violation(&words) => {
                    return Some(End::TooLarge(words));
                }
                // Who revokes is then told no number.
                Incoming::Complaint(words) if subjects::is_about_connections(&words) => {}
                Incoming::Complaint(words) if subjects::is_about_streams(&words) => self.streams.not_permitted(),
                Incoming::Complaint(words) => match subjects::missing_permission(&words) {
                    None => self.notices.complaint(&words),
                    Some(
                        permission @ (MissingPermission::Ask | MissingPermission::Events | MissingPermission::Watch),
                    ) => {
                        self.notices
                            .missing_permission(&connection.user_name(), permission, &words);
                        if permission == MissingPermission::Ask {
                            self.propagation.cannot_ask(self.now());
                        }
                        self.lacks.insert(permission.lack());
                        self.show();
                    }
                    Some(permission) => {
                        self.notices
                            .missing_permission(&connection.user_name(), permission, &words);
                        return Some(End::WithoutPermission);
                    }
                },
                Incoming::LameDuck => self.notices.going_away(),
                Incoming::End(reason) => return Some(End::Lost(reason)),
            }
            match connection.next().now_or_never() {
                Some(next) => incoming = next,
                None => break,
            }
        }
        None
    }

    fn message(
        &mut self,
        connection: &Connection,
        (subject, reply): (&str, Option<&str>),
        payload: &Bytes,
        scope: &Scope,
    ) {
        // Another node publishes, and is told as well.
        if !self.is_publishing {
            return;
        }
        match subjects::about(connection.inbox(), subject) {
            Some(About::Update(account, revision)) => self.reply(connection, account, revision, payload),
            Some(About::Report) => {
                if let Some(server) = subjects::reporter(payload) {
                    self.heard_over(connection, &server.id);
                    self.propagation.heard(&server, self.now());
                }
            }
            Some(About::Shutdown) => {
                if let Some(server) = subjects::reporter(payload) {
                    self.propagation.ended(&server.id, self.now());
                }
            }
            Some(About::Loaded) => self.loaded(payload),
            Some(About::Held(account)) => self.held(account, payload),
            Some(About::Streams(number)) => self.streams.found(number, payload),
            Some(About::Closed(number)) => self.counting.closed(number, payload),
            Some(About::Published(account)) => {
                let sender = subjects::sender(reply, &self.mesh);
                self.published.take(account, payload, sender, scope);
            }
            None => {}
        }
    }

    fn is_first(&self, connection: &Connection) -> bool {
        self.connected.as_deref() == Some(connection.url())
    }

    /// A server was heard over `connection`. Where that is the first one, and no server is missing, it needs none of its own:
    /// others may be reached through it alone.
    fn heard_over(&mut self, connection: &Connection, server: &str) {
        let is_needed = !self.is_first(connection) || self.propagation.misses_any();
        if !is_needed && let Some(url) = self.others.close(server) {
            self.notices.no_longer_needed(&url);
        }
    }

    /// What became of one of the further connections.
    pub(super) fn other_happened(&mut self, happened: Happened, scope: &Scope) {
        let now = self.now();
        match happened {
            Happened::Arrived(at, incoming) => {
                let mut other = self.others.take(at);
                match self.take_in(&mut other, incoming, scope) {
                    None => self.others.put_back(other),
                    Some(end) => {
                        if matches!(end, End::TooLarge(_)) {
                            self.others.refused(other.url());
                        }
                        self.notices.another_lost(other.url());
                        self.propagation.another_lost(now);
                    }
                }
            }
            Happened::Changed(Changed::Opened(Ok(other))) => {
                let server = other.server();
                if !self.is_publishing || !self.propagation.misses_any() {
                    self.others.attempted(None);
                    self.others.discard(*other);
                    return;
                }
                self.notices.also_connected(other.url(), &server);
                self.others.attempted(Some(*other));
                self.propagation.another_connected(now);
            }
            Happened::Changed(Changed::Opened(Err(reason))) => {
                tracing::debug!(nats_cluster = %self.cluster.name, reason, "a missing server cannot be connected to either");
                self.others.attempted(None);
            }
            Happened::Changed(Changed::Closed { in_full }) => {
                if !in_full {
                    self.propagation.another_lost(now);
                }
            }
        }
    }

    fn reply(&mut self, connection: &Connection, account: AccountKey, revision: u64, payload: &[u8]) {
        let Some(mut reply) = Reply::read(payload) else {
            return self.notices.unknown_reply(account, revision, payload.len());
        };
        if reply.server.version.is_empty() && matches!(reply.verdict, Verdict::Refused(_)) {
            let server = connection.server();
            if server.name == reply.server.name {
                reply.server.version = server.version;
            }
        }
        self.notices
            .answer(account, revision, &reply, self.propagation.is_routine(account));
        if let Verdict::Refused(words) = &reply.verdict
            && self.propagation.is_last_try(account)
        {
            self.notices.refused(account, revision, &reply.server, words);
        }
        self.answered = true;
        self.unanswered.answered(account, revision);
        // Of another server it says nothing about this connection.
        let is_own = connection.account() == Some(account) && reply.verdict == Verdict::Updated;
        if is_own && self.is_first(connection) && connection.server().id == reply.server.id {
            self.own_account_taken(account, revision);
        }
        if let Some(time) = reply.time {
            self.heard_time(&reply.server.name, time);
        }
        self.propagation
            .answered(account, revision, &reply.server, &reply.verdict, self.now());
        if reply.is_believed {
            self.propagation.believe(&reply.server);
        }
    }

    /// A server's clock said `theirs` when it replied.
    fn heard_time(&mut self, server: &str, theirs: UnixSeconds) {
        let ours = self.clock.now();
        let comparison = self.clocks.heard(server, theirs, ours);
        self.resolver.heard_time(comparison.offset);
        if let Some(differ) = comparison.changed {
            self.notices.clocks(differ, ours, comparison.offset);
        }
    }

    /// Asks a server, or all of them.
    pub(super) async fn ask(&mut self, connection: &Connection, question: Question) -> Result<(), String> {
        self.ask_everywhere(connection, |inbox| words(inbox, &question)).await
    }

    /// Publishes a question over every connection: its subject, the subject for the answers to an inbox, and its text.
    pub(super) async fn ask_everywhere(
        &mut self,
        connection: &Connection,
        question: impl Fn(&str) -> (String, String, Bytes),
    ) -> Result<(), String> {
        let (subject, reply, text) = question(connection.inbox());
        connection.publish(subject, reply, text).await?;
        if self.others.publish(|other| Some(question(other.inbox()))).is_lost {
            self.propagation.another_lost(self.now());
        }
        Ok(())
    }

    /// Asks servers which connections they have closed, for those who want to know; gives when to look again.
    pub(super) async fn count_closed(&mut self, connection: &Connection) -> Result<Option<Instant>, String> {
        let (questions, wake) = self.counting.next();
        for (number, account) in questions {
            let asked = |inbox: &str| {
                let reply = subjects::reply_to_closed(inbox, number);
                (
                    subjects::CONNECTIONS.to_owned(),
                    reply,
                    subjects::closed_request(account),
                )
            };
            self.ask_everywhere(connection, asked).await?;
        }
        Ok(wake)
    }

    /// A server has said which accounts it has loaded. A list may be long, so it is read elsewhere.
    fn loaded(&mut self, payload: &Bytes) {
        let payload = payload.clone();
        self.comparing.push(Box::pin(async move {
            let read = off_the_workers(move || subjects::loaded(&payload)).await;
            let (server, accounts) = read.unwrap_or_default();
            Compared::Listed { server, accounts }
        }));
    }

    /// Which of `accounts` have changed after `behind`?
    fn compare(&mut self, server: String, accounts: Vec<AccountKey>, behind: Revision) {
        let resolver = self.resolver.clone();
        self.comparing.push(Box::pin(async move {
            let mut changed = Vec::new();
            for account in accounts {
                match resolver.to_enforce(account).await {
                    Ok(Some((revision, _))) if revision <= behind => {}
                    // What a new server has loaded may be of accounts that are not known here.
                    Ok(None) if behind > 0 => {}
                    // What cannot be read may have changed.
                    Ok(_) | Err(ReadError::Damaged(_)) => changed.push(account),
                    Err(_) => return Compared::Loaded { server, changed: None },
                }
                tokio::task::consume_budget().await;
            }
            Compared::Loaded {
                server,
                changed: Some(changed),
            }
        }));
    }

    /// A server has said what it holds of `account`: is that the current token?
    fn held(&mut self, account: AccountKey, payload: &[u8]) {
        let Some((server, token)) = subjects::held(payload) else {
            return;
        };
        let now = self.now();
        if !self.propagation.arrived(&server, account, now) && self.comparing.len() >= JUDGED {
            return;
        }
        // It fetches the current one when it needs it.
        let Some(token) = token else {
            return self.propagation.held(&server, account, 0, Held::Current, now);
        };
        let judge = self.judge.clone();
        let known = judge.known(account, &token).now_or_never();
        let revision = match known {
            Some(Known::Judged(judgement)) => {
                let Judgement { held, revision, .. } = judgement;
                return self.propagation.held(&server, account, revision, held, now);
            }
            Some(Known::Other(revision)) => Some(revision),
            // The disk is waited for: of a deleted account always, for its closing token.
            None => judge.revision(account).now_or_never().flatten(),
        };
        // Looked at now: by the time it is judged the server may have said that it has taken the current one since.
        let enforced = revision.filter(|revision| self.propagation.enforces(&server.id, account, *revision));
        self.comparing.push(Box::pin(async move {
            let judgement = judge.judge(account, token).await;
            Compared::Held {
                server,
                account,
                enforced,
                judgement,
            }
        }));
    }

    pub(super) fn compared(&mut self, compared: Compared) {
        let now = self.now();
        match compared {
            Compared::Listed { server, accounts } => match self.propagation.loaded(&server, now) {
                Some(Wanted::ChangedSince(behind)) => self.compare(server.id, accounts, behind),
                Some(Wanted::All) => self.propagation.listed_all(&server.id, accounts),
                None => {}
            },
            Compared::Loaded { server, changed } => self.propagation.compared(&server, changed, now),
            Compared::Held {
                server,
                account,
                enforced,
                judgement,
            } => {
                self.found(&server, account, enforced, &judgement);
                let Judgement { held, revision, .. } = judgement;
                self.propagation.held(&server, account, revision, held, now);
            }
        }
    }

    /// Reports what a server holds of `account`, if it is not the current token; `enforced`: the revision that it was known to
    /// enforce. A server that was not known to enforce the current one has an older one because it lags behind: it was away,
    /// or the current one was adopted from another a moment ago. No other sender has given it that.
    fn found(&mut self, server: &ServerInfo, account: AccountKey, enforced: Option<Revision>, judgement: &Judgement) {
        let issued_at = judgement.issued_at;
        match &judgement.found {
            Found::Nothing => return,
            Found::Adopted => {
                self.notices.adopted(server, account, judgement.revision, issued_at);
                self.found.entry(server.id.clone()).or_default().adopted += 1;
            }
            Found::Older { is_closing, .. } if enforced != Some(judgement.revision) => {
                match is_closing {
                    true => self.notices.is_shut(server, account),
                    false => self.notices.lags(server, account, issued_at),
                }
                return;
            }
            Found::Older { reason, .. } | Found::Refused(reason) if judgement.held == Held::Other => {
                self.notices.other(server, account, issued_at, reason);
                self.found.entry(server.id.clone()).or_default().overruled += 1;
            }
            Found::Older { reason, .. } | Found::Refused(reason) => {
                if self.unknown.len() < UNKNOWN_ACCOUNTS && self.unknown.insert(account) {
                    self.notices.unknown_account(server, account, issued_at, reason);
                }
                return;
            }
        }
        // Who is gone is shown no more.
        if self.found.len() > MAX_SERVERS {
            self.found.clear();
        }
        self.is_shown = false;
    }

    /// Takes a question at which servers a token is in force.
    pub(super) fn inquire(&mut self, inquiry: Inquiry) {
        // Whoever asks may ask again; another node may publish by then.
        if self.is_publishing && self.waiting.len() + self.counting.len() < INQUIRIES {
            self.waiting.push(inquiry);
        }
    }

    /// Answers the questions whose answers are complete or due; gives when to look again.
    pub(super) fn answer_inquiries(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.waiting.is_empty() || now < self.answer_at {
            return (!self.waiting.is_empty()).then_some(self.answer_at);
        }
        self.answer_at = now + LOOK_EVERY;
        let ms = self.now();
        for inquiry in std::mem::take(&mut self.waiting) {
            let Inquiry { account, revision, .. } = inquiry;
            if now >= inquiry.until || self.propagation.is_everywhere(account, revision, ms) {
                let told = self.propagation.in_force(account, revision);
                self.counting.conclude(inquiry, told);
            } else if !inquiry.answer.is_closed() {
                self.waiting.push(inquiry);
            }
        }
        (!self.waiting.is_empty()).then_some(self.answer_at)
    }
}

/// The subject, the subject for the answers and the text of a question.
fn words(inbox: &str, question: &Question) -> (String, String, Bytes) {
    let (subject, reply, text) = match question {
        Question::Ping => (subjects::PING.to_owned(), subjects::reply_to_ping(inbox), String::new()),
        // An error is an answer, and a short one.
        Question::Alive(server) => (
            subjects::accounts_of(server),
            subjects::reply_to_ping(inbox),
            serde_json::json!({ "account": "none" }).to_string(),
        ),
        Question::Loaded(server) => (
            subjects::accounts_of(server),
            subjects::reply_to_loaded(inbox),
            String::new(),
        ),
        Question::Held(server, account) => (
            subjects::accounts_of(server),
            subjects::reply_to_held(inbox, *account),
            serde_json::json!({ "account": account.to_string() }).to_string(),
        ),
        Question::HeldByAll(account) => (
            subjects::ACCOUNTS_OF_ALL.to_owned(),
            subjects::reply_to_held(inbox, *account),
            serde_json::json!({ "account": account.to_string() }).to_string(),
        ),
    };
    (subject, reply, text.into())
}
