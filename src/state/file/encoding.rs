//! Rows as bytes, in redb and in the row cache: the small fields first, the token last and without its base64.
//!
//! A JWT is three parts in base64, which turns three bytes into four. Stored decoded, a row is a quarter smaller: in
//! the file, in the pages that a lookup reads, and in the cache, which holds a third more accounts. Encoding it again
//! costs half a microsecond for the usual token, and for the largest a third of a millisecond.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::Meta;
use crate::jwt::{AccountKey, OperatorKey};
use crate::state::command::{ETAG_BYTES, Revision};
use crate::state::roster::Server;
use crate::state::rows::{AccountRow, Closing, OperatorRow, Past, ReplacedOperator, RowId, RowKind, digest};

/// The first byte of every value that we encode, but for the three that follow.
const VALUE_VERSION: u8 = 1;

/// A row that bars overridden tokens has them behind its head. A program that does not know them must not open it.
const BARRING_ROW: u8 = 2;

/// A row that is not an account's submitted token says behind what it bars what it is. A file with one has another number,
/// [`FORMAT_WITH_DELETES`](super::FORMAT_WITH_DELETES).
const MARKED_ROW: u8 = 3;

/// The versions of rows.
const ROW_VERSIONS: &[u8] = &[VALUE_VERSION, BARRING_ROW, MARKED_ROW];

/// An operator that was replaced, in the place of its row.
const REPLACED_OPERATOR: u8 = 2;

/// A row as it stands in `rows_v1`, and where.
#[derive(Debug, Clone)]
pub(in crate::state) struct EncodedRow {
    pub(in crate::state) id: RowId,
    pub(in crate::state) value: Arc<[u8]>,
}

impl EncodedRow {
    /// The row; or what is wrong with it.
    pub(in crate::state) fn decode(&self) -> Result<AccountRow, String> {
        decode_row(self.id, &self.value)
    }
}

/// The fields before a row's token.
#[derive(Serialize, Deserialize)]
struct RowHead<'a> {
    /// First: [`row_account`] reads no further.
    account: AccountKey,
    operator: OperatorKey,
    issued_at: i64,
    expires_at: i64,
    name: &'a str,
    etag: [u8; ETAG_BYTES],
    history: Vec<Past>,
    replaced: Vec<[u8; ETAG_BYTES]>,
    /// Lengths of the token's first two parts without base64; absent where the token is stored as it is.
    stripped: Option<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct TrustedOperator {
    issued_at: i64,
    revision: Revision,
    token: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Replaced {
    successor: OperatorKey,
    revision: Revision,
}

/// A server without its id, which is part of its key.
#[derive(Serialize, Deserialize)]
struct StoredServer<'a> {
    name: &'a str,
    cluster: &'a str,
    version: &'a str,
    behind: Option<Revision>,
}

/// A closing token without its account, which is its key.
#[derive(Serialize, Deserialize)]
struct StoredClosing<'a> {
    operator: OperatorKey,
    issued_at: i64,
    expires_at: i64,
    name: &'a str,
    revision: Revision,
    /// Of the token: redb verifies its checksums when it repairs a file, not when it reads one.
    digest: [u8; ETAG_BYTES],
    token: &'a [u8],
}

/// What `operators_v1` says about an operator.
pub(in crate::state) enum StoredOperator {
    Trusted(OperatorRow),
    Replaced(ReplacedOperator),
}

/// A row as it stands in `rows_v1`.
pub(in crate::state) fn encode_row(row: &AccountRow) -> Vec<u8> {
    let stripped = strip_base64(&row.token);
    let version = match row.kind {
        RowKind::Token if row.barred.is_empty() => VALUE_VERSION,
        RowKind::Token => BARRING_ROW,
        RowKind::Closing | RowKind::Tombstone => MARKED_ROW,
    };
    let head = RowHead {
        account: row.account,
        operator: row.operator,
        issued_at: row.issued_at,
        expires_at: row.expires_at,
        name: &row.name,
        etag: row.digest(),
        history: row.history.clone(),
        replaced: row.replaced.clone(),
        stripped: stripped.as_ref().map(|(lengths, _)| *lengths),
    };
    let mut encoded = extend(vec![version], &head);
    if version != VALUE_VERSION {
        encoded = extend(encoded, &row.barred);
    }
    if version == MARKED_ROW {
        encoded = extend(encoded, &row.kind);
    }
    encoded.extend_from_slice(stripped.as_ref().map_or(&row.token, |(_, bytes)| bytes));
    encoded
}

