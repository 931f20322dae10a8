//! A comparison for people and for programs.

pub mod json;
pub mod markdown;
pub mod table;
mod tables;
pub mod text;

pub use self::tables::tables;
use crate::machine::About;

/// The machine and the versions, in a few lines.
#[must_use]
pub fn machine(about: &About) -> String {
    let form = if about.quick { ", quick" } else { "" };
    let optimised = if about.optimised {
        ""
    } else {
        "\nNOT OPTIMISED: these figures mean nothing, run it with --release"
    };
    format!(
        "{}: {} cores of {}, {} GiB, {}\nrustc {}, Redis {}, redis crate {}, {} bytes a message, {} rounds{form}{optimised}",
        about.date,
        about.cores,
        about.cpu,
        about.memory_gib,
        about.kernel,
        about.rustc,
        about.redis,
        about.redis_crate,
        about.payload,
        about.rounds,
    )
}
