//! What the official library reads, field by field and kind by kind, as `inspect` judges it.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::doubtful::inspect;
use crate::support::mint::{Account, Operator, claims, now, sign};
use crate::support::node::jwtmesh;

/// What `inspect` calls valid is valid by the rules of its kind, or it says what it did not check.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn inspect_knows_the_rules_of_every_kind_or_says_that_it_checked_the_signature_only() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let user = account.user();
    let of_user = claims(&user.token);
    let change = |signer: &KeyPair, change: &dyn Fn(&mut Value)| {
        let mut claims = of_user.clone();
        claims["iss"] = json!(signer.public_key());
        change(&mut claims);
        sign(signer, &claims)
    };
    let activation = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "iss": account.id(), "sub": Account::new("B").id(), "iat": now(),
            "nats": {"type": "activation", "version": 2, "subject": "foo", "kind": "stream"},
        });
        change(&mut claims);
        sign(&account.key, &claims)
    };
    let key = &account.key;
    for (what, token, code, exit) in [
        ("a user", user.token.clone(), None, 0),
        (
            "an operator's user",
            change(&operator.key, &|_| {}),
            Some("issuer-kind"),
            4,
        ),
        (
            "a user's user",
            change(&KeyPair::new_user(), &|_| {}),
            Some("issuer-kind"),
            4,
        ),
        (
            "no key",
            change(key, &|claims| claims["sub"] = json!("garbage")),
            Some("user-key"),
            4,
        ),
        (
            "no subject",
            change(key, &|c| c["nats"]["pub"] = json!({"allow": 7})),
            Some("field-type"),
            4,
        ),
        (
            "a subject",
            change(key, &|c| c["nats"]["pub"] = json!({"allow": ["a..b"]})),
            Some("subject"),
            4,
        ),
        (
            "a source",
            change(key, &|c| c["nats"]["src"] = json!(["10.0.0.0/33"])),
            Some("source-address"),
            4,
        ),
        (
            "sources",
            change(key, &|c| c["nats"]["src"] = json!("10.0.0.0/8, fd00::/8")),
            None,
            0,
        ),
        (
            "a time",
            change(key, &|c| {
                c["nats"]["times"] = json!([{"start": "25:00:00", "end": "1:00:00"}])
            }),
            Some("time-range"),
            4,
        ),
        (
            "a limit",
            change(key, &|c| c["nats"]["subs"] = json!("7")),
            Some("field-type"),
            4,
        ),
        ("an activation", activation(&|_| {}), None, 0),
        (
            "a kind",
            activation(&|claims| claims["nats"]["kind"] = json!("nonsense")),
            Some("field-type"),
            4,
        ),
        (
            "no kind",
            activation(&|c| drop(c["nats"].as_object_mut().unwrap().remove("kind"))),
            Some("activation"),
            4,
        ),
        (
            "an empty subject",
            activation(&|claims| claims["nats"]["subject"] = json!("")),
            Some("subject"),
            4,
        ),
        (
            "a generic one",
            change(key, &|c| c["nats"]["type"] = json!("something")),
            None,
            1,
        ),
    ] {
        let (said, ended) = inspect(&token);
        let found = said["problems"]
            .as_array()
            .and_then(|all| all.iter().find(|issue| Some(issue["code"].as_str().unwrap()) == code));
        assert_eq!((found.is_some(), ended), (code.is_some(), Some(exit)), "{what}: {said}");
    }
}

