//! One call of the command line on one backend: [`Session`].

use std::future::{self, Future};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use tokio::time::timeout;

use super::args::RunArgs;
use super::outputs::{self, Outputs};
use super::reproduction::Reproduction;
use super::screen::Screen;
#[cfg(feature = "model")]
use super::soak;
use super::{complain, refuse};
use crate::expected::Expected;
use crate::harness::{Description, Harness};
use crate::report::Report;
use crate::rule::Rule;
use crate::runner::{Fleet, Plan};
use crate::{rules, scale};

/// How long the end of all harnesses may take, before the scale factor.
const END_LIMIT: Duration = Duration::from_secs(60);

/// How long what still runs may take to notice that it is over, before the scale factor.
const RUNTIME_LIMIT: Duration = Duration::from_secs(5);

/// The seed, for who cannot give arguments.
const SEED_VARIABLE: &str = "BACKPLANE_CONFORMANCE_SEED";

/// What is to be run, and how.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) args: RunArgs,
    /// How many rules are tried at once if the arguments do not say it.
    pub(super) jobs: NonZeroUsize,
    /// The command line that runs the whole suite on the backend.
    pub(super) command: fn(&Description) -> String,
}

/// What the arguments mean, when they make sense.
#[derive(Debug)]
struct Orders {
    rules: Vec<Rule>,
    seed: u64,
    scale: f64,
    jobs: NonZeroUsize,
    outputs: Outputs,
    expect: Option<(PathBuf, Expected)>,
}

