//! CERTIFICATES: read, checked, and read again when the files change. Never a line of a private key in a log.

mod files;
mod provider;
mod server;
mod x509;

pub use files::TlsError;
pub use provider::provider;
pub use server::ReloadableTls;
