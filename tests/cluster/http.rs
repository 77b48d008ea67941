//! The answers of the public port: the cases that nats-account-server was tested with, as far as they still make sense,
//! and the headers of every answer about a token.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use crate::support::http::Answer;
use crate::support::mint::{Account, Operator, claims, now, sign, sign_v1};
use crate::support::node::{Node, NodeTls, Options};
use crate::support::process::{PATIENCE, eventually};
use crate::support::tls::Authority;

/// A request without a body, and its answer.
struct Case {
    method: &'static str,
    path: &'static str,
    status: u16,
    /// What the body must contain.
    says: &'static str,
}

const fn get(path: &'static str, status: u16, says: &'static str) -> Case {
    Case {
        method: "GET",
        path,
        status,
        says,
    }
}

/// In paths, KNOWN is an account that is stored, LOWER its key in lower case, and UNKNOWN one that is not stored.
const CASES: &[Case] = &[
    get("/jwt/v1/accounts", 200, ""),
    get("/jwt/v1/accounts/", 200, ""),
    get("/jwt/v1//accounts/", 200, ""),
    get("/jwt/v1//accounts/KNOWN", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/accounts/KNOWN", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/accounts/KNOWN?check=true", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/accounts/KNOWN?text=true", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/accounts/KNOWN?decode=true", 200, "\"alg\": \"ed25519-nkey\""),
    get("/jwt/v1/accounts/KNOWN?decode=TRUE", 200, "\"name\": \"known\""),
    get("/jwt/v1/accounts/KNOWN?decode=false", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/accounts/UNKNOWN", 404, "no matching account JWT"),
    get("/jwt/v1/accounts/UNKNOWN?decode=true", 404, "no matching account JWT"),
    get("/jwt/v1/accounts/LOWER", 404, "upper case"),
    get("/jwt/v1/accounts/LOWERx", 400, "57 characters"),
    get("/jwt/v1/operator", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/operator?text=true", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/operator?decode=true", 200, "\"type\": \"operator\""),
    get("/jwt/v2/operator", 200, "eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/help", 200, "://HOST:PORT/jwt/v1/accounts/"),
    get("/healthz", 200, ""),
    get("/jwt/v1/pack", 200, "KNOWN|eyJ0eXAiOiJKV1Qi"),
    get("/jwt/v1/pack?max=0", 200, ""),
    get("/jwt/v1/pack?max=foo", 400, "foo"),
    get("/jwt/v1/pack?max=-1", 400, "-1"),
    get("/jwt/v1/biz", 404, ""),
    get("/biz/v1/accounts/", 404, ""),
    get("/", 200, "jwtmesh"),
    Case {
        method: "OPTIONS",
        path: "/",
        status: 200,
        says: "jwtmesh",
    },
    Case {
        method: "POST",
        path: "/",
        status: 405,
        says: "GET, HEAD, OPTIONS",
    },
    get("/jwt/v1/activations/AAAA", 404, ""),
    get("/v1/accounts", 404, ""),
    Case {
        method: "POST",
        path: "/jwt/v1/activations",
        status: 404,
        says: "",
    },
];

/// An operator, and a node that holds its system account and one account called `known`.
fn start(tls: Option<NodeTls>) -> (Operator, Account, Node) {
    let operator = Operator::new("O");
    let known = Account::new("known");
    let options = Options {
        tls,
        ..Options::default()
    };
    let node = Node::start(&operator.token(), options);
    node.put(&operator.system, &operator.system_token());
    node.put(&known, &operator.account_at(&known, now() - 60));
    (operator, known, node)
}

fn check_table(node: &Node, known: &Account) {
    let unknown = Account::new("unknown");
    let name = |text: &str| {
        text.replace("UNKNOWN", &unknown.id())
            .replace("KNOWN", &known.id())
            .replace("LOWER", &known.id().to_lowercase())
    };
    let mut connection = node.connect();
    for case in CASES {
        let path = name(case.path);
        let check = |answer: &Answer| {
            let text = answer.text();
            assert_eq!(answer.status, case.status, "{} {path}: {text}", case.method);
            assert!(text.contains(&name(case.says)), "{} {path}: {text}", case.method);
            assert!(
                answer.status < 400 || !text.trim().is_empty(),
                "{} {path}: a refusal says what is wrong",
                case.method
            );
        };
        let answer = connection.request(case.method, &path, &[], b"");
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        check(&answer);

        let mut once = node.connect();
        let last = once.request(case.method, &path, &[("Connection", "close")], b"");
        check(&last.unwrap_or_else(|error| panic!("{path}, closing: {error}")));
        assert!(
            once.answer(false).is_err(),
            "{path}: the connection ends after the answer"
        );

        if case.method == "GET" {
            let head = connection.request("HEAD", &path, &[], b"").unwrap();
            assert_eq!(head.status, answer.status, "HEAD {path}");
            if path.starts_with("/jwt/v1/accounts/") || path.ends_with("/operator") {
                // How current is the view in which it was found, or not found?
                for header in ["jwtmesh-revision", "jwtmesh-leader-age-ms"] {
                    assert!(answer.header(header).is_some(), "{path}: {header}");
                }
            }
            for header in ["content-type", "content-length", "etag", "cache-control"] {
                // A pack is sent as it is read, so its length is not known before.
                assert_eq!(head.header(header), answer.header(header), "HEAD {path}: {header}");
            }
        }
    }
    let options = connection.request("OPTIONS", &name("/jwt/v1/accounts/KNOWN"), &[], b"");
    assert_eq!(options.unwrap().header("allow"), Some("GET, HEAD, POST, OPTIONS"));
}

#[test]
fn every_path_answers_as_the_table_says() {
    let (_, known, node) = start(None);
    check_table(&node, &known);
}

#[test]
fn every_path_answers_the_same_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "test");
    let tls = NodeTls::of(&authority, None);
    let (_, known, node) = start(Some(tls));
    check_table(&node, &known);
}

