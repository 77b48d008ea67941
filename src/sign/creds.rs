//! The file with which a NATS client logs in.

use anyhow::Context;
use nkeys::KeyPair;

/// The text of a creds file: a user's token and seed.
pub fn creds(token: &str, user: &KeyPair) -> anyhow::Result<String> {
    let seed = user.seed().context("the user's key has no seed")?;
    Ok(format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\
         NKEYs are sensitive and should be treated as secrets.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
         *************************************************************\n"
    ))
}