impl Session {
    /// Runs the suite until its end or an interrupt, and ends every harness.
    pub(super) fn run<F>(self, make: impl Fn() -> F + Send + Sync + 'static) -> ExitCode
    where
        F: Future<Output = Result<Arc<dyn Harness>, String>> + 'static,
    {
        let orders = match self.orders() {
            Ok(orders) => orders,
            Err(why) => return refuse(why),
        };
        scale::set(orders.scale);
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return refuse(format_args!("cannot start the runtime: {error}")),
        };
        let code = runtime.block_on(async {
            let mut fleet = Fleet::of(orders.jobs, make);
            #[cfg(feature = "model")]
            let code = match self.args.soak {
                Some(duration) => self.soak(&mut fleet, &orders, duration).await,
                None => self.verify_until_interrupted(&mut fleet, &orders).await,
            };
            #[cfg(not(feature = "model"))]
            let code = self.verify_until_interrupted(&mut fleet, &orders).await;
            let limit = scale::stretched(END_LIMIT);
            match timeout(limit, fleet.shut_down()).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => complain(why),
                Err(_) => complain(format_args!("the harnesses did not end within {limit:?}")),
            }
            code
        });
        runtime.shutdown_timeout(scale::stretched(RUNTIME_LIMIT));
        code
    }

    fn orders(&self) -> Result<Orders, String> {
        let args = &self.args;
        let rules = rules::select(&args.rules)
            .map_err(|unknown| format!("there is no rule {unknown:?}; `list` prints the rules"))?;
        let scale = match args.time_scale {
            Some(scale) => scale,
            None => scale::of_environment()?,
        };
        let seed = match (args.seed, env::var(SEED_VARIABLE)) {
            (Some(seed), _) => seed,
            (None, Ok(seed)) => seed
                .parse()
                .map_err(|_| format!("{SEED_VARIABLE}: it must be a number"))?,
            (None, Err(_)) => rand::random::<u32>().into(),
        };
        let outputs = Outputs::of(args)?;
        if let Some(file) = &args.write_expected {
            outputs::writable(file)?;
        }
        let expect = match &args.expect {
            Some(file) => Some((file.clone(), read(file)?)),
            None => None,
        };
        // More would have nothing to do.
        let useful = NonZeroUsize::new(rules.len()).unwrap_or(NonZeroUsize::MIN);
        Ok(Orders {
            jobs: args.jobs.unwrap_or(self.jobs).min(useful),
            rules,
            seed,
            scale,
            outputs,
            expect,
        })
    }

    async fn verify_until_interrupted(&self, fleet: &mut Fleet, orders: &Orders) -> ExitCode {
        tokio::select! {
            biased;
            code = interrupt() => code.into(),
            code = self.verify(fleet, orders) => code,
        }
    }

    /// Runs the model. An interrupt ends it with the account so far.
    #[cfg(feature = "model")]
    async fn soak(&self, fleet: &mut Fleet, orders: &Orders, duration: Duration) -> ExitCode {
        let ready = tokio::select! {
            biased;
            code = interrupt() => return code.into(),
            ready = fleet.ready() => ready,
        };
        if let Err(why) = ready {
            return refuse(why);
        }
        let Some(harness) = fleet.harness() else {
            return refuse("there is no harness");
        };
        let command = (self.command)(&harness.describe());
        let scale = match orders.scale {
            1.0 => String::new(),
            scale => format!(" --time-scale {scale}"),
        };
        let wanted = soak::Wanted {
            duration,
            seed: orders.seed,
            scale: orders.scale,
            format: self.args.format,
            reproduction: format!("{command} --soak {}s{scale}", duration.as_secs()),
        };
        soak::run(Arc::clone(harness), &wanted, interrupt()).await
    }

    async fn verify(&self, fleet: &mut Fleet, orders: &Orders) -> ExitCode {
        if let Err(why) = fleet.ready().await {
            return refuse(why);
        }
        let Some(harness) = fleet.harness() else {
            return refuse("there is no harness");
        };
        let of = harness.describe();
        let args = &self.args;
        let reproduction = Reproduction {
            command: (self.command)(&of),
            rules: args.rules.clone(),
            repeat: args.repeat,
            scale: orders.scale,
            jobs: args.jobs.map(NonZeroUsize::get),
            shuffle: args.shuffle,
        };
        let mut screen = Screen::new(args);
        let mut runs: Vec<Report> = Vec::new();
        for repetition in 0..args.repeat {
            let seed = orders.seed.wrapping_add(repetition);
            let plan = Plan::new()
                .rules(orders.rules.clone())
                .seed(seed)
                .time_scale(orders.scale)
                .shuffled(args.shuffle);
            screen.begin(&of, seed);
            let report = fleet
                .run_with(plan, |progress| screen.show(&progress))
                .await;
            screen.end(&report);
            let lost = report.broker_lost.clone();
            runs.push(reproduction.add_to(report));
            if let Some(why) = lost {
                complain(format_args!(
                    "the broker is lost, and the rest was not tried: {why}"
                ));
                break;
            }
        }
        let report = match args.repeat {
            1 => runs.pop(),
            _ => Report::repeated(runs),
        };
        match report {
            Some(report) => self.finish(&screen, &report, orders),
            // There was at least one run.
            None => refuse("nothing was run"),
        }
    }

    fn finish(&self, screen: &Screen, report: &Report, orders: &Orders) -> ExitCode {
        screen.close(report);
        let mut written = orders.outputs.write(report);
        if let Some(file) = &self.args.write_expected {
            let expected = self.write_expected(file, report);
            written = written.and(expected);
        }
        if let Err(why) = written {
            return refuse(why);
        }
        let as_expected = match &orders.expect {
            Some((file, expected)) => {
                let differences = expected.differences(report, self.args.rules.is_empty());
                screen.differences(file, &differences);
                differences.is_empty()
            }
            None => true,
        };
        match report.is_certified() && as_expected {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn write_expected(&self, file: &Path, report: &Report) -> Result<(), String> {
        if let Some(why) = &report.broker_lost {
            return Err(format!("no verdicts are expected of a lost broker: {why}"));
        }
        let mut expected = Expected::of(report);
        if !self.args.rules.is_empty() && file.exists() {
            let mut all = read(file)?;
            all.rules.append(&mut expected.rules);
            expected.rules = all.rules;
        }
        outputs::write(file, &expected.to_json())
    }
}

fn read(file: &Path) -> Result<Expected, String> {
    let of = |why: String| format!("{}: {why}", file.display());
    let text = fs::read_to_string(file).map_err(|error| of(error.to_string()))?;
    Expected::from_json(&text).map_err(of)
}

/// Waits for the signal that ends everything, and says the exit code.
#[cfg(unix)]
async fn interrupt() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};

    let arrival = |kind: SignalKind, code: u8| async move {
        let Ok(mut signal) = signal(kind) else {
            return future::pending().await;
        };
        match signal.recv().await {
            Some(()) => code,
            None => future::pending().await,
        }
    };
    let code = tokio::select! {
        code = arrival(SignalKind::interrupt(), 130) => code,
        code = arrival(SignalKind::terminate(), 143) => code,
    };
    complain("interrupted");
    code
}

/// Waits for the signal that ends everything, and says the exit code.
#[cfg(not(unix))]
async fn interrupt() -> u8 {
    match tokio::signal::ctrl_c().await {
        Ok(()) => complain("interrupted"),
        Err(_) => future::pending().await,
    }
    130
}
