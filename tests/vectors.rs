//! Our verdict on each test vector, compared with the official library's.
//!
//! `tests/vectors/generate` made the tokens and asked the library; `tests/vectors/generate/nsc.sh` made more with nsc.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jwtmesh::jwt::{
    AccountClaims, AccountKey, MAX_TOKEN_BYTES, OperatorClaims, Rejection, Token, TrustedKeys, Verified, explain,
    render_decoded,
};
use proptest::prelude::*;
use serde::Deserialize;

/// Tokens that we refuse although the official library accepts them: the code of our refusal, the vector (`*` for all
/// under that code) and the reason. We accept a token that the library refuses only where nats-server
/// runs with it ([`WARNED`]).
const STRICTER: &[(&str, &str, &str)] = &[
    (
        "duplicate-key",
        "*",
        "which of two values counts differs between readers",
    ),
    (
        "odd-case",
        "*",
        "Go takes such a key for the field, other readers do not",
    ),
    ("header", "header-duplicate", "as duplicate-key, in the header"),
    ("header", "header-odd-case", "as odd-case, in the header"),
    (
        "activation",
        "activation-duplicate-key",
        "as duplicate-key, in an activation token",
    ),
    (
        "issued-in-future",
        "*",
        "if it were stored, every legitimate update would be refused until that time (G2)",
    ),
    (
        "base64",
        "unused-bits-of-signature",
        "one token shall have one spelling: Go ignores a last character's unused bits",
    ),
    (
        "base64",
        "newline-in-signature",
        "one token shall have one spelling: Go ignores line ends within a part",
    ),
    (
        "base64",
        "newline-in-claims-before-signing",
        "one token shall have one spelling: Go ignores line ends within a part",
    ),
    (
        "json",
        "json-too-deep",
        "recursion is bounded; no field that is read is nested deeper than 8",
    ),
    (
        "subject",
        "subject-newline",
        "nkeys ignores a line end within a key; no server asks for an account by such a name",
    ),
    (
        "signing-key",
        "signing-key-newline",
        "nkeys ignores a line end within a key; compared as text, such a key matches no issuer",
    ),
    (
        "issuer-kind",
        "operator-not-self-signed",
        "an operator that another key signed proves nothing; the library leaves that to its caller",
    ),
];

/// Tokens that we accept, with a warning, although the official library refuses them: the vector and the reason.
const WARNED: &[(&str, &str)] = &[
    (
        "operator-account-server-url-",
        "nats-server with a resolver of its own never reads it",
    ),
    ("operator-service-url-", "nats-server never reads them"),
];

#[derive(Deserialize)]
struct Verdicts {
    now: i64,
    operators: BTreeMap<String, String>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    file: String,
    kind: String,
    trust: Vec<String>,
    go: String,
    #[serde(default)]
    go_error: String,
    ours: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// The vectors of the library and those of nsc.
fn all_verdicts() -> &'static [Verdicts; 2] {
    static ALL: LazyLock<[Verdicts; 2]> = LazyLock::new(|| {
        ["verdicts.json", "nsc/verdicts.json"].map(|file| {
            let text = std::fs::read(folder().join(file)).expect(file);
            serde_json::from_slice(&text).expect(file)
        })
    });
    &ALL
}

/// The library's vectors that must be accepted, with their bytes.
fn accepted() -> &'static [(&'static Vector, Vec<u8>)] {
    static ACCEPTED: LazyLock<Vec<(&Vector, Vec<u8>)>> = LazyLock::new(|| {
        let good = all_verdicts()[0]
            .vectors
            .iter()
            .filter(|vector| vector.ours == "accept");
        good.map(|vector| (vector, Verdicts::bytes(vector))).collect()
    });
    &ACCEPTED
}

fn operator(text: &str) -> Verified<OperatorClaims> {
    Token::parse(text.as_bytes())
        .and_then(Verified::<OperatorClaims>::verify)
        .expect("an operator of the vectors")
}

impl Verdicts {
    fn trusted(&self, names: &[String]) -> TrustedKeys {
        TrustedKeys::new(names.iter().map(|name| operator(&self.operators[name])))
    }

    fn judge(&self, vector: &Vector, text: &[u8]) -> Result<(), Rejection> {
        let token = Token::parse(text)?;
        if vector.kind == "operator" {
            return Verified::<OperatorClaims>::verify(token).map(drop);
        }
        let trusted = self.trusted(&vector.trust);
        Verified::<AccountClaims>::verify(token, &trusted, self.now).map(drop)
    }

