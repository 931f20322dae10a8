//! Hashing of ids that the node itself counts or draws: nobody outside can choose them, so the hash needs no secret.

use std::hash::{BuildHasher, Hasher};

/// Hashes numbers that are counted up, or random.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ById;

#[derive(Debug)]
pub(crate) struct IdHasher(u64);

impl BuildHasher for ById {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(0)
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    /// Spreads the number over all bits, of which a table looks at the lowest and the highest.
    fn write_u64(&mut self, n: u64) {
        const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15;
        let wide = u128::from(self.0 ^ n) * GOLDEN;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