/// The account of the row that `value` encodes; the rest is not decoded.
pub(in crate::state) fn row_account(value: &[u8]) -> Result<AccountKey, String> {
    let (_, head) = split_version(value, ROW_VERSIONS)?;
    take(head).map(|(account, _)| account)
}

/// The row that `value` encodes, whose id is `id`; or what is wrong with it. Does not check that the token is the one
/// that was stored.
pub(super) fn decode_row(id: RowId, value: &[u8]) -> Result<AccountRow, String> {
    let (version, head) = split_version(value, ROW_VERSIONS)?;
    let (head, behind): (RowHead<'_>, &[u8]) = take(head)?;
    let (barred, behind) = match version {
        BARRING_ROW | MARKED_ROW => take(behind)?,
        _ => (Vec::new(), behind),
    };
    let (kind, behind) = match version {
        MARKED_ROW => take(behind)?,
        _ => (RowKind::Token, behind),
    };
    let token = match head.stripped {
        None => Bytes::copy_from_slice(behind),
        Some(lengths) => restore_base64(lengths, behind).ok_or("its token is truncated")?,
    };
    Ok(AccountRow {
        account: head.account,
        operator: head.operator,
        issued_at: head.issued_at,
        expires_at: head.expires_at,
        name: head.name.to_owned(),
        revision: id.revision,
        kind,
        token,
        etag: BASE64URL_NOPAD.encode(&head.etag),
        slot: id.slot,
        history: head.history,
        replaced: head.replaced,
        barred,
    })
}

/// The token's three parts without base64, one after the other, and the lengths of the first two. `None` for a token
/// that encoding them would not give back byte by byte.
fn strip_base64(token: &[u8]) -> Option<((u32, u32), Vec<u8>)> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    // Each part's length may round up.
    let mut bytes = vec![0; token.len() / 4 * 3 + 3];
    let (mut end, mut ends) = (0, [0; 3]);
    for (part, part_end) in [header, claims, signature].into_iter().zip(&mut ends) {
        let length = BASE64URL_NOPAD.decode_len(part.len()).ok()?;
        // Strict: no padding and no stray bits at the end, so that only what encoding gives is accepted.
        BASE64URL_NOPAD
            .decode_mut(part, bytes.get_mut(end..end + length)?)
            .ok()?;
        end += length;
        *part_end = end;
    }
    bytes.truncate(end);
    let lengths = (u32::try_from(ends[0]).ok()?, u32::try_from(ends[1] - ends[0]).ok()?);
    Some((lengths, bytes))
}

/// The token whose parts [`strip_base64`] gave; `None` if the lengths exceed the bytes.
fn restore_base64((header, claims): (u32, u32), bytes: &[u8]) -> Option<Bytes> {
    let (header, rest) = bytes.split_at_checked(header as usize)?;
    let (claims, signature) = rest.split_at_checked(claims as usize)?;
    let parts = [header, claims, signature];
    let length: usize = parts
        .iter()
        .map(|part| BASE64URL_NOPAD.encode_len(part.len()) + 1)
        .sum();
    let mut token = vec![b'.'; length - 1];
    let mut start = 0;
    for part in parts {
        let end = start + BASE64URL_NOPAD.encode_len(part.len());
        BASE64URL_NOPAD.encode_mut(part, &mut token[start..end]);
        start = end + 1;
    }
    Some(token.into())
}

pub(in crate::state) fn encode_operator(row: &OperatorRow) -> Vec<u8> {
    encode(&TrustedOperator {
        issued_at: row.issued_at,
        revision: row.revision,
        token: row.token.clone(),
    })
}

pub(in crate::state) fn encode_replaced(row: &ReplacedOperator) -> Vec<u8> {
    let replaced = Replaced {
        successor: row.successor,
        revision: row.revision,
    };
    extend(vec![REPLACED_OPERATOR], &replaced)
}

