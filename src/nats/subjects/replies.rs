//! Parses a nats-server's reply to an update.

use serde::Deserialize;

use super::servers::{ServerInfo, ServerText, clip};

/// The longest reply that is read. A real one has less than 2 KiB, but any user of the system account can write to our
/// inbox.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// How much of a server's own words goes into a log line. Its longest known sentence has about 200 characters.
const MAX_REASON_CHARS: usize = 400;

/// One nats-server's reply to an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Reply {
    /// The server.
    pub(in crate::nats) server: ServerInfo,
    /// The server's clock when it replied, Unix seconds; `None` if the reply does not say.
    pub(in crate::nats) time: Option<i64>,
    /// What became of the token there.
    pub(in crate::nats) verdict: Verdict,
    /// Whether the server has a URL or MEMORY resolver, as its words show. It says "updated" only of what it enforces; a
    /// directory resolver has other words for an account that it has not loaded.
    pub(in crate::nats) is_believed: bool,
}

/// What became of a token at one nats-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) enum Verdict {
    /// It took the token. Directory resolvers say so even about a token that they do not trust.
    Updated,
    /// It does not have the account in memory, and will fetch it when a client needs it. It also says so while a
    /// first fetch, perhaps of an older token, is under way, and then keeps what it fetched.
    Skipped,
    /// It refused the token, for this reason in its own words.
    Refused(String),
}

#[derive(Deserialize)]
struct ReplyText {
    #[serde(default)]
    server: ServerText,
    data: Option<DataText>,
    error: Option<ErrorText>,
}

#[derive(Deserialize)]
struct DataText {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct ErrorText {
    #[serde(default)]
    description: String,
}

impl Reply {
    /// Parses a reply; `None` if it is not one that a nats-server sends.
    pub(in crate::nats) fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() > MAX_REPLY_BYTES {
            return None;
        }
        let text: ReplyText = serde_json::from_slice(payload).ok()?;
        let said = text.data.as_ref().map(|data| data.message.as_str());
        let is_believed = said == Some("jwt update skipped");
        // `error` first: some failing calls carry `"data":null` beside it, and nothing forbids a data object.
        let verdict = match (text.error, text.data) {
            (Some(error), _) => Verdict::Refused(clip(&error.description, MAX_REASON_CHARS)),
            (None, Some(data)) if data.code == 200 && data.message.contains("skipped") => Verdict::Skipped,
            (None, Some(data)) if data.code == 200 => Verdict::Updated,
            (None, Some(data)) => Verdict::Refused(clip(&data.message, MAX_REASON_CHARS)),
            (None, None) => return None,
        };
        let (server, time) = text.server.read();
        Some(Self {
            server,
            time,
            verdict,
            is_believed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resolvers_reply_is_understood() {
        let refused = |words: &str| Verdict::Refused(words.to_owned());
        for (text, verdict) in [
            (
                r#"{"server":{"name":"n1","id":"NA"},"data":{"account":"A","code":200,"message":"jwt updated"}}"#,
                Verdict::Updated,
            ),
            (
                r#"{"server":{"name":"n1"},"data":{"code":200,"message":"jwt updated cache"}}"#,
                Verdict::Updated,
            ),
            (
                r#"{"data":{"code":200,"message":"Updated jwt"},"server":{"name":"n1"}}"#,
                Verdict::Updated,
            ),
            (
                r#"{"server":{"name":"n1"},"data":{"code":200,"message":"jwt update skipped"}}"#,
                Verdict::Skipped,
            ),
            (
                r#"{"server":{"name":"n1"},"data":{"code":200,"message":"jwt update cache skipped"}}"#,
                Verdict::Skipped,
            ),
            (
                r#"{"server":{"name":"n1"},"error":{"account":"A","code":500,"description":"jwt update resulted in error - account validation failed"}}"#,
                refused("jwt update resulted in error - account validation failed"),
            ),
            (
                r#"{"server":{"name":"n1"},"data":null,"error":{"code":500,"description":"no\nno"}}"#,
                refused("no no"),
            ),
            (
                r#"{"server":{"name":"n1"},"data":{"code":503,"message":"later"}}"#,
                refused("later"),
            ),
        ] {
            let reply = Reply::read(text.as_bytes()).expect(text);
            assert_eq!(reply.is_believed, text.contains("jwt update skipped"), "{text}");
            assert_eq!((reply.server.name.as_str(), reply.verdict), ("n1", verdict), "{text}");
        }
    }

    #[test]
    fn the_servers_version_is_read_and_a_reply_without_it_is_still_a_reply() {
        for (version, wanted) in [(r#""2.14.6""#, "2.14.6"), ("2", ""), ("null", "")] {
            let text = format!(r#"{{"server":{{"name":"n1","ver":{version}}},"error":{{"description":"no"}}}}"#);
            let reply = Reply::read(text.as_bytes()).expect(version);
            assert_eq!(
                (reply.server.version.as_str(), reply.server.name.as_str()),
                (wanted, "n1")
            );
        }
    }

    #[test]
    fn the_servers_time_is_read_and_a_reply_without_it_is_still_a_reply() {
        for (time, seconds) in [
            (r#""2026-11-26T08:20:00.123456789Z""#, Some(1_795_681_200)),
            (r#""2026-11-26T09:20:00+01:00""#, Some(1_795_681_200)),
            (r#""0001-01-01T00:00:00Z""#, Some(-62_135_596_800)),
            (r#""yesterday""#, None),
            (r#""""#, None),
            ("17", None),
            ("null", None),
        ] {
            let text =
                format!(r#"{{"server":{{"name":"n1","time":{time}}},"data":{{"code":200,"message":"jwt updated"}}}}"#);
            let reply = Reply::read(text.as_bytes()).expect(time);
            assert_eq!((reply.time, reply.verdict), (seconds, Verdict::Updated), "{time}");
        }
        let bare = Reply::read(br#"{"data":{"code":200,"message":"jwt updated"}}"#);
        assert_eq!(bare.and_then(|reply| reply.time), None);
    }

    #[test]
    fn a_payload_that_no_server_sends_is_not_a_reply() {
        let huge = format!(r#"{{"data":{{"message":"{}"}}}}"#, "x".repeat(MAX_REPLY_BYTES));
        for text in ["", "{}", "[]", "ok", r#"{"server":{"name":"n1"},"data":null}"#, &huge] {
            assert_eq!(Reply::read(text.as_bytes()), None);
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let text = format!(r#"{{"error":{{"description":"{}"}}}}"#, "é".repeat(2000));
        let Some(Reply {
            verdict: Verdict::Refused(reason),
            ..
        }) = Reply::read(text.as_bytes())
        else {
            panic!("it is a refusal");
        };
        assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
    }
}
