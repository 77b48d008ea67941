//! `/v1/members` and `/v1/mesh`: who the members are, and forming the mesh.

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;

use super::answer::{AdminState, Shared, answer};
use crate::api;
use crate::http::error::Refusal;
use crate::resolver::{Formed, MemberView, Role};

/// `GET /v1/members`.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    answer(Ok(api::Members {
        items: shown(state.resolver.members().await),
    }))
}

/// `POST /v1/mesh`: forms the mesh, or admits the nodes that are missing.
pub(super) async fn form(State(state): State<Shared>, wanted: Bytes) -> Response {
    answer(formed(&state, &wanted).await)
}

async fn formed(state: &AdminState, wanted: &[u8]) -> Result<api::Bootstrapped, Refusal> {
    let wanted: Option<api::Bootstrap> = match wanted {
        [] => None,
        wanted => Some(serde_json::from_slice(wanted).map_err(|error| Refusal::bad("malformed", error.to_string()))?),
    };
    // A client that hangs up leaves half of it, which repeating completes.
    let formed = state
        .resolver
        .bootstrap(wanted.as_ref().map(|wanted| &wanted.nodes))
        .await?;
    let outcome = match formed {
        Formed::Now => "formed",
        Formed::Already => "already formed",
    };
    Ok(api::Bootstrapped {
        outcome: outcome.to_owned(),
        items: shown(state.resolver.members().await),
    })
}

/// The members in the shape of the API.
pub(super) fn shown(members: Vec<MemberView>) -> Vec<api::Member> {
    let newest = members.iter().filter_map(|member| member.applied).max().unwrap_or(0);
    let shown = members.into_iter().map(|member| api::Member {
        role: match member.role {
            Role::Voter => "voter".to_owned(),
            Role::Learner => "learner".to_owned(),
        },
        lag: member.applied.map(|applied| newest - applied),
        last_contact_ms: member
            .last_contact
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        name: member.name,
        id: member.id,
        peer: member.peer,
        store: member.store,
        leader: member.leader,
        reachable: member.reachable,
        lost_store: member.has_lost_store,
        applied: member.applied,
        version: member.version,
    });
    shown.collect()
}
