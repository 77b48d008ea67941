//! Why a token is refused: one list, for HTTP answers, logs and the folders of the test vectors.
//!
//! Each sentence names the defect, the keys or the times concerned, and what to do.

use super::nkey::AccountKey;

/// A rule of the jwt library that a token breaks, and for which nats-server would refuse the token; or, as a warning,
/// what nats-server accepts but the signer probably does not want.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Issue {
    /// A stable code, kebab-case.
    pub code: &'static str,
    /// One sentence.
    pub detail: String,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Nothing was sent.
    #[error("nothing is here: an encoded JWT is needed, three base64url parts joined by dots")]
    Empty,
    /// Longer than [`super::MAX_TOKEN_BYTES`].
    #[error(
        "the token has {bytes} bytes, at most {limit} are allowed, so that nats-server can receive it over HTTP and over NATS: \
         remove revocations that no longer matter, or use `*`"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A private key was sent. Its text is never repeated.
    #[error(
        "this is a private key (a seed), not a JWT: treat that key as exposed, replace it, and give only encoded JWTs to jwtmesh"
    )]
    Seed,
    /// Something else in whole, such as a form or a compressed file.
    #[error("this is {what} and not a JWT: give only the encoded JWT, as nsc wrote it{remedy}")]
    OtherFormat {
        /// What it is, with its article.
        what: &'static str,
        /// How a client comes to send it, or nothing.
        remedy: &'static str,
    },
    /// The decorated form of a file.
    #[error("this is a decorated or creds file: give only the encoded JWT between its BEGIN and END lines")]
    Decorated,
    /// Not three parts.
    #[error("a JWT has three parts joined by dots, this has {found}: send the encoded JWT and nothing else")]
    Chunks {
        /// How many.
        found: usize,
    },
    /// A part is not base64url without padding.
    #[error("the {part} is not base64url without padding: {defect}")]
    Base64 {
        /// Which part.
        part: &'static str,
        /// What is wrong and what to do.
        defect: String,
    },
    /// The header is not that of a NATS JWT.
    #[error(
        "the header is not that of a NATS JWT: {0}. It must say typ \"JWT\" and alg \"ed25519-nkey\" (or \"ed25519\" in version 1)"
    )]
    Header(String),
    /// The claims are not valid JSON, are nested too deep or have too many values.
    #[error("the claims cannot be read: {0}")]
    Json(String),
    /// A key twice in one object: readers differ in which one counts.
    #[error(
        "the claims have {0} twice in one object; readers differ in which one counts, so no value is safe: encode it once"
    )]
    DuplicateKey(String),
    /// A key that only a reader which ignores case, such as Go's, takes for a known field.
    #[error(
        "the claims spell {found:?} where the field is {wanted:?}; nats-server would take it for that field, other readers not: use {wanted:?}"
    )]
    OddCase {
        /// As written.
        found: String,
        /// As it must be.
        wanted: &'static str,
    },
    /// A field holds a value of another type.
    #[error(
        "the claims' field {field} must be {wanted}: write it so and sign again, or let nsc or a jwt v2 library encode it"
    )]
    FieldType {
        /// Its path.
        field: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A version other than 1 and 2, such as a newer library would write.
    #[error("the JWT has version {0}, nats-server reads versions 1 and 2: encode it with a jwt v2 library")]
    Version(i64),
    /// Another kind of JWT.
    #[error("this is {found} JWT, {wanted} JWT is needed here: check which file or variable was sent")]
    Kind {
        /// What it is, with its article.
        found: String,
        /// What it should be, with its article.
        wanted: &'static str,
    },
    /// The issuer is no public key at all.
    #[error(
        "the issuer {0:?} is no NATS public key: the `iss` of a NATS JWT is the public key that signed it (O... for an operator's)"
    )]
    IssuerNotKey(String),
    /// A key of a kind that may not sign this.
    #[error("the issuer {issuer} may not sign {kind} JWT: {wanted} must")]
    IssuerKind {
        /// The key that signed.
        issuer: String,
        /// What was signed, with its article.
        kind: &'static str,
        /// Which key must sign it.
        wanted: &'static str,
    },
    /// The signature is not the issuer's.
    #[error(
        "the signature is not that of the issuer {issuer} over these bytes: the JWT was changed after signing, or signed with another key; \
         encode and sign it again"
    )]
    Signature {
        /// The key that the claims name as the issuer.
        issuer: String,
    },
    /// The subject is not a key of the right kind.
    #[error("the subject is wrong: {0}; a JWT's `sub` is the public key of what it describes")]
    Subject(String),
    /// An account that signed itself.
    #[error(
        "account {account} signed its own JWT, but an operator must: sign it with a key of a trusted operator ({trusted}), for example by \
         `nsc push` from a store that holds the operator's signing key"
    )]
    SelfSigned {
        /// The account.
        account: AccountKey,
        /// The operators whose keys may sign.
        trusted: String,
    },
    /// Signed by a key that belongs to no trusted operator.
    #[error(
        "the issuer {issuer} is no key of a trusted operator ({trusted}): sign with a key of one of those. If it is a new signing key, export \
         the operator again (`nsc describe operator --raw`) and give it to jwtmesh (`jwtmesh operator update FILE`); if the operator was \
         issued anew under another identity key, run `jwtmesh operator replace OLD FILE`; otherwise push to the mesh of that operator"
    )]
    Untrusted {
        /// The key that signed.
        issuer: String,
        /// The operators whose keys may sign.
        trusted: String,
    },
    /// The identity key of an operator that allows only its signing keys.
    #[error(
        "the issuer {issuer} is the identity key of operator {operator}, which requires issuer to be a signing key \
         (strict_signing_key_usage): sign with one of {signing_keys}"
    )]
    Strict {
        /// The key that signed.
        issuer: String,
        /// The operator's name.
        operator: String,
        /// The keys that may sign.
        signing_keys: String,
    },
    /// `exp` has passed.
    #[error("the JWT is expired: it was valid until {expired}, and it is now {now}; issue a new one")]
    Expired {
        /// `exp`.
        expired: String,
        /// The present time.
        now: String,
    },
    /// `nbf` is in the future.
    #[error(
        "the JWT is not yet valid: it is valid from {valid_from}, and it is now {now}; submit it then, or issue one without `nbf`"
    )]
    NotYetValid {
        /// `nbf`.
        valid_from: String,
        /// The present time.
        now: String,
    },
    /// A time in milliseconds.
    #[error(
        "`{field}` is {value}, which in seconds is tens of thousands of years ahead: it seems to be in milliseconds ({meant}); the times \
         of a JWT are in seconds, so sign it again with {}", value / 1000
    )]
    Milliseconds {
        /// `iat` or `nbf`.
        field: &'static str,
        /// Its value.
        value: i64,
        /// The time that is probably meant.
        meant: String,
    },
    /// Issued by a clock that is ahead. If it were accepted, it would block every legitimate update until that time.
    #[error(
        "the JWT was issued at {issued}, which is more than five minutes after now ({now}): the clock of the machine that signed it is \
         ahead, or the one here is behind; set the wrong one right, and if it was the signer's, issue the JWT again"
    )]
    IssuedInFuture {
        /// `iat`.
        issued: String,
        /// The present time.
        now: String,
    },
    /// nats-server would refuse the content.
    #[error("{}", sentence(issues))]
    Invalid {
        /// The rules that it breaks, at most the first ten.
        issues: Vec<Issue>,
    },
}