/// nats-server ends at once when this is anything but 200.
#[test]
fn the_start_up_probe_is_empty_and_must_not_be_cached() {
    let (_, _, node) = start(None);
    for path in [
        "/jwt/v1/accounts",
        "/jwt/v1/accounts/",
        "/jwt/v1//accounts/",
        "/jwt/v1//accounts",
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert!(
            answer.header("cache-control").unwrap_or_default().contains("no-"),
            "{path}: {answer:?}"
        );
    }
}

#[test]
fn an_upload_comes_back_byte_for_byte_with_its_revision_and_age() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    let path = format!("/jwt/v1/accounts/{}", account.id());
    assert_eq!(node.get(&path).status, 404);
    let token = operator.account(&account);
    let headers = [("Content-Type", "application/json")];
    let stored = node
        .connect()
        .request("POST", &path, &headers, token.as_bytes())
        .unwrap();
    assert_eq!((stored.status, stored.body.len()), (200, 0));
    let answer = node.get(&path);
    assert_eq!(answer.header("content-type"), Some("application/jwt"));
    assert_eq!(answer.text(), token);
    assert!(
        answer.revision() >= stored.revision() && stored.revision() > 0,
        "{answer:?}"
    );
    let age = answer.header("jwtmesh-leader-age-ms").unwrap();
    assert_eq!(age.parse::<u64>().unwrap(), 0, "the only node is its own leader");
}

#[test]
fn a_trailing_newline_is_dropped_so_that_equal_tokens_are_equal() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    let token = operator.account(&account);
    let stored = node.put(&account, &format!("{token}\r\n")).revision();
    assert_eq!(node.get_account(&account.id()).text(), token);
    assert_eq!(node.put(&account, &token).revision(), stored);
    assert_eq!(node.put(&account, &format!("{token}\n")).revision(), stored);
}

