//! What nats-servers say of themselves and of the accounts that they have loaded.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::jwt::AccountKey;
use crate::resolver::Server;

/// The longest answer that is read about one account: a token of a MiB, its claims decoded beside it, and what hangs on it.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;

/// The longest list of accounts that is read: a million of them.
const MAX_LOADED_BYTES: usize = 64 * 1024 * 1024;

/// The longest report that is read. A real one has some KiB, and 100 bytes more for each route.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// A nats-server, as it introduces itself in each message (nats-server `server/events.go`, `ServerInfo`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::nats) struct ServerInfo {
    /// Its key, which is new at each start; empty if what it says is none.
    pub(in crate::nats) id: String,
    /// Its name; its key if it has none.
    pub(in crate::nats) name: String,
    /// The name of the cluster that it belongs to; empty if it stands alone.
    pub(in crate::nats) cluster: String,
    /// Its version; empty if it does not say.
    pub(in crate::nats) version: String,
}

#[derive(Deserialize, Default)]
pub(super) struct ServerText {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    cluster: Value,
    #[serde(default)]
    ver: Value,
    /// RFC 3339 with nanoseconds.
    #[serde(default)]
    time: Value,
}

impl ServerText {
    /// The server, and its clock in Unix seconds if it says.
    pub(super) fn read(self) -> (ServerInfo, Option<i64>) {
        let time = self.time.as_str().and_then(|time| time.parse().ok());
        let name = if self.name.is_empty() { &self.id } else { &self.name };
        let info = ServerInfo {
            id: if is_key(&self.id) {
                self.id.clone()
            } else {
                String::new()
            },
            name: cut(name, Server::MAX_NAME_BYTES),
            cluster: cut(self.cluster.as_str().unwrap_or_default(), Server::MAX_CLUSTER_BYTES),
            version: cut(self.ver.as_str().unwrap_or_default(), Server::MAX_VERSION_BYTES),
        };
        (info, time.map(jiff::Timestamp::as_second))
    }
}

/// The server that sent a report or an event; `None` if it is not one that a nats-server sends.
pub(in crate::nats) fn reporter(payload: &[u8]) -> Option<ServerInfo> {
    #[derive(Deserialize)]
    struct Report {
        server: Option<ServerText>,
    }
    if payload.len() > MAX_REPORT_BYTES {
        return None;
    }
    // A report has it below `server`; what a server says at its end is it.
    let text = match serde_json::from_slice(payload).ok()? {
        Report { server: Some(server) } => server,
        Report { server: None } => serde_json::from_slice(payload).ok()?,
    };
    let (info, _) = text.read();
    (!info.id.is_empty()).then_some(info)
}

/// The server that answers, and what it says; `None` if that is longer than `most` bytes or none of an answer's form. Where it
/// answers with an error it says nothing.
fn answer<D: DeserializeOwned>(payload: &[u8], most: usize) -> Option<(ServerInfo, Option<D>)> {
    #[derive(Deserialize)]
    struct Answer<D> {
        #[serde(default)]
        server: ServerText,
        data: Option<D>,
    }
    if payload.len() > most {
        return None;
    }
    let answer: Answer<D> = serde_json::from_slice(payload).ok()?;
    let (info, _) = answer.server.read();
    (!info.id.is_empty()).then_some((info, answer.data))
}

/// The server that answers, and the accounts that it has loaded; those that are no keys, such as `$G`, are left out.
pub(in crate::nats) fn loaded(payload: &[u8]) -> Option<(ServerInfo, Vec<AccountKey>)> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        accounts: Vec<String>,
    }
    let (info, data) = answer::<Data>(payload, MAX_LOADED_BYTES)?;
    let accounts = data?.accounts;
    Some((
        info,
        accounts.iter().filter_map(|account| account.parse().ok()).collect(),
    ))
}

/// The server that answers, and the token that it holds of an account; `None` inside if it holds none.
pub(in crate::nats) fn held(payload: &[u8]) -> Option<(ServerInfo, Option<String>)> {
    #[derive(Deserialize)]
    struct Data {
        account_detail: Option<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        #[serde(default)]
        jwt: String,
    }
    let (info, data) = answer::<Data>(payload, MAX_HELD_BYTES)?;
    let token = data.and_then(|data| data.account_detail).map(|detail| detail.jwt);
    Some((info, token.filter(|token| !token.is_empty())))
}

