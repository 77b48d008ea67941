//! Explains a token to a person: what it says, who signed it, when it is valid, and every rule that it breaks.

use serde::Serialize;
use serde_json::Value;

use super::claims::{account, operator};
use super::json::{Fields, Json};
use super::nkey::{self, Issuers};
use super::opened::{Common, Kind, Opened};
use super::quote::cut;
use super::rejection::{Issue, Rejection};
use super::rules::{self, Issues};
use super::token::Token;
use super::trust::{TrustedKeys, Verified};

/// What a token says and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    // The verdict.
    /// Whether no problem was found in what was checked.
    pub valid: bool,
    /// What was not checked, and why: part sentences that begin with "whether" or "its". Empty if `valid` is the answer.
    pub unchecked: Vec<&'static str>,
    /// Whether the rules of its kind were checked, and not only its signature and its times.
    pub rules_checked: bool,

    // What it is about, and who signed it.
    /// `operator`, `account`, `user`, `activation` or another kind; empty if it cannot be read.
    pub kind: String,
    /// The name in the claims.
    pub name: String,
    /// The subject's key.
    pub subject: String,
    /// The key that the claims name as the issuer.
    pub issuer: String,
    /// Whether the signature is that key's; `None` if it cannot be checked.
    pub signature_valid: Option<bool>,
    /// Whose it is among the trusted operators: the one for whom an account's issuer signed, or the operator itself.
    pub operator: Option<String>,

    // When it is valid.
    /// When it was issued, Unix seconds; `None` if it does not say.
    pub issued_at: Option<i64>,
    /// When it expires, Unix seconds; `None` if never.
    pub expires_at: Option<i64>,
    /// When it becomes valid, Unix seconds; `None` if at once.
    pub valid_from: Option<i64>,

    // All that it says, and all that is wrong with it.
    /// The decoded header.
    pub header: Value,
    /// The decoded claims.
    pub claims: Value,
    /// Every rule it breaks, by code and sentence.
    pub problems: Vec<Issue>,
    /// What nats-server accepts, but the signer probably does not want. They do not make it invalid.
    pub warnings: Vec<Issue>,
}

const NO_OPERATORS: &str = "whether an operator that you trust signed it: give --operator FILE";

