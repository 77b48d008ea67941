//! What older versions of nats-server refuse, although the rules of this room accept it.
//!
//! `rules/` follows the newest jwt library. Each nats-server has the library that it was built with, and refuses the whole
//! token, a revocation in it included, if that library finds one rule broken ("account validation failed"). This file has
//! the rules that were relaxed since jwt 2.3.0, the library of nats-server 2.9.0:
//!
//! | nats-server | jwt | | nats-server | jwt |
//! |---|---|---|---|---|
//! | 2.9.0 to 2.9.15 | 2.3.0 | | 2.10.24 to 2.11.9 | 2.7.3, 2.7.4 |
//! | 2.9.16 to 2.9.21 | 2.4.1 | | 2.11.10 to 2.11.14 | 2.8.0 |
//! | 2.9.22 to 2.9.25 | 2.5.0 | | 2.11.15 and later | 2.8.1 |
//! | 2.10.0 to 2.10.17 | 2.5.2 to 2.5.7 | | 2.12.0 to 2.12.5 | 2.8.0 |
//! | 2.10.18 to 2.10.23 | 2.5.8 | | 2.12.6, 2.14.0 and later | 2.8.1 to 2.8.3 |
//!
//! What an older server does not know and ignores, such as `cluster_traffic`, is no rule here: it takes the token.

use std::fmt;
use std::str::FromStr;

use super::opened::{Common, Opened};
use super::quote::cut;
use super::rejection::{Issue, Rejection};
use super::rules::{Account, Issues, Overlap, has_wildcards, mappings, overlap, services};
use super::token::Token;

/// A release of nats-server. A pre-release counts as its release: from 2.9 on, each candidate of a release that relaxed a
/// rule has the release's library. Only the previews of 2.11.0 have an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// 2, so far.
    pub major: u32,
    /// The release line.
    pub minor: u32,
    /// The release within its line.
    pub patch: u32,
}

/// The oldest nats-server whose rules are known here.
pub const OLDEST_SERVER: ServerVersion = version(2, 9, 0);

const fn version(major: u32, minor: u32, patch: u32) -> ServerVersion {
    ServerVersion { major, minor, patch }
}

/// A text that names no version of nats-server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of nats-server: write it as 2.10.26, or as 2.10 for the oldest of that line")]
pub struct VersionError(String);

impl FromStr for ServerVersion {
    type Err = VersionError;

