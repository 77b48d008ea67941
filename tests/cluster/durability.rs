//! Acknowledged tokens are kept and never replaced by older ones, over kills, restarts and load.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::Connection;
use crate::support::mint::{Account, Operator, now};
use crate::support::node::Node;
use crate::support::process::eventually;

/// One token that was sent, and whether it was acknowledged.
struct Sent {
    token: String,
    acknowledged: bool,
}

/// Everything that uploaders did: for each account its tokens in the order they were sent.
#[derive(Default)]
struct History {
    accounts: HashMap<String, Vec<Sent>>,
}

impl History {
    /// Asserts that an account has its last acknowledged token, or one sent after it whose answer was lost.
    fn check(&self, account: &str, status: u16, stored: &str) {
        let sent = &self.accounts[account];
        let last = sent.iter().rposition(|sent| sent.acknowledged);
        let allowed = &sent[last.unwrap_or(0)..];
        if last.is_none() && status == 404 {
            return;
        }
        assert_eq!(status, 200, "{account}: acknowledged and gone");
        assert!(
            allowed.iter().any(|sent| sent.token == stored),
            "{account}: neither the last acknowledged token nor a later one is stored"
        );
    }
}

/// Uploads new accounts, and changes of accounts that exist, until `stop` is set or the node is gone.
fn upload(address: SocketAddr, operator: &Operator, history: &Mutex<History>, stop: &AtomicBool, count: &AtomicU64) {
    let mut own: Vec<(Account, i64)> = Vec::new();
    let Ok(mut connection) = Connection::plain(address) else {
        return;
    };
    while !stop.load(Ordering::Relaxed) {
        let number = count.fetch_add(1, Ordering::Relaxed);
        if own.len() < 4 || number.is_multiple_of(3) {
            own.push((Account::new(&format!("account {number}")), now() - 1_000_000));
        }
        let at = usize::try_from(number).unwrap_or(0) % own.len();
        let (account, issued_at) = &mut own[at];
        // Every second change is issued in the same second as the one before.
        *issued_at += i64::from(number.is_multiple_of(2));
        let token = operator.account_at(account, *issued_at);
        let id = account.id();
        let position = {
            let mut history = history.lock().expect("no thread panics with it");
            let sent = history.accounts.entry(id.clone()).or_default();
            sent.push(Sent {
                token: token.clone(),
                acknowledged: false,
            });
            sent.len() - 1
        };
        let path = format!("/jwt/v1/accounts/{id}");
        let Ok(answer) = connection.request("POST", &path, &[], token.as_bytes()) else {
            return;
        };
        if answer.status == 200 {
            let mut history = history.lock().expect("no thread panics with it");
            history.accounts.get_mut(&id).expect("it was sent")[position].acknowledged = true;
        } else {
            assert!(
                matches!(answer.status, 429 | 503 | 504),
                "{} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

/// Uploads every (account, token) of `work` over several connections; all must be stored.
fn upload_all(address: SocketAddr, work: &[(String, String)]) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let mut connection = Connection::plain(address).expect("a running node takes connections");
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("a small number");
                    let Some((account, token)) = work.get(at) else { return };
                    let path = format!("/jwt/v1/accounts/{account}");
                    let answer = connection
                        .request("POST", &path, &[], token.as_bytes())
                        .expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
}

/// `count` new accounts of `operator`, on both cores.
fn make(operator: &Operator, count: usize) -> Vec<(String, String)> {
    let made = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let half = (0..count / 2).map(|number| {
                    let account = Account::new(&format!("account {number}"));
                    (account.id(), operator.account_at(&account, now() - 1000))
                });
                let half: Vec<_> = half.collect();
                made.lock().expect("no thread panics with it").extend(half);
            });
        }
    });
    made.into_inner().expect("no thread panics with it")
}

fn check_sample(node: &Node, work: &[(String, String)], step: usize) {
    let mut connection = node.connect();
    for (account, token) in work.iter().step_by(step) {
        let answer = connection
            .request("GET", &format!("/jwt/v1/accounts/{account}"), &[], b"")
            .unwrap();
        assert_eq!((answer.status, answer.text()), (200, token.clone()), "{account}");
    }
}

