//! The input of commands: tokens from files or stdin, and the operators to verify them with.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::api::Operators;
use crate::jwt::{MAX_TOKEN_BYTES, OperatorClaims, Token, TrustedKeys, Verified, without_seeds};

/// The failure for a file that cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound {
        Exit::NotFound
    } else {
        Exit::Failed
    };
    Failure::new(exit, format!("cannot read {}: {error}", path.display()))
}

/// Reads a file, or stdin for `-`, up to a little more than the size of a creds file with the largest token.
pub(super) fn read(from: &Path) -> Result<Vec<u8>, Failure> {
    // The other lines of a creds file take less than 1 KiB; a longer input is refused for its size anyway.
    let limit = MAX_TOKEN_BYTES as u64 + 4096;
    let mut bytes = Vec::new();
    let read = if from == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(from).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| unreadable(from, &error))?;
    Ok(bytes)
}

/// Reads a file that a command needs beside what it is about, such as a key. If it is missing, that is a failure as any other:
/// scripts take `Exit::NotFound` for an account that is not there.
pub(super) fn read_beside(from: &Path) -> Result<Vec<u8>, Failure> {
    read(from).map_err(|failure| Failure::new(Exit::Failed, failure.message))
}

/// Bytes that were read as text; what is none is refused later, as what it is not.
pub(super) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the person at the terminal types `phrase`.
pub(super) fn confirmed(phrase: &str) -> std::io::Result<bool> {
    // Longer than any phrase: what is longer is not it.
    const MOST: u64 = 256;
    eprint!("Type `{phrase}` to go on: ");
    let mut typed = String::new();
    std::io::BufRead::read_line(&mut std::io::stdin().lock().take(MOST), &mut typed)?;
    Ok(typed.trim() == phrase)
}

/// The trusted keys of the operators that a node lists. Their tokens are verified here: a listing is only a claim.
pub(super) fn trusted(operators: &Operators) -> Result<TrustedKeys, Failure> {
    let mut verified = Vec::with_capacity(operators.items.len());
    for operator in &operators.items {
        verified.push(verify(operator.token.as_bytes()).map_err(|defect| {
            Failure::new(
                Exit::Failed,
                format!("the node's operator {} does not verify: {defect}", operator.operator),
            )
        })?);
    }
    Ok(TrustedKeys::new(verified))
}

/// The trusted keys of the operator JWTs in `files`.
pub(super) fn trusted_files(files: &[PathBuf]) -> Result<TrustedKeys, Failure> {
    let mut verified = Vec::with_capacity(files.len());
    for file in files {
        let wrong = |defect: String| Failure::new(Exit::Usage, format!("{}: {defect}", file.display()));
        let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        verified.push(verify(&text).map_err(wrong)?);
    }
    Ok(TrustedKeys::new(verified))
}

/// The operator JWT in `file`, or in stdin for `-`.
pub(super) fn operator_file(file: &Path) -> Result<Verified<OperatorClaims>, Failure> {
    let text = read(file)?;
    verify(&text).map_err(|defect| {
        let detail = format!("{}: {defect}", file.display());
        Failure::new(Exit::Refused, without_seeds(&detail).into_owned())
    })
}

fn verify(text: &[u8]) -> Result<Verified<OperatorClaims>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "this is not text, so it is not an operator JWT".to_owned())?;
    Token::from_file_text(text)
        .and_then(Verified::<OperatorClaims>::verify)
        .map_err(|rejection| rejection.to_string())
}