#[test]
fn a_token_of_version_one_is_stored_and_served_unchanged() {
    let (operator, _, node) = start(None);
    let account = Account::new("old");
    let claims = json!({
        "jti": "X", "iat": now(), "iss": operator.key.public_key(), "sub": account.id(), "name": "old",
        "type": "account",
        "nats": {"limits": {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
            "payload": -1, "wildcards": true}},
    });
    let token = sign_v1(&operator.key, &claims);
    node.put(&account, &token);
    assert_eq!(node.get_account(&account.id()).text(), token);
    let decoded = node.get_account(&format!("{}?decode=true", account.id())).text();
    assert!(decoded.contains("\"alg\": \"ed25519\""), "{decoded}");
}

#[test]
fn a_token_under_another_accounts_path_is_refused_naming_both_keys() {
    let (operator, known, node) = start(None);
    let account = Account::new("A");
    let token = operator.account(&account);
    let answer = node.post_account(&known.id(), &token);
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains(&known.id()) && answer.text().contains(&account.id()),
        "{}",
        answer.text()
    );
    assert_eq!(node.post_account(&format!("{}x", account.id()), &token).status, 400);
    assert_eq!(node.get_account(&account.id()).status, 404);
}

/// It took the account over once, and the first operator's nats-servers then refused the account's users.
#[test]
fn g3_another_trusted_operator_does_not_take_an_account_over() {
    let (operator, other) = (Operator::new("O"), Operator::new("P"));
    let node = Node::of_both(&operator, &other);
    let account = Account::new("A");
    let token = operator.account_at(&account, now() - 60);
    node.put(&account, &token);
    let (owner, taker) = (operator.key.public_key(), other.key.public_key());
    let newer = other.account(&account);
    let answer = node.post_account(&account.id(), &newer);
    assert_eq!(answer.status, 403);
    for key in [&owner, &taker] {
        assert!(answer.text().contains(key.as_str()), "{}", answer.text());
    }
    // The admin socket speaks for an administrator, but not for the operator.
    let file = node.folder().join("newer.jwt");
    std::fs::write(&file, &newer).unwrap();
    let pushed = node.cli(&["account", "push", &file.display().to_string(), "--json"]);
    assert_eq!(pushed.status.code(), Some(4));
    let verdicts: serde_json::Value = serde_json::from_slice(&pushed.stdout).unwrap();
    assert_eq!(verdicts[0]["code"], "other-operator", "{verdicts}");
    assert_eq!(node.get_account(&account.id()).text(), token);
    node.put(&account, &operator.account(&account));
    // What the other signs first is the other's.
    let theirs = Account::new("B");
    node.put(&theirs, &other.account(&theirs));
    assert_eq!(node.post_account(&theirs.id(), &operator.account(&theirs)).status, 403);
}

/// Each is refused with a sentence that contains the given word, and nothing of it is stored.
#[test]
fn g3_a_token_that_our_operator_did_not_sign_is_refused_and_not_stored() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    let stranger = Operator::new("stranger");
    let claims_of =
        |change: &dyn Fn(&mut serde_json::Value)| operator.account_claims(&account, |claims| change(claims));
    let good = operator.account(&account);
    let user = account.user();
    let mut forged = good.clone().into_bytes();
    let middle = good.find('.').unwrap() + 40;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let cases: Vec<(&str, String, String)> = vec![
        ("garbage", "this is not a token".to_owned(), String::new()),
        ("three chunks of garbage", "a.b.c".to_owned(), String::new()),
        (
            "signed by the account itself",
            sign(&account.key, &claims_of(&|c| c["iss"] = json!(account.id()))),
            account.id(),
        ),
        (
            "a foreign operator's",
            stranger.account(&account),
            stranger.key.public_key(),
        ),
        (
            "signed by another than it says",
            sign(&stranger.key, &claims_of(&|_| {})),
            String::new(),
        ),
        ("a byte changed", String::from_utf8(forged).unwrap(), String::new()),
        ("a user's", user.token, String::new()),
        ("an operator's", operator.token(), String::new()),
        (
            "expired",
            operator.account_with(&account, |c| c["exp"] = json!(now() - 10)),
            "expired".to_owned(),
        ),
        (
            "not valid yet",
            operator.account_with(&account, |c| c["nbf"] = json!(now() + 3600)),
            "valid".to_owned(),
        ),
        (
            "issued in the future",
            operator.account_at(&account, now() + 3600),
            String::new(),
        ),
        (
            "version 3",
            operator.account_with(&account, |c| c["nats"]["version"] = json!(3)),
            String::new(),
        ),
    ];
    for (name, token, word) in cases {
        let answer = node.post_account(&account.id(), &token);
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        assert!(
            answer.text().len() > 20 && answer.text().contains(&word),
            "{name}: {}",
            answer.text()
        );
        assert!(
            !answer.text().contains(&good[..60]),
            "{name}: the answer repeats the token"
        );
        assert_eq!(node.get_account(&account.id()).status, 404, "{name} was stored");
    }
    node.put(&account, &good);
}