pub(super) fn decode_operator(operator: OperatorKey, value: &[u8]) -> Result<StoredOperator, String> {
    let (version, value) = split_version(value, &[VALUE_VERSION, REPLACED_OPERATOR])?;
    if version == REPLACED_OPERATOR {
        let (Replaced { successor, revision }, _) = take(value)?;
        return Ok(StoredOperator::Replaced(ReplacedOperator {
            operator,
            successor,
            revision,
        }));
    }
    let (row, _): (TrustedOperator, _) = take(value)?;
    Ok(StoredOperator::Trusted(OperatorRow {
        operator,
        issued_at: row.issued_at,
        revision: row.revision,
        token: row.token,
    }))
}

pub(in crate::state) fn encode_server(server: &Server) -> Vec<u8> {
    encode(&StoredServer {
        name: &server.name,
        cluster: &server.cluster,
        version: &server.version,
        behind: server.behind,
    })
}

/// The server that stands under `key`, and the name of its NATS cluster; or what is wrong with it.
pub(super) fn decode_server<'a>(key: &'a str, value: &[u8]) -> Result<(&'a str, Server), String> {
    let (nats_cluster, id) = key.split_once('/').ok_or("its key names no NATS cluster")?;
    let stored: StoredServer<'_> = decode(value)?;
    let server = Server {
        id: id.to_owned(),
        name: stored.name.to_owned(),
        cluster: stored.cluster.to_owned(),
        version: stored.version.to_owned(),
        behind: stored.behind,
    };
    if !server.is_within_bounds() {
        return Err("it has a text that is too long".to_owned());
    }
    Ok((nats_cluster, server))
}

pub(in crate::state) fn encode_closing(closing: &Closing) -> Vec<u8> {
    encode(&StoredClosing {
        operator: closing.operator,
        issued_at: closing.issued_at,
        expires_at: closing.expires_at,
        name: &closing.name,
        revision: closing.revision,
        digest: digest(&closing.token),
        token: &closing.token,
    })
}

/// The closing token of `account` that `value` encodes; or what is wrong with it.
pub(super) fn decode_closing(account: AccountKey, value: &[u8]) -> Result<Closing, String> {
    let stored: StoredClosing<'_> = decode(value)?;
    if stored.digest != digest(stored.token) {
        return Err("its token is not the one that was stored".to_owned());
    }
    Ok(Closing {
        account,
        operator: stored.operator,
        issued_at: stored.issued_at,
        expires_at: stored.expires_at,
        name: stored.name.to_owned(),
        revision: stored.revision,
        token: Bytes::copy_from_slice(stored.token),
    })
}

pub(super) fn encode_meta(meta: &Meta) -> Vec<u8> {
    encode(meta)
}

pub(super) fn decode_meta(value: &[u8]) -> Result<Meta, String> {
    decode(value)
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    extend(vec![VALUE_VERSION], value)
}

fn extend<T: Serialize>(before: Vec<u8>, value: &T) -> Vec<u8> {
    postcard::to_extend(value, before)
        .expect("plain data into memory: postcard fails only on unsized sequences, we have none")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let (_, body) = split_version(bytes, &[VALUE_VERSION])?;
    take(body).map(|(value, _)| value)
}

/// A value's version, which must be one of `known`, and the bytes after it.
fn split_version<'a>(bytes: &'a [u8], known: &[u8]) -> Result<(u8, &'a [u8]), String> {
    match bytes.split_first() {
        Some((version, body)) if known.contains(version) => Ok((*version, body)),
        Some((version, _)) => Err(format!("it has version {version}, this program knows {known:?}")),
        None => Err("it is empty".to_owned()),
    }
}

