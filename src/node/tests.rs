//! What a start and a shutdown do on a disk that fails or hangs, and what a leader does with another node's commands.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nkeys::KeyPair;

use super::assemble::start_on;
use super::faulty_disk::FaultyDisk;
use crate::clock::Clock;
use crate::config::{Config, DeleteWithStreams, NatsCluster};
use crate::raft::peer::{Leading, NotLed};
use crate::resolver::Submitter;
use crate::sign::{self, Claims};
use crate::state::{
    Command, DeleteAccounts, KillAccount, MarkPropagated, Outcomes, OverrideAccount, PutAccount, PutAccounts,
    PutClosing, PutOperator, PutOperators,
};

/// Longer than anything here takes. What takes longer counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

fn config(folder: &Path) -> Config {
    config_of(folder, include_str!("../../tests/vectors/accept/operator-plain.jwt"))
}

fn config_of(folder: &Path, token: &str) -> Config {
    std::fs::write(folder.join("operator.jwt"), token).unwrap();
    let text = "[cluster]\nname = \"m\"\noperators = [\"operator.jwt\"]\n\n[[node]]\nname = \"n1\"\ndata = \"data\"\npublic = \"127.0.0.1:0\"\n";
    Config::parse(&folder.join("cluster.toml"), text, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_on_a_faulty_disk_names_the_disk_and_not_a_consequence() {
    for good in 0.. {
        let temp = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        disk.change(|health| health.good = Some(good));
        let started = start_on(config(temp.path()), Clock::system(), disk.open()).await;
        match started {
            Err(error) => assert!(
                error.to_string().contains("the disk is gone"),
                "after {good} syncs: {error}"
            ),
            Ok(_) => {
                assert!(good > 2, "a start without a sync kept nothing");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_forever_for_a_disk_that_hangs() {
    let temp = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let node = start_on(config(temp.path()), Clock::system(), disk.open())
        .await
        .unwrap();
    disk.change(|health| health.hangs = true);
    let raft = node.raft.clone();
    let mut proposed = tokio::task::JoinSet::new();
    proposed.spawn(async move {
        let mark = MarkPropagated {
            nats_cluster: "x".to_owned(),
            position: 1,
        };
        raft.propose(mark).await
    });
    let hanging = disk.clone();
    tokio::task::spawn_blocking(move || hanging.wait_until_it_hangs())
        .await
        .unwrap();
    let limit = Duration::from_millis(100);
    let ended = tokio::time::timeout(PATIENCE, node.shutdown_within(limit, limit)).await;
    // The threads that wait for the disk would keep the test from ending.
    disk.change(|health| health.hangs = false);
    proposed.abort_all();
    let error = ended
        .expect("it is bounded")
        .expect_err("nothing was closed")
        .to_string();
    assert!(error.contains("did not close"), "{error}");
}

/// A request over an open way could be sent again by anyone; the configuration says what stays.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_request_without_a_time_is_refused_over_an_open_way_and_a_protected_account_stays() {
    const ISSUED: i64 = 1_700_000_000;
    let operator = KeyPair::new_operator();
    let [system, account, stays] = [(); 3].map(|()| KeyPair::new_account());
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let disk = FaultyDisk::default();
    let config = Config {
        protected_accounts: vec![stays.public_key()],
        ..config_of(temp.path(), &token)
    };
    let node = start_on(config, Clock::system(), disk.open()).await.unwrap();
    let resolver = &node.resolver;
    for key in [&account, &stays] {
        let token = Claims::account(&key.public_key(), "A").sign(&operator, ISSUED).unwrap();
        resolver.submit(None, token.into(), Submitter::Anyone).await.unwrap();
    }
    let request = |key: &KeyPair, is_dated: bool| {
        let claims = Claims::delete(&operator, &[key.public_key()]);
        let mut claims = claims.into_value(&operator, ISSUED + 1).unwrap();
        if !is_dated {
            claims.as_object_mut().unwrap().remove("iat");
        }
        Bytes::from(sign::encode(&operator, &claims).unwrap())
    };
    let refused = async |path: Option<&KeyPair>, request: Bytes, submitter: Submitter| {
        let path = path.map(|key| key.public_key().parse().unwrap());
        let error = resolver.delete(path, request, submitter).await.expect_err("refused");
        error.to_string()
    };
    let said = refused(None, request(&account, false), Submitter::Anyone).await;
    assert!(said.contains("its claims lack `iat`"), "{said}");
    for is_dated in [false, true] {
        let said = refused(None, request(&stays, is_dated), Submitter::Administrator).await;
        assert!(said.contains("listed in `protected_accounts`"), "{said}");
        let said = refused(None, request(&system, is_dated), Submitter::Administrator).await;
        assert!(said.contains("the system account of a trusted operator"), "{said}");
    }
    let said = refused(Some(&stays), request(&account, true), Submitter::Administrator).await;
    assert!(said.contains("but the request is for others"), "{said}");
    let key = account.public_key().parse().unwrap();
    assert!(resolver.lookup(key).await.unwrap().is_some());
    let deleted = resolver
        .delete(Some(key), request(&account, true), Submitter::Anyone)
        .await
        .unwrap();
    assert_eq!((deleted.left_open(), deleted.accounts.len()), (1, 1));
    assert!(resolver.lookup(key).await.unwrap().is_none());
    node.shutdown(PATIENCE).await.unwrap();
}

/// A NATS cluster of which no server can be reached, with this creds file.
fn unreachable_nats(folder: &Path, name: &str, creds: &str) -> NatsCluster {
    let path = folder.join(name);
    std::fs::write(&path, creds).unwrap();
    NatsCluster {
        name: name.to_owned(),
        // Nothing listens there.
        servers: vec!["nats://127.0.0.1:1".to_owned()],
        creds: path,
        ca: None,
        client: None,
        tls_first: false,
        respond: true,
    }
}

/// Without the account of its user a node could update no server, and a request may come before the first connection.
#[tokio::test(flavor = "multi_thread")]
async fn g8_the_account_of_the_creds_stays_before_any_server_was_reached() {
    const ISSUED: i64 = 1_700_000_000;
    let operator = KeyPair::new_operator();
    let [system, own] = [(); 2].map(|()| KeyPair::new_account());
    let user = KeyPair::new_user();
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let login = Claims::user(&user, "jwtmesh", &[], &[]).sign(&own, ISSUED).unwrap();
    // What cannot be used is no reason not to start: it may be right when a server can be reached.
    let files = [
        ("unusable", "nothing".to_owned()),
        ("own", sign::creds(&login, &user).unwrap()),
    ];
    let nats = files.map(|(name, text)| unreachable_nats(temp.path(), name, &text));
    let config = Config {
        nats: nats.into(),
        ..config_of(temp.path(), &token)
    };
    let disk = FaultyDisk::default();
    let node = start_on(config, Clock::system(), disk.open()).await.unwrap();
    let account = Claims::account(&own.public_key(), "OWN")
        .sign(&operator, ISSUED)
        .unwrap();
    node.resolver
        .submit(None, account.into(), Submitter::Anyone)
        .await
        .unwrap();
    let request = Claims::delete(&operator, &[own.public_key()])
        .sign(&operator, ISSUED + 1)
        .unwrap();
    let refused = node
        .resolver
        .delete(None, request.into(), Submitter::Administrator)
        .await;
    let said = refused.expect_err("refused").to_string();
    assert!(said.contains("the user with which jwtmesh connects"), "{said}");
    node.shutdown(PATIENCE).await.unwrap();
}

/// A server would refuse it, so it is not sent, and a delete must not count on it.
#[tokio::test(flavor = "multi_thread")]
async fn g9_a_closing_jwt_whose_key_was_removed_is_not_sent_until_it_is_trusted_again() {
    const ISSUED: i64 = 1_700_000_000;
    let [operator, signer] = [(); 2].map(|()| KeyPair::new_operator());
    let [system, account] = [(); 2].map(|()| KeyPair::new_account());
    let key = account.public_key().parse().unwrap();
    let trusting = |signers: &[String], issued: i64| {
        let claims = Claims::operator(&operator, "O", &system);
        let claims = claims.with(|claims| claims["signing_keys"] = signers.into());
        claims.sign(&operator, issued).unwrap()
    };
    let temp = tempfile::tempdir().unwrap();
    let token = trusting(&[signer.public_key()], ISSUED);
    let disk = FaultyDisk::default();
    let time = Arc::new(AtomicI64::new(ISSUED));
    let clock = time.clone();
    let clock = Clock::from_source(move || clock.load(Ordering::Relaxed));
    let node = start_on(config_of(temp.path(), &token), clock, disk.open())
        .await
        .unwrap();
    let resolver = &node.resolver;
    let claims = Claims::account(&account.public_key(), "A");
    let open = claims.clone().sign(&operator, ISSUED).unwrap();
    let closing = claims.closed(ISSUED).sign(&signer, ISSUED).unwrap();
    resolver.submit(None, open.into(), Submitter::Anyone).await.unwrap();
    resolver.keep_closing(key, closing.into()).await.unwrap();
    let request = Claims::delete(&operator, &[account.public_key()])
        .sign(&operator, ISSUED + 1)
        .unwrap();
    resolver
        .delete(None, request.into(), Submitter::Administrator)
        .await
        .unwrap();
    time.store(ISSUED - 3600, Ordering::Relaxed);
    assert!(
        resolver.to_enforce(key).await.unwrap().is_some(),
        "a clock that is behind keeps it from no server"
    );
    time.store(ISSUED, Ordering::Relaxed);
    for (signers, issued, is_sent) in [(&[][..], ISSUED + 1, false), (&[signer.public_key()], ISSUED + 2, true)] {
        let operator_key = operator.public_key().parse().unwrap();
        let newer = trusting(signers, issued);
        resolver.update_operator(operator_key, newer.as_bytes()).await.unwrap();
        assert_eq!(
            resolver.to_enforce(key).await.unwrap().is_some(),
            is_sent,
            "{signers:?}"
        );
        assert_eq!(resolver.valid_closing(key).await.unwrap().is_some(), is_sent);
        assert!(resolver.closing(key).await.unwrap().is_some(), "it is kept");
    }
    node.shutdown(PATIENCE).await.unwrap();
}

/// Another node may run with an older configuration, in which the setting is not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_leader_asks_for_streams_too_before_another_nodes_delete_is_agreed_on() {
    const ISSUED: i64 = 1_700_000_000;
    let operator = KeyPair::new_operator();
    let [system, account] = [(); 2].map(|()| KeyPair::new_account());
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let config = Config {
        nats: vec![unreachable_nats(temp.path(), "fra", "nothing")],
        delete_with_streams: DeleteWithStreams::Refuse,
        ..config_of(temp.path(), &token)
    };
    let disk = FaultyDisk::default();
    let node = start_on(config, Clock::system(), disk.open()).await.unwrap();
    let claim = Claims::delete(&operator, &[account.public_key()])
        .sign(&operator, ISSUED)
        .unwrap();
    let command = Command::from(DeleteAccounts {
        trust_epoch: node.resolver.trust().epoch,
        operator: operator.public_key().parse().unwrap(),
        issued_at: ISSUED,
        claim: claim.into(),
        accounts: vec![account.public_key().parse().unwrap()],
    });
    match node.resolver.lead(2, command).await {
        Err(NotLed::Refused(reason)) => {
            assert!(
                reason.contains("has JetStream streams in NATS cluster \"fra\""),
                "{reason}"
            );
        }
        led => panic!("{led:?}"),
    }
    // A node of another version is told so, and which version this one speaks.
    let answer = node.resolver.ask_publisher(Bytes::from_static(b"\x03fra"));
    assert_eq!(answer.await.as_deref(), Some(&[64][..]));
    node.shutdown(PATIENCE).await.unwrap();
}

/// One node that was broken into must not be able to write what no operator signed (G3).
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_leader_verifies_again_what_another_node_sends_it_to_store() {
    const ISSUED: i64 = 1_700_000_000;
    let [operator, stranger] = [(); 2].map(|()| KeyPair::new_operator());
    let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let disk = FaultyDisk::default();
    let node = start_on(config_of(temp.path(), &token), Clock::system(), disk.open())
        .await
        .unwrap();
    let epoch = node.resolver.trust().epoch;
    let item = |signer: &KeyPair, name: &str| {
        let claims = Claims::account(&account.public_key(), name)
            .into_value(signer, ISSUED)
            .unwrap();
        PutAccount {
            account: account.public_key().parse().unwrap(),
            operator: operator.public_key().parse().unwrap(),
            issued_at: ISSUED,
            expires_at: 0,
            name: "A".to_owned(),
            token: sign::encode(signer, &claims).unwrap().into(),
        }
    };
    let put = |item: PutAccount| {
        Command::from(PutAccounts {
            trust_epoch: epoch,
            items: vec![item],
        })
    };
    let over = |item: PutAccount| {
        Command::from(OverrideAccount {
            trust_epoch: epoch,
            item,
            barred: Vec::new(),
        })
    };
    let good = item(&operator, "A");
    let newer = PutAccount {
        issued_at: ISSUED + 1,
        ..good.clone()
    };
    let forged = PutOperator {
        operator: operator.public_key().parse().unwrap(),
        issued_at: ISSUED + 1,
        token: Claims::operator(&stranger, "O", &system)
            .sign(&stranger, ISSUED + 1)
            .unwrap()
            .into(),
    };
    for (command, what) in [
        (put(item(&stranger, "A")), "signed by a stranger"),
        (put(item(&account, "A")), "signed by itself"),
        (put(item(&operator, "B")), "another name than its token's"),
        (put(newer.clone()), "a later time than its token's"),
        (over(item(&stranger, "A")), "an override signed by a stranger"),
        (over(newer), "an override with a later time than its token's"),
        (
            PutOperators { items: vec![forged] }.into(),
            "an operator that another one signed",
        ),
    ] {
        let led = node.resolver.lead(2, command).await;
        assert!(matches!(led, Err(NotLed::Refused(_))), "{what}: {led:?}");
    }
    let led = node.resolver.lead(2, put(good)).await.expect("it is the operator's");
    assert!(matches!(&led.outcomes, Outcomes::Accounts(each) if each.len() == 1));
    node.shutdown(PATIENCE).await.unwrap();
}

/// The same of what deletes and shuts accounts.
#[tokio::test(flavor = "multi_thread")]
async fn g3_g8_a_leader_verifies_again_what_another_node_sends_it_to_delete_or_to_shut() {
    const ISSUED: i64 = 1_700_000_000;
    let [operator, stranger] = [(); 2].map(|()| KeyPair::new_operator());
    let [system, account, stranger_account] = [(); 3].map(|()| KeyPair::new_account());
    let temp = tempfile::tempdir().unwrap();
    let token = Claims::operator(&operator, "O", &system)
        .sign(&operator, ISSUED)
        .unwrap();
    let disk = FaultyDisk::default();
    let node = start_on(config_of(temp.path(), &token), Clock::system(), disk.open())
        .await
        .unwrap();
    let epoch = node.resolver.trust().epoch;
    let item = |signer: &KeyPair, name: &str| PutAccount {
        account: account.public_key().parse().unwrap(),
        operator: operator.public_key().parse().unwrap(),
        issued_at: ISSUED,
        expires_at: 0,
        name: name.to_owned(),
        token: Claims::account(&account.public_key(), name)
            .sign(signer, ISSUED)
            .unwrap()
            .into(),
    };
    let delete = |signer: &KeyPair, accounts: &[&KeyPair], issued_at: i64| {
        let keys: Vec<String> = accounts.iter().map(|key| key.public_key()).collect();
        let claim = Claims::delete(signer, &[account.public_key()])
            .sign(signer, ISSUED)
            .unwrap();
        Command::from(DeleteAccounts {
            trust_epoch: epoch,
            operator: operator.public_key().parse().unwrap(),
            issued_at,
            claim: claim.into(),
            accounts: keys.iter().map(|key| key.parse().unwrap()).collect(),
        })
    };
    let close = |item: PutAccount| {
        let trust_epoch = epoch;
        let kill = KillAccount {
            trust_epoch,
            item: item.clone(),
        };
        [PutClosing { trust_epoch, item }.into(), kill.into()]
    };
    let [keep_stranger, kill_stranger] = close(item(&stranger, "A"));
    let [keep_open, kill_open] = close(item(&operator, "A"));
    for (command, what) in [
        (delete(&stranger, &[&account], ISSUED), "a delete signed by a stranger"),
        (
            delete(&operator, &[&account, &stranger_account], ISSUED),
            "a delete of more accounts",
        ),
        (delete(&operator, &[&account], ISSUED + 1), "a delete with a later time"),
        (delete(&operator, &[&system], ISSUED), "a delete of a system account"),
        (keep_stranger, "a closing JWT signed by a stranger"),
        (kill_stranger, "a kill signed by a stranger"),
        (keep_open, "a closing JWT that shuts nothing"),
        (kill_open, "a kill that shuts nothing"),
    ] {
        let led = node.resolver.lead(2, command).await;
        assert!(matches!(led, Err(NotLed::Refused(_))), "{what}: {led:?}");
    }
    let led = node.resolver.lead(2, delete(&operator, &[&account], ISSUED)).await;
    let outcomes = led.expect("it is the operator's").outcomes;
    assert!(
        matches!(&outcomes, Outcomes::Deleted(outcome) if outcome.has_happened()),
        "{outcomes:?}"
    );
    node.shutdown(PATIENCE).await.unwrap();
}