/// What to ask a server, for the connections of `account` that it closed lately (nats-server `server/monitor.go`,
/// `ConnzOptions`; a state of 1 is closed). The newest come first.
pub(in crate::nats) fn closed_request(account: AccountKey) -> Bytes {
    let wanted = json!({ "acc": account, "state": 1, "sort": "stop", "limit": MAX_CLOSED });
    wanted.to_string().into()
}

/// The server that answers, and how many connections it has closed within `since` because their users were revoked.
pub(in crate::nats) fn closed(payload: &[u8], since: Duration) -> Option<(ServerInfo, u64)> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        server: ServerText,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        connections: Vec<Closed>,
    }
    #[derive(Deserialize)]
    struct Closed {
        #[serde(default)]
        stop: String,
        #[serde(default)]
        reason: String,
    }
    if payload.len() > MAX_CLOSED_BYTES {
        return None;
    }
    let answer: Answer = serde_json::from_slice(payload).ok()?;
    let now: Timestamp = answer.server.time.as_str()?.parse().ok()?;
    let (info, _) = answer.server.read();
    let begun = now.checked_sub(SignedDuration::try_from(since).ok()?).ok()?;
    let is_ours =
        |closed: &&Closed| closed.reason == REVOKED && closed.stop.parse().is_ok_and(|stop: Timestamp| stop >= begun);
    let count = answer.data.connections.iter().filter(is_ours).count();
    (!info.id.is_empty()).then_some((info, u64::try_from(count).unwrap_or(u64::MAX)))
}

/// The reason that a server gives for a connection whose user was revoked (nats-server `server/monitor.go`,
/// `ClosedState.String`).
const REVOKED: &str = "Credentials Revoked";

/// Connections of which one answer tells; of more that a revocation closes, that many are counted. An answer is read by the
/// task that sends revocations, so it is short: a connection takes 600 bytes.
const MAX_CLOSED: usize = 256;

/// The longest such answer that is read.
const MAX_CLOSED_BYTES: usize = 1024 * 1024;

/// What to ask a server, for the streams of `account` (nats-server `server/monitor.go`, `JSzOptions`). Without `streams` it
/// says only how many all accounts have together.
pub(in crate::nats) fn streams_request(account: AccountKey) -> Bytes {
    json!({ "account": account, "streams": true }).to_string().into()
}

/// The server that answers, and the names of the streams of `account` that it has a copy of: none where the account, or the
/// server, has no JetStream. `None` for an error too, since nothing is known then.
pub(in crate::nats) fn streams(payload: &[u8], account: AccountKey) -> Option<(ServerInfo, Vec<String>)> {
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        account_details: Vec<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        #[serde(default)]
        id: String,
        #[serde(default)]
        stream_detail: Vec<Stream>,
    }
    #[derive(Deserialize)]
    struct Stream {
        #[serde(default)]
        name: String,
    }
    let (info, data) = answer::<Data>(payload, MAX_STREAMS_BYTES)?;
    let key = account.to_string();
    let details = data?.account_details.into_iter();
    let of_account = details.filter(|detail| detail.id == key);
    let names = of_account
        .flat_map(|detail| detail.stream_detail)
        .map(|stream| stream.name);
    Some((info, names.collect()))
}

/// The longest such answer that is read: a stream takes 400 bytes of it, and more for each of its replicas.
const MAX_STREAMS_BYTES: usize = 32 * 1024 * 1024;

/// The first `chars` of `text` on one line: it comes from outside and goes into a log.
pub(in crate::nats) fn clip(text: &str, chars: usize) -> String {
    text.chars()
        .take(chars)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether `id` is the public key of a server. Any user of the system account can write to us, and it becomes a part of a
/// subject.
fn is_key(id: &str) -> bool {
    let is_base32 = |c: u8| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c);
    id.len() == KEY_CHARS && id.starts_with('N') && id.bytes().all(is_base32)
}

/// The characters of a public key.
const KEY_CHARS: usize = 56;

