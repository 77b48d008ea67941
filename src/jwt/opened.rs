//! What tokens of every kind have in common: header, issuer, subject, times, and the signature rules of both versions.

use data_encoding::DecodeKind;

use super::json::{Fields, Json, text_of};
use super::nkey::{AccountKey, Issuers, KeyError, KeyKind};
use super::quote::{cut, time};
use super::rejection::Rejection;
use super::token::Token;

/// How far ahead of this server's clock a token may be issued. A clock that works is wrong by less.
pub(super) const MAX_CLOCK_SKEW_SECONDS: i64 = 300;

/// From here on a number of seconds is the year 5138 or later, and a number of milliseconds the year 1973 or later.
pub(super) const MILLISECONDS: i64 = 100_000_000_000;

/// The fields at the top level of claims, including those that only version 1 has.
const TOP: &[&str] = &[
    "aud",
    "exp",
    "jti",
    "iat",
    "iss",
    "name",
    "nbf",
    "sub",
    "nats",
    "type",
    "tags",
    "issuer_account",
];

/// The kinds of token that this program verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Operator,
    Account,
    Activation,
    User,
    /// Generic claims that ask for accounts to be deleted.
    Delete,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Account => "account",
            Self::Activation => "activation",
            Self::User => "user",
            Self::Delete => "",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Self::Operator => "an operator",
            Self::Account => "an account",
            Self::Activation => "an activation",
            Self::User => "a user",
            Self::Delete => "a generic (a request to delete accounts)",
        }
    }

    /// Whether a key of this kind may sign it (jwt `ExpectedPrefixes`).
    fn may_issue(self, issuer: KeyKind) -> bool {
        match self {
            Self::Operator | Self::Delete => issuer == KeyKind::Operator,
            Self::Account | Self::Activation => matches!(issuer, KeyKind::Operator | KeyKind::Account),
            Self::User => issuer == KeyKind::Account,
        }
    }
}

/// A token's three parts, decoded.
pub(super) struct Opened<'t> {
    token: &'t str,
    claims_chunk: &'t str,
    signature: Vec<u8>,
    pub(super) header: String,
    pub(super) claims: String,
}

/// The fields every kind has. Times are Unix seconds, 0 where absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Common {
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) issued_at: i64,
    pub(super) expires_at: i64,
    pub(super) not_before: i64,
    /// 1 or 2.
    pub(super) version: i64,
    pub(super) kind: String,
}

fn decode(part: &'static str, chunk: &str) -> Result<Vec<u8>, Rejection> {
    // Stricter than Go, which ignores the last character's unused bits: a token must have only one spelling.
    data_encoding::BASE64URL_NOPAD
        .decode(chunk.as_bytes())
        .map_err(|error| Rejection::Base64 {
            part,
            defect: match error.kind {
                DecodeKind::Trailing => "its last character has unused bits set; encode it again".to_owned(),
                DecodeKind::Length => "it is one character too long or cut off; send all of it".to_owned(),
                _ => format!("character {} does not belong there; encode it again", error.position),
            },
        })
}

impl<'t> Opened<'t> {
    pub(super) fn open(token: &'t Token) -> Result<Self, Rejection> {
        let text = token.as_str();
        let mut chunks = text.split('.');
        let (Some(header), Some(claims_chunk), Some(signature)) = (chunks.next(), chunks.next(), chunks.next()) else {
            return Err(Rejection::Chunks {
                found: text.split('.').count(),
            });
        };
        let opened = Self {
            token: text,
            claims_chunk,
            header: text_of(decode("header", header)?),
            claims: text_of(decode("claims", claims_chunk)?),
            signature: decode("signature", signature)?,
        };
        opened.check_header()?;
        Ok(opened)
    }