/// Explains `text`, a token of any kind, bare or in a decorated file. Whether an account's issuer is trusted is judged
/// only if `trusted` is given. `now` in Unix seconds.
pub fn explain(text: &[u8], trusted: Option<&TrustedKeys>, now: i64) -> Explanation {
    let mut explanation = Explanation {
        valid: false,
        unchecked: Vec::new(),
        rules_checked: false,
        kind: String::new(),
        name: String::new(),
        subject: String::new(),
        issuer: String::new(),
        signature_valid: None,
        operator: None,
        issued_at: None,
        expires_at: None,
        valid_from: None,
        header: Value::Null,
        claims: Value::Null,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    if let Err(rejection) = explanation.read(text, trusted, now) {
        explanation.note(rejection);
    }
    explanation.valid = explanation.problems.is_empty();
    explanation
}

impl Explanation {
    /// Whether no operators were given to judge the issuer by.
    pub fn is_trust_unchecked(&self) -> bool {
        self.unchecked.contains(&NO_OPERATORS)
    }

    fn note(&mut self, rejection: Rejection) {
        match rejection {
            Rejection::Invalid { issues } => self.problems.extend(issues),
            other => self.problems.push(Issue {
                code: other.code(),
                detail: other.to_string(),
            }),
        }
    }

    fn read(&mut self, text: &[u8], trusted: Option<&TrustedKeys>, now: i64) -> Result<(), Rejection> {
        let token = match std::str::from_utf8(text) {
            Ok(text) => Token::from_file_text(text)?,
            Err(_) => Token::parse(text)?,
        };
        let opened = Opened::open(&token)?;
        self.header = serde_json::from_str(&opened.header).unwrap_or(Value::Null);
        self.claims = serde_json::from_str(&opened.claims).unwrap_or(Value::Null);
        let json = opened.json()?;
        let common = Common::read(&json)?;
        let when = |seconds| (seconds != 0).then_some(seconds);
        self.kind.clone_from(&common.kind);
        self.name.clone_from(&common.name);
        self.subject.clone_from(&common.subject);
        self.issuer.clone_from(&common.issuer);
        self.issued_at = when(common.issued_at);
        self.expires_at = when(common.expires_at);
        self.valid_from = when(common.not_before);
        // Only saves parsing keys: without trusted operators the issuer's key is parsed when it is used.
        let no_issuers = Issuers::default();
        let issuers = trusted.map_or(&no_issuers, TrustedKeys::issuers);
        if nkey::kind(&common.issuer).is_some() {
            self.signature_valid = Some(opened.is_signed_by_issuer(&common, issuers));
        }
        let kind = match common.kind.as_str() {
            "account" => Kind::Account,
            "operator" => Kind::Operator,
            "activation" => Kind::Activation,
            "user" => Kind::User,
            _ => return self.other(&opened, &common, now),
        };
        // Each check runs whatever the others found, so that every defect is reported at once.
        if let Err(rejection) = opened.verify(&json, kind, issuers) {
            self.note(rejection);
        }
        if let Err(rejection) = common.check_times(now) {
            self.note(rejection);
        }
        self.rules_checked = true;
        match kind {
            Kind::Account => self.account(&json, &common, trusted)?,
            Kind::Operator => {
                self.operator(&common, trusted);
                self.warnings.extend(operator::read(&json, &common)?.warnings);
            }
            Kind::Activation | Kind::User => {
                self.unchecked.push(match kind {
                    Kind::User => "whether its account accepts it (signing keys, revocations)",
                    _ => "whether its account has revoked it",
                });
                let mut found = match kind {
                    Kind::User => rules::user(&json, &common)?,
                    _ => rules::activation(&json, &common)?,
                };
                rules::doubtful_times(&common, &mut found);
                self.found(found);
            }
            // Claims without a type were dealt with above.
            Kind::Delete => {}
        }
        Ok(())
    }

    fn account(&mut self, json: &Json<'_>, common: &Common, trusted: Option<&TrustedKeys>) -> Result<(), Rejection> {
        // No operator accepts an account that signed itself, so that is reported without trusted operators too.
        let no_operators = TrustedKeys::default();
        let is_self_signed = common.issuer == common.subject;
        if let Some(trusted) = trusted.or(is_self_signed.then_some(&no_operators)) {
            match trusted.operator_of(common) {
                Ok(operator) => self.operator = Some(operator.to_string()),
                Err(rejection) => self.note(rejection),
            }
        } else {
            self.unchecked.push(NO_OPERATORS);
        }
        common.account()?;
        self.found(account::issues(json, common)?);
        Ok(())
    }

    /// Every operator signs itself, so that its issuer is its own key.
    fn operator(&mut self, common: &Common, trusted: Option<&TrustedKeys>) {
        let Some(trusted) = trusted else {
            self.unchecked.push(NO_OPERATORS);
            return;
        };
        let mut given = trusted.operators().iter().map(Verified::claims);
        match given.find(|claims| claims.operator.to_string() == common.subject) {
            Some(claims) => self.operator = Some(claims.operator.to_string()),
            None => self.problems.push(Issue {
                code: "untrusted",
                detail: format!(
                    "operator {} signed itself, as every operator does, and is not among the trusted ones ({})",
                    cut(&common.subject),
                    trusted.names()
                ),
            }),
        }
    }

    fn found(&mut self, issues: Issues) {
        let (problems, warnings) = issues.into_lists();
        self.problems.extend(problems);
        self.warnings.extend(warnings);
    }

    /// Checks a token of a kind that has no rules here: signature and times.
    fn other(&mut self, opened: &Opened<'_>, common: &Common, now: i64) -> Result<(), Rejection> {
        self.unchecked
            .push("its content, since no rules are known here for its kind: only its signature and its times were");
        if !opened.is_signed_by_issuer(common, &Issuers::default()) {
            self.note(Rejection::Signature {
                issuer: cut(&common.issuer),
            });
        }
        common.check_times(now)
    }
}

/// Header, claims and signature for people, as nats-account-server's `?decode=true` shows them: JSON indented by four
/// blanks, the claims with sorted keys, dates after `iat` and `exp`, and activation tokens decoded. Empty if the token
/// cannot be decoded.
pub fn render_decoded(token: &Token) -> String {
    let Ok(opened) = Opened::open(token) else {
        return String::new();
    };
    let header: Value = serde_json::from_str(&opened.header).unwrap_or(Value::Null);
    let claims: Value = serde_json::from_str(&opened.claims).unwrap_or(Value::Null);
    let signature = token.as_str().rsplit('.').next().unwrap_or_default();
    let mut text = String::new();
    for line in pretty(&header).lines().chain(["\r"]) {
        text.push_str(line);
        text.push('\n');
    }
    for line in pretty(&sorted(claims)).lines() {
        text.push_str(&dated(line));
        text.push('\n');
    }
    text.push_str("\r\n");
    text.push_str(signature);
    text
}

fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, format);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Keys in alphabetical order; an activation token becomes its claims.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<(String, Value)> = object.into_iter().collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            let open = |(key, value): (String, Value)| {
                let opened = value.as_str().filter(|_| key == "token").and_then(activation_claims);
                (key, sorted(opened.unwrap_or(value)))
            };
            Value::Object(entries.into_iter().map(open).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn activation_claims(text: &str) -> Option<Value> {
    let token = Token::parse(text.as_bytes()).ok()?;
    let opened = Opened::open(&token).ok()?;
    let json = opened.json().ok()?;
    // Text that does not decode to a JSON object is shown as it is.
    Fields::of(&json, "", &[]).ok()?;
    serde_json::from_str(&opened.claims).ok()
}

/// Adds the date after the number of a line with `iat` or `exp`.
fn dated(line: &str) -> String {
    let trimmed = line.trim_start();
    if !(trimmed.starts_with("\"iat\": ") || trimmed.starts_with("\"exp\": ")) {
        return line.to_owned();
    }
    let (number, comma) = line.strip_suffix(',').map_or((line, ""), |number| (number, ","));
    let seconds = number.rsplit(' ').next().and_then(|digits| digits.parse().ok());
    match seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        Some(at) => format!("{number} ({}){comma}", at.strftime("%Y-%m-%d")),
        None => line.to_owned(),
    }
}
