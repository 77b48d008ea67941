//! `/v1/members` and `/v1/mesh`: who the members are, and forming the mesh.

use axum::extract::State;
use axum::response::Response;

use super::answer::{AdminState, Shared, answer};
use crate::api;
use crate::http::error::Refusal;
use crate::resolver::{Formed, Role};

/// `GET /v1/members`.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    answer(Ok(api::Members {
        items: shown(&state).await,
    }))
}

/// `POST /v1/mesh`: forms the mesh, or admits the nodes that are missing.
pub(super) async fn form(State(state): State<Shared>) -> Response {
    // A client that hangs up leaves half of it, which repeating completes.
    let formed = state.resolver.bootstrap().await;
    answer(match formed {
        Ok(formed) => Ok(api::Bootstrapped {
            outcome: match formed {
                Formed::Now => "formed".to_owned(),
                Formed::Already => "already formed".to_owned(),
            },
            items: shown(&state).await,
        }),
        Err(unformed) => Err(Refusal::conflict("not-formed", unformed.to_string())),
    })
}

/// The members in the shape of the API.
pub(super) async fn shown(state: &AdminState) -> Vec<api::Member> {
    let members = state.resolver.members().await;
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
