//! The program `adaptdl_on_ray_aws`: the command line of AdaptDL on Ray. It is `rayconcile` under another name, for
//! it brings itself to the cluster, and is `rayconcile` there.

use std::process::ExitCode;

fn main() -> ExitCode {
    rayconcile::cli::main()
}
