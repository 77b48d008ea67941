//! The requests that resolvers answer over the system account, and the shapes of the answers (nats-server
//! `server/accounts.go` and `server/events.go`, `OwnInfo`; nsc `cmd/push.go`).

use bytes::Bytes;
use serde_json::{Value, json};

use super::names::INBOX_PREFIX;
use super::servers::clip;
use crate::jwt::{AccountKey, KEY_CHARS, Token, kind};

/// The queue group of all nodes, of whichever mesh: a request is to be answered once.
const NODES: &str = "jwtmesh";

/// The one of all resolvers: full ones and nats-account-server share it for PACK.
const RESOLVERS: &str = "responder";

/// What is subscribed to, and in which queue group.
pub(in crate::nats) const REQUESTS: [(&str, &str); 5] = [
    ("$SYS.REQ.CLAIMS.UPDATE", NODES),
    ("$SYS.REQ.CLAIMS.LIST", NODES),
    ("$SYS.REQ.CLAIMS.DELETE", NODES),
    ("$SYS.REQ.CLAIMS.PACK", RESOLVERS),
    ("$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP", NODES),
];

/// Where answers go: clients' inboxes, and those of nats-servers. What a gateway puts before them, the server removes.
pub(in crate::nats) const ANSWERS: [&str; 2] = ["_INBOX.>", "$SYS._INBOX.>"];

/// So much of what a sender says of itself is logged: a name has at most 63 characters, the id of a mesh 36.
const MAX_NAME_CHARS: usize = 64;

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum Asked {
    /// To store an account's token. Servers with a URL resolver do not get this message.
    Update,
    /// For the keys of all accounts.
    List,
    /// To delete accounts.
    Delete,
    /// For all accounts, if they differ from those of the sender.
    Pack,
    /// For the token of this account.
    Lookup(AccountKey),
}

/// What a message to `subject` asks for; `None` if it names no account where it should.
pub(in crate::nats) fn asked(subject: &str) -> Option<Asked> {
    match subject {
        "$SYS.REQ.CLAIMS.UPDATE" => return Some(Asked::Update),
        "$SYS.REQ.CLAIMS.LIST" => return Some(Asked::List),
        "$SYS.REQ.CLAIMS.DELETE" => return Some(Asked::Delete),
        "$SYS.REQ.CLAIMS.PACK" => return Some(Asked::Pack),
        _ => {}
    }
    let account = subject
        .strip_prefix("$SYS.REQ.ACCOUNT.")?
        .strip_suffix(".CLAIMS.LOOKUP")?;
    Some(Asked::Lookup(account.parse().ok()?))
}

/// `reply` without the three tokens that a gateway puts before it (nats-server `server/gateway.go`:
/// `_GR_.CLUSTER.SERVER.`).
fn unrouted(reply: &str) -> &str {
    match reply.strip_prefix("_GR_.") {
        Some(routed) => routed.splitn(3, '.').nth(2).unwrap_or_default(),
        None => reply,
    }
}

/// Who has given the servers an update, as far as its reply subject tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::nats) enum Sender {
    /// A publisher of this mesh. What its nodes send is newer than what another of them knows, or will be followed by it.
    Own,
    /// A publisher of another mesh. What it sends may be older, and it repeats that.
    OtherMesh {
        /// The node, by its own word.
        node: String,
        /// The mesh, by its own word; empty in versions that do not say it.
        mesh: String,
    },
    /// Another program.
    Other,
}

