//! x

#[cfg(feature = "redis")]
pub mod fixtures;