#[test]
fn an_expiring_token_is_served_until_asked_to_check() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    let token = operator.account_with(&account, |claims| claims["exp"] = json!(now() + 2));
    node.put(&account, &token);
    let checked = format!("{}?check=true", account.id());
    eventually("it expired", || {
        (node.get_account(&checked).status == 404).then_some(())
    });
    let answer = node.get_account(&account.id());
    assert_eq!((answer.status, answer.text()), (200, token));
}

/// The tag is of the bytes: two tokens of one second may share their jti.
#[test]
fn the_etag_is_strong_and_changes_with_every_change_of_the_bytes() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    let same_id = |claims: &mut serde_json::Value| claims["jti"] = json!("SAME");
    let issued_at = now();
    let first = operator.account_with(&account, |claims| {
        same_id(claims);
        claims["iat"] = json!(issued_at);
    });
    let second = operator.account_with(&account, |claims| {
        same_id(claims);
        claims["iat"] = json!(issued_at);
        claims["nats"]["limits"]["conn"] = json!(7);
    });
    node.put(&account, &first);
    let tag = node.get_account(&account.id()).header("etag").unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let path = format!("/jwt/v1/accounts/{}", account.id());
    let ask = |tag: &str| {
        node.connect()
            .request("GET", &path, &[("If-None-Match", tag)], b"")
            .unwrap()
    };
    let unchanged = ask(&tag);
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(tag.as_str())));
    assert_eq!(ask(&format!("\"other\", {tag}")).status, 304);
    assert_eq!(ask(&format!("W/{tag}")).status, 304);
    assert_eq!(ask("*").status, 304);
    assert_eq!(ask("\"other\"").status, 200);
    node.put(&account, &second);
    let changed = ask(&tag);
    assert_eq!((changed.status, changed.text()), (200, second));
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
}

#[test]
fn a_cache_must_ask_each_time_before_it_serves_a_token() {
    let (operator, _, node) = start(None);
    let account = Account::new("A");
    for exp in [0, now() + 10, now() + 86_400 * 3650] {
        node.put(
            &account,
            &operator.account_with(&account, |claims| claims["exp"] = json!(exp)),
        );
        let answer = node.get_account(&account.id());
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "exp {exp}");
    }
}

#[test]
fn the_pack_lists_every_account_once_and_no_more_than_asked_for() {
    let (operator, known, node) = start(None);
    let accounts: Vec<Account> = (0..5)
        .map(|number| Account::new(&format!("account {number}")))
        .collect();
    for account in &accounts {
        node.put(account, &operator.account(account));
    }
    let pack = node.get("/jwt/v1/pack").text();
    assert_eq!(
        pack.lines().count(),
        accounts.len() + 2,
        "these, the system account and the known one"
    );
    for line in pack.lines() {
        let (id, token) = line.split_once('|').unwrap();
        assert_eq!(node.get_account(id).text(), token);
        assert_eq!(claims(token)["sub"], id);
    }
    assert!(pack.contains(&known.id()) && !pack.ends_with('\n'));
    assert_eq!(node.get("/jwt/v1/pack?max=2").text().lines().count(), 2);
}

