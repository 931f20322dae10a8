//! What the contenders allocate, counted by a program of its own: [`Counted`].

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::compare::Plan;
use crate::error::{Error, Result};

/// The program that counts. Its allocator slows down every allocation, so it is not the one that takes times.
pub const PROGRAM: &str = "backplane-benches-allocations";

/// What was counted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Counted {
    /// Allocations for a message, by number of publishers and contender.
    pub per_message: BTreeMap<String, BTreeMap<String, f64>>,
    /// Bytes on the heap for an idle subscription with a channel of its own, by contender.
    pub per_subscription: BTreeMap<String, f64>,
    /// How many subscriptions there were.
    pub subscriptions: usize,
}

/// Runs the program that counts, on the server of this URL, for this plan.
///
/// # Errors
/// [`Error::Counting`] says what is missing, or what the program said.
pub async fn count(url: &str, plan: &Plan) -> Result<Counted> {
    let program = program().await?;
    let output = Command::new(&program)
        .arg(url)
        .args([plan.payload, plan.channels].map(|n| n.to_string()))
        .args(plan.publishers.iter().map(usize::to_string))
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::io(format!("{}", program.display())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Counting(said.trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Counting(error.to_string()))
}

/// The program beside this one. Under cargo, which builds only the program that it runs, it is built first.
async fn program() -> Result<PathBuf> {
    let this = env::current_exe().map_err(Error::io("the path of this program"))?;
    let program = this.with_file_name(PROGRAM);
    if let Some(cargo) = env::var_os("CARGO") {
        build(&cargo, &this).await?;
    }
    if program.exists() {
        return Ok(program);
    }
    Err(Error::Counting(format!(
        "{} is missing: build it with `cargo build --release -p backplane-benches`",
        program.display()
    )))
}

/// Builds the program into the directory where `this` is.
async fn build(cargo: &OsString, this: &Path) -> Result<()> {
    let (Some(directory), Some(profile)) = (
        this.ancestors().nth(2),
        this.parent().and_then(Path::file_name),
    ) else {
        return Ok(());
    };
    let profile = if profile == "debug" {
        "dev".as_ref()
    } else {
        profile
    };
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .args(["--bin", PROGRAM, "--profile"])
        .arg(profile)
        .arg("--target-dir")
        .arg(directory)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(Error::io("cargo"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Counting(format!("cargo could not build {PROGRAM}")))
    }
}
