//! The whole suite on NATS: `cargo test -p backplane-example-nats --test conformance`.

mod harness;
mod observer;
mod server;

use std::process::ExitCode;

use harness::NatsHarness;

fn main() -> ExitCode {
    match NatsHarness::start() {
        Ok(harness) => backplane_conformance::main(|| harness),
        Err(error) => {
            eprintln!("the suite could not be run: {error}");
            ExitCode::from(2)
        }
    }
}
