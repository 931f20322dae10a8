//! What is to be run: [`Plan`].

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};

use crate::harness::Description;
use crate::report::About;
use crate::rule::Rule;
use crate::{rules, scale};

/// What is to be run, and how: the same for one harness and for several.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) rules: Vec<Rule>,
    pub(super) seed: u64,
    /// Or what is wrong with the one that the environment gives.
    pub(super) scale: Result<f64, String>,
    shuffled: bool,
}

impl Plan {
    /// All rules in the order of the contract, with a random seed, and the time scale of the environment variable
    /// `BACKPLANE_TIME_SCALE`. If that is no number from 1 to 100, every verdict is inconclusive and says so.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rules: rules::all(),
            // Small enough to survive readers of JSON that know only doubles.
            seed: rand::random::<u32>().into(),
            scale: scale::of_environment(),
            shuffled: false,
        }
    }

    /// Runs only these rules.
    #[must_use]
    pub fn rules(mut self, rules: Vec<Rule>) -> Self {
        self.rules = rules;
        self
    }

    /// Fixes the seed, which decides names, random choices and the order of a shuffled run. A rule makes the same
    /// choices whether it runs alone or among others.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Stretches every time limit of the trials by this factor, for a slow machine. Default 1.
    #[must_use]
    pub fn time_scale(mut self, scale: f64) -> Self {
        self.scale = Ok(scale);
        self
    }

    /// Tries the rules in an order that the seed decides. The report has them in the order of the contract all the
    /// same.
    #[must_use]
    pub const fn shuffled(mut self, shuffled: bool) -> Self {
        self.shuffled = shuffled;
        self
    }

    /// Multiplies the time scale.
    #[cfg(feature = "memory")]
    pub(super) fn times(mut self, factor: f64) -> Self {
        self.scale = self.scale.map(|scale| scale * factor);
        self
    }

    /// The places of the rules, in the order in which they are to be tried.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rules.len()).collect();
        if self.shuffled {
            order.shuffle(&mut StdRng::seed_from_u64(self.seed));
        }
        order
    }

    pub(super) fn about(&self, of: Description, jobs: usize) -> About {
        let mut about = About::new(of, self.seed);
        about.time_scale = *self.scale.as_ref().unwrap_or(&1.0);
        about.jobs = jobs;
        about.shuffled = self.shuffled;
        about
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

/// The seed of one trial: from the seed of the run and the number of the rule, nothing else.
pub(super) fn trial_seed(seed: u64, id: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mixed = id.bytes().fold(seed, |mixed, byte| {
        (mixed.rotate_left(8) ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    StdRng::seed_from_u64(mixed).random()
}
