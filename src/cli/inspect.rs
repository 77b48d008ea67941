//! `inspect`: explains any token, offline.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::input::{read, trusted_files};
use super::output::{json, plain, time};
use crate::clock::Clock;
use crate::jwt::{Explanation, Issue, OLDEST_SERVER, ServerVersion, Token, VersionError, explain, refusals};

/// Explains a token: header, claims, who signed it, when it is valid, and each rule that it breaks.
///
/// Exit code 0 if it is valid, or nothing was found in what could be checked; the verdict says what could not. 4 if it
/// would be refused. 1 if only its signature and times could be checked, because it is neither an operator's, an
/// account's, a user's nor an activation. No node is contacted.
///
/// The rules are those of the newest nats-server. Older ones have a few more, and refuse the whole JWT where one of them is
/// broken: with --nats-server the command says so of each version given, and ends with 4 if one would.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file with a token, such as a creds file; - for stdin; or the token itself
    #[arg(value_name = "FILE|-|TOKEN")]
    token: String,
    /// Operator JWTs to trust; without any, the signature is verified but the issuer is not
    #[arg(long, value_name = "FILE")]
    operator: Vec<PathBuf>,
    /// Versions of nats-server that must accept the account too: 2.10.26, or 2.10 for the oldest of that line. From 2.9 on
    #[arg(long, value_name = "VERSION", value_parser = known_version)]
    nats_server: Vec<ServerVersion>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, Failure> {
        let bytes = if self.is_token() {
            self.token.into_bytes()
        } else {
            read(Path::new(&self.token))?
        };
        let trusted = if self.operator.is_empty() {
            None
        } else {
            Some(trusted_files(&self.operator)?)
        };
        // A creds file has a seed after the token; the seed is never read. Any other input is explained as it is.
        let decorated = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Token::from_file_text(text).ok());
        let bytes = decorated.map_or(bytes, |token| token.bytes().to_vec());
        let mut explanation = explain(&bytes, trusted.as_ref(), Clock::system().now());
        let nats_servers = judge(&bytes, &self.nats_server, &mut explanation);
        let is_refused = nats_servers.iter().any(|server| !server.problems.is_empty());
        let inspected = Inspected {
            explanation,
            nats_servers,
        };
        if self.json {
            json(out, &inspected)?;
        } else {
            print_inspected(out, &inspected)?;
        }
        Ok(if is_refused {
            Exit::Refused
        } else {
            exit(&inspected.explanation)
        })
    }

    /// Every JWT begins with `eyJ`, which is `{"` in base64. A file with such a name can be given as `./eyJ...`.
    fn is_token(&self) -> bool {
        self.token.starts_with("eyJ") && self.token.matches('.').count() == 2
    }
}

/// What `inspect` says: the explanation, and the given nats-servers.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    explanation: Explanation,
    nats_servers: Vec<Server>,
}

/// A nats-server, and the rules for which it alone would refuse the account.
#[derive(Serialize)]
struct Server {
    version: String,
    problems: Vec<Issue>,
}

fn known_version(text: &str) -> Result<ServerVersion, String> {
    let version: ServerVersion = text.parse().map_err(|error: VersionError| error.to_string())?;
    if version < OLDEST_SERVER {
        return Err(format!("the rules of nats-server are known from {OLDEST_SERVER} on"));
    }
    Ok(version)
}

/// Each of `servers`, with the older rules that the token breaks there. None, and a note in the explanation, if the token
/// is not an account's or cannot be read.
fn judge(token: &[u8], servers: &[ServerVersion], explanation: &mut Explanation) -> Vec<Server> {
    if servers.is_empty() {
        return Vec::new();
    }
    let refusals = match refusals(token, servers) {
        Ok(refusals) if explanation.kind == "account" => refusals,
        _ => {
            let unchecked = "whether older nats-servers would refuse it: their rules are known for accounts only";
            explanation.unchecked.push(unchecked);
            return Vec::new();
        }
    };
    let server = |version: &ServerVersion| {
        let refusal = refusals.iter().find(|refusal| refusal.server == *version);
        Server {
            version: version.to_string(),
            problems: refusal.map_or_else(Vec::new, |refusal| refusal.issues.clone()),
        }
    };
    servers.iter().map(server).collect()
}