#[test]
fn the_operators_token_is_served_byte_for_byte() {
    let operator = Operator::new("O");
    let token = operator.token();
    let node = Node::plain(&token);
    for path in ["/jwt/v1/operator", "/jwt/v2/operator"] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.text()), (200, token.clone()), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/jwt"), "{path}");
    }
}

/// nsc asks for version 2 first, and takes any answer with 200 there for its operator.
#[test]
fn an_operator_of_version_1_is_not_served_as_one_of_version_2() {
    let token = include_str!("../vectors/accept/operator-v1.jwt");
    let node = Node::plain(token);
    let answer = node.get("/jwt/v1/operator");
    assert_eq!((answer.status, answer.text().as_str()), (200, token));
    assert_eq!(node.get("/jwt/v2/operator").status, 404);
}

/// As `nc -N` does: the client closes its side after the request, and waits for the answer.
#[test]
fn a_client_that_has_finished_sending_is_answered() {
    let (operator, known, node) = start(None);
    let account = Account::new("A");
    let token = operator.account(&account);
    let requests = [
        format!("GET /jwt/v1/accounts/{} HTTP/1.1\r\nHost: x\r\n\r\n", known.id()),
        format!(
            "POST /jwt/v1/accounts/{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{token}",
            account.id(),
            token.len()
        ),
    ];
    for request in requests {
        let mut socket = TcpStream::connect(node.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{request}: {answer:?}");
    }
    assert_eq!(node.get_account(&account.id()).text(), token);
}

#[test]
fn a_connection_serves_many_requests() {
    let (_, known, node) = start(None);
    let mut connection = node.connect();
    let path = format!("/jwt/v1/accounts/{}", known.id());
    for _ in 0..100 {
        assert_eq!(connection.request("GET", &path, &[], b"").unwrap().status, 200);
    }
}

/// curl does not show an answer if its stream is reset because the server did not read the request's body.
#[test]
fn over_http2_a_refusal_reaches_the_client_and_its_stream_is_not_reset() {
    let (_, known, node) = start(None);
    let known = format!("/jwt/v1/accounts/{}", known.id());
    for (method, path) in [
        ("POST", "/jwt/v1/accounts/APP"),
        ("POST", "/jwt/v1/accounts"),
        ("PUT", &known),
        ("POST", "/nope"),
    ] {
        // On a busy machine the body may come too late, so that the stream is reset, but not each time.
        let whole = (0..10).filter(|_| !is_reset(&node, method, path)).count();
        assert!(whole >= 5, "{method} {path}: {whole} of 10");
    }
}

/// Whether the stream of a request whose body comes after the server has seen its head is reset (RFC 9113).
fn is_reset(node: &Node, method: &str, path: &str) -> bool {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    const END_HEADERS: u8 = 4;
    let frame = |kind, flags, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a short frame");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // Names from the static table (RFC 7541, appendix A): :method, :scheme http, :path, :authority.
    let literal =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).expect("short")], value.as_bytes()].concat();
    let head = [literal(2, method), vec![0x86], literal(4, path), literal(1, "test")].concat();
    let mut socket = TcpStream::connect(node.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let frames = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(PING, 0, 0, b"the head"),
    ];
    socket.write_all(&frames.concat()).unwrap();
    let mut answered = false;
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).unwrap();
        let [_, high, low, kind, flags, _, _, _, stream] = header;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        socket.read_exact(&mut payload).unwrap();
        answered |= stream == 1 && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        if kind == PING && flags & ACK != 0 && payload == b"the head" {
            socket.write_all(&frame(DATA, END_STREAM, 1, b"the body")).unwrap();
        }
        if stream == 1 && kind == RST_STREAM {
            return true;
        }
        if answered && kind != PING {
            socket.write_all(&frame(PING, 0, 0, b"and then")).unwrap();
        }
        if kind == PING && payload == b"and then" {
            return false;
        }
    }
}