fn sentence(issues: &[Issue]) -> String {
    format!("nats-server would refuse this JWT: {}", Issue::joined(issues))
}

impl Issue {
    /// The sentences of `issues` as one line.
    pub fn joined(issues: &[Self]) -> String {
        let all: Vec<&str> = issues.iter().map(|issue| issue.detail.as_str()).collect();
        all.join("; ")
    }
}

impl Rejection {
    /// A stable name of the defect, kebab-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLarge { .. } => "too-large",
            Self::Seed => "seed",
            Self::OtherFormat { .. } => "other-format",
            Self::Decorated => "decorated",
            Self::Chunks { .. } => "chunks",
            Self::Base64 { .. } => "base64",
            Self::Header(_) => "header",
            Self::Json(_) => "json",
            Self::DuplicateKey(_) => "duplicate-key",
            Self::OddCase { .. } => "odd-case",
            Self::FieldType { .. } => "field-type",
            Self::Version(_) => "version",
            Self::Kind { .. } => "kind",
            Self::IssuerNotKey(_) => "issuer-not-key",
            Self::IssuerKind { .. } => "issuer-kind",
            Self::Signature { .. } => "signature",
            Self::Subject(_) => "subject",
            Self::SelfSigned { .. } => "self-signed",
            Self::Untrusted { .. } => "untrusted",
            Self::Strict { .. } => "strict",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Milliseconds { field: "nbf", .. } => "not-yet-valid",
            Self::Milliseconds { .. } => "issued-in-future",
            Self::IssuedInFuture { .. } => "issued-in-future",
            Self::Invalid { issues } => issues.first().map_or("invalid", |issue| issue.code),
        }
    }
}
