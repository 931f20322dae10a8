//! The program `backplane-benches`; see [`backplane_benches::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backplane_benches::cli::main()
}
