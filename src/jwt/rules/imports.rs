//! Rules of imports (jwt `imports.go`), and of the activation tokens inside them (`activation_claims.go`).

use std::collections::BTreeMap;

use super::issues::Issues;
use super::shape::{Traffic, times_of_day};
use super::subject;
use crate::jwt::json::{Fields, Json};
use crate::jwt::nkey::{self, Issuers, KeyKind};
use crate::jwt::opened::{Common, Kind, Opened};
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;
use crate::jwt::token::Token;

struct Import<'j> {
    subject: &'j str,
    account: &'j str,
    token: &'j str,
    to: &'j str,
    local_subject: &'j str,
    traffic: Traffic,
    share: bool,
    allow_trace: bool,
}

const IMPORT: &[&str] = &[
    "name",
    "subject",
    "account",
    "token",
    "to",
    "local_subject",
    "type",
    "share",
    "allow_trace",
];

impl<'j> Import<'j> {
    fn read(json: &'j Json<'_>, path: &str) -> Result<Self, Rejection> {
        let fields = Fields::of(json, path, IMPORT)?;
        fields.text("name")?;
        Ok(Self {
            subject: fields.text("subject")?,
            account: fields.text("account")?,
            token: fields.text("token")?,
            to: fields.text("to")?,
            local_subject: fields.text("local_subject")?,
            traffic: Traffic::read(&fields, "type")?,
            share: fields.bool("share")?,
            allow_trace: fields.bool("allow_trace")?,
        })
    }

    /// The subject at which the importing account sees a service.
    fn appears_at(&self) -> String {
        if !self.to.is_empty() {
            return self.to.to_owned();
        }
        match self.local_subject {
            "" => self.subject.to_owned(),
            local => {
                let plain = |token| if reference(token).is_some() { "*" } else { token };
                local.split('.').map(plain).collect::<Vec<_>>().join(".")
            }
        }
    }
}

/// The number in `$N`, which stands for the Nth wildcard of the imported subject.
fn reference(token: &str) -> Option<i64> {
    token
        .strip_prefix('$')
        .filter(|digits| !digits.is_empty())
        .and_then(|digits| digits.parse().ok())
}

/// Reads every import of `nats`; `None` for one that is null.
fn read<'j>(nats: &Fields<'j, '_>) -> Result<Vec<Option<Import<'j>>>, Rejection> {
    let path = nats.path("imports");
    let read = |(at, json): (usize, &'j Json<'_>)| match json {
        Json::Null => Ok(None),
        json => Import::read(json, &format!("{path}[{at}]")).map(Some),
    };
    nats.list("imports")?.iter().enumerate().map(read).collect()
}

/// The service imports of `nats`: the account that exports each of them, and the subject at which it is seen.
pub(in crate::jwt) fn services<'j>(nats: &Fields<'j, '_>) -> Result<Vec<(&'j str, String)>, Rejection> {
    Ok(services_among(&read(nats)?).collect())
}

fn services_among<'i, 'j>(imports: &'i [Option<Import<'j>>]) -> impl Iterator<Item = (&'j str, String)> + use<'i, 'j> {
    let services = imports
        .iter()
        .flatten()
        .filter(|import| import.traffic == Traffic::Service);
    services.map(|import| (import.account, import.appears_at()))
}

/// Checks every import of `nats` and returns their number.
pub(super) fn check(nats: &Fields<'_, '_>, account: &str, issues: &mut Issues) -> Result<usize, Rejection> {
    let imports = read(nats)?;
    for import in &imports {
        let Some(import) = import else {
            issues.add("import", || "an import is null: remove it".to_owned());
            continue;
        };
        shape(import, issues);
        activate(import, account, issues);
    }
    let mut services: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (from, subject) in services_among(&imports) {
        services.entry(from).or_default().push(subject);
    }
    for (from, subjects) in &services {
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        match subject::overlap(&subjects) {
            subject::Overlap::None => {}
            subject::Overlap::Found(one, other) => issues.add("import-overlap", || {
                format!("the service import {:?} from account {} overlaps the one at {:?}: import one of them, or give one another local_subject", cut(one), cut(from), cut(other))
            }),
            subject::Overlap::TooComplex => issues.add("import-overlap", || {
                format!("the wildcards of the service imports from account {} cross each other too often to be checked: use fewer", cut(from))
            }),
        }
    }
    Ok(imports.len())
}

fn shape(import: &Import<'_>, issues: &mut Issues) {
    let name = || cut(import.subject);
    match import.traffic {
        Traffic::Missing => issues.add("import", || {
            format!("the import {:?} has no type: say \"stream\" or \"service\"", name())
        }),
        Traffic::Service if import.allow_trace => {
            issues.add("import", || {
                format!(
                    "the service import {:?} has allow_trace, which is for streams: remove it",
                    name()
                )
            });
        }
        Traffic::Stream if import.share => {
            issues.add("import", || {
                format!(
                    "the stream import {:?} has share, which is for services: remove it",
                    name()
                )
            });
        }
        _ => {}
    }
    // The library refuses `share` without a type too: it is for services alone.
    if import.traffic == Traffic::Missing && import.share {
        issues.add("import", || {
            format!("the import {:?} has share, which is for services: remove it", name())
        });
    }
    if import.account.is_empty() {
        issues.add("import", || {
            format!(
                "the import {:?} names no account to import from: add the exporting account's key",
                name()
            )
        });
    }
    subject::check(import.subject, "an import", issues);
    if !import.local_subject.is_empty() {
        renaming(import, issues);
        if !import.to.is_empty() {
            issues.add("import", || {
                format!(
                    "the import {:?} has both local_subject and to: keep local_subject",
                    name()
                )
            });
        }
    }
}

