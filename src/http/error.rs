//! How each failure is answered: the one table of statuses and codes. A sentence comes from the error itself where
//! there is one.
//!
//! There are three kinds of failure. The caller's: 4xx, and the sentence says what to change. Transient: 429, 503 or
//! 504, and the sentence says to try again. Ours: 500 without details, since the cause is in this node's log.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::Problem;
use crate::resolver::{ProposeError, ReadError, RemovalError, Resolver, SubmitError, Unformed};

/// Why a request is refused: a status, a code for programs and a sentence for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    sentence: Cow<'static, str>,
    allow: Option<&'static str>,
}

/// The value of `Retry-After`, in seconds: by then a queue is empty and an election is over.
const RETRY_AFTER_SECONDS: u16 = 1;

/// Why the node of `resolver` answers no lookup.
pub(super) fn not_ready(resolver: &Resolver) -> Cow<'static, str> {
    match resolver.why_no_state() {
        Some(why) => why.into(),
        None => "this node is starting or shutting down; try again, or ask another node".into(),
    }
}

const NOSNIFF: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
const TEXT: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("text/plain; charset=utf-8"),
);
const PROBLEM: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/problem+json"),
);

impl Refusal {
    fn new(status: StatusCode, code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            sentence: sentence.into(),
            allow: None,
        }
    }

    /// 400: the caller has to change the request.
    pub(super) fn bad(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, sentence)
    }

    /// 404: nothing of that name.
    pub(super) fn missing(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, sentence)
    }

    /// 404 for a path without a route.
    pub(super) fn unknown_path() -> Self {
        Self::missing("unknown-path", "no such path; GET /jwt/v1/help lists them")
    }

    /// 405, with the methods that the path takes in `Allow`.
    pub(super) fn wrong_method(allow: &'static str) -> Self {
        let sentence = format!("this path takes {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", sentence)
        }
    }

    /// 408: the body took too long.
    pub(super) fn slow_body(seconds: u64) -> Self {
        let sentence = format!("the body was not complete after {seconds} s; send it again");
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow-body", sentence)
    }

    /// 409: the state of the mesh does not allow it.
    pub(super) fn conflict(code: &'static str, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, sentence)
    }

    /// 409: several things match the request, which cannot say which one is meant.
    pub(super) fn ambiguous(sentence: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, "ambiguous", sentence)
    }

    /// 413: the body is longer than a token may be. `limit` is in bytes.
    pub(super) fn too_large(limit: usize) -> Self {
        let sentence = format!(
            "the body has more than {limit} bytes, the size of the largest account JWT that every nats-server accepts; \
             remove revocations that are no longer needed, or split the account"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", sentence)
    }

    /// 421: another node was meant.
    pub(super) fn misdirected(sentence: String) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "wrong-node", sentence)
    }

    /// 429: the limit of concurrent requests of this kind is reached.
    pub(super) fn busy(sentence: &'static str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", sentence)
    }

    /// 500 without details: the cause is logged, never sent.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error")
    }

    /// 501: nats-account-server had this feature, jwtmesh does not.
    pub(super) fn not_supported(sentence: &'static str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not-supported", sentence)
    }

    /// 503: this node has nothing to answer from.
    pub(super) fn no_state(sentence: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no-state", sentence)
    }

    /// 503: this node cannot answer at the moment.
    pub(super) fn unavailable(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", sentence)
    }

    /// The status, for the log.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence, for the log.
    pub(super) fn sentence(&self) -> &str {
        &self.sentence
    }

    fn is_transient(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
    }

    fn with_headers(&self, mut answer: Response) -> Response {
        if self.is_transient() {
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if let Some(allow) = self.allow {
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }

    /// The answer on the public port, as nsc shows it: one sentence and a line feed.
    pub(super) fn plain(self) -> Response {
        let answer = (self.status, [TEXT, NOSNIFF, NO_STORE], format!("{}\n", self.sentence)).into_response();
        self.with_headers(answer)
    }

    /// The answer under `/v1`: a problem document (RFC 9457).
    pub(super) fn problem(self) -> Response {
        let problem = Problem {
            code: self.code.into(),
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or_default().into(),
            detail: self.sentence.clone().into_owned(),
        };
        let answer = (self.status, [NO_STORE], Json(problem));
        // `Json` sets a content type of its own; the outer tuple replaces it.
        self.with_headers(([PROBLEM], answer).into_response())
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let (status, code) = match &error {
            // An untrusted issuer is a 400 too, as in nats-account-server; nsc shows the sentence either way.
            SubmitError::Rejected(rejection) | SubmitError::Untimely { rejection, .. } => {
                (StatusCode::BAD_REQUEST, rejection.code())
            }
            SubmitError::Candidate { .. } => (StatusCode::BAD_REQUEST, "untrusted"),
            SubmitError::WrongOperator { .. } => (StatusCode::BAD_REQUEST, "wrong-operator"),
            SubmitError::UnknownOperator { .. } => (StatusCode::NOT_FOUND, "unknown-operator"),
            SubmitError::OperatorSuperseded { .. } => (StatusCode::CONFLICT, "superseded"),
            SubmitError::SharedKey { .. } => (StatusCode::BAD_REQUEST, "shared-key"),
            SubmitError::WrongAccount { .. } => (StatusCode::BAD_REQUEST, "wrong-account"),
            SubmitError::Changed { .. } => (StatusCode::PRECONDITION_FAILED, "changed"),
            SubmitError::Undated { .. } => (StatusCode::BAD_REQUEST, "no-issue-time"),
            SubmitError::Superseded { .. } => (StatusCode::CONFLICT, "superseded"),
            SubmitError::Deleted { .. } => (StatusCode::CONFLICT, "deleted"),
            SubmitError::Removal(error) => removal(error),
            SubmitError::OtherOperator { .. } => (StatusCode::FORBIDDEN, "other-operator"),
            SubmitError::OlderServer(_) => (StatusCode::CONFLICT, "older-server"),
            SubmitError::NotAgreed(ProposeError::Busy) => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            SubmitError::NotAgreed(ProposeError::Unavailable { .. } | ProposeError::NoLeader) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            SubmitError::NotAgreed(ProposeError::Refused { .. }) => (StatusCode::BAD_REQUEST, "refused-by-leader"),
            SubmitError::NotAgreed(ProposeError::OutcomeUnknown) => (StatusCode::GATEWAY_TIMEOUT, "outcome-unknown"),
            SubmitError::Read(error) => return error.into(),
        };
        Self::new(status, code, error.to_string())
    }
}

fn removal(error: &RemovalError) -> (StatusCode, &'static str) {
    match error {
        RemovalError::Undated => (StatusCode::BAD_REQUEST, "no-issue-time"),
        RemovalError::TooMany { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-many-accounts"),
        RemovalError::OtherAccounts { .. } => (StatusCode::BAD_REQUEST, "wrong-account"),
        RemovalError::Protected { .. } => (StatusCode::FORBIDDEN, "protected"),
        RemovalError::OtherOperator { .. } => (StatusCode::FORBIDDEN, "other-operator"),
        RemovalError::Superseded { .. } => (StatusCode::CONFLICT, "superseded"),
        RemovalError::Replayed { .. } => (StatusCode::CONFLICT, "replayed"),
        RemovalError::HasStreams { .. } => (StatusCode::CONFLICT, "has-streams"),
        RemovalError::StreamsUnknown { .. } => (StatusCode::CONFLICT, "streams-unknown"),
        RemovalError::NotClosing { .. } => (StatusCode::BAD_REQUEST, "not-closing"),
        RemovalError::ClosingInvalid { .. } => (StatusCode::CONFLICT, "closing-not-valid"),
        RemovalError::NoClosing { .. } => (StatusCode::NOT_FOUND, "no-closing-jwt"),
        RemovalError::NotKept { .. } => (StatusCode::CONFLICT, "not-kept"),
        RemovalError::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown-account"),
        RemovalError::AlreadyDeleted { .. } => (StatusCode::CONFLICT, "deleted"),
    }
}

impl From<Unformed> for Refusal {
    fn from(unformed: Unformed) -> Self {
        match unformed {
            Unformed::Silent(sentence) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "node-silent", sentence),
            Unformed::Unfit(sentence) => Self::conflict("not-formed", sentence),
        }
    }
}

impl From<&ReadError> for Refusal {
    fn from(error: &ReadError) -> Self {
        match error {
            // The resolver has logged the cause, and reported a fault if this node cannot go on.
            ReadError::Damaged(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", error.to_string()),
            ReadError::Fault(_) => Self::internal(),
            ReadError::NoRoom | ReadError::ShuttingDown | ReadError::Behind { .. } => {
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transient_failure_says_when_to_try_again_and_a_wrong_method_names_the_right_ones() {
        let busy = Refusal::busy("too many at once").plain();
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
        let wrong = Refusal::wrong_method("GET, HEAD").plain();
        assert_eq!(
            (wrong.status().as_u16(), &wrong.headers()[header::ALLOW]),
            (405, &"GET, HEAD".parse().expect("text"))
        );
        assert!(!wrong.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_problem_keeps_its_media_type() {
        let answer = Refusal::bad("malformed-key", "not a key").problem();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(answer.headers().get_all(header::CONTENT_TYPE).iter().count(), 1);
    }

    #[test]
    fn an_internal_error_gives_no_details() {
        assert_eq!(Refusal::internal().sentence(), "internal error");
    }
}