/// Who has sent an update whose answers go to `reply`, as a node of `mesh` sees it.
pub(in crate::nats) fn sender(reply: Option<&str>, mesh: &str) -> Sender {
    let Some(reply) = reply.filter(|reply| is_from_publisher(reply)) else {
        return Sender::Other;
    };
    let word = |text: &str| clip(text, MAX_NAME_CHARS);
    let rest = unrouted(reply).strip_prefix(INBOX_PREFIX).unwrap_or_default();
    let node = rest.split('.').nth(1).unwrap_or_default();
    // ACCOUNT-REVISION-MESH
    let mut last = reply.rsplit('.').next().unwrap_or_default().splitn(3, '-');
    let other = last.nth(2).unwrap_or_default();
    if !mesh.is_empty() && other == mesh {
        return Sender::Own;
    }
    Sender::OtherMesh {
        node: word(node),
        mesh: word(other),
    }
}

/// Whether an update whose answers go to `reply` was sent by a node's publisher, of whichever mesh.
fn is_from_publisher(reply: &str) -> bool {
    let rest = unrouted(reply).strip_prefix(INBOX_PREFIX);
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Whether an answer may be sent to `reply`. Not to the subjects of the system account, where it would be a request in
/// our name, which the sender may not be allowed to make; servers' own inboxes excepted. Nor to a publisher of ours, which
/// would count the answer as that of a nats-server.
pub(in crate::nats) fn may_answer(reply: &str) -> bool {
    if is_from_publisher(reply) {
        return false;
    }
    let reply = unrouted(reply);
    !reply.is_empty() && (!reply.starts_with("$SYS.") || reply.starts_with("$SYS._INBOX."))
}

/// A permission that the answering user lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Denied {
    /// To subscribe to this subject.
    Subscribe(&'static str),
    /// To answer.
    Publish,
}

/// The permission that a server's complaint is about; `None` if it is about something else.
pub(in crate::nats) fn denied(complaint: &str) -> Option<Denied> {
    let complaint = complaint.to_lowercase();
    let (_, violation) = complaint.split_once("permissions violation for ")?;
    let (kind, subject) = violation.split_once(" to ")?;
    let subject = subject.strip_prefix('"')?.split('"').next()?;
    match kind {
        "publish" => Some(Denied::Publish),
        "subscription" => {
            let mut all = REQUESTS.iter().map(|(request, _)| *request);
            all.find(|request| request.to_lowercase() == subject)
                .map(Denied::Subscribe)
        }
        _ => None,
    }
}

/// Who answers, as nats-servers say it of themselves.
#[derive(Debug, Clone)]
pub(in crate::nats) struct OwnInfo {
    /// Its name. nsc fails where it is empty.
    pub(in crate::nats) name: String,
    /// Names it among all that answer.
    pub(in crate::nats) id: String,
}

impl OwnInfo {
    /// The `server` of its answer number `seq`, sent at `now` (Unix seconds).
    pub(in crate::nats) fn at(&self, seq: u64, now: i64) -> Value {
        let time = jiff::Timestamp::from_second(now).unwrap_or_default();
        json!({
            "name": self.name, "host": self.name, "id": self.id, "ver": env!("CARGO_PKG_VERSION"),
            "jetstream": false, "flags": 0, "seq": seq, "time": time.to_string(),
        })
    }
}

/// The answer to an update that succeeded.
pub(in crate::nats) fn updated(server: &Value, account: Option<AccountKey>) -> Bytes {
    let mut data = json!({});
    if let Some(account) = account {
        data["account"] = json!(account.to_string());
    }
    data["code"] = json!(200);
    data["message"] = json!("jwt updated");
    encoded(&json!({"server": server, "data": data}))
}

/// The answer to a request that has deleted `count` accounts.
pub(in crate::nats) fn deleted(server: &Value, count: usize) -> Bytes {
    let data = json!({"code": 200, "message": format!("deleted {count} accounts")});
    encoded(&json!({"server": server, "data": data}))
}

/// The answer to a request that failed.
pub(in crate::nats) fn failed(server: &Value, account: Option<AccountKey>, description: &str) -> Bytes {
    let mut error = json!({});
    if let Some(account) = account {
        error["account"] = json!(account.to_string());
    }
    error["code"] = json!(500);
    error["description"] = json!(description);
    encoded(&json!({"server": server, "error": error}))
}

/// The answer to a request for all keys.
pub(in crate::nats) fn listed(server: &Value, accounts: &[AccountKey]) -> Bytes {
    let keys: Vec<String> = accounts.iter().map(AccountKey::to_string).collect();
    encoded(&json!({"server": server, "data": keys}))
}

/// Bytes that one key takes in a list: 56 characters, quotes and a comma.
pub(in crate::nats) const LISTED_KEY_BYTES: usize = KEY_CHARS + 3;

fn encoded(value: &Value) -> Bytes {
    value.to_string().into()
}

/// One message of a pack.
pub(in crate::nats) fn packed(account: AccountKey, token: &[u8]) -> Bytes {
    [account.to_string().as_bytes(), b"|", token].concat().into()
}

/// The account that a token is of by its own claims, unverified, and when it says that it was issued.
pub(in crate::nats) fn unverified(token: &[u8]) -> (Option<AccountKey>, Option<i64>) {
    let claims = Token::parse(token).ok().and_then(|token| token.unverified_claims());
    let claims = claims.unwrap_or_default();
    let account = claims["sub"].as_str().and_then(|account| account.parse().ok());
    (account, claims["iat"].as_i64())
}

/// The largest request to delete accounts whose signer is named. One for as many accounts as are deleted at once is smaller.
const MAX_DELETE_BYTES: usize = 512 * 1024;

/// What is kept of a request to delete accounts until it is answered: nothing of a larger one.
pub(in crate::nats) fn kept_of_delete(request: &[u8]) -> &[u8] {
    if request.len() > MAX_DELETE_BYTES { b"" } else { request }
}

/// Why nothing is deleted, as nats-server begins that sentence: with the key that signed the request.
pub(in crate::nats) fn not_deleted(request: &[u8], reason: &str) -> String {
    let claims = Token::parse(kept_of_delete(request))
        .ok()
        .and_then(|token| token.unverified_claims());
    let claims = claims.unwrap_or_default();
    // Only a public key is repeated: anything else may be what must not be shown.
    let signer = claims["sub"].as_str().filter(|signer| kind(signer).is_some());
    format!(
        "delete accounts request by {} failed - {reason}",
        clip(signer.unwrap_or_default(), KEY_CHARS)
    )
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::super::replies::{Reply, Verdict};
    use super::super::reply_to;
    use super::*;

    fn account() -> AccountKey {
        AccountKey::from_bytes([7; 32])
    }

    fn responder() -> OwnInfo {
        OwnInfo {
            name: "jwtmesh-n1".to_owned(),
            id: "4f-1".to_owned(),
        }
    }

    fn token(claims: &str) -> String {
        [r#"{"typ":"JWT"}"#, claims, "signature"]
            .map(|part| BASE64URL_NOPAD.encode(part.as_bytes()))
            .join(".")
    }

    #[test]
    fn every_subject_that_is_subscribed_to_is_understood() {
        let key = account().to_string();
        let of = |subject: &str| asked(&subject.replace('*', &key));
        let all = REQUESTS.map(|(subject, _)| of(subject).expect(subject));
        let simple = [Asked::Update, Asked::List, Asked::Delete, Asked::Pack];
        assert_eq!(all[..4], simple);
        assert_eq!(all[4..], [Asked::Lookup(account())]);
        for other in [
            "",
            // Every server gets these too: the publisher hears them.
            "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
            "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
            "$SYS.REQ.CLAIMS.SIGN",
            "$SYS.REQ.ACCOUNT.x.CLAIMS.LOOKUP",
            "$SYS.ACCOUNT.*.CLAIMS.LOOKUP",
            "$SYS.REQ.ACCOUNT.*.x.CLAIMS.UPDATE",
            "$SYS.REQ.*.CLAIMS.UPDATE",
            "ACCOUNT.*.CLAIMS.UPDATE",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn what_our_publishers_send_is_recognised_also_across_a_gateway() {
        for (reply, is) in [
            ("_INBOX.jwtmesh.fra-1.x9Y.AAAA-1", true),
            ("_GR_.AbC.xyz._INBOX.jwtmesh.fra-1.x9Y.AAAA-1", true),
            ("_INBOX.jwtmesh", false),
            ("_INBOX.jwtmeshes.x", false),
            ("_INBOX.x", false),
            ("_GR_._INBOX.jwtmesh.x", false),
            ("_GR_.AbC.xyz._INBOX.x", false),
            ("", false),
        ] {
            assert_eq!(is_from_publisher(reply), is, "{reply}");
        }
    }

    #[test]
    fn g6_only_what_this_mesh_sends_itself_is_known_by_where_its_answers_go() {
        let of = |mesh: &str| reply_to("_INBOX.jwtmesh.fra-1.x9Y", account(), 41, mesh);
        for (reply, is) in [
            (of("4f"), true),
            (format!("_GR_.AbC.xyz.{}", of("4f")), true),
            (of("4e"), false),
            (of(""), false),
            ("_INBOX.jwtmesh.fra-1.x9Y.AAAA-1".to_owned(), false),
            ("_INBOX.x-4f".to_owned(), false),
            ("_GR_.AbC.xyz._INBOX.x-4f".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(sender(Some(&reply), "4f") == Sender::Own, is, "{reply}");
            assert_ne!(sender(Some(&reply), ""), Sender::Own, "{reply}: no mesh sends anything");
        }
        let other = |node: &str, mesh: &str| Sender::OtherMesh {
            node: node.to_owned(),
            mesh: mesh.to_owned(),
        };
        for (reply, wanted) in [
            (of("4e-1"), other("fra-1", "4e-1")),
            (format!("_GR_.AbC.xyz.{}", of("4e")), other("fra-1", "4e")),
            ("_INBOX.jwtmesh.fra-1.x9Y.AAAA-1".to_owned(), other("fra-1", "")),
            ("_INBOX.x-4e".to_owned(), Sender::Other),
        ] {
            assert_eq!(sender(Some(&reply), "4f"), wanted, "{reply}");
        }
        assert_eq!(sender(None, "4f"), Sender::Other);
        assert_eq!(
            sender(Some(&of(&"x".repeat(999))), "4f"),
            other("fra-1", &"x".repeat(64))
        );
    }

    /// Otherwise a user who may only look accounts up could have us reload a server, or tell a publisher of ours that a
    /// server has taken a change.
    #[test]
    fn nothing_is_answered_to_a_subject_on_which_the_answer_would_be_a_request_or_a_servers_reply() {
        for (reply, may) in [
            ("_INBOX.x", true),
            ("custom.inbox", true),
            ("$SYS._INBOX.AbCdEfGh.1", true),
            ("_GR_.AbC.xyz.$SYS._INBOX.AbCdEfGh.1", true),
            ("_GR_.AbC.xyz._INBOX.x", true),
            ("$SYS.REQ.SERVER.N.RELOAD", false),
            ("_GR_.AbC.xyz.$SYS.REQ.SERVER.N.RELOAD", false),
            ("$SYS._INBOXES.x", false),
            ("_INBOX.jwtmesh.fra-1.x9Y.AAAA-1", false),
            ("_GR_.AbC.xyz._INBOX.jwtmesh.fra-1.x9Y.AAAA-1", false),
            ("", false),
        ] {
            assert_eq!(may_answer(reply), may, "{reply}");
        }
    }

    #[test]
    fn a_complaint_names_the_permission_that_is_missing() {
        for (complaint, missing) in [
            (
                r#"nats: Permissions Violation for Subscription to "$SYS.REQ.CLAIMS.UPDATE" using queue "jwtmesh""#,
                Some(Denied::Subscribe("$SYS.REQ.CLAIMS.UPDATE")),
            ),
            (
                r#"nats: permissions violation for subscription to "$sys.req.account.*.claims.lookup""#,
                Some(Denied::Subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP")),
            ),
            (
                r#"nats: Permissions Violation for Publish to "_INBOX.x""#,
                Some(Denied::Publish),
            ),
            (
                r#"nats: Permissions Violation for Subscription to "_INBOX.jwtmesh.n1.x.*""#,
                None,
            ),
            ("nats: User Authentication Expired", None),
            ("", None),
        ] {
            assert_eq!(denied(complaint), missing, "{complaint}");
        }
    }

    /// The publisher reads nats-servers' answers; ours have the same shape.
    #[test]
    fn the_answers_are_those_that_a_nats_server_gives() {
        let server = responder().at(7, 1_795_681_200);
        for (answer, verdict) in [
            (updated(&server, Some(account())), Verdict::Updated),
            (updated(&server, None), Verdict::Updated),
            (failed(&server, None, "no"), Verdict::Refused("no".to_owned())),
        ] {
            let reply = Reply::read(&answer).expect("a reply");
            assert_eq!((reply.server.name.as_str(), reply.verdict), ("jwtmesh-n1", verdict));
            assert_eq!(
                (reply.time, reply.server.version.as_str()),
                (Some(1_795_681_200), env!("CARGO_PKG_VERSION"))
            );
        }
        let answer: Value = serde_json::from_slice(&failed(&server, Some(account()), "no")).unwrap();
        assert_eq!(answer["error"]["account"], account().to_string());
        assert_eq!((&answer["error"]["code"], &answer["data"]), (&json!(500), &Value::Null));
        assert_eq!(
            (&answer["server"]["seq"], &answer["server"]["time"]),
            (&json!(7), &json!("2026-11-26T08:20:00Z"))
        );
    }

    #[test]
    fn g12_a_list_has_the_size_that_its_limit_is_reckoned_with() {
        let server = responder().at(1, 0);
        let size = |count: usize| listed(&server, &vec![account(); count]).len();
        assert_eq!(size(101) - size(100), LISTED_KEY_BYTES);
        let empty: Value = serde_json::from_slice(&listed(&server, &[])).unwrap();
        assert_eq!(empty["data"], json!([]), "nsc wants an array");
    }

    #[test]
    fn a_refused_delete_names_its_signer_and_nothing_else_of_the_request() {
        let signer = account().to_string();
        for (sub, shown) in [("SUAFAKE", ""), ("x y", ""), (signer.as_str(), signer.as_str())] {
            let request = token(&json!({"sub": sub}).to_string());
            assert_eq!(
                not_deleted(request.as_bytes(), "no"),
                format!("delete accounts request by {shown} failed - no")
            );
        }
        let names = |padding: usize| {
            let request = token(&json!({"sub": signer, "x": "x".repeat(padding)}).to_string());
            not_deleted(request.as_bytes(), "no").contains(&signer)
        };
        assert!(
            names(MAX_DELETE_BYTES / 2) && !names(MAX_DELETE_BYTES),
            "a large one is not parsed"
        );
        assert_eq!(not_deleted(b"", "no"), "delete accounts request by  failed - no");
        let done: Value = serde_json::from_slice(&deleted(&responder().at(1, 0), 2)).unwrap();
        assert_eq!(done["data"], json!({"code": 200, "message": "deleted 2 accounts"}));
        assert_eq!(done["error"], Value::Null);
    }

    #[test]
    fn an_unverified_token_says_whose_it_is() {
        let claims = json!({"sub": account().to_string(), "iat": 5});
        assert_eq!(
            unverified(token(&claims.to_string()).as_bytes()),
            (Some(account()), Some(5))
        );
        assert_eq!(unverified(b"garbage"), (None, None));
        assert_eq!(packed(account(), b"a.b.c"), format!("{}|a.b.c", account()));
    }
}
