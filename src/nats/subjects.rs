//! What is said to a nats-server and what it answers: subjects, and the shape of a reply. No I/O.

use serde::Deserialize;

use crate::jwt::AccountKey;

/// The longest reply that is read. A real one has less than 2 KiB; anybody in the system account can write to our inbox.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// How much of a server's own words goes into a log line. Its longest known sentence has about 200 characters.
const MAX_REASON_CHARS: usize = 400;

/// Where all inboxes of ours begin, so that the user's right to subscribe can end there.
pub(super) const INBOX_PREFIX: &str = "_INBOX.jwtmesh";

/// The subject that every kind of resolver listens to (nats-server `server/events.go`, `server/accounts.go`).
///
/// The shorter `$SYS.REQ.CLAIMS.UPDATE` reaches directory resolvers only.
pub(super) fn update(account: AccountKey) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE")
}

/// Where the answers to one update come back. Its last token says all that is needed to read them, so that no
/// request has to be remembered for an answer that comes late or never.
pub(super) fn reply_to(inbox: &str, account: AccountKey, revision: u64) -> String {
    format!("{inbox}.{account}-{revision}")
}

/// The account and revision that an answer to `subject` is about; `None` if it is not one of ours.
pub(super) fn about(inbox: &str, subject: &str) -> Option<(AccountKey, u64)> {
    let token = subject.strip_prefix(inbox)?.strip_prefix('.')?;
    let (account, revision) = token.split_once('-')?;
    Some((account.parse().ok()?, revision.parse().ok()?))
}

/// A right that the user we connect as lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingRight {
    /// To tell servers of changes.
    Publish,
    /// To receive their answers.
    Subscribe,
}

/// The right that a server's complaint is about; `None` if it is about something else (nats-server `server/client.go`:
/// `Permissions Violation for Publish to "..."`, `... for Subscription to "..."`).
pub(super) fn missing_right(complaint: &str) -> Option<MissingRight> {
    let complaint = complaint.to_lowercase();
    let (_, violation) = complaint.split_once("permissions violation for ")?;
    let (kind, subject) = violation.split_once(" to ")?;
    match kind {
        "publish" if subject.contains(".claims.update") => Some(MissingRight::Publish),
        "subscription" if subject.contains(&INBOX_PREFIX.to_lowercase()) => Some(MissingRight::Subscribe),
        _ => None,
    }
}

/// What one nats-server said to an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The server's name, or its key where it has none.
    pub(super) server: String,
    /// What became of the token there.
    pub(super) verdict: Verdict,
}

/// What became of a token at one nats-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It took the token. Directory resolvers say so even of one they do not trust.
    Updated,
    /// It does not have the account in memory, and will fetch it when a client needs it. It also says so while a
    /// first fetch, perhaps of an older token, is under way, and then keeps that one.
    Skipped,
    /// It will not have it, in its own words.
    Refused(String),
}

#[derive(Deserialize)]
struct ReplyText {
    #[serde(default)]
    server: ServerText,
    data: Option<DataText>,
    error: Option<ErrorText>,
}

#[derive(Deserialize, Default)]
struct ServerText {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
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
    /// Reads an answer; `None` if it is none that a nats-server gives.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() > MAX_REPLY_BYTES {
            return None;
        }
        let text: ReplyText = serde_json::from_slice(payload).ok()?;
        // `error` first: some failing calls carry `"data":null` beside it, and nothing forbids a data object.
        let verdict = match (text.error, text.data) {
            (Some(error), _) => Verdict::Refused(clip(&error.description, MAX_REASON_CHARS)),
            (None, Some(data)) if data.code == 200 && data.message.contains("skipped") => Verdict::Skipped,
            (None, Some(data)) if data.code == 200 => Verdict::Updated,
            (None, Some(data)) => Verdict::Refused(clip(&data.message, MAX_REASON_CHARS)),
            (None, None) => return None,
        };
        let server = if text.server.name.is_empty() {
            text.server.id
        } else {
            text.server.name
        };
        Some(Self {
            server: clip(&server, MAX_REASON_CHARS),
            verdict,
        })
    }
}

/// The first `chars` of `text` on one line: it comes from outside and goes into a log.
pub(super) fn clip(text: &str, chars: usize) -> String {
    text.chars()
        .take(chars)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountKey {
        AccountKey::from_bytes([7; 32])
    }

    #[test]
    fn an_update_goes_to_the_subject_that_every_resolver_listens_to() {
        let text = account().to_string();
        assert_eq!(update(account()), format!("$SYS.REQ.ACCOUNT.{text}.CLAIMS.UPDATE"));
    }

    #[test]
    fn an_answer_says_which_account_and_revision_it_is_about() {
        let inbox = "_INBOX.jwtmesh.fra-1.x9Y";
        let subject = reply_to(inbox, account(), 41);
        assert_eq!(about(inbox, &subject), Some((account(), 41)));
        for foreign in [
            "_INBOX.jwtmesh.fra-1.other.AAAA-1".to_owned(),
            inbox.to_owned(),
            format!("{inbox}."),
            format!("{inbox}.{}", account()),
            format!("{inbox}.{}-", account()),
            format!("{inbox}.{}-x", account()),
            format!("{inbox}.{}-99999999999999999999", account()),
            format!("{inbox}.ABC-4"),
        ] {
            assert_eq!(about(inbox, &foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_complaint_about_a_missing_right_is_told_from_others() {
        for (complaint, right) in [
            (
                r#"nats: Permissions Violation for Publish to "$SYS.REQ.ACCOUNT.AAAA.CLAIMS.UPDATE""#,
                Some(MissingRight::Publish),
            ),
            (
                r#"nats: Permissions Violation for Subscription to "_INBOX.jwtmesh.fra-1.x9Y.*""#,
                Some(MissingRight::Subscribe),
            ),
            (r#"nats: Permissions Violation for Publish to "_INBOX.other""#, None),
            (r#"nats: Permissions Violation for Subscription to "foo""#, None),
            ("nats: User Authentication Expired", None),
            ("", None),
        ] {
            assert_eq!(missing_right(complaint), right, "{complaint}");
        }
    }

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
            assert_eq!((reply.server.as_str(), reply.verdict), ("n1", verdict), "{text}");
        }
    }

    #[test]
    fn what_no_server_says_is_no_reply() {
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
