//! Rules of exports (jwt `exports.go`).

use std::borrow::Cow;

use super::info::info;
use super::issues::Issues;
use super::shape::{Traffic, revocations};
use super::subject;
use crate::jwt::json::{Fields, Json};
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// What the account's limits are checked against.
#[derive(Debug, Default)]
pub(super) struct Exports {
    pub(super) count: usize,
    pub(super) wildcards: bool,
}

const EXPORT: &[&str] = &[
    "name",
    "subject",
    "type",
    "token_req",
    "revocations",
    "response_type",
    "response_threshold",
    "service_latency",
    "account_token_position",
    "advertise",
    "allow_trace",
    "description",
    "info_url",
];

/// Checks every export of `nats`.
pub(super) fn check(nats: &Fields<'_, '_>, issues: &mut Issues) -> Result<Exports, Rejection> {
    let list = nats.list("exports")?;
    let path = nats.path("exports");
    let mut all = Exports {
        count: list.len(),
        wildcards: false,
    };
    let mut services = Vec::new();
    let mut streams = Vec::new();
    for (at, json) in list.iter().enumerate() {
        if *json == Json::Null {
            issues.add("export", || "an export is null: remove it".to_owned());
            continue;
        }
        let export = Fields::of(json, &format!("{path}[{at}]"), EXPORT)?;
        let exported = export.text("subject")?;
        all.wildcards |= subject::has_wildcards(exported);
        let traffic = Traffic::read(&export, "type")?;
        if traffic == Traffic::Service {
            &mut services
        } else {
            &mut streams
        }
        .push(exported);
        one(&export, exported, traffic, issues)?;
    }
    for (what, subjects) in [("service", services), ("stream", streams)] {
        match subject::overlap(&subjects) {
            subject::Overlap::None => {}
            subject::Overlap::Found(one, other) => issues.add("export-overlap", || {
                format!(
                    "the {what} export {:?} is contained in the {what} export {:?}: keep one of them",
                    cut(one),
                    cut(other)
                )
            }),
            subject::Overlap::TooComplex => issues.add("export-overlap", || {
                format!("the wildcards of the {what} exports cross each other too often to be checked: use fewer")
            }),
        }
    }
    Ok(all)
}

fn one(export: &Fields<'_, '_>, exported: &str, traffic: Traffic, issues: &mut Issues) -> Result<(), Rejection> {
    let name = || cut(exported);
    export.text("name")?;
    export.bool("token_req")?;
    export.bool("advertise")?;
    revocations(export)?;
    let response = export.text("response_type")?;
    let trace = export.bool("allow_trace")?;
    match traffic {
        Traffic::Missing => issues.add("export", || {
            format!("the export {:?} has no type: say \"stream\" or \"service\"", name())
        }),
        Traffic::Service if !matches!(response, "" | "Singleton" | "Stream" | "Chunked") => {
            issues.add("export", || {
                format!(
                    "the export {:?} has response_type {:?}: use Singleton, Stream or Chunked",
                    name(),
                    cut(response)
                )
            })
        }
        Traffic::Stream if !response.is_empty() => {
            issues.add("export", || {
                format!(
                    "the stream export {:?} has a response_type, which is for services: remove it",
                    name()
                )
            });
        }
        Traffic::Stream if trace => {
            issues.add("export", || {
                format!(
                    "the stream export {:?} has allow_trace, which is for services: remove it",
                    name()
                )
            });
        }
        _ => {}
    }
    latency(export, exported, traffic, issues)?;
    let threshold = export.int("response_threshold")?;
    if threshold < 0 || (threshold > 0 && traffic != Traffic::Service) {
        issues.add("export", || {
            format!(
                "the response_threshold of export {:?} is negative, or not that of a service: remove it or set a positive one on a service",
                name()
            )
        });
    }
    subject::check(exported, "an export", issues);
    position(export, exported, issues)?;
    info(export, &format!("export {:?}", name()), issues)
}

fn latency(export: &Fields<'_, '_>, exported: &str, traffic: Traffic, issues: &mut Issues) -> Result<(), Rejection> {
    if export.get("service_latency").is_none() {
        return Ok(());
    }
    let latency = export.fields("service_latency", &["sampling", "results"])?;
    if traffic != Traffic::Service {
        issues.add("latency", || {
            format!(
                "the export {:?} tracks latency, which is for services: remove service_latency",
                cut(exported)
            )
        });
    }
    let sampling = match latency.get("sampling") {
        // The library compares the bytes as written (jwt `exports.go`): borrowed text has no escapes.
        Some(Json::Text(Cow::Borrowed(text))) if text.eq_ignore_ascii_case("headers") => 0,
        _ => latency.int("sampling")?,
    };
    if !(0..=100).contains(&sampling) {
        issues.add("latency", || {
            format!(
                "the latency sampling of export {:?} is {sampling}: use 1 to 100, or \"headers\"",
                cut(exported)
            )
        });
    }
    let results = latency.text("results")?;
    subject::check(results, "latency results", issues);
    if subject::has_wildcards(results) {
        issues.add("latency", || {
            format!(
                "the latency results {:?} have a wildcard: name one subject",
                cut(results)
            )
        });
    }
    Ok(())
}

fn position(export: &Fields<'_, '_>, exported: &str, issues: &mut Issues) -> Result<(), Rejection> {
    let position = export.int("account_token_position")?;
    let Ok(position) = usize::try_from(position) else {
        return Err(Rejection::FieldType {
            field: export.path("account_token_position"),
            wanted: "a whole number, not negative",
        });
    };
    // Position 1 is the first token.
    let token = position.checked_sub(1).map(|at| exported.split('.').nth(at));
    if token.is_some_and(|token| token != Some("*") || !subject::has_wildcards(exported)) {
        issues.add("export", || {
            format!(
                "account_token_position {position} of export {:?} points at no '*': give the position of one, from 1",
                cut(exported)
            )
        });
    }
    Ok(())
}
