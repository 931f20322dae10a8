//! The whole suite on NATS: `cargo test -p backplane-example-nats --test conformance`.

mod harness;
mod observer;
mod server;

fn main() -> std::process::ExitCode {
    backplane_conformance::try_main(harness::NatsHarness::start)
}