/// A token whose claims are this text, byte for byte; in version 1 only the claims are signed.
fn raw(signer: &KeyPair, claims: &str, version: u8) -> String {
    let header = match version {
        1 => r#"{"typ":"jwt","alg":"ed25519"}"#,
        _ => r#"{"typ":"JWT","alg":"ed25519-nkey"}"#,
    };
    let [header, body] = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let signed = format!("{header}.{body}");
    let bytes = if version == 1 { &body } else { &signed };
    let signature = signer.sign(bytes.as_bytes()).expect("the key has its private half");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The verdicts are those of jwt v2.8.3 (`DecodeAccountClaims` and `Validate`), of the same claims.
#[test]
fn fields_that_the_library_reads_raw_are_judged_by_their_bytes() {
    let (operator, account) = (Operator::new("O"), Account::new("A"));
    let head = format!(
        r#""iss":"{}","sub":"{}","iat":1700000000"#,
        operator.key.public_key(),
        account.id()
    );
    for (sampling, accepted) in [
        (r#""headers""#, true),
        (r#""HEADERS""#, true),
        (r#""\u0068eaders""#, false),
        (r#""headers\u0020""#, false),
        ("null", true),
        ("50", true),
        ("50.0", false),
        ("5e1", false),
        (r#""50""#, false),
        ("true", false),
        (r#""""#, false),
        ("101", false),
    ] {
        let claims = format!(
            r#"{{{head},"nats":{{"type":"account","version":2,"limits":{{"exports":-1,"wildcards":true}},"exports":[{{"subject":"s","type":"service","service_latency":{{"sampling":{sampling},"results":"r"}}}}]}}}}"#
        );
        let (said, exit) = inspect(&raw(&operator.key, &claims, 2));
        assert_eq!(exit == Some(0), accepted, "{sampling}: {said}");
    }
    let exporter = Account::new("B");
    for (field, accepted) in [
        (r#""max":5"#, true),
        (r#""max":"5""#, false),
        (r#""max":null"#, true),
        (r#""max":5.5"#, false),
        (r#""payload":"x""#, false),
        (r#""payload":-1"#, true),
        (r#""src":"10.0.0.0/8""#, true),
        (r#""src":["10.0.0.0/8"]"#, false),
        (r#""src":7"#, false),
        (r#""times":[{"start":"1","end":"2"}]"#, true),
        (r#""times":[7]"#, false),
        (r#""times":"x""#, false),
        (r#""times":[{"start":7}]"#, false),
        (r#""times":null"#, true),
        (r#""tags":["a"]"#, true),
    ] {
        let exported = exporter.id();
        let activation = format!(
            r#"{{"iss":"{exported}","sub":"{}","iat":1700000000,"type":"activation","nats":{{"subject":"s","type":"stream",{field}}}}}"#,
            account.id()
        );
        let activation = raw(&exporter.key, &activation, 1);
        let claims = format!(
            r#"{{{head},"nats":{{"type":"account","version":2,"limits":{{"imports":-1}},"imports":[{{"subject":"s","type":"stream","account":"{exported}","token":"{activation}"}}]}}}}"#
        );
        let (said, exit) = inspect(&raw(&operator.key, &claims, 2));
        assert_eq!(exit == Some(0), accepted, "{field}: {said}");
    }
}

/// An account or an operator is "valid" only beside the operators given; without any, the explanation says so.
#[test]
fn inspect_says_whose_a_token_is_or_that_it_did_not_look() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, other, account) = (Operator::new("mine"), Operator::new("other"), Account::new("A"));
    let trusted = folder.path().join("operator.jwt");
    std::fs::write(&trusted, mine.token()).unwrap();
    let [by_mine, by_other] = [&mine, &other].map(|operator| operator.account(&account));
    let user = account.user().token;
    for (what, token, unchecked, exit_beside_mine) in [
        ("my operator", &mine.token(), "operator", 0),
        ("another operator", &other.token(), "operator", 4),
        ("my account", &by_mine, "operator", 0),
        ("another's account", &by_other, "operator", 4),
        ("a user", &user, "revocations", 0),
    ] {
        let (said, ended) = inspect(token);
        let found = said["unchecked"][0].as_str().unwrap_or_default();
        assert!(found.contains(unchecked), "{what}: {said}");
        assert_eq!((&said["valid"], ended), (&json!(true), Some(0)), "{what}: {said}");
        let mut beside = jwtmesh();
        beside.args(["inspect", "--json", token, "--operator"]).arg(&trusted);
        let beside = beside.output().unwrap();
        let said: Value = serde_json::from_slice(&beside.stdout).unwrap();
        assert_eq!(beside.status.code(), Some(exit_beside_mine), "{what}: {said}");
        if exit_beside_mine == 4 {
            assert_eq!(said["problems"][0]["code"], "untrusted", "{what}: {said}");
        } else if what != "a user" {
            assert_eq!(said["operator"], mine.key.public_key().as_str(), "{what}: {said}");
            assert_eq!(said["unchecked"], json!([]), "{what}: {said}");
        }
    }
}
