//! The program `rayconcile`.

use std::process::ExitCode;

/// What a controller used for a moment goes back to the system, and a plan's many small values cost less than they do
/// with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rayconcile::cli::main()
}
