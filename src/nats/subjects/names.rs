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
/// no request has to be remembered for an answer that comes late or never.
pub(in crate::nats) fn reply_to(inbox: &str, account: AccountKey, revision: u64) -> String {
    format!("{inbox}.{account}-{revision}")
}

/// The account and revision that an answer to `subject` is about; `None` if it is not one of ours.
pub(in crate::nats) fn about(inbox: &str, subject: &str) -> Option<(AccountKey, u64)> {
    let token = subject.strip_prefix(inbox)?.strip_prefix('.')?;
    let (account, revision) = token.split_once('-')?;
    Some((account.parse().ok()?, revision.parse().ok()?))
}

/// A permission that the user we connect as lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nats) enum MissingPermission {
    /// To publish updates.
    Publish,
    /// To receive the servers' answers.
    Subscribe,
}

/// The permission that a server's complaint is about; `None` if it is about something else (nats-server
/// `server/client.go`: `Permissions Violation for Publish to "..."`, `... for Subscription to "..."`).
pub(in crate::nats) fn missing_permission(complaint: &str) -> Option<MissingPermission> {
    let complaint = complaint.to_lowercase();
    let (_, violation) = complaint.split_once("permissions violation for ")?;
    let (kind, subject) = violation.split_once(" to ")?;
    match kind {
        "publish" if subject.contains(".claims.update") => Some(MissingPermission::Publish),
        "subscription" if subject.contains(&INBOX_PREFIX.to_lowercase()) => Some(MissingPermission::Subscribe),
        _ => None,
    }
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
