//! The state that the handlers of the public port share, and their answers when they succeed.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::api;
use crate::http::error::{Refusal, not_ready};
use crate::http::upload::Uploads;
use crate::listener::Limits;
use crate::resolver::{Resolver, Revision};
use crate::tasks::Scope;

/// Large tokens decoded at once; decoding one takes as long as verifying it. Past the limit, 429.
const DECODINGS: usize = 2;
/// `pack` downloads at once. An import needs one, and two leave a processor for lookups. Past the limit, 429.
const PACKS: usize = 2;

/// The state that the handlers of the public port share.
pub(super) struct PublicState {
    pub(super) resolver: Resolver,
    pub(super) limits: Limits,
    pub(super) is_encrypted: bool,
    pub(super) scope: Scope,
    pub(super) uploads: Uploads,
    pub(super) packs: Arc<Semaphore>,
    pub(super) decodings: Semaphore,
}

/// The state as each handler receives it.
pub(super) type Shared = Arc<PublicState>;

/// Header: the revision that this node has applied.
const REVISION: HeaderName = HeaderName::from_static("jwtmesh-revision");
/// Header: how old the view is that lookups are answered from, in milliseconds. Left out if no leader was ever heard.
const LEADER_AGE: HeaderName = HeaderName::from_static("jwtmesh-leader-age-ms");
const JWT: HeaderValue = HeaderValue::from_static("application/jwt");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// A cache may keep the answer but must ask before each use: an answer served from a cache without asking would undo a
/// revocation. nats-account-server allowed that, by a `max-age` up to the token's expiry.
const ASK_FIRST: HeaderValue = HeaderValue::from_static("no-cache");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

impl PublicState {
    /// For a port, plain or encrypted, that answers from `resolver` within `limits`, its tasks in `scope`.
    pub(super) fn new(resolver: Resolver, limits: Limits, is_encrypted: bool, scope: Scope) -> Self {
        Self {
            resolver,
            limits,
            is_encrypted,
            scope,
            uploads: Uploads::default(),
            packs: Arc::new(Semaphore::new(PACKS)),
            decodings: Semaphore::new(DECODINGS),
        }
    }

    /// Refuses to answer from what is not there: it would look like a mesh without accounts and operators.
    pub(super) fn check_state(&self) -> Result<(), Refusal> {
        if self.resolver.has_state() {
            return Ok(());
        }
        Err(Refusal::unavailable(not_ready(&self.resolver)))
    }

    /// An answer with the headers that tell how current it is, and room for those still to be added.
    pub(super) fn answer(&self, status: StatusCode, body: Bytes) -> Response {
        let mut answer = Response::new(body.into());
        *answer.status_mut() = status;
        answer.headers_mut().reserve(6);
        self.dated(answer)
    }

    /// A refusal with the same headers: how old is the view in which an account is unknown?
    pub(super) fn refusal(&self, refusal: Refusal) -> Response {
        self.dated(refusal.plain())
    }

    fn dated(&self, mut answer: Response) -> Response {
        let view = self.resolver.view();
        let headers = answer.headers_mut();
        headers.insert(REVISION, view.revision.into());
        if let Some(age) = view.age_ms {
            headers.insert(LEADER_AGE, age.into());
        }
        answer
    }

    /// The same answer, read when this revision could be read.
    pub(super) fn as_of(&self, revision: Revision, mut answer: Response) -> Response {
        answer.headers_mut().insert(REVISION, revision.into());
        answer
    }

    /// 200 with a token.
    pub(super) fn jwt(&self, token: Bytes) -> Response {
        let mut answer = self.answer(StatusCode::OK, token);
        answer.headers_mut().insert(header::CONTENT_TYPE, JWT);
        answer.headers_mut().insert(header::CACHE_CONTROL, ASK_FIRST);
        answer
    }

    /// 200 with text for people.
    pub(super) fn text(&self, text: impl Into<Bytes>) -> Response {
        let mut answer = self.answer(StatusCode::OK, text.into());
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, TEXT);
        headers.insert(header::CACHE_CONTROL, ASK_FIRST);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        answer
    }

    /// 304: the caller has these bytes.
    pub(super) fn unchanged(&self) -> Response {
        let mut answer = self.answer(StatusCode::NOT_MODIFIED, Bytes::new());
        answer.headers_mut().insert(header::CACHE_CONTROL, ASK_FIRST);
        answer
    }

    /// 200 for an upload, with the revision at which its bytes are stored. No body, because nsc would show it.
    pub(super) fn stored(&self, revision: u64) -> Response {
        let mut answer = self.answer(StatusCode::OK, Bytes::new());
        answer.headers_mut().insert(REVISION, revision.into());
        answer
    }

    /// 200 for an upload that waited, with where it is in force.
    pub(super) fn proven(&self, revision: u64, proof: &api::Propagation) -> Response {
        let mut answer = Json(proof).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REVISION, revision.into());
        answer
    }
}