    fn check_header(&self) -> Result<(), Rejection> {
        let unreadable = |rejection: Rejection| match rejection {
            Rejection::Json(defect) => Rejection::Header(defect),
            Rejection::DuplicateKey(key) => Rejection::Header(format!("it has {key:?} twice")),
            Rejection::OddCase { found, wanted } => Rejection::Header(format!("it spells {found:?} for {wanted:?}")),
            Rejection::FieldType { field, wanted } => Rejection::Header(format!("its {field} is not {wanted}")),
            other => Rejection::Header(other.to_string()),
        };
        let json = Json::parse(&self.header).map_err(unreadable)?;
        let fields = Fields::of(&json, "", &["typ", "alg"]).map_err(unreadable)?;
        let typ = fields.text("typ").map_err(unreadable)?;
        let alg = fields.text("alg").map_err(unreadable)?;
        if typ.to_uppercase() != "JWT" {
            return Err(Rejection::Header(format!("its typ is {:?}", cut(typ))));
        }
        // A v2 token may say "ed25519" too: the claims decide how it is signed (jwt `decoder.go`).
        if !matches!(alg.to_lowercase().as_str(), "ed25519" | "ed25519-nkey") {
            return Err(Rejection::Header(format!("its alg is {:?}", cut(alg))));
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Result<Json<'_>, Rejection> {
        Json::parse(&self.claims)
    }

    /// Checks that these are claims of `kind`, signed by the issuer that they name, and that a key of the issuer's kind
    /// may sign them. Does not check whether the issuer is trusted: `issuers` only saves parsing keys (see `trust.rs`).
    pub(super) fn verify(&self, json: &Json<'_>, kind: Kind, issuers: &Issuers) -> Result<Common, Rejection> {
        let common = Common::read(json)?;
        if common.kind != kind.name() {
            let found = match common.kind.as_str() {
                "" => "a generic".to_owned(),
                kind if kind.starts_with(['a', 'o']) => format!("an {}", cut(kind)),
                kind => format!("a {}", cut(kind)),
            };
            return Err(Rejection::Kind {
                found,
                wanted: kind.with_article(),
            });
        }
        if !(1..=2).contains(&common.version) {
            return Err(Rejection::Version(common.version));
        }
        let Some(issuer_kind) = issuers.kind(&common.issuer) else {
            return Err(Rejection::IssuerNotKey(cut(&common.issuer)));
        };
        if !self.is_signed_by_issuer(&common, issuers) {
            return Err(Rejection::Signature { issuer: common.issuer });
        }
        if !kind.may_issue(issuer_kind) {
            return Err(Rejection::IssuerKind {
                issuer: common.issuer,
                kind: kind.with_article(),
                wanted: match kind {
                    Kind::Operator => "the operator itself",
                    Kind::Account | Kind::Activation | Kind::Delete => "an operator",
                    Kind::User => "an account",
                },
            });
        }
        Ok(common)
    }
}

impl Opened<'_> {
    /// Whether the signature is the issuer's. The claims' version, not the header's algorithm, decides which bytes are
    /// signed (jwt `decoder.go`): header and claims in version 2; the claims alone in version 1, and in any other.
    pub(super) fn is_signed_by_issuer(&self, common: &Common, issuers: &Issuers) -> bool {
        let signed = match common.version {
            2 => self.token.rsplit_once('.').map_or("", |(signed, _)| signed),
            _ => self.claims_chunk,
        };
        issuers.verify(&common.issuer, signed.as_bytes(), &self.signature)
    }
}

impl Common {
    pub(super) fn read(json: &Json<'_>) -> Result<Self, Rejection> {
        let top = Fields::of(json, "", TOP)?;
        let nats = top.fields("nats", &["tags", "type", "version"])?;
        top.text("aud")?;
        nats.texts("tags")?;
        let old_kind = top.text("type")?;
        let written = nats.int("version")?;
        let new_kind = nats.text("type")?;
        let version = if old_kind.is_empty() { written } else { 1 };
        if version == 1 {
            top.texts("tags")?;
            top.text("issuer_account")?;
        }
        if version > 2 {
            return Err(Rejection::Version(version));
        }
        let kind = if old_kind.is_empty() { new_kind } else { old_kind };
        Ok(Self {
            issuer: top.text("iss")?.to_owned(),
            subject: top.text("sub")?.to_owned(),
            name: top.text("name")?.to_owned(),
            id: top.text("jti")?.to_owned(),
            issued_at: top.int("iat")?,
            expires_at: top.int("exp")?,
            not_before: top.int("nbf")?,
            version,
            kind: kind.to_owned(),
        })
    }

    /// Compares the times with `now` (Unix seconds) as jwt `claims.go` does. One limit is ours: a token issued in the
    /// future would block every legitimate update until that time.
    pub(super) fn check_times(&self, now: i64) -> Result<(), Rejection> {
        if self.expires_at > 0 && now > self.expires_at {
            return Err(Rejection::Expired {
                expired: time(self.expires_at),
                now: time(now),
            });
        }
        for (field, value) in [("iat", self.issued_at), ("nbf", self.not_before)] {
            if (MILLISECONDS..MILLISECONDS * 1000).contains(&value) {
                return Err(Rejection::Milliseconds {
                    field,
                    value,
                    meant: time(value / 1000),
                });
            }
        }
        if self.not_before > now {
            return Err(Rejection::NotYetValid {
                valid_from: time(self.not_before),
                now: time(now),
            });
        }
        if self.issued_at > now.saturating_add(MAX_CLOCK_SKEW_SECONDS) {
            return Err(Rejection::IssuedInFuture {
                issued: time(self.issued_at),
                now: time(now),
            });
        }
        Ok(())
    }

    /// The subject as an account's key.
    pub(super) fn account(&self) -> Result<AccountKey, Rejection> {
        self.subject
            .parse()
            .map_err(|error: KeyError| Rejection::Subject(error.to_string()))
    }
}