    /// Reads `2.10.26`, also with a `v` before it or a suffix such as `-RC.1`. `2.10` is the oldest of that line, so that
    /// what is legal there is legal in all of it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        };
        let digits = text.strip_prefix('v').unwrap_or(text);
        let digits = digits.split(['-', '+']).next().unwrap_or_default();
        let parts: Option<Vec<u32>> = digits.split('.').map(number).collect();
        match parts.as_deref() {
            Some([major, minor]) => Ok(version(*major, *minor, 0)),
            Some([major, minor, patch]) => Ok(version(*major, *minor, *patch)),
            _ => Err(VersionError(cut(text))),
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl ServerVersion {
    fn line(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

/// A nats-server that refuses a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its version.
    pub server: ServerVersion,
    /// The older rules that the token breaks there: at least one, at most ten of each kind.
    pub issues: Vec<Issue>,
}

/// Which of `servers` refuse `token`, which this room accepts as an account's, in the order given. Of a token that it does
/// not accept, only the older rules are judged; one that cannot be read is a rejection.
///
/// Costs nothing if no server has an older rule, and little more than decoding base64 if the token has neither imports nor
/// mappings.
pub fn refusals(token: &[u8], servers: &[ServerVersion]) -> Result<Vec<Refusal>, Rejection> {
    let rules: Vec<&Rule> = RULES
        .iter()
        .filter(|rule| servers.iter().any(|server| !rule.is_void_at(*server)))
        .collect();
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let token = Token::parse(token)?;
    let opened = Opened::open(&token)?;
    if !may_break_a_rule(&opened.claims) {
        return Ok(Vec::new());
    }
    let json = opened.json()?;
    let common = Common::read(&json)?;
    let account = Account::open(&json, &common)?;
    let mut broken = Vec::with_capacity(rules.len());
    for rule in rules {
        let mut issues = Issues::default();
        (rule.judge)(&account, &legal_from(rule.legal_from), &mut issues)?;
        broken.push((rule, issues.into_lists().0));
    }
    let refusal = |server: &ServerVersion| {
        let there = broken.iter().filter(|(rule, _)| !rule.is_void_at(*server));
        let issues: Vec<Issue> = there.flat_map(|(_, issues)| issues.iter().cloned()).collect();
        (!issues.is_empty()).then_some(Refusal {
            server: *server,
            issues,
        })
    };
    Ok(servers.iter().filter_map(refusal).collect())
}

/// Whether claims can have what the rules judge, by their text: imports or mappings, also in keys with escapes.
fn may_break_a_rule(claims: &str) -> bool {
    ["\"imports\"", "\"mappings\"", "\\"]
        .iter()
        .any(|text| claims.contains(text))
}

/// A rule that newer servers do not have any more.
struct Rule {
    /// The first release of each line without it, oldest first. Later lines never had it.
    legal_from: &'static [ServerVersion],
    /// Adds what breaks it. The text says from which versions on it is legal.
    judge: fn(&Account<'_, '_>, &str, &mut Issues) -> Result<(), Rejection>,
}

const RULES: [Rule; 3] = [
    Rule {
        legal_from: &[version(2, 11, 15), version(2, 12, 6), version(2, 14, 0)],
        judge: overlap_between_accounts,
    },
    Rule {
        legal_from: &[version(2, 10, 18)],
        judge: weights_over_all_clusters,
    },
    Rule {
        legal_from: &[version(2, 9, 22)],
        judge: wildcard_in_target,
    },
];

impl Rule {
    /// Whether `server` does not have the rule.
    fn is_void_at(&self, server: ServerVersion) -> bool {
        let mut newest_first = self.legal_from.iter().rev();
        let from = newest_first.find(|from| from.line() <= server.line());
        from.is_some_and(|from| *from <= server)
    }
}

/// `versions` in words.
fn legal_from(versions: &[ServerVersion]) -> String {
    let words: Vec<String> = versions.iter().map(ToString::to_string).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Until jwt 2.8.0 the subjects of all service imports were compared, since then those from the same account (jwt
/// `imports.go`, `Imports.Validate`; relaxed in 2.8.1).
fn overlap_between_accounts(account: &Account<'_, '_>, legal_from: &str, issues: &mut Issues) -> Result<(), Rejection> {
    let services = services(&account.nats)?;
    let subjects: Vec<&str> = services.iter().map(|(_, subject)| subject.as_str()).collect();
    let (one, other) = match overlap(&subjects) {
        Overlap::None => return Ok(()),
        Overlap::Found(one, other) => (one, other),
        Overlap::TooComplex => {
            issues.add("import-overlap-accounts", || {
                format!(
                    "the wildcards of the service imports cross each other too often to say whether imports from different accounts \
                     overlap, which nats-server allows from {legal_from} on: update the servers, or use fewer wildcards"
                )
            });
            return Ok(());
        }
    };
    let from = |subject: &str| -> Vec<&str> {
        let found = services.iter().filter(|(_, found)| found == subject);
        found.map(|(account, _)| *account).collect()
    };
    let first = from(one).into_iter().next().unwrap_or_default();
    // Within one account newer servers refuse it too, so that another rule names it.
    if let Some(second) = from(other).into_iter().find(|second| *second != first) {
        issues.add("import-overlap-accounts", || {
            format!(
                "the service import at {:?} from account {} overlaps the one at {:?} from account {}, which nats-server allows from \
                 {legal_from} on: update the servers, or give one of the two another local_subject",
                cut(one),
                cut(first),
                cut(other),
                cut(second)
            )
        });
    }
    Ok(())
}

/// Until jwt 2.5.7 the weights of a mapping were added up over all NATS clusters, in a byte that wrapped at 256, since then
/// for each by itself (jwt `account_claims.go`, `Mapping.Validate`; relaxed in 2.5.8).
fn weights_over_all_clusters(
    account: &Account<'_, '_>,
    legal_from: &str,
    issues: &mut Issues,
) -> Result<(), Rejection> {
    for mapping in mappings(account)? {
        let sum: u64 = mapping.targets.iter().map(|target| u64::from(target.weight)).sum();
        if sum % 256 > 100 {
            issues.add("mapping-clusters", || {
                format!(
                    "the weights of mapping {:?} add up to {sum} over all NATS clusters, and nats-server counts each cluster by itself only \
                     from {legal_from} on: update the servers, or let all weights add up to 100 (no weight counts as 100)",
                    cut(mapping.from)
                )
            });
        }
    }
    Ok(())
}

/// Until jwt 2.4.1 no target of a mapping had wildcards (jwt `account_claims.go`, `Mapping.Validate`; relaxed in 2.5.0).
fn wildcard_in_target(account: &Account<'_, '_>, legal_from: &str, issues: &mut Issues) -> Result<(), Rejection> {
    for mapping in mappings(account)? {
        for target in mapping.targets.iter().filter(|target| has_wildcards(target.subject)) {
            issues.add("mapping-target-wildcard", || {
                format!(
                    "the target {:?} of mapping {:?} has a wildcard, which nats-server allows from {legal_from} on: update the servers, or \
                     name a target without one",
                    cut(target.subject),
                    cut(mapping.from)
                )
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::{Value, json};

    use super::*;

    /// A token with these claims and a made-up signature: older rules judge what was verified before.
    fn token(claims: &str) -> Vec<u8> {
        let parts = [r#"{"typ":"JWT","alg":"ed25519-nkey"}"#, claims, "unsigned"];
        parts
            .map(|part| BASE64URL_NOPAD.encode(part.as_bytes()))
            .join(".")
            .into_bytes()
    }

    /// The token of an account with these claims under `nats`.
    fn account(nats: &str) -> Vec<u8> {
        let mut nats: Value = serde_json::from_str(nats).unwrap();
        nats["type"] = json!("account");
        nats["version"] = json!(2);
        token(&json!({ "nats": nats }).to_string())
    }

    fn server(text: &str) -> ServerVersion {
        text.parse().unwrap()
    }

    /// The codes for which `server` refuses `token`.
    fn codes(token: &[u8], server: ServerVersion) -> Vec<&'static str> {
        let refusals = refusals(token, &[server]).unwrap();
        let issues = refusals.iter().flat_map(|refusal| &refusal.issues);
        issues.map(|issue| issue.code).collect()
    }

    const TWO_EXPORTERS: &str = r#"{"imports":[{"subject":"a.*","account":"X","type":"service"},{"subject":"a.b","account":"Y","type":"service"}]}"#;

    #[test]
    fn a_version_is_read_as_the_oldest_that_it_may_mean() {
        for (text, read) in [
            ("2.10.25", "2.10.25"),
            ("v2.10.25", "2.10.25"),
            ("2.10", "2.10.0"),
            ("v2.10", "2.10.0"),
            ("2.12.0-RC.1", "2.12.0"),
            ("2.12.8-fips", "2.12.8"),
            ("2.15.1+build.5", "2.15.1"),
        ] {
            assert_eq!(server(text).to_string(), read, "{text}");
        }
        for text in [
            "",
            "v",
            "2",
            "2.",
            "2.x",
            "2.10.",
            "2.10.1.1",
            "2.+1.0",
            "-2.10",
            " 2.10",
            "2.99999999999",
            "latest",
        ] {
            let refused = text.parse::<ServerVersion>().map_err(|error| error.to_string());
            let sentence = refused.expect_err(text);
            assert!(sentence.contains("write it as 2.10.26"), "{sentence}");
        }
        assert!(server("2.9.25") < server("2.10.0") && server("2.10.9") < server("2.10.10"));
    }

    /// The library of a server, by nats-server's go.mod. The releases are the first and the last that have it.
    const LIBRARIES: &[(&str, &[&str])] = &[
        ("2.3.0", &["2.9", "2.9.15"]),
        ("2.4.1", &["2.9.16", "2.9.21"]),
        ("2.5.0", &["2.9.22", "2.9.25"]),
        ("2.5.2", &["2.10", "2.10.4"]),
        ("2.5.7", &["2.10.16", "2.10.17"]),
        ("2.5.8", &["2.10.18", "2.10.23"]),
        ("2.7.3", &["2.10.24", "2.10.27", "2.11", "2.11.1"]),
        ("2.7.4", &["2.10.28", "2.10.29", "2.11.2", "2.11.9"]),
        ("2.8.0", &["2.11.10", "2.11.14", "2.12", "2.12.5"]),
        ("2.8.1", &["2.11.15", "2.11.17", "2.12.6", "2.12.9", "2.14", "2.14.1"]),
        ("2.8.2", &["2.12.10", "2.12.15", "2.14.2", "2.14.9", "2.15", "2.15.2"]),
        ("2.8.3", &["2.14.10", "2.15.3"]),
    ];

    #[test]
    fn a_server_refuses_what_its_jwt_library_refuses() {
        let table = include_str!("../../tests/vectors/older.tsv");
        let mut verdicts = [0, 0];
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (oldest, nats) = line.split_once('\t').unwrap();
            let token = account(nats);
            for (library, servers) in LIBRARIES {
                for release in *servers {
                    let accepts = server(library) >= server(oldest);
                    let codes = codes(&token, server(release));
                    assert_eq!(
                        codes.is_empty(),
                        accepts,
                        "{release} with jwt {library}: {codes:?} for {line}"
                    );
                    verdicts[usize::from(accepts)] += 1;
                }
            }
        }
        assert!(verdicts.iter().all(|count| *count >= 100), "{verdicts:?}");
    }

    #[test]
    fn a_refusal_says_what_breaks_which_rule_from_when_on_it_is_legal_and_what_to_do() {
        for (nats, version, code, words) in [
            (
                TWO_EXPORTERS,
                "2.12.5",
                "import-overlap-accounts",
                &[
                    "\"a.b\"",
                    "account Y",
                    "\"a.*\"",
                    "account X",
                    "from 2.11.15, 2.12.6 and 2.14.0 on",
                    "local_subject",
                ][..],
            ),
            (
                r#"{"mappings":{"a":[{"subject":"b","cluster":"E"},{"subject":"c","weight":20,"cluster":"F"}]}}"#,
                "2.10.17",
                "mapping-clusters",
                &["mapping \"a\"", "120", "from 2.10.18 on"],
            ),
            (
                r#"{"mappings":{"a.>":[{"subject":"b.>"}]}}"#,
                "2.9.21",
                "mapping-target-wildcard",
                &["target \"b.>\"", "mapping \"a.>\"", "from 2.9.22 on"],
            ),
        ] {
            let refusals = refusals(&account(nats), &[server(version)]).unwrap();
            let issue = &refusals[0].issues[0];
            assert_eq!((refusals.len(), refusals[0].issues.len(), issue.code), (1, 1, code));
            let missing: Vec<_> = words.iter().filter(|word| !issue.detail.contains(**word)).collect();
            assert!(missing.is_empty(), "{missing:?} not in {}", issue.detail);
        }
    }

    #[test]
    fn of_several_servers_those_that_refuse_are_named_in_the_order_given() {
        let servers = ["2.15.1", "2.12.0", "2.11.15", "2.9", "2.13.0", "3.0"].map(server);
        let refusals = refusals(&account(TWO_EXPORTERS), &servers).unwrap();
        let named: Vec<String> = refusals.iter().map(|refusal| refusal.server.to_string()).collect();
        assert_eq!(named, ["2.12.0", "2.9.0"]);
    }

    #[test]
    fn wildcards_that_cannot_be_compared_in_bounded_time_count_as_overlapping() {
        let imports: Vec<Value> = (0..1 << 13)
            .map(|bits: u32| {
                let token = |at: u32| if bits >> at & 1 == 1 { "*" } else { "a" };
                let subject = (0..13).map(token).collect::<Vec<_>>().join(".");
                json!({"subject": format!("{subject}.t{bits}"), "account": "X", "type": "service"})
            })
            .collect();
        let token = account(&json!({ "imports": imports }).to_string());
        assert_eq!(codes(&token, server("2.10")), ["import-overlap-accounts"]);
        assert!(codes(&token, server("2.15")).is_empty());
    }

    #[test]
    fn claims_are_read_only_for_a_server_with_an_older_rule_and_only_with_imports_or_mappings() {
        let unreadable = token("neither JSON nor \"exports\"");
        assert_eq!(refusals(&unreadable, &[server("2.9")]), Ok(Vec::new()));
        let suspicious = token("no JSON, but \"imports\"");
        assert_eq!(
            refusals(&suspicious, &[server("2.14"), server("2.11.15")]),
            Ok(Vec::new())
        );
        assert!(refusals(&suspicious, &[server("2.14"), server("2.11.14")]).is_err());
        assert_eq!(refusals(b"no token", &[]), Ok(Vec::new()));
        let escaped = TWO_EXPORTERS.replace("imports", "\\u0069mports");
        let escaped = format!(r#"{{"nats":{{"type":"account","version":2,{}}}"#, &escaped[1..]);
        assert_eq!(codes(&token(&escaped), server("2.10")), ["import-overlap-accounts"]);
    }

    #[test]
    fn in_version_1_imports_are_judged_and_mappings_do_not_exist() {
        let old = |nats: &str| token(&format!(r#"{{"type":"account","nats":{nats}}}"#));
        assert_eq!(codes(&old(TWO_EXPORTERS), server("2.9")), ["import-overlap-accounts"]);
        assert!(codes(&old(r#"{"mappings":{"a.>":[{"subject":"b.>"}]}}"#), server("2.9")).is_empty());
    }
}
