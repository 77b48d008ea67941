//! The operator's token as nsc asks for it, and the help text.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use super::error::Refusal;
use super::public::{PublicState, Shared};
use super::request;
use crate::jwt::Token;
use crate::jwt::render_decoded;

/// `GET /jwt/v1/operator`: the bytes. Where several operators are trusted, none: the path has no place for a name, and
/// nsc 2.15 (`cmd/pull.go`) puts whichever it is given in the place of its own.
pub(super) async fn show(State(state): State<Shared>, uri: Uri) -> Response {
    answer(&state, &uri, |_| true)
}

/// `GET /jwt/v2/operator`: the same if it is a version 2 token. nsc asks here first and takes whatever answers 200
/// for an operator.
pub(super) async fn show_version_2(State(state): State<Shared>, uri: Uri) -> Response {
    answer(&state, &uri, is_version_2)
}

fn answer(state: &PublicState, uri: &Uri, is_wanted: impl Fn(&Token) -> bool) -> Response {
    let trust = state.resolver.trust();
    let token = match trust.keys.operators() {
        [operator] if is_wanted(operator.token()) => operator.token(),
        [_, _, ..] => return Refusal::ambiguous(SEVERAL).plain(),
        _ => return Refusal::missing("unknown-operator", "no matching operator JWT").plain(),
    };
    if request::is_on(uri, "text") {
        state.text(token.bytes().clone())
    } else if request::is_on(uri, "decode") {
        state.text(render_decoded(token))
    } else {
        state.jwt(token.bytes().clone())
    }
}

const SEVERAL: &str = "several operators are trusted here, and this path cannot say which is meant: pull accounts by name \
                       (nsc pull --account NAME), and get the operator's JWT from whoever holds its keys";

/// Version 2 claims say so under `nats`; version 1 has no such number.
fn is_version_2(token: &Token) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        nats: Nats,
    }
    #[derive(Deserialize)]
    struct Nats {
        version: i64,
    }
    let chunk = token.as_str().split('.').nth(1).unwrap_or_default();
    let claims = BASE64URL_NOPAD.decode(chunk.as_bytes()).ok();
    let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
    claims.is_some_and(|claims| claims.nats.version == 2)
}

/// `GET /jwt/v1/help`.
pub(super) async fn help(State(state): State<Shared>) -> Response {
    state.text(HELP)
}

const HELP: &str = "\
# jwtmesh: account JWTs over HTTP

nats-server: `resolver: URL(\"http://HOST:PORT/jwt/v1/accounts/\")`.
nsc: `nsc edit operator --account-jwt-server-url http://HOST:PORT/jwt/v1`, then `nsc push` and `nsc pull`.

## GET /jwt/v1/accounts/ACCOUNT

The account's JWT, as it was uploaded (`application/jwt`). 404 if there is none.
The ETag is of the bytes: send it back in `If-None-Match` and get 304 while they are current.

* `?text=true`: as `text/plain`
* `?decode=true`: header and claims readable
* `?check=true`: 404 if it has expired
* `?notify=true`: also sends it to the connected nats-servers again

## POST /jwt/v1/accounts/ACCOUNT

Body: the account's JWT, signed by a trusted operator. 200 with an empty body once it is kept; otherwise one sentence
that says what is wrong. An older JWT than the stored one is refused (409).

## GET /jwt/v1/accounts

200 if this node can answer; nats-server asks this at its start.

## GET /jwt/v1/operator, GET /jwt/v2/operator

The operator's JWT; 409 where several operators are trusted. `?text=true` and `?decode=true` as above.

## GET /jwt/v1/pack?max=N

Up to N lines `ACCOUNT|JWT`, at most 10000, without expired ones.

## GET /healthz

200 if the process runs.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_claims_that_say_version_2_are_version_2() {
        let token = |claims: &str| {
            let chunk = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
            let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
            let text = format!("{}.{}.{}", chunk(header), chunk(claims), "A".repeat(86));
            Token::parse(text.as_bytes()).expect("three chunks")
        };
        assert!(is_version_2(&token(
            r#"{"sub":"O","nats":{"type":"operator","version":2}}"#
        )));
        for claims in [
            r#"{"type":"operator","nats":{}}"#,
            r#"{"nats":{"version":3}}"#,
            r#"{"version":2}"#,
        ] {
            assert!(!is_version_2(&token(claims)), "{claims}");
        }
    }
}
