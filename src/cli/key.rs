//! The key of an operator, on the administrator's machine: what is signed with it is signed here, and no node sees it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::exit::{Exit, Failure};
use super::input::{read_beside, text_of};
use super::output::to_stderr;
use crate::sign::{self, SigningKey};

/// The key whose seed is in `file`, as nsc or `nk` wrote it. No error shows any of it.
pub(super) fn operator_key(file: &Path) -> Result<SigningKey, Failure> {
    warn_of_others(file);
    sign::operator_key(&text_of(&read_beside(file)?))
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", file.display())))
}

/// Warns where other users of this machine can read the key.
fn warn_of_others(file: &Path) {
    let mode = std::fs::metadata(file).map(|found| found.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        let file = file.display();
        to_stderr(&format!(
            "jwtmesh: other users of this machine may read {file}, which can sign every account of the operator: chmod 600 it"
        ));
    }
}
