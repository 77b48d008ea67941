//! `GET /jwt/v1/help`: describes the public port to people.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answer::Shared;

/// `GET /jwt/v1/help`.
pub(super) async fn show(State(state): State<Shared>) -> Response {
    if state.is_encrypted {
        return state.text(HELP.replace("http://", "https://"));
    }
    state.text(HELP)
}

/// `GET /` and `OPTIONS /`: one line. Load balancers and people's browsers probe with these.
pub(super) async fn root(State(state): State<Shared>) -> Response {
    let answer = state.text("jwtmesh: account JWTs for nats-server and nsc; GET /jwt/v1/help describes it\n");
    ([(header::ALLOW, "GET, HEAD, OPTIONS")], answer).into_response()
}

const HELP: &str = "\
# jwtmesh: account JWTs over HTTP

nats-server: `resolver: \"URL(http://HOST:PORT/jwt/v1/accounts/)\"`.
nsc: `nsc edit operator --account-jwt-server-url http://HOST:PORT/jwt/v1`, then `nsc push` and `nsc pull`.

## GET /jwt/v1/accounts/ACCOUNT

The account's JWT, as it was uploaded (`application/jwt`). 404 if there is none.
The ETag is of the bytes: send it back in `If-None-Match` and get 304 while they are current.

* `?text=true`: as `text/plain`
* `?decode=true`: the header and the claims as readable text
* `?check=true`: 404 if it has expired
* `?notify=true`: also sends it to the connected nats-servers again

`jwtmesh-leader-age-ms` in the answer says how old this node's view is. The header `jwtmesh-min-revision: newest` asks for
everything that any node has acknowledged; a number asks for at least that revision, which an upload's answer carries.

## POST /jwt/v1/accounts/ACCOUNT

Body: the account's JWT, signed by a trusted operator. 200 with an empty body once it is stored; otherwise one
sentence that says what is wrong. An older JWT than the stored one is refused (409).

## GET /jwt/v1/accounts

200 if this node can answer. nats-server asks for this when it starts.

## GET /jwt/v1/operator, GET /jwt/v2/operator

The operator's JWT; 409 where several operators are trusted. `?text=true` and `?decode=true` as above.

## GET /jwt/v1/pack?max=N

Up to N lines `ACCOUNT|JWT`, at most 10000, without expired ones.

## GET /healthz

200 if the process runs.
";