    fn bytes(vector: &Vector) -> Vec<u8> {
        std::fs::read(folder().join(&vector.file)).expect(&vector.file)
    }

    fn named(&self, name: &str) -> (TrustedKeys, Token) {
        let vector = self.vectors.iter().find(|vector| vector.name == name).expect(name);
        let token = Token::parse(&Self::bytes(vector)).expect(name);
        (self.trusted(&vector.trust), token)
    }
}

fn is_listed(vector: &Vector) -> bool {
    STRICTER
        .iter()
        .any(|(code, name, _)| *code == vector.ours && (*name == "*" || *name == vector.name))
}

#[test]
fn g3_every_vector_gets_the_verdict_of_its_folder() {
    let mut wrong = Vec::new();
    for verdicts in all_verdicts() {
        for vector in &verdicts.vectors {
            let said = verdicts.judge(vector, &Verdicts::bytes(vector));
            let code = said.as_ref().map_or_else(Rejection::code, |()| "accept");
            if code != vector.ours {
                wrong.push(format!(
                    "{}: {code}, {said:?}; the library: {}",
                    vector.file, vector.go_error
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn g3_the_official_library_agrees_or_the_difference_is_listed() {
    let (mut used, mut warned) = (BTreeSet::new(), BTreeSet::new());
    for verdicts in all_verdicts() {
        for vector in &verdicts.vectors {
            if (vector.go == "accept") == (vector.ours == "accept") {
                continue;
            }
            if vector.ours == "accept" {
                let listed = WARNED.iter().find(|(start, _)| vector.name.starts_with(start));
                let (start, _) =
                    listed.unwrap_or_else(|| panic!("{} is accepted here only: {}", vector.file, vector.go_error));
                let explanation = explain(&Verdicts::bytes(vector), None, verdicts.now);
                assert_eq!(
                    explanation.warnings.len(),
                    1,
                    "{}: {:?}",
                    vector.file,
                    explanation.warnings
                );
                assert!(explanation.valid, "{}: {:?}", vector.file, explanation.problems);
                warned.insert(*start);
                continue;
            }
            assert!(
                is_listed(vector),
                "{} is refused here only, and not listed",
                vector.file
            );
            used.insert(vector.ours.clone());
        }
    }
    let listed: BTreeSet<String> = STRICTER.iter().map(|(code, _, _)| (*code).to_owned()).collect();
    assert_eq!(listed, used, "a listed difference that no vector shows");
    assert_eq!(warned.len(), WARNED.len(), "a listed warning that no vector shows");
}

#[test]
fn the_files_and_the_verdicts_are_the_same_set_and_large_enough() {
    let mut stored = BTreeSet::new();
    let (mut accepted, mut refused) = (0, 0);
    for verdicts in all_verdicts() {
        for vector in &verdicts.vectors {
            let counter = if vector.ours == "accept" {
                &mut accepted
            } else {
                &mut refused
            };
            *counter += 1;
            let by_code = format!("reject/{}/", vector.ours);
            let fits = if vector.ours == "accept" { "accept/" } else { &by_code };
            assert!(vector.file.contains(fits), "{} is not under {fits}", vector.file);
            stored.insert(folder().join(&vector.file));
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![folder()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a folder of vectors") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jwt") {
                found.insert(path);
            }
        }
    }
    assert_eq!(found, stored);
    assert!(
        accepted >= 75 && refused >= 75,
        "{accepted} to accept, {refused} to refuse"
    );
}

#[test]
fn every_refusal_says_what_to_do_and_never_shows_a_seed_or_a_token() {
    for verdicts in all_verdicts() {
        for vector in &verdicts.vectors {
            let bytes = Verdicts::bytes(vector);
            if let Err(rejection) = verdicts.judge(vector, &bytes) {
                let sentence = rejection.to_string();
                assert!(sentence.len() < 4_000, "{}: {} bytes", vector.file, sentence.len());
                assert!(!sentence.contains('\n'), "{}: {sentence}", vector.file);
                assert!(!sentence.contains("eyJ"), "{}: {sentence}", vector.file);
                assert!(
                    sentence.contains([':', ';', ',']),
                    "{}: only a name: {sentence}",
                    vector.file
                );
            }
        }
    }
}

#[test]
fn an_accepted_token_has_the_same_bytes_and_the_claims_that_were_signed() {
    let verdicts = &all_verdicts()[0];
    let (trusted, token) = verdicts.named("revocations");
    let verified = Verified::<AccountClaims>::verify(token.clone(), &trusted, verdicts.now).expect("a good token");
    let claims = verified.claims();
    assert_eq!(verified.token().as_str(), token.as_str());
    assert_eq!(claims.operator, trusted.operators()[0].claims().operator);
    assert_eq!(claims.issuer, claims.operator.to_string());
    assert_eq!(claims.revocations["*"], 5);
    assert_eq!(claims.revocations.len(), 3);
    assert!(claims.issued_at.abs_diff(verdicts.now) < 300);
}

#[test]
fn t28_a_trailing_newline_is_cut_off() {
    let verdicts = &all_verdicts()[0];
    for name in ["newline-at-the-end", "crlf-at-the-end"] {
        let (trusted, token) = verdicts.named(name);
        assert!(!token.as_str().ends_with(['\r', '\n']));
        Verified::<AccountClaims>::verify(token, &trusted, verdicts.now).expect(name);
    }
}

#[test]
fn a_valid_token_with_any_bit_changed_anywhere_is_refused() {
    let verdicts = &all_verdicts()[0];
    let (trusted, token) = verdicts.named("signed-by-identity");
    let text = token.as_str().as_bytes();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.to_vec();
            changed[at] ^= 1 << bit;
            // A change may turn the last character into a line end. It is cut off, and the shorter token is refused.
            let said = Token::parse(&changed)
                .and_then(|token| Verified::<AccountClaims>::verify(token, &trusted, verdicts.now));
            assert!(said.is_err(), "bit {bit} of byte {at}");
        }
    }
}

/// What people send in place of a token is named as what it is.
#[test]
fn other_formats_are_named_as_what_they_are() {
    let token = include_str!("vectors/accept/exp-zero.jwt");
    let multipart = format!(
        "--boundary\r\nContent-Disposition: form-data; name=\"jwt\"; filename=\"a.jwt\"\r\n\r\n{token}\r\n--boundary--\r\n"
    );
    let pem = |what: &str| format!("-----BEGIN {what}-----\nMIIB\n-----END {what}-----\n");
    for (body, word) in [
        (vec![0x1f, 0x8b, 8, 0, 0], "gzip"),
        (vec![0x28, 0xb5, 0x2f, 0xfd, 0], "zstd"),
        (b"PK\x03\x04.jwt.".to_vec(), "zip"),
        (multipart.into_bytes(), "multipart"),
        (format!("jwt={token}").into_bytes(), "a form"),
        (format!("{{\"jwt\":\"{token}\"}}").into_bytes(), "JSON"),
        (format!("[\"{token}\"]").into_bytes(), "JSON"),
        (b"<html>502.1.2</html>".to_vec(), "HTML"),
        (pem("CERTIFICATE").into_bytes(), "certificate"),
        (pem("PRIVATE KEY").into_bytes(), "private key"),
        (pem("EC PRIVATE KEY").into_bytes(), "private key"),
    ] {
        let rejection = Token::parse(&body).expect_err(word);
        assert_eq!(rejection.code(), "other-format", "{word}: {rejection}");
        assert!(rejection.to_string().contains(word), "{word}: {rejection}");
    }
    // A seed in one of them is the greater news.
    let seed = format!("SU{}", "A".repeat(56));
    for body in [
        format!("{{\"seed\":\"{seed}\"}}"),
        format!("<p>{seed}</p>"),
        format!("key={seed}"),
    ] {
        assert_eq!(
            Token::parse(body.as_bytes()).expect_err("no token").code(),
            "seed",
            "{body}"
        );
    }
}

#[test]
fn seeds_and_decorated_files_are_recognized_and_a_seed_is_never_repeated() {
    let code = |text: &str| Token::parse(text.as_bytes()).err().map(|rejection| rejection.code());
    // These have the length and alphabet of seeds, but are none: their checksums are wrong.
    for seed in ["SA", "SO", "SU"].map(|start| format!("{start}{}", "A".repeat(56))) {
        for text in [seed.clone(), format!("{seed}\n"), seed.replace('A', "B")] {
            assert!(matches!(code(&text), Some("seed" | "chunks")), "{text}");
        }
        let rejection = Token::parse(seed.as_bytes()).expect_err("a seed is no token");
        assert_eq!(rejection.code(), "seed");
        assert!(rejection.to_string().contains("exposed"), "{rejection}");
        assert!(!rejection.to_string().contains("AAAA"), "{rejection}");
        let error = seed.parse::<AccountKey>().expect_err("a seed is no public key");
        assert!(!error.to_string().contains("AAAA"), "{error}");
    }
    let (_, token) = all_verdicts()[0].named("signed-by-identity");
    let seed = "-----BEGIN USER NKEY SEED-----\nSUAAA\n------END USER NKEY SEED------\n";
    let decorated = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n",
        token.as_str()
    );
    assert_eq!(code(&decorated), Some("decorated"));
    assert_eq!(
        code(&format!("{decorated}\n{seed}")),
        Some("seed"),
        "creds hold the user's private key"
    );
    for text in [
        token.as_str(),
        &decorated,
        &format!("{decorated}\n{seed}"),
        &format!("\r\n {} \n\n", token.as_str()),
    ] {
        let read = Token::from_file_text(text).expect("the token in the file");
        assert_eq!(read, token);
    }
}

#[test]
fn t39_the_longest_token_is_a_little_shorter_than_nats_carries() {
    let of = |bytes: usize| format!("a.{}.c", "b".repeat(bytes - 4));
    assert!(Token::parse(of(MAX_TOKEN_BYTES).as_bytes()).is_ok());
    assert!(Token::parse(format!("{}\r\n", of(MAX_TOKEN_BYTES)).as_bytes()).is_ok());
    let refused = Token::parse(of(MAX_TOKEN_BYTES + 1).as_bytes()).expect_err("one byte more");
    assert_eq!(refused.code(), "too-large");
    assert_eq!(MAX_TOKEN_BYTES, 1_048_576 - 57);
}

#[test]
fn times_are_judged_to_the_second() {
    let verdicts = &all_verdicts()[0];
    let (trusted, token) = verdicts.named("exp-far");
    let verify = |now| Verified::<AccountClaims>::verify(token.clone(), &trusted, now);
    let claims = verify(verdicts.now).expect("a good token").claims().clone();
    assert!(
        verify(claims.expires_at).is_ok(),
        "the second of its expiry is its last"
    );
    let refused = verify(claims.expires_at + 1).expect_err("expired");
    assert_eq!(refused.code(), "expired");
    assert!(
        refused.to_string().contains(&claims.expires_at.to_string()),
        "{refused}"
    );
    assert!(verify(claims.issued_at - 300).is_ok(), "clocks differ by minutes");
    assert_eq!(
        verify(claims.issued_at - 301).expect_err("too far ahead").code(),
        "issued-in-future"
    );
}

#[test]
fn a_refusal_names_the_keys_concerned() {
    let verdicts = &all_verdicts()[0];
    for (name, operator) in [
        ("strict-signed-by-identity", "strict"),
        ("other-operator", "plain"),
        ("self-signed", "plain"),
    ] {
        let (trusted, token) = verdicts.named(name);
        let claims = trusted.operators()[0].claims();
        let sentence = Verified::<AccountClaims>::verify(token, &trusted, verdicts.now)
            .expect_err(name)
            .to_string();
        let key = match operator {
            "strict" => claims.signing_keys.first().expect("it has one").to_string(),
            _ => claims.operator.to_string(),
        };
        assert!(sentence.contains(&key), "{name}: {sentence}");
    }
}

#[test]
fn an_explanation_names_every_defect_at_once() {
    let verdicts = &all_verdicts()[0];
    let trusted = verdicts.trusted(&["plain".to_owned()]);
    for (vector, bytes) in accepted().iter().filter(|(vector, _)| vector.kind == "account") {
        let explanation = explain(bytes, Some(&verdicts.trusted(&vector.trust)), verdicts.now);
        assert!(explanation.valid, "{}: {:?}", vector.file, explanation.problems);
        assert_eq!(
            (explanation.kind.as_str(), explanation.signature_valid),
            ("account", Some(true)),
            "{}",
            vector.file
        );
        assert!(explanation.operator.is_some(), "{}", vector.file);
    }
    for vector in verdicts
        .vectors
        .iter()
        .filter(|vector| vector.kind == "account" && vector.ours != "accept")
    {
        let explanation = explain(
            &Verdicts::bytes(vector),
            Some(&verdicts.trusted(&vector.trust)),
            verdicts.now,
        );
        let named = explanation.problems.iter().any(|problem| problem.code == vector.ours);
        // `explain` also takes the text of a file, which may be decorated or trimmed, and any kind of JWT.
        let is_other = matches!(vector.ours.as_str(), "decorated" | "kind" | "base64");
        assert!(named || is_other, "{}: {:?}", vector.file, explanation.problems);
    }
    // A foreign token, which at time 0 is issued in the future too: both defects are reported.
    let (_, foreign) = verdicts.named("other-operator");
    let codes = |now| {
        let problems = explain(foreign.as_str().as_bytes(), Some(&trusted), now).problems;
        problems.iter().map(|problem| problem.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(verdicts.now), ["untrusted"]);
    assert_eq!(codes(0), ["issued-in-future", "untrusted"]);
    // Without an operator no issuer is distrusted, but an account that signed itself is reported all the same.
    for (name, expected) in [("other-operator", &[][..]), ("self-signed", &["self-signed"])] {
        let (_, token) = verdicts.named(name);
        let problems = explain(token.as_str().as_bytes(), None, verdicts.now).problems;
        let codes: Vec<_> = problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, expected, "{name}");
    }
}

#[test]
fn a_decoded_token_is_shown_as_nats_account_server_shows_it() {
    let verdicts = &all_verdicts()[0];
    let (_, token) = verdicts.named("activation-expired");
    let text = render_decoded(&token);
    let (header, rest) = text.split_once("\n\r\n").expect("header, blank line");
    assert_eq!(header, "{\n    \"typ\": \"JWT\",\n    \"alg\": \"ed25519-nkey\"\n}");
    let (claims, signature) = rest.split_once("\n\r\n").expect("claims, blank line, signature");
    assert_eq!(signature, token.as_str().rsplit('.').next().expect("a signature"));
    assert!(
        claims.contains("\"exp\": 1 (1970-01-01),"),
        "the activation token is opened: {claims}"
    );
    assert!(claims.starts_with("{\n    \"iat\": "), "sorted: {claims}");
    assert!(!claims.contains("eyJ"), "{claims}");
    // A token that cannot be decoded must not cause a panic.
    let nonsense = Token::parse(b"AAAA.AAAA.AAAA").expect("three parts");
    let _ = render_decoded(&nonsense);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_token_with_any_byte_replaced_is_refused(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let verdicts = &all_verdicts()[0];
        let (vector, bytes) = which.get(accepted());
        let mut bytes = bytes.clone();
        while bytes.ends_with(b"\n") || bytes.ends_with(b"\r") {
            bytes.pop();
        }
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        // A version 1 signature covers the claims alone, so a token with a changed header may be valid.
        prop_assume!(!(vector.name.starts_with("v1-") || vector.name == "operator-v1") || bytes[..at].contains(&b'.'));
        bytes[at] = byte;
        prop_assert!(verdicts.judge(vector, &bytes).is_err(), "{} with byte {} replaced by {}", vector.file, at, byte);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = Token::parse(&bytes);
        let _ = explain(&bytes, None, 0);
    }

    #[test]
    fn no_encoded_claims_make_it_panic(header in any::<Vec<u8>>(), claims in any::<Vec<u8>>(), signature in any::<[u8; 32]>()) {
        explain_claims(&header, &claims, &signature);
    }

    #[test]
    fn no_altered_claims_make_it_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), put in "[\\[\\]{}\",:0-9a-z*.>$\\\\ -]{0,6}") {
        let (_, bytes) = which.get(accepted());
        let chunk = bytes.split(|byte| *byte == b'.').nth(1).expect("three parts").to_vec();
        let mut claims = data_encoding::BASE64URL_NOPAD.decode(&chunk).expect("base64url");
        let at = at.index(claims.len());
        let end = (at + put.len()).min(claims.len());
        claims.splice(at..end, put.bytes());
        explain_claims(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#, &claims, &[0; 64]);
    }
}

/// Runs `explain` and `render_decoded` on a token of these parts, which must not be valid and must not cause a panic.
fn explain_claims(header: &[u8], claims: &[u8], signature: &[u8]) {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let text = format!("{}.{}.{}", encode(header), encode(claims), encode(signature));
    let explanation = explain(text.as_bytes(), Some(&TrustedKeys::default()), 0);
    assert!(!explanation.valid);
    if let Ok(token) = Token::parse(text.as_bytes()) {
        let _ = render_decoded(&token);
    }
}
