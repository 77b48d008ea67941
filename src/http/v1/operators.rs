//! `/v1/operators`: lists the operators that the mesh trusts, and takes newer tokens of them and their successors.

use axum::extract::{Path, Request, State};
use axum::response::Response;

use super::answer::{AdminState, Shared, answer, submitted};
use crate::api;
use crate::http::error::Refusal;
use crate::http::upload::{self, Upload};
use crate::jwt::KeyError;
use crate::jwt::OperatorClaims;
use crate::jwt::OperatorKey;
use crate::jwt::Verified;

/// `GET /v1/operators`.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    answer(state.check_state().map(|()| {
        let trust = state.resolver.trust();
        let candidates = state.resolver.candidates();
        api::Operators {
            trust_epoch: trust.epoch,
            items: trust.keys.operators().iter().map(operator).collect(),
            candidates: candidates.operators().iter().map(operator).collect(),
        }
    }))
}

/// `PUT /v1/operators/{operator}`: a newer token of a trusted operator.
pub(super) async fn update(State(state): State<Shared>, Path(operator): Path<String>, request: Request) -> Response {
    let outcome = async {
        let (operator, upload) = read(&state, &operator, request).await?;
        Ok(state.resolver.update_operator(operator, &upload.bytes).await?)
    };
    answer(outcome.await.map(submitted))
}

/// `PUT /v1/operators/{operator}/successor`: the token of an operator that takes its place.
pub(super) async fn replace(State(state): State<Shared>, Path(operator): Path<String>, request: Request) -> Response {
    let outcome = async {
        let (operator, upload) = read(&state, &operator, request).await?;
        Ok(state.resolver.replace_operator(operator, &upload.bytes).await?)
    };
    answer(outcome.await.map(submitted))
}

async fn read(state: &AdminState, operator: &str, request: Request) -> Result<(OperatorKey, Upload), Refusal> {
    let operator = operator.parse();
    let operator = operator.map_err(|error: KeyError| Refusal::bad("malformed-key", error.to_string()))?;
    let (parts, body) = request.into_parts();
    let upload = upload::read(&parts, body, &state.uploads, state.limits.body).await?;
    Ok((operator, upload))
}

fn operator(verified: &Verified<OperatorClaims>) -> api::Operator {
    let claims = verified.claims();
    api::Operator {
        operator: claims.operator.to_string(),
        name: claims.name.clone(),
        issued_at: claims.issued_at,
        signing_keys: claims.signing_keys.iter().map(ToString::to_string).collect(),
        strict_signing_key_usage: claims.strict_signing_key_usage,
        system_account: claims.system_account.map(|account| account.to_string()),
        account_server_url: claims.account_server_url.clone(),
        token: verified.token().as_str().into(),
    }
}
