//! Subjects, and the complaint by which a server says that one of them is forbidden.

use crate::jwt::AccountKey;

/// The prefix of all our inboxes, so that the user needs permission to subscribe below it and nowhere else.
pub(in crate::nats) const INBOX_PREFIX: &str = "_INBOX.jwtmesh";

/// The subject that every kind of resolver listens to (nats-server `server/events.go`, `server/accounts.go`).
///
/// The shorter `$SYS.REQ.CLAIMS.UPDATE` reaches directory resolvers only.
pub(in crate::nats) fn update(account: AccountKey) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE")
}

/// The subject that the answers to one update are sent to. Its last token names the account and the revision, so that
/// no request has to be remembered for an answer that comes late or never; and the `mesh` that sends it, by which its other
/// nodes know it.
pub(in crate::nats) fn reply_to(inbox: &str, account: AccountKey, revision: u64, mesh: &str) -> String {
    format!("{inbox}.{account}-{revision}-{mesh}")
}

/// Each server's report about itself, sent every ten seconds (nats-server `server/events.go`, `serverStatsSubj`).
pub(in crate::nats) const REPORTS: &str = "$SYS.SERVER.*.STATSZ";

/// What each server says before it ends (`shutdownEventSubj`).
pub(in crate::nats) const SHUTDOWNS: &str = "$SYS.SERVER.*.SHUTDOWN";

/// Asks every server for its report (`serverStatsPingReqSubj`).
pub(in crate::nats) const PING: &str = "$SYS.REQ.SERVER.PING";

/// Asks the server with this id about accounts: which it has loaded, or what it holds of one (`accountz`).
pub(in crate::nats) fn accounts_of(server: &str) -> String {
    format!("$SYS.REQ.SERVER.{server}.ACCOUNTZ")
}

/// Asks every server about its connections (`connz`).
pub(in crate::nats) const CONNECTIONS: &str = "$SYS.REQ.SERVER.PING.CONNZ";

/// Asks every server about JetStream (`jsz`).
pub(in crate::nats) const STREAMS: &str = "$SYS.REQ.SERVER.PING.JSZ";

/// The subject that answers to the question with this number are sent to, which streams an account has.
pub(in crate::nats) fn reply_to_streams(inbox: &str, number: u64) -> String {
    format!("{inbox}.streams-{number}")
}

/// The subject that answers to the question with this number are sent to, which connections were closed.
pub(in crate::nats) fn reply_to_closed(inbox: &str, number: u64) -> String {
    format!("{inbox}.closed-{number}")
}
/// Asks every server what it holds of an account (`serverPingReqSubj`). [`accounts_of`] `PING`, as it were, so that the same
/// permission grants both.
pub(in crate::nats) const ACCOUNTS_OF_ALL: &str = "$SYS.REQ.SERVER.PING.ACCOUNTZ";

/// What every sender of updates publishes to: to be noticed. The second one before nats-server 2.2, and still by
/// nats-account-server.
pub(in crate::nats) const UPDATES: [&str; 2] = ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE"];

/// The subject that answers to [`PING`] are sent to.
pub(in crate::nats) fn reply_to_ping(inbox: &str) -> String {
    format!("{inbox}.ping")
}

/// The subject that a server's answer is sent to which accounts it has loaded.
pub(in crate::nats) fn reply_to_loaded(inbox: &str) -> String {
    format!("{inbox}.loaded")
}

