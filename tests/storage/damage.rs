//! Damage is refused, with file and offset; a torn end is cut.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jwtmesh::raft::Vote;
use jwtmesh::raft::log::{LogFault, LogStore, Options, StoreId};

use crate::disk::{CrashDisk, SECTOR};
use crate::driven::{Contents, Log, blank, id, membership, normal, options};

/// What [`sample`] makes: a log, and where its last group lies.
struct Sample {
    disk: CrashDisk,
    files: Vec<String>,
    /// Where the last group lies.
    last_file: String,
    last_group: Range<usize>,
    /// What the log held before and after the last call.
    before: Contents,
    after: Contents,
}

/// A log of several segments with every kind of record in it, ending in `last`.
fn sample(last: impl FnOnce(&mut Log)) -> Sample {
    let disk = CrashDisk::new(1);
    let mut log = Log::open(&disk, 8 * 1024).unwrap();
    assert!(log.append(vec![membership(0, 0)]));
    assert!(log.vote(1));
    assert!(log.append(vec![blank(1, 1), normal(1, 2, 700), normal(1, 3, 10)]));
    log.committed(id(1, 2));
    assert!(log.append(vec![normal(1, 4, 5000)]));
    assert!(log.append(vec![normal(1, 5, 3000), normal(1, 6, 10)]));
    log.truncate_after(id(1, 4));
    assert!(log.append(vec![normal(2, 5, 4000)]));
    log.purge(id(1, 1));
    log.committed(id(1, 4));
    assert!(log.vote(3));
    assert!(log.append(vec![normal(3, 6, 3000)]));
    assert!(log.append(vec![normal(3, 7, 10)]));
    let before = log.contents();
    let files = disk.names();
    let bytes: Vec<Vec<u8>> = files.iter().map(|name| disk.bytes(name)).collect();
    last(&mut log);
    assert_eq!(files, disk.names(), "the last call begins no segment");
    let after = log.contents();
    let changed = (0..files.len())
        .find(|file| disk.bytes(&files[*file]) != bytes[*file])
        .unwrap();
    let range = written(&bytes[changed])..written(&disk.bytes(&files[changed]));
    let changed = files[changed].clone();
    Sample {
        disk,
        files,
        last_file: changed,
        last_group: range,
        before,
        after,
    }
}

/// Bytes of a file up to the zeros at its end.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

type LastCall = fn(&mut Log);

/// Each kind of group the log can end with.
const LAST_CALLS: [(&str, LastCall); 5] = [
    ("an entry of several sectors", |log| {
        assert!(log.append(vec![normal(3, 8, 1600)]))
    }),
    ("entries of one sector", |log| {
        assert!(log.append(vec![blank(3, 8), normal(3, 9, 20)]))
    }),
    ("a vote", |log| assert!(log.vote(9))),
    ("a truncation", |log| log.truncate_after(id(3, 6))),
    ("a purge", |log| log.purge(id(1, 2))),
];

#[test]
fn what_was_written_is_there_after_a_restart() {
    let Sample { disk, after, .. } = sample(|log| assert!(log.append(vec![membership(3, 8)])));
    let mut log = Log::open(&disk.killed(), 8 * 1024).unwrap();
    assert_eq!(log.contents(), after);
    assert_eq!(after.entries.keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        after.entries[&5],
        normal(2, 5, 4000),
        "the entry that replaced the truncated one"
    );
    assert_eq!(after.entries[&8], membership(3, 8));
    assert_eq!((after.purged, after.vote), (Some(id(1, 1)), Some(Vote::new(3, 1))));
    assert_eq!(log.read_committed(), Some(id(1, 4)));
    assert!(log.faults.lock().unwrap().is_empty());
}

#[test]
fn g1_a_log_that_ends_before_what_the_state_holds_refuses_to_start_and_is_left_as_it_is() {
    let Sample { disk, files, .. } = sample(|log| assert!(log.append(vec![membership(3, 8)])));
    let bytes = |disk: &CrashDisk| files.iter().map(|file| disk.bytes(file)).collect::<Vec<_>>();
    let open = |durable: u64| {
        let disk = disk.killed();
        let checkpoint = Arc::new(AtomicU64::new(durable));
        let opened = LogStore::open(Arc::new(disk.clone()), &options(8 * 1024), checkpoint, Arc::new(|_| {}));
        (opened.map(drop), bytes(&disk))
    };
    assert!(open(8).0.is_ok());
    let (refused, after) = open(9);
    let said = refused.expect_err("entry 9 is durable in the state").to_string();
    assert!(said.contains("ends at entry 8") && said.contains("up to 9"), "{said}");
    assert_eq!(after, bytes(&disk.killed()));
}

#[test]
fn the_bytes_of_format_1_do_not_change() {
    // Files written by a release are read by every later one. Another hash here means another format number.
    let Sample { disk, files, .. } = sample(|log| assert!(log.append(vec![membership(3, 8)])));
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        hasher.update(&disk.bytes(file));
    }
    assert_eq!(hasher.finalize().to_hex()[..16], *"63a80b0220dffe1e");
}

