//! The operator's token, as nsc asks for it.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::answer::{PublicState, Shared};
use crate::http::error::Refusal;
use crate::http::request;
use crate::jwt::OperatorClaims;
use crate::jwt::render_decoded;

/// `GET /jwt/v1/operator`: the operator's token, byte for byte. 409 if several operators are trusted, or the
/// configuration names another one: the path cannot name one, and nsc 2.15 (`cmd/pull.go`) replaces its own operator
/// with whichever it is given.
pub(super) async fn show(State(state): State<Shared>, uri: Uri) -> Response {
    answer(&state, &uri, |_| true)
}

/// `GET /jwt/v2/operator`: the same, but only for a version 2 token. nsc asks here first, and takes any answer with 200
/// for an operator.
pub(super) async fn show_version_2(State(state): State<Shared>, uri: Uri) -> Response {
    answer(&state, &uri, |claims| claims.version == 2)
}

fn answer(state: &PublicState, uri: &Uri, is_wanted: impl Fn(&OperatorClaims) -> bool) -> Response {
    if let Err(refusal) = state.check_state() {
        return state.refusal(refusal);
    }
    let trust = state.resolver.trust();
    if !state.resolver.candidates().operators().is_empty() {
        return state.refusal(Refusal::ambiguous(CANDIDATE));
    }
    let token = match trust.keys.operators() {
        [operator] if is_wanted(operator.claims()) => operator.token(),
        [_, _, ..] => return state.refusal(Refusal::ambiguous(SEVERAL)),
        _ => {
            let refusal = Refusal::missing("unknown-operator", "no matching operator JWT");
            return state.refusal(refusal);
        }
    };
    if request::is_on(uri, "text") {
        state.text(token.bytes().clone())
    } else if request::is_on(uri, "decode") {
        state.text(render_decoded(token))
    } else {
        state.jwt(token.bytes().clone())
    }
}

const CANDIDATE: &str = "the configuration of this node names an operator that the mesh does not trust, and nsc would put the trusted \
                         one in the place of its own: if the new one takes the other's place, run jwtmesh operator replace OLD FILE; \
                         if not, remove it from cluster.toml";

const SEVERAL: &str = "several operators are trusted here, and this path cannot say which is meant: pull accounts by \
                       name (nsc pull --account NAME), and get the operator's JWT from the person who holds its keys";
