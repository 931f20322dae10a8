//! The suite as a test of another crate: [`main`] and [`try_main`].

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use crate::harness::Harness;
use crate::rules;
use crate::runner::{Progress, Suite};

/// Runs the whole suite on a harness and prints the report; for a test target with `harness = false`.
///
/// The harness is made inside the runtime. Arguments that do not begin with a dash choose rules by their
/// numbers (`cargo test --test conformance -- D1 L5`); the environment variable
/// `BACKPLANE_CONFORMANCE_SEED` fixes the seed. The exit code says whether the backend is
/// certified.
#[must_use]
pub fn main<H: Harness>(harness: impl Fn() -> H + Send + Sync + 'static) -> ExitCode {
    try_main(move || {
        let harness = harness();
        async move { Ok::<_, String>(harness) }
    })
}

/// Like [`main`], for a harness that takes time to make, or that cannot always be made.
///
/// An error ends the run with exit code 2, and its text says what is missing.
#[must_use]
pub fn try_main<H, F, E>(make: impl Fn() -> F + Send + Sync + 'static) -> ExitCode
where
    H: Harness,
    F: Future<Output = Result<H, E>> + 'static,
    E: Display,
{
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let chosen = match rules::select(&wanted) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("there is no rule {unknown:?}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let harness: Arc<dyn Harness> = match make().await {
            Ok(harness) => Arc::new(harness),
            Err(error) => {
                eprintln!("the suite could not be run: {error}");
                return ExitCode::from(2);
            }
        };
        let mut suite = Suite::new(Arc::clone(&harness)).rules(chosen);
        let seed = std::env::var("BACKPLANE_CONFORMANCE_SEED").ok();
        if let Some(seed) = seed.and_then(|seed| seed.parse().ok()) {
            suite = suite.seed(seed);
        }
        let report = suite
            .run_with(|progress| {
                if let Progress::End { result, .. } = progress {
                    println!("{}", result.to_line());
                }
            })
            .await;
        harness.shut_down().await;
        println!("\n{}, seed {}", report.to_summary(), report.seed);
        match report.is_certified() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    })
}