/// The same, of as many bytes as the agreed state has room for.
fn cut(text: &str, bytes: usize) -> String {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= bytes).last().unwrap_or(0);
    clip(&text[..end], bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a server.
    fn id() -> String {
        format!("N{}", "A".repeat(55))
    }

    #[test]
    fn a_server_is_known_by_its_report_and_by_what_it_says_at_its_end() {
        let info = ServerInfo {
            id: id(),
            name: "n1".to_owned(),
            cluster: "c".to_owned(),
            version: "2.15.1".to_owned(),
        };
        for text in [
            r#"{"server":{"name":"n1","id":"ID","cluster":"c","ver":"2.15.1"},"statsz":{"mem":1}}"#,
            r#"{"name":"n1","id":"ID","cluster":"c","ver":"2.15.1"}"#,
        ] {
            let text = text.replace("ID", &id());
            assert_eq!(reporter(text.as_bytes()).as_ref(), Some(&info), "{text}");
        }
        let unnamed = format!(r#"{{"id":"{}"}}"#, id());
        let unnamed = reporter(unnamed.as_bytes()).expect("it has an id");
        assert_eq!(unnamed.name, id());
        for text in ["", "{}", "[]", "null", r#"{"server":{}}"#] {
            assert_eq!(reporter(text.as_bytes()), None, "{text}");
        }
        // It becomes a part of a subject.
        for id in ["PING", "N A", "N.A", "*", ">", &id().to_lowercase(), &id()[1..]] {
            let text = serde_json::json!({"server": {"id": id, "name": "n1"}}).to_string();
            assert_eq!(reporter(text.as_bytes()), None, "{id}");
            let answer = serde_json::json!({"server": {"id": id}, "data": {"accounts": []}}).to_string();
            assert!(
                loaded(answer.as_bytes()).is_none() && held(answer.as_bytes()).is_none(),
                "{id}"
            );
        }
    }

    #[test]
    fn connections_that_were_closed_since_for_a_revocation_are_counted() {
        let closed_at =
            |seconds: &str, reason: &str| json!({"stop": format!("2026-11-28T06:00:{seconds}Z"), "reason": reason});
        let answer = json!({
            "server": {"id": id(), "time": "2026-11-28T06:00:10.5Z"},
            "data": {"connections": [
                closed_at("10.2", REVOKED), closed_at("09.6", REVOKED), closed_at("09.4", REVOKED),
                closed_at("10.2", "Client Closed"), {"reason": REVOKED},
            ]},
        });
        let answer = answer.to_string();
        let (info, count) = closed(answer.as_bytes(), Duration::from_secs(1)).expect("an answer");
        assert_eq!((info.id, count), (id(), 2));
        for wrong in ["{}", "[]", "", r#"{"server":{},"data":null}"#] {
            assert!(closed(wrong.as_bytes(), Duration::ZERO).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_the_streams_of_the_account_are_named_and_an_error_is_no_answer() {
        let account = AccountKey::from_bytes([7; 32]);
        let with = |data: Value| json!({"server": {"id": id()}, "data": data}).to_string();
        let detail = |id: &str, names: &[&str]| {
            let streams: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"id": id, "name": "A", "stream_detail": streams})
        };
        let (mine, other) = (detail(&account.to_string(), &["x", "y"]), detail("B", &["z"]));
        for (data, wanted) in [
            (json!({"streams": 3, "account_details": [other, mine]}), vec!["x", "y"]),
            (json!({"streams": 1, "account_details": [other]}), vec![]),
            (
                json!({"streams": 0, "account_details": [{"id": account.to_string()}]}),
                vec![],
            ),
            (json!({"disabled": true, "streams": 0}), vec![]),
        ] {
            let (info, names) = streams(with(data).as_bytes(), account).expect("an answer");
            assert_eq!(
                (info.id, names),
                (id(), wanted.into_iter().map(str::to_owned).collect())
            );
        }
        assert!(streams(with(Value::Null).as_bytes(), account).is_none());
        assert!(streams(b"{}", account).is_none());
    }

    #[test]
    fn what_a_server_has_loaded_and_holds_is_read_and_an_error_means_nothing() {
        let account = AccountKey::from_bytes([7; 32]);
        let text = format!(
            r#"{{"server":{{"id":"{}"}},"data":{{"accounts":["$G","{account}"],"system_account":"A"}}}}"#,
            id()
        );
        let (info, accounts) = loaded(text.as_bytes()).expect("an answer");
        assert_eq!((info.id, accounts), (id(), vec![account]));
        let with_id = |text: &str| text.replace("ID", &id()).into_bytes();
        let refused = with_id(r#"{"server":{"id":"ID"},"data":null,"error":{"code":500,"description":"no"}}"#);
        assert_eq!(loaded(&refused), None);
        let (_, token) = held(&refused).expect("an answer");
        assert_eq!(token, None);
        let text = with_id(r#"{"server":{"id":"ID"},"data":{"account_detail":{"account_name":"A","jwt":"eyJ"}}}"#);
        assert_eq!(held(&text).and_then(|(_, token)| token).as_deref(), Some("eyJ"));
        let placeholder =
            with_id(r#"{"server":{"id":"ID"},"data":{"account_detail":{"account_name":"A","expired":true}}}"#);
        assert_eq!(held(&placeholder).expect("an answer").1, None);
    }
}
