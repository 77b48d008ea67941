//! CERTIFICATES: read, checked, and read again when the files change. Never a line of a private key in a log.
//!
//! `server.rs` makes a [`ReloadableTls`] of a port's certificate, key and client authorities. It follows the files and
//! gives each new connection the current configuration. A defect in new files is logged, and the old configuration
//! stays in use. `files.rs` reads the PEM files and names the file that is wrong; `x509.rs` reads the two fields of a
//! certificate that are needed. `provider.rs` has the crypto provider of this program's servers and clients.
//!
//! The handshakes are made elsewhere: in `listener` and in `client`. `reason.rs` says why one with a client failed.

mod files;
mod provider;
mod reason;
mod server;
mod x509;

pub use files::TlsError;
pub use provider::provider;
pub use reason::{TOO_SLOW, reason};
pub use server::ReloadableTls;