/// The subject that a server's answer is sent to what it holds of `account`.
pub(in crate::nats) fn reply_to_held(inbox: &str, account: AccountKey) -> String {
    format!("{inbox}.held-{account}")
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum About {
    /// An answer to an update: its account and revision.
    Update(AccountKey, u64),
    /// A server's report about itself.
    Report,
    /// A server ends.
    Shutdown,
    /// Which accounts a server has loaded.
    Loaded,
    /// What a server holds of this account.
    Held(AccountKey),
    /// Which connections a server has closed: the number of the question.
    Closed(u64),
    /// A sender, perhaps a node of this mesh, has given this account's token to the servers.
    Published(AccountKey),
    /// Which streams an account has: the number of the question.
    Streams(u64),
}

/// What a message to `subject` is about; `None` if it is not one of ours.
pub(in crate::nats) fn about(inbox: &str, subject: &str) -> Option<About> {
    let Some(token) = subject.strip_prefix(inbox).and_then(|rest| rest.strip_prefix('.')) else {
        let Some(event) = subject.strip_prefix("$SYS.SERVER.") else {
            let account = subject.strip_prefix("$SYS.")?.strip_suffix(".CLAIMS.UPDATE")?;
            let account = account.strip_prefix("REQ.").unwrap_or(account);
            return Some(About::Published(account.strip_prefix("ACCOUNT.")?.parse().ok()?));
        };
        return match event.split_once('.')?.1 {
            "STATSZ" => Some(About::Report),
            "SHUTDOWN" => Some(About::Shutdown),
            _ => None,
        };
    };
    match token {
        "ping" => return Some(About::Report),
        "loaded" => return Some(About::Loaded),
        _ => {}
    }
    match token.split_once('-')? {
        ("streams", number) => Some(About::Streams(number.parse().ok()?)),
        ("closed", number) => Some(About::Closed(number.parse().ok()?)),
        ("held", account) => Some(About::Held(account.parse().ok()?)),
        (account, sent) => {
            let (revision, _mesh) = sent.split_once('-')?;
            Some(About::Update(account.parse().ok()?, revision.parse().ok()?))
        }
    }
}

/// A permission that the user we connect as lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum MissingPermission {
    /// To publish updates.
    Publish,
    /// To receive the servers' answers.
    Subscribe,
    /// To ask servers who they are and what they have loaded. Updates can be sent without it.
    Ask,
    /// To receive what servers say of themselves. Updates can be sent without it.
    Events,
    /// To receive the updates that others send. Updates can be sent without it.
    Watch,
}

impl MissingPermission {
    /// What cannot be done without it, one sentence.
    pub(in crate::nats) fn lack(self) -> &'static str {
        match self {
            Self::Publish => "the user may not publish updates",
            Self::Subscribe => "the user may not receive the servers' answers",
            Self::Ask => {
                "the user may not ask servers who they are and what they have loaded: a server is known only once it has \
                 answered a change, and what it had loaded before is not looked at"
            }
            Self::Events => {
                "the user may not receive what servers say of themselves: a server that shuts down counts as missing, and a \
                 new one is noticed late"
            }
            Self::Watch => {
                "the user may not receive the updates that others send to the servers: what those enforce then is noticed only \
                 when it is their turn to be looked at"
            }
        }
    }

    /// Whether a connection without it is given up, and the creds are so read again; any other is used on.
    pub(in crate::nats) fn ends_the_connection(self) -> bool {
        matches!(self, Self::Publish | Self::Subscribe)
    }

    /// The option of `nsc add user` and `nsc edit user` that grants it.
    pub(in crate::nats) fn option(self) -> &'static str {
        match self {
            Self::Publish => "--allow-pub '$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE'",
            Self::Subscribe => "--allow-sub '_INBOX.jwtmesh.>'",
            Self::Ask => "--allow-pub '$SYS.REQ.SERVER.PING,$SYS.REQ.SERVER.*.ACCOUNTZ'",
            Self::Events => "--allow-sub '$SYS.SERVER.*.STATSZ,$SYS.SERVER.*.SHUTDOWN'",
            Self::Watch => "--allow-sub '$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE,$SYS.ACCOUNT.*.CLAIMS.UPDATE'",
        }
    }
}

/// The permission that a server's complaint is about; `None` if it is about something else (nats-server
/// `server/client.go`: `Permissions Violation for Publish to "..."`, `... for Subscription to "..."`).
pub(in crate::nats) fn missing_permission(complaint: &str) -> Option<MissingPermission> {
    let complaint = complaint.to_lowercase();
    let (_, violation) = complaint.split_once("permissions violation for ")?;
    let (kind, subject) = violation.split_once(" to ")?;
    match kind {
        "publish" if subject.contains(".claims.update") => Some(MissingPermission::Publish),
        "publish" if subject.contains(".ping.connz") || subject.contains(".ping.jsz") => None,
        "publish" if subject.contains("$sys.req.server.") => Some(MissingPermission::Ask),
        "subscription" if subject.contains(".claims.update") => Some(MissingPermission::Watch),
        "subscription" if subject.contains("$sys.server.") => Some(MissingPermission::Events),
        "subscription" if subject.contains(&INBOX_PREFIX.to_lowercase()) => Some(MissingPermission::Subscribe),
        _ => None,
    }
}

/// Whether a server complains that our user may not ask for connections: a permission that is not needed.
pub(in crate::nats) fn is_about_connections(complaint: &str) -> bool {
    is_about(complaint, CONNECTIONS)
}

