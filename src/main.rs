//! The program: allocator, cryptography, and over to the command line.

use std::process::ExitCode;

// glibc's allocator keeps the peaks of many threads; mimalloc gives memory back and builds in seconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // mimalloc asks for huge pages: 30 MB more than is used, and a lookup now and then that waits until two megabytes are
    // cleared. Where it cannot be told, that is all that is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // The only place that chooses: rustls asks for it wherever no provider is named. It can only fail if one is
    // installed already, and then that one is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    jwtmesh::cli::run()
}
