//! What every request passes before its handler: the path is cleaned and a panic is caught. Also reads the path, the
//! query and some headers for the handlers, and discards the body of a refused request.

use std::any::Any;
use std::borrow::Cow;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::Service;
use tower_http::catch_panic::{CatchPanic, ResponseForPanic};

use super::error::Refusal;
use crate::jwt::{AccountKey, KeyError};
use crate::resolver::AtLeast;

/// The service that a port calls for each request: it cleans the path, then `S` answers. A panic in `S` is answered
/// with 500, as the port answers refusals, and does not end the connection's other requests.
#[derive(Clone)]
pub(super) struct Entry<S>(CatchPanic<S, OnPanic>);

impl<S> Entry<S> {
    /// Wraps `service`, which must always be ready: its `poll_ready` is never called. `refuse` is how this port answers
    /// refusals: [`Refusal::plain`] or [`Refusal::problem`].
    pub(super) fn new(service: S, refuse: fn(Refusal) -> Response) -> Self {
        Self(CatchPanic::custom(service, OnPanic(refuse)))
    }
}

type Answering<S> = CatchPanic<S, OnPanic>;

impl<S> Service<Request<Incoming>> for Entry<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
{
    type Response = <Answering<S> as Service<Request<Body>>>::Response;
    type Error = Infallible;
    type Future = <Answering<S> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.0.call(cleaned(request))
    }
}

/// Answers with 500 when a handler panics.
#[derive(Clone, Copy)]
pub(super) struct OnPanic(fn(Refusal) -> Response);

impl ResponseForPanic for OnPanic {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, _panic: Box<dyn Any + Send>) -> Response {
        (self.0)(Refusal::internal())
    }
}

/// The request with the path that routes are written for: one slash between segments, none at the end.
///
/// An `account_server_url` that ends in a slash makes nats-server ask for `/jwt/v1//accounts/`. nats-account-server
/// answered with a redirect, which Go's client followed on every fetch; here it is simply the same path.
fn cleaned(request: Request<Incoming>) -> Request<Body> {
    let mut request = request.map(Body::new);
    if let Some(path) = clean_path(request.uri().path()) {
        let text = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        // Removing slashes keeps a valid path valid; if not, the request is served as it came.
        if let Ok(path) = PathAndQuery::from_maybe_shared(text.into_bytes()) {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.path_and_query = Some(path);
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
    }
    request
}

/// The cleaned path; `None` if it is clean already, as nearly every path is.
fn clean_path(path: &str) -> Option<String> {
    if path.len() < 2 || !(path.contains("//") || path.ends_with('/')) {
        return None;
    }
    let mut clean = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        clean.push('/');
        clean.push_str(segment);
    }
    Some(if clean.is_empty() { "/".into() } else { clean })
}

/// The account that the path names.
pub(super) fn account(uri: &Uri) -> Result<AccountKey, Refusal> {
    let text = last_segment(uri);
    text.parse().map_err(|error| {
        if text.to_ascii_uppercase().parse::<AccountKey>().is_ok() {
            // A key all the same, which no account has: programs that ask whether an account exists understand 404.
            return Refusal::missing(
                "unknown-account",
                format!("no matching account JWT: there is no account {text}; keys are written in upper case"),
            );
        }
        Refusal::bad(
            "malformed-key",
            format!("{error}; the path must end in the account's public key, A and 55 more characters"),
        )
    })
}

/// The last segment of a path. Not percent-decoded: a valid key contains no escapes.
fn last_segment(uri: &Uri) -> &str {
    uri.path().rsplit('/').next().unwrap_or_default()
}

/// The first value of a query parameter.
pub(super) fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.find(|(found, _)| found == name).map(|(_, value)| value)
}

/// The account behind which a page of a listing begins, if the request names one.
pub(super) fn after(uri: &Uri) -> Result<Option<AccountKey>, Refusal> {
    let after = parameter(uri, "after").map(|text| text.parse());
    after
        .transpose()
        .map_err(|error: KeyError| Refusal::bad("bad-parameter", format!("after: {error}")))
}

/// Whether a query switch is on. Only `true`, in upper or lower case, counts, as in nats-account-server.
pub(super) fn is_on(uri: &Uri, name: &str) -> bool {
    parameter(uri, name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Header of a GET: the revision that the answer must have seen, or `newest` for everything acknowledged before.
const MIN_REVISION: HeaderName = HeaderName::from_static("jwtmesh-min-revision");

/// What a GET must see, if it says so.
pub(super) fn at_least(headers: &HeaderMap) -> Result<Option<AtLeast>, Refusal> {
    let Some(value) = headers.get(MIN_REVISION) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "newest" {
        return Ok(Some(AtLeast::Newest));
    }
    match text.parse() {
        Ok(revision) => Ok(Some(AtLeast::Revision(revision))),
        Err(_) => Err(Refusal::bad(
            "revision",
            "the header jwtmesh-min-revision wants a number, which the answer to an upload has as jwtmesh-revision, or the word newest",
        )),
    }
}

/// The ETag, without quotes, of the token that an upload is to take the place of (`If-Match`, RFC 9110, 13.1.1); `None` if
/// it may take any token's place.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let tag = value.to_str().ok().and_then(|text| {
        let tag = text.trim().strip_prefix('"')?.strip_suffix('"')?;
        (!tag.is_empty() && !tag.contains(['"', ' ', '\t', ','])).then(|| tag.to_owned())
    });
    match (tag, headers.get_all(header::IF_MATCH).iter().count()) {
        (Some(tag), 1) => Ok(Some(tag)),
        _ => Err(Refusal::bad(
            "if-match",
            "If-Match wants one ETag in quotes, which the answer to a GET of the account has as ETag; neither a list nor *",
        )),
    }
}