#[test]
fn a_byte_flipped_anywhere_but_in_the_last_group_refuses_to_start_naming_file_and_offset() {
    let Sample {
        disk,
        files,
        last_file,
        last_group,
        after,
        ..
    } = sample(|log| assert!(log.append(vec![normal(3, 8, 700)])));
    // The state is ahead of what can be read of such a log; the damage is named all the same.
    let open = || {
        let disk = Arc::new(disk.clone());
        LogStore::open(disk, &options(8 * 1024), Arc::new(AtomicU64::new(8)), Arc::new(|_| {}))
    };
    let mut flipped = 0;
    for file in &files {
        let intact = disk.bytes(file);
        let end = if *file == last_file {
            last_group.start
        } else {
            written(&intact)
        };
        for at in 0..end {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at % 8);
            disk.set_bytes(file, bytes.clone());
            match open() {
                Err(fault @ LogFault::Damaged { .. }) => {
                    let LogFault::Damaged {
                        file: named, offset, ..
                    } = &fault
                    else {
                        unreachable!()
                    };
                    assert!(named.ends_with(file), "{fault} (flipped {file} at {at})");
                    assert!(
                        *offset <= at as u64 && at as u64 - offset < 8 * 1024,
                        "{fault} (flipped {file} at {at})"
                    );
                    assert!(fault.to_string().contains(&format!("at byte {offset}")), "{fault}");
                }
                other => panic!("{file} flipped at {at}: {:?}", other.map(drop)),
            }
            assert_eq!(disk.bytes(file), bytes, "nothing was changed");
            flipped += 1;
        }
        disk.set_bytes(file, intact);
    }
    assert!(flipped > 20_000, "the sample has become small: {flipped}");
    assert_eq!(Log::open(&disk, 8 * 1024).unwrap().contents(), after);
}

#[test]
fn a_sector_zeroed_anywhere_but_in_the_last_group_refuses_to_start() {
    let Sample {
        disk,
        files,
        last_file,
        last_group,
        ..
    } = sample(|log| assert!(log.vote(9)));
    for file in &files {
        let intact = disk.bytes(file);
        let end = if *file == last_file {
            last_group.start
        } else {
            written(&intact)
        };
        for at in (0..end).step_by(SECTOR) {
            let mut bytes = intact.clone();
            bytes[at..at + SECTOR].fill(0);
            disk.set_bytes(file, bytes);
            match Log::open(&disk, 8 * 1024) {
                Err(LogFault::Damaged {
                    file: named, offset, ..
                }) => {
                    assert!(
                        named.ends_with(file) && offset <= at as u64,
                        "{file} at {at}: {named:?} at {offset}"
                    );
                }
                other => panic!("{file} zeroed at {at}: {:?}", other.map(|mut log| log.contents())),
            }
        }
        disk.set_bytes(file, intact);
    }
}

#[test]
fn a_byte_flipped_in_the_last_group_never_gives_other_contents() {
    for (kind, last) in LAST_CALLS {
        let Sample {
            disk,
            last_file: file,
            last_group: group,
            before,
            ..
        } = sample(last);
        let intact = disk.bytes(&file);
        let mut refused = 0;
        for at in group.clone() {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at % 8);
            disk.set_bytes(&file, bytes);
            match Log::open(&disk, 8 * 1024) {
                Ok(mut log) => assert_eq!(log.contents(), before, "{kind}, byte {at}"),
                Err(LogFault::Damaged { offset, .. }) => {
                    assert_eq!(offset, group.start as u64, "{kind}, byte {at}");
                    refused += 1;
                }
                Err(fault) => panic!("{kind}, byte {at}: {fault}"),
            }
        }
        // No sector of the group ends in zero, which shows that all of it was written.
        assert_eq!(
            refused,
            group.len(),
            "{kind}: a complete group is never taken for a torn one"
        );
    }
}

#[test]
fn a_last_group_torn_at_any_byte_is_cut() {
    for (kind, last) in LAST_CALLS {
        let Sample {
            disk,
            last_file: file,
            last_group: group,
            before,
            ..
        } = sample(last);
        let intact = disk.bytes(&file);
        for at in group.clone() {
            let mut zeroed = intact.clone();
            zeroed[at..].fill(0);
            for torn in [zeroed, intact[..at].to_vec()] {
                let length = torn.len();
                disk.set_bytes(&file, torn);
                let mut log =
                    Log::open(&disk, 8 * 1024).unwrap_or_else(|fault| panic!("{kind}, torn at {at}: {fault}"));
                assert_eq!(log.contents(), before, "{kind}, torn at {at} of {length} bytes");
                let next = before.next();
                assert!(log.append(vec![normal(4, next, 300)]));
                let mut again = Log::open(&disk.power_cut(), 8 * 1024).unwrap();
                assert_eq!(again.contents().last(), Some(id(4, next)));
            }
        }
    }
}

