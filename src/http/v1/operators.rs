//! `/v1/operators`: the operators that the mesh trusts.

use axum::extract::State;
use axum::response::Response;

use super::answer::{Shared, answer};
use crate::api;
use crate::jwt::OperatorClaims;
use crate::jwt::Verified;

/// `GET /v1/operators`.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    let trust = state.resolver.trust();
    let items = trust.keys.operators().iter().map(operator).collect();
    answer(Ok(api::Operators {
        trust_epoch: trust.epoch,
        items,
    }))
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