/// How a command ends that has shown this.
pub(super) fn exit(explanation: &Explanation) -> Exit {
    match explanation {
        Explanation { valid: false, .. } => Exit::Refused,
        Explanation {
            rules_checked: false, ..
        } => Exit::Failed,
        _ => Exit::Done,
    }
}

/// Prints the explanation as text.
pub(super) fn print(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    print_verdict(out, explanation)?;
    print_content(out, explanation)
}

fn print_inspected(out: &mut impl Write, inspected: &Inspected) -> std::io::Result<()> {
    print_verdict(out, &inspected.explanation)?;
    for server in &inspected.nats_servers {
        for problem in &server.problems {
            writeln!(
                out,
                "nats-server {} would refuse it: {}: {}",
                server.version,
                problem.code,
                plain(&problem.detail)
            )?;
        }
        if server.problems.is_empty() {
            writeln!(out, "nats-server {} has no older rule that it breaks", server.version)?;
        }
    }
    print_content(out, &inspected.explanation)
}

/// Prints all but the decoded token.
fn print_verdict(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    let text_or = |text: &str, otherwise: &str| plain(if text.is_empty() { otherwise } else { text });
    let signature = match explanation.signature_valid {
        Some(true) => "the signature is valid",
        Some(false) => "THE SIGNATURE IS NOT VALID",
        None => "the signature cannot be verified",
    };
    let operator = match &explanation.operator {
        Some(operator) => format!("{operator} (trusted)"),
        None if explanation.is_trust_unchecked() && explanation.kind == "operator" => {
            "itself; to see whether a mesh has it, compare subject and issued with `jwtmesh operator show`".to_owned()
        }
        None if explanation.is_trust_unchecked() => "not known: no operator was given".to_owned(),
        None => "none that is trusted here".to_owned(),
    };
    writeln!(out, "kind        {}", text_or(&explanation.kind, "unknown"))?;
    writeln!(out, "name        {}", text_or(&explanation.name, "none"))?;
    writeln!(out, "subject     {}", text_or(&explanation.subject, "none"))?;
    writeln!(
        out,
        "issuer      {} ({signature})",
        text_or(&explanation.issuer, "none")
    )?;
    if matches!(explanation.kind.as_str(), "account" | "operator") {
        writeln!(out, "operator    {operator}")?;
    }
    let when = |seconds: Option<i64>, otherwise: &str| seconds.map_or_else(|| otherwise.to_owned(), time);
    writeln!(out, "issued      {}", when(explanation.issued_at, "not given"))?;
    writeln!(out, "valid from  {}", when(explanation.valid_from, "immediately"))?;
    writeln!(out, "expires     {}", when(explanation.expires_at, "never"))?;
    let verdict = match (explanation.valid, explanation.unchecked.is_empty()) {
        (true, true) => "valid",
        (true, false) => "no defect found",
        (false, _) => "REFUSED",
    };
    writeln!(out, "verdict     {verdict}")?;
    for unchecked in &explanation.unchecked {
        writeln!(out, "not checked {unchecked}")?;
    }
    for problem in &explanation.problems {
        writeln!(out, "problem     {}: {}", problem.code, plain(&problem.detail))?;
    }
    for warning in &explanation.warnings {
        writeln!(out, "warning     {}: {}", warning.code, plain(&warning.detail))?;
    }
    Ok(())
}

fn print_content(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    block(out, "header", explanation.header.clone())?;
    block(out, "claims", explanation.claims.clone())
}

fn block(out: &mut impl Write, name: &str, mut value: Value) -> std::io::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    date(&mut value, false);
    writeln!(out, "{name}")?;
    let text = serde_json::to_string_pretty(&value)?;
    for line in text.lines() {
        writeln!(out, "  {}", plain(line))?;
    }
    Ok(())
}