/// The same of streams.
pub(in crate::nats) fn is_about_streams(complaint: &str) -> bool {
    is_about(complaint, STREAMS)
}

fn is_about(complaint: &str, subject: &str) -> bool {
    complaint.to_lowercase().contains(&subject.to_lowercase())
}

/// Whether a server complains that a message was too large, and so ends the connection (nats-server `server/client.go`).
/// It applies the limits of our user and account too, which it announces in a second INFO that async-nats ignores.
pub(in crate::nats) fn is_payload_violation(complaint: &str) -> bool {
    complaint.to_lowercase().contains("maximum payload violation")
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
        let subject = reply_to(inbox, account(), 41, "4f");
        assert_eq!(about(inbox, &subject), Some(About::Update(account(), 41)));
        for foreign in [
            "_INBOX.jwtmesh.fra-1.other.AAAA-1".to_owned(),
            inbox.to_owned(),
            format!("{inbox}."),
            format!("{inbox}.{}", account()),
            format!("{inbox}.{}-", account()),
            format!("{inbox}.{}-41", account()),
            format!("{inbox}.{}-x-4f", account()),
            format!("{inbox}.{}-99999999999999999999-4f", account()),
            format!("{inbox}.ABC-4-4f"),
        ] {
            assert_eq!(about(inbox, &foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_servers_say_of_themselves_and_of_their_accounts_is_told_apart() {
        let inbox = "_INBOX.jwtmesh.fra-1.x9Y";
        for (subject, wanted) in [
            (reply_to_ping(inbox), Some(About::Report)),
            ("$SYS.SERVER.NAAA.STATSZ".to_owned(), Some(About::Report)),
            ("$SYS.SERVER.NAAA.SHUTDOWN".to_owned(), Some(About::Shutdown)),
            ("$SYS.SERVER.NAAA.LAMEDUCK".to_owned(), None),
            (reply_to_loaded(inbox), Some(About::Loaded)),
            (reply_to_held(inbox, account()), Some(About::Held(account()))),
            (reply_to_closed(inbox, 7), Some(About::Closed(7))),
            (reply_to_streams(inbox, 7), Some(About::Streams(7))),
            (format!("{inbox}.held-ABC"), None),
            (update(account()), Some(About::Published(account()))),
            (
                format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", account()),
                Some(About::Published(account())),
            ),
            ("$SYS.REQ.ACCOUNT.x.CLAIMS.UPDATE".to_owned(), None),
            (format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", account()), None),
        ] {
            assert_eq!(about(inbox, &subject), wanted, "{subject}");
        }
    }

    #[test]
    fn only_a_complaint_about_our_own_subjects_names_a_missing_permission() {
        for (complaint, permission) in [
            (
                r#"nats: Permissions Violation for Publish to "$SYS.REQ.ACCOUNT.AAAA.CLAIMS.UPDATE""#,
                Some(MissingPermission::Publish),
            ),
            (
                r#"nats: Permissions Violation for Subscription to "_INBOX.jwtmesh.fra-1.x9Y.*""#,
                Some(MissingPermission::Subscribe),
            ),
            (
                r#"nats: Permissions Violation for Publish to "$SYS.REQ.SERVER.PING""#,
                Some(MissingPermission::Ask),
            ),
            (
                r#"nats: Permissions Violation for Subscription to "$SYS.SERVER.*.STATSZ""#,
                Some(MissingPermission::Events),
            ),
            (
                r#"nats: Permissions Violation for Publish to "$SYS.REQ.SERVER.PING.CONNZ""#,
                None,
            ),
            (
                r#"nats: Permissions Violation for Publish to "$SYS.REQ.SERVER.PING.JSZ""#,
                None,
            ),
            (
                r#"nats: Permissions Violation for Subscription to "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE""#,
                Some(MissingPermission::Watch),
            ),
            (r#"nats: Permissions Violation for Publish to "_INBOX.other""#, None),
            (r#"nats: Permissions Violation for Subscription to "foo""#, None),
            ("nats: User Authentication Expired", None),
            ("", None),
        ] {
            assert_eq!(missing_permission(complaint), permission, "{complaint}");
        }
    }

    #[test]
    fn only_one_complaint_means_that_a_message_was_too_large() {
        for (complaint, is) in [
            ("nats: Maximum Payload Violation", true),
            ("maximum payload violation", true),
            ("nats: Maximum Connections Exceeded", false),
            ("", false),
        ] {
            assert_eq!(is_payload_violation(complaint), is, "{complaint}");
        }
    }
}
