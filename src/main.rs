//! The program: sets the allocator and the cryptography, then hands over to the command line.

use std::process::ExitCode;

// glibc's allocator keeps the peak memory of many threads; mimalloc gives memory back and builds in seconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // mimalloc asks for huge pages, which cost 30 MB more than is used, and now and then delay a lookup until two
    // megabytes are cleared. Where the system refuses to turn them off, that is all that is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // The only place that chooses the provider: rustls uses it wherever none is named. It can only fail if one is
    // installed already, and then that one will do.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    jwtmesh::cli::run()
}
