//! A view of the state that stands still, and putting one in the place of everything.

use std::fs::File;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use redb::{Database, Durability, ReadTransaction, ReadableTable};

use super::State;
use super::fault::Fault;
use super::flush::{Progress, put_row, put_small};
use super::open::{Source, begin, builder};
use super::tables::{ACCOUNTS, AccountRow, Mark, ROWS, RowId, Small};

/// Rows that an installation copies in one transaction, so that its memory stays small.
const INSTALL_ROWS: usize = 4096;

/// What redb held at one moment. Costs nothing but the pages that it keeps from being used again.
#[derive(Clone)]
pub struct SnapshotView {
    view: Arc<ReadTransaction>,
    small: Small,
}

impl std::fmt::Debug for SnapshotView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotView({:?})", self.small.mark)
    }
}

impl SnapshotView {
    /// The entry it ends at.
    pub fn mark(&self) -> Option<&Mark> {
        self.small.mark.as_ref()
    }

    /// The members as of that entry.
    pub fn membership(&self) -> Option<Bytes> {
        self.small.membership.clone()
    }

    /// Every row, old versions too, in the order of their revisions.
    fn rows(
        &self,
        mut visit: impl FnMut(AccountRow) -> Result<(), redb::Error>,
    ) -> Result<Result<(), String>, redb::Error> {
        let rows = self.view.open_table(ROWS)?;
        for entry in rows.iter()? {
            let (key, bytes) = entry?;
            let (revision, slot) = key.value();
            match AccountRow::decode(RowId { revision, slot }, bytes.value()) {
                Ok(row) => visit(row)?,
                Err(defect) => return Ok(Err(defect)),
            }
        }
        Ok(Ok(()))
    }
}

impl State {
    /// What redb holds now. To see everything that is applied, let the flush reach it first.
    pub fn snapshot(&self) -> Result<SnapshotView, Fault> {
        // Nobody may flush between reading where redb ends and opening the view.
        let progress = self.progress();
        Ok(SnapshotView {
            small: progress.small.clone(),
            view: Arc::new(self.view()?),
        })
    }

    /// Replaces everything by what `snapshot` holds. After a crash in the middle the old content is there, or the new.
    pub fn install(&self, snapshot: SnapshotView) -> Result<(), Fault> {
        let _applying = self.0.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut progress = self.progress();
        let write = |error: redb::Error| self.storage("install a snapshot", error);
        let database = self.empty_beside()?;
        begin(&database, &self.0.options.store).map_err(write)?;
        copy(&snapshot, &database)
            .map_err(write)?
            .map_err(|defect| self.damaged(defect))?;
        self.put_in_place().map_err(|error| write(redb::Error::Io(error)))?;
        let mut memtable = self.memtable_mut();
        self.0.database.store(Arc::new(database));
        self.0.cache.clear();
        let all = memtable.entries.len();
        drop(memtable.drop_oldest(all));
        memtable.small = snapshot.small.clone();
        *progress = Progress::durable(snapshot.small);
        Ok(())
    }

    fn empty_beside(&self) -> Result<Database, Fault> {
        let builder = builder(&self.0.options);
        let made = match &self.0.source {
            Source::Backend => builder.create_with_backend(redb::backends::InMemoryBackend::new()),
            Source::File(path) => {
                let beside = path.with_extension("redb.new");
                match std::fs::remove_file(&beside) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(self.storage("remove an unfinished snapshot", redb::Error::Io(error)));
                    }
                    _ => builder.create(&beside),
                }
            }
        };
        made.map_err(|error| self.storage("make a new state", error))
    }

    /// The new file takes the old one's name; the folder is synced, or the name could be lost.
    fn put_in_place(&self) -> std::io::Result<()> {
        if let Source::File(path) = &self.0.source {
            std::fs::rename(path.with_extension("redb.new"), path)?;
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }
}

fn copy(snapshot: &SnapshotView, into: &Database) -> Result<Result<(), String>, redb::Error> {
    let mut waiting: Vec<AccountRow> = Vec::new();
    let put = |rows: &mut Vec<AccountRow>| -> Result<(), redb::Error> {
        let mut transaction = into.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            let mut table = transaction.open_table(ROWS)?;
            for row in rows.drain(..) {
                put_row(&mut accounts, &mut table, &row)?;
            }
        }
        Ok(transaction.commit()?)
    };
    let copied = snapshot.rows(|row| {
        waiting.push(row);
        if waiting.len() >= INSTALL_ROWS {
            put(&mut waiting)
        } else {
            Ok(())
        }
    })?;
    if copied.is_err() {
        return Ok(copied);
    }
    put(&mut waiting)?;
    let mut transaction = into.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    put_small(&transaction, &snapshot.small)?;
    transaction.commit()?;
    Ok(Ok(()))
}
