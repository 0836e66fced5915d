//! The program `rayconcile`.

use std::process::ExitCode;

fn main() -> ExitCode {
    rayconcile::cli::main()
}