/// A hundred rounds: load, SIGKILL at a random moment, start again, check.
#[test]
fn g1_nothing_acknowledged_is_missing_after_a_hundred_kills_under_load() {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let history = Mutex::new(History::default());
    let count = AtomicU64::new(0);
    for round in 0..100u64 {
        let stop = AtomicBool::new(false);
        let before = count.load(Ordering::Relaxed);
        // Between none and a few hundred uploads, a different number each round.
        let enough = before + round * 37 % 400;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| upload(node.address(), &operator, &history, &stop, &count));
            }
            eventually("the uploads of this round went out", || {
                (count.load(Ordering::Relaxed) >= enough).then_some(())
            });
            node.kill_only();
            stop.store(true, Ordering::Relaxed);
        });
        node.start_again();
        let history = history.lock().unwrap();
        let mut connection = node.connect();
        // The accounts with an unacknowledged upload, and at the end all of them.
        for (account, sent) in &history.accounts {
            if round == 99 || sent.iter().any(|sent| !sent.acknowledged) {
                let path = format!("/jwt/v1/accounts/{account}");
                let answer = connection.request("GET", &path, &[], b"").unwrap();
                history.check(account, answer.status, &answer.text());
            }
        }
    }
    let history = history.into_inner().unwrap();
    let acknowledged = history
        .accounts
        .values()
        .flatten()
        .filter(|sent| sent.acknowledged)
        .count();
    assert!(
        acknowledged > 5000,
        "only {acknowledged} uploads were acknowledged: this proves too little"
    );
}

#[test]
fn g4_with_a_hundred_thousand_accounts_a_killed_node_answers_lookups_within_a_second_of_its_start() {
    let operator = Operator::new("O");
    let mut node = Node::of(&operator);
    let work = make(&operator, 100_000);
    upload_all(node.address(), &work);
    let mut times = Vec::new();
    for _ in 0..5 {
        // Fresh changes, so that the log's end is never clean.
        let (account, _) = &work[0];
        assert_eq!(node.get_account(account).status, 200);
        upload_all(node.address(), &make(&operator, 200));
        node.kill();
        let began = Instant::now();
        node.start_again();
        assert_eq!(node.get_account(account).status, 200);
        times.push(began.elapsed());
    }
    check_sample(&node, &work, 97);
    // The best, because a busy machine may stop any process for a while.
    let best = times.iter().min().unwrap();
    assert!(*best < Duration::from_secs(1), "first lookup answered after {times:?}");
}

/// The stored token stays, whatever older one is sent, and however often the node starts again in between.
#[test]
fn g2_an_older_token_gets_409_and_changes_nothing_over_restarts_too() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    let newest = now() - 50;
    let stored = operator.account_at(&account, newest);
    let revision = node.put(&account, &stored).revision();
    for restart in [
        None,
        Some(Node::kill as fn(&mut Node)),
        Some(|node| assert_eq!(node.terminate().code(), Some(0))),
    ] {
        if let Some(stop) = restart {
            stop(&mut node);
            node.start_again();
        }
        for age in [1, 10, 1_000_000] {
            let older = operator.account_at(&account, newest - age);
            let answer = node.post_account(&account.id(), &older);
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert!(
                answer.text().contains(&account.id()),
                "it names the account: {}",
                answer.text()
            );
            let got = node.get_account(&account.id());
            assert_eq!(got.text(), stored);
        }
        assert_eq!(
            node.put(&account, &stored).revision(),
            revision,
            "refused uploads move nothing"
        );
    }
}

#[test]
fn g2_the_same_bytes_again_get_200_and_no_new_revision_over_restarts_too() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    let token = operator.account(&account);
    let revision = node.put(&account, &token).revision();
    let other = Account::new("B");
    node.put(&other, &operator.account(&other));
    for _ in 0..3 {
        assert_eq!(node.put(&account, &token).revision(), revision);
        node.kill();
        node.start_again();
        assert_eq!(node.put(&account, &token).revision(), revision);
        assert_eq!(node.get_account(&account.id()).text(), token);
    }
}

/// If two were issued in the same second, the later upload wins, as people who use nsc expect. The replaced token stays
/// refused: otherwise anyone who fetched it while it granted more could upload it again.
#[test]
fn g2_of_two_tokens_of_one_second_the_later_upload_stands() {
    let operator = Operator::new("O");
    let account = Account::new("A");
    let mut node = Node::of(&operator);
    let issued_at = now();
    let tokens: Vec<String> = (0..4)
        .map(|limit| {
            operator.account_with(&account, |claims| {
                claims["iat"] = json!(issued_at);
                claims["jti"] = json!("SAME");
                claims["nats"]["limits"]["conn"] = json!(limit);
            })
        })
        .collect();
    let mut last = 0;
    for token in &tokens {
        let revision = node.put(&account, token).revision();
        assert!(revision > last, "a change has a revision of its own");
        last = revision;
        assert_eq!(node.get_account(&account.id()).text(), *token);
    }
    for start_again in [false, true] {
        if start_again {
            node.kill();
            node.start_again();
        }
        for replaced in &tokens[..3] {
            let answer = node.post_account(&account.id(), replaced);
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert!(answer.text().contains("in the same second"), "{}", answer.text());
        }
        assert_eq!(node.put(&account, &tokens[3]).revision(), last, "the same bytes");
        assert_eq!(node.get_account(&account.id()).text(), tokens[3]);
    }
}
