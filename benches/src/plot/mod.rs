//! Plots as SVG, readable in light and in dark.

mod chart;
mod comparison;
mod scale;

pub use self::chart::{Chart, Series, page};
pub use self::comparison::comparison;