/// A local subject and the imported one must have the same wildcards (jwt `types.go`, `RenamingSubject`).
fn renaming(import: &Import<'_>, issues: &mut Issues) {
    let local = import.local_subject;
    let from = import.subject;
    subject::check(local, "an import's local_subject", issues);
    let full = |subject: &str| subject == ">" || subject.ends_with(".>");
    if full(local) != full(from) {
        issues.add("import-renaming", || {
            format!(
                "{:?} and its local_subject {:?} must both end in '>' or neither: change one of them",
                cut(from),
                cut(local)
            )
        });
    }
    let stars = subject::stars(from);
    let mut used = 0;
    for token in local.split('.') {
        match reference(token) {
            Some(at) if at > i64::try_from(stars).unwrap_or(i64::MAX) => issues.add("import-renaming", || {
                format!(
                    "the local_subject {:?} refers to ${at}, but {:?} has {stars} '*': number them from 1",
                    cut(local),
                    cut(from)
                )
            }),
            Some(_) => used += 1,
            None if token == "*" => used += 1,
            None => {}
        }
    }
    if used != stars {
        issues.add("import-renaming", || {
            format!(
                "the local_subject {:?} uses {used} of the {stars} '*' of {:?}: use each once, as '*' or $N",
                cut(local),
                cut(from)
            )
        });
    }
}

struct Activation {
    issuer: String,
    subject: String,
    issuer_account: String,
    import_subject: String,
    traffic: Traffic,
}

impl Activation {
    fn read(text: &str) -> Result<Self, Rejection> {
        let token = Token::parse(text.as_bytes())?;
        let opened = Opened::open(&token)?;
        let json = opened.json()?;
        let common = opened.verify(&json, Kind::Activation, &Issuers::default())?;
        Self::of(&json, common)
    }

    fn of(json: &Json<'_>, common: Common) -> Result<Self, Rejection> {
        let top = Fields::of(json, "", &[])?;
        let known: &[&str] = match common.version {
            1 => &["subject", "type", "max", "payload", "src", "times"],
            _ => &["subject", "kind", "type", "issuer_account", "tags", "version", "limits"],
        };
        let nats = top.fields("nats", known)?;
        if common.version == 1 {
            // Without a meaning any more, but the library still decodes them (`decoder_activation.go`).
            nats.int("max")?;
            nats.int("payload")?;
            nats.text("src")?;
            times_of_day(&nats)?;
        }
        // Version 1 has them elsewhere: the traffic under "type", the account at the top.
        let (traffic, issuer_account) = match common.version {
            1 => ("type", top.text("issuer_account")?),
            _ => ("kind", nats.text("issuer_account")?),
        };
        Ok(Self {
            subject: common.subject,
            issuer_account: issuer_account.to_owned(),
            import_subject: nats.text("subject")?.to_owned(),
            traffic: Traffic::read(&nats, traffic)?,
            issuer: common.issuer,
        })
    }
}

/// Every rule that the claims of an activation token break, apart from any import.
pub(in crate::jwt) fn activation(json: &Json<'_>, common: &Common) -> Result<Issues, Rejection> {
    let mut issues = Issues::default();
    let activation = Activation::of(json, common.clone())?;
    if nkey::kind(&activation.subject) != Some(KeyKind::Account) {
        issues.add("activation", || {
            format!(
                "its subject {:?} is no account public key (A...): it is the account that may import",
                cut(&activation.subject)
            )
        });
    }
    if activation.traffic == Traffic::Missing {
        issues.add("activation", || {
            "it does not say what it allows: its kind is \"stream\" or \"service\"".to_owned()
        });
    }
    subject::check(&activation.import_subject, "an activation token", &mut issues);
    if !activation.issuer_account.is_empty() && nkey::kind(&activation.issuer_account) != Some(KeyKind::Account) {
        issues.add("activation", || {
            "its issuer_account is no account public key (A...)".to_owned()
        });
    }
    Ok(issues)
}

fn activate(import: &Import<'_>, account: &str, issues: &mut Issues) {
    if import.token.is_empty() {
        return;
    }
    let name = || cut(import.subject);
    let activation = match Activation::read(import.token) {
        Ok(activation) => activation,
        Err(rejection) => {
            return issues.add("activation", || {
                format!(
                    "the activation token of import {:?} cannot be used: {rejection}",
                    name()
                )
            });
        }
    };
    if activation.issuer != import.account && activation.issuer_account != import.account {
        issues.add("activation", || {
            format!(
                "the activation token of import {:?} is not from account {}: ask that account for one (nsc generate activation)",
                name(),
                cut(import.account)
            )
        });
    }
    if activation.subject != account {
        issues.add("activation", || {
            format!(
                "the activation token of import {:?} is for account {}, not for this one: ask for one made for this account",
                name(),
                cut(&activation.subject)
            )
        });
    }
    if activation.traffic != import.traffic || activation.traffic == Traffic::Missing {
        issues.add("activation", || {
            format!(
                "the activation token of import {:?} is for another type of import: import what it allows, or ask for another token",
                name()
            )
        });
    }
    subject::check(&activation.import_subject, "an activation token", issues);
    if !activation.issuer_account.is_empty() && nkey::kind(&activation.issuer_account) != Some(KeyKind::Account) {
        issues.add("activation", || {
            format!(
                "the activation token of import {:?} has an issuer_account that is no account key: ask for another token",
                name()
            )
        });
    }
    let imported = if import.traffic == Traffic::Service && !import.to.is_empty() {
        import.to
    } else {
        import.subject
    };
    if !subject::is_contained(imported, &activation.import_subject) {
        issues.add("activation", || {
            format!(
                "the activation token allows {:?}, which does not contain the import {:?}: import less, or ask for a token that allows it",
                cut(&activation.import_subject),
                name()
            )
        });
    }
}
