//! The suite as a test of another crate: [`main`].

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
///
/// With the feature `model`, the environment variable `BACKPLANE_CONFORMANCE_SOAK` runs the
/// model instead of the rules, for so many seconds.
pub fn main<H: Harness>(harness: impl FnOnce() -> H) -> ExitCode {
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
    let certified = runtime.block_on(async {
        let harness: Arc<dyn Harness> = Arc::new(harness());
        let seed = number("BACKPLANE_CONFORMANCE_SEED");
        #[cfg(feature = "model")]
        if let Some(seconds) = number("BACKPLANE_CONFORMANCE_SOAK") {
            let passed = soak(Arc::clone(&harness), seconds, seed).await;
            harness.shut_down().await;
            return passed;
        }
        let mut suite = Suite::new(Arc::clone(&harness)).rules(chosen);
        if let Some(seed) = seed {
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
        report.is_certified()
    });
    if certified {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(feature = "model")]
async fn soak(harness: Arc<dyn Harness>, seconds: u64, seed: Option<u64>) -> bool {
    let mut soak =
        crate::model::Soak::new(harness).duration(std::time::Duration::from_secs(seconds));
    if let Some(seed) = seed {
        soak = soak.seed(seed);
    }
    let report = soak.run(|_| {}).await;
    println!("{}\nseed {}", report.to_text(), report.last_seed);
    report.is_passed()
}