#[test]
fn a_last_group_of_which_any_sectors_are_missing_is_cut() {
    let Sample {
        disk,
        last_file: file,
        last_group: group,
        before,
        after,
        ..
    } = sample(|log| assert!(log.append(vec![normal(3, 8, 2400)])));
    let intact = disk.bytes(&file);
    let sectors = group.len() / SECTOR;
    assert_eq!(sectors, 5);
    for kept in 0..1_u32 << sectors {
        let mut torn = intact.clone();
        for sector in (0..sectors).filter(|sector| kept & (1 << sector) == 0) {
            torn[group.start + sector * SECTOR..][..SECTOR].fill(0);
        }
        disk.set_bytes(&file, torn);
        let mut log = Log::open(&disk, 8 * 1024).unwrap_or_else(|fault| panic!("kept {kept:05b}: {fault}"));
        assert_eq!(
            &log.contents(),
            if kept == 0b11111 { &after } else { &before },
            "kept {kept:05b}"
        );
    }
}

#[test]
fn a_crash_while_a_segment_is_begun_is_not_damage() {
    let Sample { disk, files, .. } = sample(|log| assert!(log.vote(9)));
    let spare = files.last().unwrap();
    let header = disk.bytes(&files[0])[..SECTOR].to_vec();
    let contents = Log::open(&disk, 8 * 1024).unwrap().contents();
    for written in 0..SECTOR {
        let mut bytes = vec![0; 8 * 1024];
        bytes[..written].copy_from_slice(&header[..written]);
        for bytes in [bytes.clone(), bytes[..written].to_vec()] {
            disk.set_bytes(spare, bytes);
            let mut log = Log::open(&disk, 8 * 1024).unwrap_or_else(|fault| panic!("{written} bytes: {fault}"));
            assert_eq!(log.contents(), contents);
        }
    }
    disk.lose(spare);
    assert_eq!(Log::open(&disk, 8 * 1024).unwrap().contents(), contents);
    // The very first segment, when nothing has been acknowledged yet.
    for written in 0..SECTOR {
        let disk = CrashDisk::new(1);
        Log::open(&disk, 8 * 1024).unwrap();
        disk.lose("0000000002.log");
        disk.set_bytes("0000000001.log", header[..written].to_vec());
        let mut log = Log::open(&disk, 8 * 1024).unwrap_or_else(|fault| panic!("{written} bytes: {fault}"));
        assert_eq!(log.contents(), Contents::default());
    }
}

#[test]
fn a_missing_file_refuses_to_start_naming_it() {
    let Sample { disk, files, .. } = sample(|log| assert!(log.vote(9)));
    assert!(files.len() >= 4, "{files:?}");
    // All but the last two: the newest segment that holds groups, and the empty one behind it.
    for file in &files[..files.len() - 1] {
        let bytes = disk.bytes(file);
        disk.lose(file);
        let fault = Log::open(&disk, 8 * 1024)
            .map(|mut log| log.contents())
            .expect_err(file);
        // The absence of the first file shows in the one after it.
        let expected = if *file == files[0] { &files[1] } else { file };
        assert!(
            matches!(&fault, LogFault::Damaged { file, offset: 0, .. } if file.ends_with(expected)),
            "{fault}"
        );
        let last = files.last().unwrap().clone();
        disk.open_again(file, bytes);
        assert_eq!(disk.names().last(), Some(&last));
    }
    disk.rename(&files[0], "0000000000.log");
    assert!(
        matches!(Log::open(&disk, 8 * 1024), Err(LogFault::Damaged { offset: 0, .. })),
        "another name"
    );
}

#[test]
fn the_segment_of_another_store_is_refused_by_name() {
    let Sample { disk, files, .. } = sample(|log| assert!(log.vote(9)));
    let other = CrashDisk::new(2);
    let mut strange = options(8 * 1024);
    strange.store = StoreId(*b"fedcba9876543210");
    Log::open_with(&other, &strange).unwrap();
    disk.set_bytes(&files[1], other.bytes("0000000001.log"));
    let fault = Log::open(&disk, 8 * 1024).map(|_| ()).unwrap_err();
    assert!(
        matches!(&fault, LogFault::WrongStore { file, .. } if file.ends_with(&files[1])),
        "{fault}"
    );
    assert!(
        fault.to_string().contains("66656463-6261-3938-3736-353433323130"),
        "{fault}"
    );
}

#[test]
fn a_log_that_must_exist_is_not_begun_anew() {
    let disk = CrashDisk::new(1);
    let required = Options {
        must_exist: true,
        ..options(8 * 1024)
    };
    assert!(matches!(
        Log::open_with(&disk, &required),
        Err(LogFault::Missing { .. })
    ));
    assert!(disk.names().is_empty());
    Log::open(&disk, 8 * 1024).unwrap();
    Log::open_with(&disk, &required).unwrap();
}
