//! A snapshot as pieces: what is sent is what is received, and nothing else is taken for it.

use bytes::Bytes;
use jwtmesh::state::{ImportError, MAX_PIECE_BYTES, MarkPropagated, State, UpdateRoster};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::model::{apply, flush, item, options, put, server, trusting};

/// A state with some history, one token of the largest size, and `more` accounts.
fn filled(more: u64) -> State {
    let state = trusting();
    let mut index = 1;
    let mut next = |command| {
        index += 1;
        apply(&state, index, &command);
    };
    let text = |n: u64, length: usize| {
        let mut random = SmallRng::seed_from_u64(n);
        let text: String = (0..length).map(|_| random.gen_range('a'..='z')).collect();
        text
    };
    next(put(1, vec![item(0, 1, &text(0, 1_048_519))]));
    for n in 0..more {
        let account = u8::try_from(n % 200).expect("below");
        next(put(1, vec![item(account, 2 + n.cast_signed(), &text(n, 2_000))]));
    }
    next(
        MarkPropagated {
            nats_cluster: "east".to_owned(),
            position: 300,
        }
        .into(),
    );
    next(
        UpdateRoster {
            nats_cluster: "east".to_owned(),
            term: 0,
            position: 300,
            seen: vec![server("NA", Some(3)), server("NB", None)],
            gone: Vec::new(),
        }
        .into(),
    );
    flush(&state);
    state
}

fn pieces(state: &State) -> Vec<Bytes> {
    let mut export = state.snapshot().expect("a view").export();
    std::iter::from_fn(|| export.next_piece().expect("a readable state")).collect()
}

/// What a new state makes of `pieces`.
fn received(pieces: &[Bytes]) -> Result<State, ImportError> {
    let state = State::open_backend(::redb::backends::InMemoryBackend::new(), options()).expect("a new state");
    let mut import = state.begin_import().expect("begins");
    for piece in pieces {
        import.add(piece)?;
    }
    state.install(import.finish()?).expect("installs");
    Ok(state)
}

#[test]
fn a_state_that_is_received_is_the_one_that_was_sent_and_its_pieces_are_always_the_same() {
    let state = filled(1_000);
    let sent = pieces(&state);
    assert!(sent.len() > 6, "{}", sent.len());
    assert!(sent.iter().all(|piece| piece.len() <= MAX_PIECE_BYTES));
    assert_eq!(sent, pieces(&state));
    let copy = received(&sent).expect("a whole snapshot");
    assert_eq!(copy.digest().expect("a digest"), state.digest().expect("a digest"));
    assert_eq!(copy.servers("east"), [server("NA", Some(3)), server("NB", None)]);
    assert_eq!(pieces(&copy), sent);
    assert_eq!(copy.installed().expect("read"), Some(state.flushed()));
}

#[test]
fn what_is_damaged_cut_off_doubled_or_out_of_order_is_refused() {
    let sent = pieces(&filled(300));
    let refused = |pieces: &[Bytes], what: &str| match received(pieces) {
        Err(ImportError::Stream { .. }) => {}
        Err(ImportError::Fault(fault)) => panic!("{what}: {fault}"),
        Ok(_) => panic!("{what} was taken"),
    };
    for missing in 0..sent.len() {
        let mut pieces = sent.clone();
        pieces.remove(missing);
        refused(&pieces, "a stream without a piece");
        refused(&sent[..missing], "a stream that ends early");
        let mut pieces = sent.clone();
        pieces.insert(missing, sent[missing].clone());
        refused(&pieces, "a piece twice");
        if missing > 0 {
            let mut pieces = sent.clone();
            pieces.swap(missing - 1, missing);
            refused(&pieces, "pieces in another order");
        }
    }
    let mut random = SmallRng::seed_from_u64(7);
    for at in 0..sent.len() {
        for _ in 0..40 {
            let mut pieces = sent.clone();
            let mut bytes = pieces[at].to_vec();
            match random.gen_range(0..3) {
                0 => {
                    let byte = random.gen_range(0..bytes.len());
                    bytes[byte] ^= 1 << random.gen_range(0..8);
                }
                1 => bytes.truncate(random.gen_range(0..bytes.len())),
                // Right for the checksum, and wrong all the same.
                _ => {
                    let byte = random.gen_range(5..bytes.len());
                    bytes[byte] ^= 1 << random.gen_range(0..8);
                    let sum = crc32c::crc32c(&bytes[5..]).to_le_bytes();
                    bytes[1..5].copy_from_slice(&sum);
                }
            }
            pieces[at] = bytes.into();
            refused(&pieces, "a changed piece");
        }
    }
    received(&sent).expect("the stream itself is sound");
}