/// Adds the date to every number that is a time: the token's own times, and those of its revocations.
fn date(value: &mut Value, is_time: bool) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                // Inside revocations the names are keys or `*`, and every value is a time.
                date(
                    field,
                    is_time || matches!(name.as_str(), "iat" | "exp" | "nbf" | "revocations"),
                );
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| date(item, false)),
        Value::Number(number) if is_time => {
            if let Some(seconds) = number.as_i64() {
                *value = Value::String(format!("{seconds} = {}", time(seconds)));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_added_to_times_and_to_no_other_number() {
        let mut value = serde_json::json!({
            "iat": 1_700_000_000,
            "nats": { "revocations": { "*": 1_700_000_000 }, "limits": { "subs": 1_700_000_000 } },
        });
        date(&mut value, false);
        let dated = "1700000000 = 2023-11-14T22:13:20Z";
        assert_eq!(value["iat"], dated);
        assert_eq!(value["nats"]["revocations"]["*"], dated);
        assert_eq!(value["nats"]["limits"]["subs"], 1_700_000_000);
    }

    #[test]
    fn an_account_is_called_valid_only_with_a_trusted_operator() {
        let account = include_bytes!("../../tests/vectors/accept/exp-zero.jwt");
        let mut explanation = explain(account, None, 2_000_000_000);
        let verdict = |explanation: &Explanation| {
            let mut text = Vec::new();
            print(&mut text, explanation).unwrap();
            String::from_utf8(text).unwrap()
        };
        let text = verdict(&explanation);
        assert!(
            text.contains("verdict     no defect found\nnot checked whether an operator"),
            "{text}"
        );
        explanation.unchecked.clear();
        let text = verdict(&explanation);
        assert!(text.contains("verdict     valid\n"), "{text}");
    }

    #[test]
    fn without_operators_to_trust_none_is_said_to_be_untrusted() {
        let operator = include_bytes!("../../tests/vectors/accept/operator-plain.jwt").as_slice();
        let account = include_bytes!("../../tests/vectors/accept/exp-zero.jwt").as_slice();
        let none = crate::jwt::TrustedKeys::default();
        for (token, trusted, words) in [
            (operator, None, "operator    itself; to see whether a mesh has it"),
            (operator, Some(&none), "operator    none that is trusted here"),
            (account, None, "operator    not known: no operator was given"),
            (account, Some(&none), "operator    none that is trusted here"),
        ] {
            let mut text = Vec::new();
            print(&mut text, &explain(token, trusted, 2_000_000_000)).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn a_refused_token_is_reported_with_every_reason_and_without_control_characters() {
        let explanation = explain(b"e30.e30.\x1b[2J", None, 0);
        let mut text = Vec::new();
        print(&mut text, &explanation).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("verdict     REFUSED\nproblem     "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    /// Two service imports from different accounts at one subject.
    const TWO_EXPORTERS: &[u8] = include_bytes!("../../tests/vectors/accept/import-same-subject-from-two-accounts.jwt");

    #[test]
    fn an_older_server_that_would_refuse_the_account_is_named_in_text_and_in_json() {
        let servers = ["2.15.1", "2.10"].map(|text| known_version(text).unwrap());
        let mut explanation = explain(TWO_EXPORTERS, None, 2_000_000_000);
        let nats_servers = judge(TWO_EXPORTERS, &servers, &mut explanation);
        let inspected = Inspected {
            explanation,
            nats_servers,
        };
        let mut text = Vec::new();
        print_inspected(&mut text, &inspected).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines = "nats-server 2.15.1 has no older rule that it breaks\nnats-server 2.10.0 would refuse it: import-overlap-accounts: ";
        assert!(text.contains(lines), "{text}");
        let json = serde_json::to_value(&inspected).unwrap();
        assert_eq!(json["valid"], true, "the explanation stays at the top: {json}");
        assert_eq!(
            json["nats_servers"][0],
            serde_json::json!({"version": "2.15.1", "problems": []})
        );
        assert_eq!(
            json["nats_servers"][1]["problems"][0]["code"],
            "import-overlap-accounts"
        );
    }

    #[test]
    fn of_what_is_no_account_it_says_that_older_rules_were_not_checked() {
        let operator = include_bytes!("../../tests/vectors/accept/operator-plain.jwt");
        for token in [operator.as_slice(), b"nonsense"] {
            let mut explanation = explain(token, None, 2_000_000_000);
            assert!(judge(token, &[], &mut explanation).is_empty());
            let before = explanation.unchecked.len();
            assert!(judge(token, &[known_version("2.9").unwrap()], &mut explanation).is_empty());
            assert_eq!(explanation.unchecked.len(), before + 1, "{:?}", explanation.unchecked);
        }
        let too_old = known_version("2.8.4").unwrap_err();
        assert!(too_old.contains("2.9.0"), "{too_old}");
    }
}
