//! The `backplane-conformance` command; see [`backplane_conformance::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backplane_conformance::cli::main()
}