#[test]
fn a_received_file_takes_the_place_of_the_state_file_and_an_unfinished_one_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    let received = || {
        let entries = std::fs::read_dir(folder.path())
            .expect("the test's own folder")
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".received")).count()
    };
    let sent = filled(300);
    let (first, last) = (pieces(&sent), sent.digest().expect("a digest"));
    let state = State::open_file(&path, options()).expect("a new state");
    let before = state.digest().expect("a digest");
    let mut import = state.begin_import().expect("begins");
    import.add(&first[0]).expect("the header");
    import.add(&first[1]).expect("a block");
    assert_eq!(received(), 1);
    drop(import);
    assert_eq!(received(), 0, "what is not finished is removed");
    let mut import = state.begin_import().expect("begins");
    import.add(&first[0]).expect("the header");
    // The power fails.
    std::mem::forget(import);
    drop(state);
    let state = State::open_file(&path, options()).expect("opens");
    assert_eq!(received(), 0, "a start removes it too");
    assert_eq!(state.digest().expect("a digest"), before);
    let mut import = state.begin_import().expect("begins");
    first.iter().for_each(|piece| import.add(piece).expect("a good piece"));
    let whole = import.finish().expect("whole");
    // Its sender has not heard that it is whole, and begins again.
    let mut repeated = state.begin_import().expect("begins");
    repeated.add(&first[0]).expect("the header");
    state.install(whole).expect("takes its place");
    assert_eq!(received(), 1, "one is the state file now");
    drop(repeated);
    let mut unused = state.begin_import().expect("begins");
    first.iter().for_each(|piece| unused.add(piece).expect("a good piece"));
    drop(unused.finish().expect("whole"));
    assert_eq!(received(), 0, "the others were not asked for");
    assert_eq!(state.digest().expect("a digest"), last);
    drop(state);
    let state = State::open_file(&path, options()).expect("opens again");
    assert_eq!(state.digest().expect("a digest"), last);
}

/// redb does not look at its checksums when it reads, so the sender may not know that a row of its own is damaged.
#[test]
fn g3_a_snapshot_of_a_damaged_state_is_refused_before_it_takes_the_place_of_a_sound_one() {
    let sent = pieces(&filled(3));
    let sound = received(&sent).expect("a whole snapshot");
    let digest = sound.digest().expect("a digest");
    // Somewhere in a token.
    let pieces = with_other_content(&sent, 3_000);
    let mut import = sound.begin_import().expect("begins");
    let taken = pieces.iter().try_for_each(|piece| import.add(piece));
    let refused = taken
        .and_then(|()| import.finish().map(drop))
        .expect_err("it is damaged");
    assert!(matches!(refused, ImportError::Stream { .. }), "{refused}");
    assert!(refused.to_string().contains("damaged"), "{refused}");
    assert_eq!(sound.digest().expect("a digest"), digest);
}

#[test]
fn g3_a_snapshot_with_a_damaged_server_is_refused() {
    let state = trusting();
    let update = UpdateRoster {
        nats_cluster: "east".to_owned(),
        term: 0,
        position: 0,
        seen: vec![server("NA", None)],
        gone: Vec::new(),
    };
    apply(&state, 2, &update.into());
    flush(&state);
    let sent = pieces(&state);
    received(&sent).expect("a whole snapshot");
    let block = zstd::bulk::decompress(&sent[1][5..], MAX_PIECE_BYTES).expect("a block");
    // The record of the server: its table, its key, and the version of its value.
    let key = block.windows(7).position(|bytes| bytes == b"east/NA").expect("its key");
    for (place, what) in [
        (key + 4, "a key without a NATS cluster"),
        (key + 8, "a value of another version"),
    ] {
        let Err(refused) = received(&with_other_content(&sent, place)) else {
            panic!("{what} was taken");
        };
        assert!(refused.to_string().contains("servers_v1"), "{what}: {refused}");
    }
}

/// The stream as a sender makes it whose file has another byte at `place` of the first block that is so long: every
/// checksum is right.
fn with_other_content(sent: &[Bytes], place: usize) -> Vec<Bytes> {
    let mut hash = blake3::Hasher::new();
    hash.update(&sent[0][5..]);
    let (mut pieces, mut is_changed) = (sent.to_vec(), false);
    for (number, piece) in sent.iter().enumerate().take(sent.len() - 1).skip(1) {
        let mut block = zstd::bulk::decompress(&piece[5..], 4 * MAX_PIECE_BYTES).expect("a block");
        if block.len() > place && !is_changed {
            is_changed = true;
            block[place] ^= 1;
            pieces[number] = piece_of(piece[0], &zstd::bulk::compress(&block, 1).expect("compressed"));
        }
        hash.update(&block);
    }
    assert!(is_changed);
    // The hash ends the trailer.
    let (trailer, last) = (sent.last().expect("a trailer"), sent.len() - 1);
    let mut content = trailer[5..].to_vec();
    let from = content.len() - 32;
    content[from..].copy_from_slice(hash.finalize().as_bytes());
    pieces[last] = piece_of(trailer[0], &content);
    pieces
}

fn piece_of(kind: u8, content: &[u8]) -> Bytes {
    let mut piece = vec![kind];
    piece.extend(crc32c::crc32c(content).to_le_bytes());
    piece.extend(content);
    piece.into()
}
