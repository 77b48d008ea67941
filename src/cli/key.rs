//! The key of an operator, on the administrator's machine: what is signed with it is signed here, and no node sees it.

use std::path::Path;

use super::exit::{Exit, Failure};
use super::input::{read, text_of};
use crate::sign::{SigningKey, operator_key_of};

/// The key whose seed is in `file`, as nsc or `nk` wrote it. No error shows any of it.
pub(super) fn operator_key(file: &Path) -> Result<SigningKey, Failure> {
    let wrong = |defect: &str| Failure::new(Exit::Usage, format!("{}: {defect}", file.display()));
    operator_key_of(&text_of(&read(file)?)).map_err(wrong)
}
