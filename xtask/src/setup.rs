//! What the checks need on a machine: a `redis-server`, a `nats-server`, and an image for the container fixture.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Engine;
use crate::image;
use crate::run::{Cmd, Result, on_path};

/// The variable that names the image of the container fixture, for us and for the suite.
pub(crate) const IMAGE_VARIABLE: &str = "BACKPLANE_REDIS_IMAGE";

/// The public image that is used where it can be had.
const PUBLIC_IMAGE: &str = "redis:7-alpine";

/// How long a pull may take before the image is built here instead.
const PULL_WITHIN: Duration = Duration::from_secs(60);

/// What to do about the checks that need a container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Containers {
    /// Fail before anything else if no engine answers (`--require-container`, or `CI` is set).
    Required,
    /// Run everything that can be run without an engine, then fail (the default).
    Wanted,
    /// Leave them out, because the person asked for it (`--without-container`).
    Declined,
}

impl Containers {
    /// The choice made by nobody: what the environment says.
    pub(crate) fn from_env() -> Self {
        match env::var("CI") {
            Ok(ci) if !ci.is_empty() && ci != "false" => Self::Required,
            _ => Self::Wanted,
        }
    }
}

/// What became of the container set-up.
#[derive(Clone, Debug)]
pub(crate) enum Image {
    /// An engine answers and holds this image.
    Ready(String),
    /// No engine answers, for this reason.
    NoEngine(String),
}

/// Makes sure that the toolchain has rustfmt and clippy, which a minimal one has not; says how.
pub(crate) fn fmt_and_clippy() -> Result<String> {
    let cargo = |tool: &str| Cmd::new("cargo").args([tool, "--version"]).output();
    let there = |tool: &str| cargo(tool).is_ok_and(|output| output.status.success());
    if there("fmt") && there("clippy") {
        return Ok("they were there".to_owned());
    }
    Cmd::new("rustup")
        .args(["component", "add", "rustfmt", "clippy"])
        .run()?;
    Ok("installed".to_owned())
}

/// Makes sure that a server program is on this machine; says how. The Debian package has the program's name.
pub(crate) fn server(program: &'static str) -> Result<String> {
    if let Some(found) = find(program) {
        return Ok(format!("{} was there", found.display()));
    }
    println!("{program} is not on PATH: installing the Debian package {program}");
    if on_path("apt-get").is_none() {
        return Err(format!(
            "{program} is not on PATH and there is no apt-get: install the package \
             that holds it (Debian and Ubuntu: {program})"
        ));
    }
    let root = Cmd::new("id").args(["-u"]).stdout()? == "0";
    if !root && on_path("sudo").is_none() {
        return Err(format!(
            "{program} is not on PATH, and installing it needs root or sudo: as \
             root, run `apt-get install {program}`"
        ));
    }
    // In runlevel 1 the package's service is not started. The checks start servers of their own
    // on free ports, so a service that runs nevertheless (systemd) does no harm.
    let settings = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "RUNLEVEL=1",
        "apt-get",
    ];
    let (first_program, first) = if root {
        ("env", &settings[1..])
    } else {
        ("sudo", &settings[..])
    };
    let apt_get = |args: &[&str]| Cmd::new(first_program).args([first, args].concat()).run();
    apt_get(&["update"])?;
    apt_get(&["install", "-y", "--no-install-recommends", program])?;
    match find(program) {
        Some(found) => Ok(format!("installed {}", found.display())),
        None => Err(format!(
            "the package {program} is installed, but {program} is not on PATH: \
             look where the package put it, and add that directory to PATH"
        )),
    }
}

/// Where a server program is: on `PATH`, or where Debian puts some that users have not on theirs. The fixtures
/// look there, too.
fn find(program: &str) -> Option<PathBuf> {
    let elsewhere = || {
        let path = PathBuf::from("/usr/sbin").join(program);
        path.is_file().then_some(path)
    };
    on_path(program).or_else(elsewhere)
}

/// Makes sure that the container engine holds an image for the fixture.
///
/// Needs [`server`] to have succeeded for `redis-server`: the last resort is an image made from it.
pub(crate) fn image() -> Result<Image> {
    let engine = match Engine::find() {
        Ok(engine) => engine,
        Err(reason) => return Ok(Image::NoEngine(reason)),
    };
    println!("container engine: {engine}");
    let ready = |image: &str, how: &str| {
        println!("container image: {image} ({how})");
        Ok(Image::Ready(image.to_owned()))
    };
    if let Some(image) = env::var(IMAGE_VARIABLE)
        .ok()
        .filter(|image| !image.is_empty())
    {
        if !engine.has_image(&image)? {
            engine
                .pull(&image, PULL_WITHIN)
                .map_err(|e| format!("{IMAGE_VARIABLE}={image} cannot be had: {e}"))?;
        }
        return ready(&image, IMAGE_VARIABLE);
    }
    if engine.has_image(image::LOCAL)? {
        return ready(
            image::LOCAL,
            "it was there; `cargo xtask image` builds it anew",
        );
    }
    if engine.has_image(PUBLIC_IMAGE)? {
        return ready(PUBLIC_IMAGE, "it was there");
    }
    match engine.pull(PUBLIC_IMAGE, PULL_WITHIN) {
        Ok(()) => ready(PUBLIC_IMAGE, "pulled"),
        Err(reason) => {
            println!(
                "{PUBLIC_IMAGE} cannot be pulled ({reason}): building {}",
                image::LOCAL
            );
            image::build(&engine)?;
            ready(image::LOCAL, "built from this machine's redis-server")
        }
    }
}

/// Builds the local image, whatever is there already.
pub(crate) fn rebuild_image() -> Result<()> {
    server("redis-server")?;
    let engine = Engine::find().map_err(|e| format!("no container engine answers: {e}"))?;
    println!("container engine: {engine}");
    image::build(&engine)
}