/// A value, and the bytes after it.
fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    postcard::take_from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::command::Barred;
    use crate::state::rows::{digest, etag};

    fn row(token: &[u8]) -> AccountRow {
        AccountRow {
            account: AccountKey::from_bytes([1; 32]),
            operator: OperatorKey::from_bytes([2; 32]),
            issued_at: 1_700_000_000,
            expires_at: 0,
            name: "name".to_owned(),
            revision: 7,
            kind: RowKind::Token,
            token: Bytes::copy_from_slice(token),
            etag: etag(token),
            slot: 3,
            history: vec![Past {
                id: RowId { revision: 5, slot: 0 },
                bytes: 9,
            }],
            replaced: vec![digest(b"before")],
            barred: Vec::new(),
        }
    }

    fn again(row: &AccountRow) -> (usize, AccountRow) {
        let value = encode_row(row);
        (value.len(), decode_row(row.id(), &value).expect("what was encoded"))
    }

    #[test]
    fn the_bytes_of_a_row_do_not_change() {
        let head = |lengths: &str| {
            let keys = "01".repeat(32) + &"02".repeat(32);
            // Version; keys; iat, exp and name; ETag; one past version; one replaced ETag; lengths without base64.
            format!(
                "01{keys}80c49fd50c00046e616d65ETAG0105000901{}{lengths}",
                hex(&digest(b"before"))
            )
        };
        for (token, lengths, stored) in [("QQ.QUI.QUJD", "010102", "41414241 4243"), ("QQ.", "00", "51512e")] {
            let expected = head(lengths).replace("ETAG", &hex(&digest(token.as_bytes()))) + &stored.replace(' ', "");
            assert_eq!(
                hex(&encode_row(&row(token.as_bytes()))),
                expected,
                "{token}; another layout needs another FORMAT"
            );
        }
    }

    #[test]
    fn the_bytes_of_a_barring_row_and_of_a_replaced_operator_do_not_change() {
        let token = b"QQ.QUI.QUJD";
        let plain = hex(&encode_row(&row(token)));
        let barring = AccountRow {
            barred: vec![Barred {
                issued_at: -1,
                digest: [7; ETAG_BYTES],
            }],
            ..row(token)
        };
        // Version 2; the head as before; the count, `iat` and digest of each barred token; the token.
        let (head, stored) = plain.split_at(plain.len() - 8 * 2 + 4);
        let expected = format!("02{}0101{}{stored}", &head[2..], "07".repeat(ETAG_BYTES));
        assert_eq!(hex(&encode_row(&barring)), expected);
        let value = encode_row(&barring);
        assert_eq!(decode_row(barring.id(), &value), Ok(barring));
        assert_eq!(row_account(&value), Ok(AccountKey::from_bytes([1; 32])));

        let replaced = ReplacedOperator {
            operator: OperatorKey::from_bytes([2; 32]),
            successor: OperatorKey::from_bytes([3; 32]),
            revision: 300,
        };
        let value = encode_replaced(&replaced);
        assert_eq!(hex(&value), format!("02{}ac02", "03".repeat(32)));
        match decode_operator(replaced.operator, &value) {
            Ok(StoredOperator::Replaced(found)) => assert_eq!(found, replaced),
            _ => panic!("it is a replaced operator"),
        }
    }

    #[test]
    fn the_bytes_of_a_tombstone_and_of_a_closing_token_do_not_change() {
        for (kind, number, token) in [
            (RowKind::Closing, "01", &b"QQ.QUI.QUJD"[..]),
            (RowKind::Tombstone, "02", b""),
        ] {
            let marked = AccountRow { kind, ..row(token) };
            let plain = hex(&encode_row(&row(token)));
            let (head, stored) = plain.split_at(plain.len() - if token.is_empty() { 0 } else { 6 * 2 });
            // Version 3; the head as before; nothing barred; the kind; the token.
            assert_eq!(hex(&encode_row(&marked)), format!("03{}00{number}{stored}", &head[2..]));
            let value = encode_row(&marked);
            assert_eq!(decode_row(marked.id(), &value), Ok(marked.clone()));
            assert_eq!(row_account(&value), Ok(marked.account));
        }

        let closing = Closing {
            account: AccountKey::from_bytes([1; 32]),
            operator: OperatorKey::from_bytes([2; 32]),
            issued_at: -1,
            expires_at: 1,
            name: "A".to_owned(),
            revision: 300,
            token: Bytes::from_static(b"t"),
        };
        let value = encode_closing(&closing);
        let expected = format!("01{}01020141ac02{}0174", "02".repeat(32), hex(&digest(b"t")));
        assert_eq!(hex(&value), expected);
        assert_eq!(decode_closing(closing.account, &value), Ok(closing.clone()));
        for length in 0..value.len() {
            assert!(
                decode_closing(closing.account, &value[..length]).is_err(),
                "{length} bytes"
            );
        }
        let other = [&value[..value.len() - 1], b"u"].concat();
        assert!(decode_closing(closing.account, &other).is_err(), "another token");
    }

    #[test]
    fn the_bytes_of_a_server_do_not_change() {
        let server = Server {
            id: "NA".to_owned(),
            name: "n1".to_owned(),
            cluster: String::new(),
            version: "2.12.0".to_owned(),
            behind: Some(300),
        };
        for (behind, stored) in [(Some(300), "01ac02"), (None, "00")] {
            let server = Server {
                behind,
                ..server.clone()
            };
            let value = encode_server(&server);
            assert_eq!(hex(&value), format!("01026e310006{}{stored}", hex(b"2.12.0")));
            assert_eq!(decode_server("east/NA", &value), Ok(("east", server)));
            for length in 0..value.len() {
                assert!(decode_server("east/NA", &value[..length]).is_err(), "{length} bytes");
            }
        }
        assert!(
            decode_server("NA", &encode_server(&server)).is_err(),
            "a key without a NATS cluster"
        );
        let long = Server {
            name: "n".repeat(Server::MAX_NAME_BYTES + 1),
            ..server
        };
        assert!(
            decode_server("east/NA", &encode_server(&long)).is_err(),
            "a name that is never stored"
        );
    }

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    #[test]
    fn a_token_is_stored_without_its_base64() {
        let token = [&[b'e'; 48][..], b".", &[b'Q'; 1400], b".", &[b'A'; 86]].concat();
        let (length, decoded) = again(&row(&token));
        assert_eq!(decoded, row(&token));
        assert!(
            length < token.len() / 4 * 3 + 150,
            "{length} bytes for a token of {}",
            token.len()
        );
    }

    #[test]
    fn a_token_that_is_not_canonical_base64_is_stored_as_it_is() {
        // Stray bits, a length that base64 never has, padding, another alphabet, too few and too many parts.
        for token in [
            "QQ.QR.QQ",
            "QQ.Q.QQ",
            "QQ==.QQ.QQ",
            "Q+Q.QQ.QQ",
            "",
            ".",
            "QQ.QQ",
            "QQ.QQ.QQ.QQ",
        ] {
            let row = row(token.as_bytes());
            assert_eq!(again(&row).1, row, "{token}");
        }
        let row = row(b"..");
        assert_eq!(again(&row).1, row, "three empty parts");
    }

    #[test]
    fn a_truncated_value_is_refused_or_gives_another_token() {
        let row = row(b"QUJD.REVG.R0hJ");
        let value = encode_row(&row);
        assert_eq!(row_account(&value), Ok(row.account));
        for length in 0..value.len() {
            match decode_row(row.id(), &value[..length]) {
                Ok(cut) => assert_ne!(cut.token, row.token, "{length} of {} bytes", value.len()),
                Err(what) => assert!(!what.is_empty()),
            }
        }
    }

    proptest! {
        #[test]
        fn any_three_parts_are_stored_without_base64_and_come_out_again(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 3),
            at in any::<prop::sample::Index>(),
            other in any::<u8>(),
        ) {
            let parts: Vec<String> = parts.iter().map(|part| BASE64URL_NOPAD.encode(part)).collect();
            let mut token = parts.join(".").into_bytes();
            prop_assert!(strip_base64(&token).is_some());
            prop_assert_eq!(again(&row(&token)).1, row(&token));
            let at = at.index(token.len());
            token[at] = other;
            prop_assert_eq!(again(&row(&token)).1, row(&token));
        }

        #[test]
        fn any_token_comes_out_as_it_went_in(token in "[A-Za-z0-9_.=-]{0,80}") {
            let row = row(token.as_bytes());
            prop_assert_eq!(again(&row).1, row);
        }

        #[test]
        fn any_bytes_come_out_as_they_went_in(token in prop::collection::vec(any::<u8>(), 0..80)) {
            let row = row(&token);
            prop_assert_eq!(again(&row).1, row);
        }
    }
}
