//! The Redis image for the container fixture, made from this machine's own `redis-server`.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process;

use crate::engine::Engine;
use crate::run::{Cmd, Result, on_path};

/// The image this file builds.
pub(crate) const LOCAL: &str = "backplane-redis:local";

/// Where the server is inside the image.
const SERVER: &str = "/usr/bin/redis-server";

/// What the server is started with; the arguments of `docker run` follow.
const ARGS: &[&str] = &[
    "--save",
    "",
    "--appendonly",
    "no",
    "--protected-mode",
    "no",
    "--bind",
    "0.0.0.0",
];

/// Builds [`LOCAL`], replacing it: the `redis-server` on `PATH`, the libraries it loads, `/tmp`.
pub(crate) fn build(engine: &Engine) -> Result<()> {
    let server = on_path("redis-server").ok_or("redis-server is not on PATH")?;
    let ldd = Cmd::new("ldd").args([server.to_string_lossy()]);
    println!("$ {ldd}");
    let libraries = libraries(&ldd.stdout()?)?;

    let scratch = Scratch::new()?;
    let root = scratch.0.join("root");
    add(&root, &server, Path::new(SERVER))?;
    for library in &libraries {
        add(&root, library, library)?;
    }
    let tmp = root.join("tmp");
    create(&tmp)?;
    fs::set_permissions(&tmp, Permissions::from_mode(0o1777))
        .map_err(|e| format!("cannot open {} to all: {e}", tmp.display()))?;
    println!(
        "{LOCAL}: {} and {} libraries",
        server.display(),
        libraries.len()
    );

    let tar = scratch.0.join("image.tar");
    Cmd::new("tar")
        .args([
            "--create",
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--file",
        ])
        .args([
            tar.to_string_lossy(),
            "--directory".into(),
            root.to_string_lossy(),
            ".".into(),
        ])
        .run()?;
    engine.import(&tar, LOCAL, &changes(&libraries))?;
    if let Some(version) = engine.version_inside(LOCAL, SERVER)? {
        println!("{LOCAL}: {version}");
    }
    Ok(())
}

/// The instructions that turn the files into an image with a server.
fn changes(libraries: &BTreeSet<PathBuf>) -> Vec<String> {
    let words: Vec<String> = [SERVER]
        .iter()
        .chain(ARGS)
        .map(|word| format!("{word:?}"))
        .collect();
    // The image has no ld.so.cache, so the loader is told where the libraries were found.
    let dirs: BTreeSet<_> = libraries
        .iter()
        .filter_map(|library| library.parent())
        .collect();
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.to_string_lossy()).collect();
    vec![
        format!("ENTRYPOINT [{}]", words.join(", ")),
        format!("ENV LD_LIBRARY_PATH={}", dirs.join(":")),
        "EXPOSE 6379".to_owned(),
    ]
}

/// The files that `ldd` names: the libraries and the loader itself.
fn libraries(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for line in ldd.lines().map(str::trim) {
        // `name => /path (address)`, `/path (address)`, or the kernel's `linux-vdso.so.1 (address)`.
        let target = line.split_once(" => ").map_or(line, |(_, path)| path);
        if target.starts_with("not found") {
            return Err(format!("ldd: {line}"));
        }
        if let Some(path) = target
            .split(" (")
            .next()
            .filter(|path| path.starts_with('/'))
        {
            files.insert(PathBuf::from(path));
        }
    }
    Ok(files)
}

/// Copies the file behind `source` (links followed) to the absolute path `place` below `root`.
fn add(root: &Path, source: &Path, place: &Path) -> Result<()> {
    let target = root.join(place.strip_prefix("/").unwrap_or(place));
    if let Some(parent) = target.parent() {
        create(parent)?;
    }
    fs::copy(source, &target).map_err(|e| format!("cannot copy {}: {e}", source.display()))?;
    Ok(())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))
}

/// A directory that goes away with this value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = env::temp_dir().join(format!("backplane-image-{}", process::id()));
        fs::create_dir(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {e}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LDD: &str = "\tlinux-vdso.so.1 (0x00007f0bcb523000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0bcaaa5000)
\tlibssl.so.3 => /usr/lib/libssl.so.3 (0x00007f0bcac87000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0bcb525000)
";

    #[test]
    fn every_file_that_ldd_names_is_taken_and_the_vdso_is_not() {
        let files = libraries(LDD).unwrap();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
            "/usr/lib/libssl.so.3",
        ];
        assert_eq!(files, expected.iter().map(PathBuf::from).collect());
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = libraries("\tlibjemalloc.so.2 => not found\n").unwrap_err();
        assert!(error.contains("libjemalloc.so.2"), "{error}");
    }

    #[test]
    fn the_image_starts_a_server_that_keeps_nothing_and_listens_to_the_outside() {
        let changes = changes(&libraries(LDD).unwrap());
        assert_eq!(
            changes,
            [
                r#"ENTRYPOINT ["/usr/bin/redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "0.0.0.0"]"#,
                "ENV LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/lib64:/usr/lib",
                "EXPOSE 6379",
            ]
        );
    }
}