/// Whether `If-None-Match` names `etag` (without quotes), by the weak comparison that RFC 9110, 13.1.2 asks for.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    // RFC 9110, 8.8.3 allows no whitespace within a tag; the library asserts that there is none.
    if headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .any(has_tag_with_whitespace)
    {
        return false;
    }
    let Some(known) = headers.typed_get::<IfNoneMatch>() else {
        return false;
    };
    let etag = format!("\"{etag}\"").parse::<ETag>();
    etag.is_ok_and(|etag| !known.precondition_passes(&etag))
}

fn has_tag_with_whitespace(value: &HeaderValue) -> bool {
    let mut in_tag = false;
    value.as_bytes().iter().any(|byte| {
        in_tag ^= *byte == b'"';
        in_tag && matches!(byte, b' ' | b'\t')
    })
}

/// How much of a refused request's body is read and discarded before the answer. A client that is still sending when
/// the connection closes may never see the refusal; over HTTP/2 the stream is reset, and curl then shows nothing else.
const DISCARD_BYTES: usize = 8 * 1024 * 1024;
/// How long that takes at most, and the pause that ends it sooner: a client that pauses is waiting for the answer.
const DISCARD_TIME: Duration = Duration::from_secs(2);
const DISCARD_PAUSE: Duration = Duration::from_millis(200);

/// Reads and discards the rest of a refused request's body, within the limits above.
pub(super) async fn discard(headers: &HeaderMap, mut body: Body) {
    // A client that waits for "100 Continue" has not sent its body, and need not send it.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = async {
        let mut left = DISCARD_BYTES;
        while left > 0
            && let Ok(Some(Ok(frame))) = timeout(DISCARD_PAUSE, body.frame()).await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // Whether the body ended or the time ran out, the answer is sent now.
    let _ = timeout(DISCARD_TIME, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_and_trailing_slashes_are_the_same_path() {
        let cases = [
            ("/jwt/v1//accounts/", Some("/jwt/v1/accounts")),
            ("//jwt/v1/accounts//KEY", Some("/jwt/v1/accounts/KEY")),
            ("/jwt/v1/accounts/KEY/", Some("/jwt/v1/accounts/KEY")),
            ("///", Some("/")),
            ("/", None),
            ("", None),
            ("*", None),
            ("/jwt/v1/accounts/KEY", None),
            ("/jwt/v1/accounts/../operator", None),
        ];
        for (path, clean) in cases {
            assert_eq!(clean_path(path).as_deref(), clean, "{path}");
        }
    }

    #[test]
    fn a_panic_is_answered_as_the_port_answers_refusals() {
        for (refuse, kind) in [
            (Refusal::plain as fn(Refusal) -> Response, "text/plain; charset=utf-8"),
            (Refusal::problem, "application/problem+json"),
        ] {
            let answer = OnPanic(refuse).response_for_panic(Box::new("a defect"));
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()[header::CONTENT_TYPE]),
                (500, &kind.parse().expect("text"))
            );
        }
    }

    #[test]
    fn an_upload_takes_the_place_of_one_token_or_of_any() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().expect("text"));
            }
            headers
        };
        let read = |values: &[&str]| expected(&headers(values)).map_err(|refusal| refusal.status().as_u16());
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["\"abc_-\""]), Ok(Some("abc_-".to_owned())));
        for wrong in [
            &["*"][..],
            &["abc"],
            &["W/\"abc\""],
            &["\"a\", \"b\""],
            &["\"\""],
            &["\"a\"", "\"b\""],
        ] {
            assert_eq!(read(wrong), Err(400), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_word_true_is_true() {
        let uri: Uri = "/a?text=TRUE&decode=1&check&notify=%74rue&notify=false&jti="
            .parse()
            .expect("a path");
        assert!(is_on(&uri, "text") && is_on(&uri, "notify"));
        assert!(!is_on(&uri, "decode") && !is_on(&uri, "check") && !is_on(&uri, "other"));
        assert_eq!(parameter(&uri, "jti").as_deref(), Some(""));
        assert_eq!(parameter(&uri, "tex"), None);
    }

    #[test]
    fn if_none_match_is_a_list_of_tags_and_not_a_substring() {
        let known = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(header::IF_NONE_MATCH, "\"other\"".parse().expect("a value"));
            headers.append(header::IF_NONE_MATCH, value.parse().expect("a value"));
            is_known(&headers, "abc")
        };
        for value in ["\"abc\"", "W/\"abc\"", "\"x,y\" ,\t\"abc\"", " \"x\",W/\"abc\" "] {
            assert!(known(value), "{value}");
        }
        for value in [
            "abc",
            "\"xabc\"",
            "\"abc",
            "x\"abc\"",
            "\"*\"",
            "\"x\" y \"abc\"",
            ",,,",
            "w/\"abc\"",
            "\"a b\"",
            "\"a\tb\"",
            "\"abc \"",
            "W/\" abc\"",
            "\"x y\", \"abc\"",
            "\"abc\", \"x y\"",
            "\"x y",
        ] {
            assert!(!known(value), "{value}");
        }
        let alone = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().expect("a value"))]);
            is_known(&headers, "abc")
        };
        assert!(alone("*") && alone("\"abc\"") && !alone("\"other\"") && !alone(""));
        assert!(!alone("\"a b\"") && !alone("\" \""));
        assert!(!is_known(&HeaderMap::new(), "abc"));
    }
}
