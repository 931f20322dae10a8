use std::sync::Arc;
fn main() -> std::process::ExitCode {
    backplane_conformance::main(backplane_conformance::MemoryHarness::new)
}
