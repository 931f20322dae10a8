//! Where results are written: [`Outputs`].

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;

use super::args::{Format, RunArgs};
use crate::report::Report;

/// The files that a run writes.
#[derive(Debug)]
pub(super) struct Outputs {
    files: Vec<(Format, PathBuf)>,
}

impl Outputs {
    /// What the arguments ask for.
    ///
    /// # Errors
    /// Which file cannot be written, as far as that can be told before the run.
    pub(super) fn of(args: &RunArgs) -> Result<Self, String> {
        let output = args.output.iter().map(|file| (args.format, file.clone()));
        let files: Vec<_> = output.chain(args.reports.iter().cloned()).collect();
        for (_, file) in &files {
            writable(file)?;
        }
        Ok(Self { files })
    }

    /// Writes the files.
    ///
    /// # Errors
    /// Which one cannot be written, and why. The others are written all the same.
    pub(super) fn write(&self, report: &Report) -> Result<(), String> {
        let mut result = Ok(());
        for (format, file) in &self.files {
            let written = write(file, &document(report, *format));
            result = result.and(written);
        }
        result
    }
}

/// The report in a format.
pub(super) fn document(report: &Report, format: Format) -> String {
    match format {
        Format::Text => report.to_text(),
        Format::Json => report.to_json() + "\n",
        Format::Junit => report.to_junit(),
        Format::Markdown => report.to_markdown(),
    }
}

/// Whether a file can be there, for all that is known before it is written.
///
/// # Errors
/// Why not.
pub(super) fn writable(file: &Path) -> Result<(), String> {
    if file.is_dir() || file.file_name().is_none() {
        return Err(format!(
            "cannot write {}: it is a directory",
            file.display()
        ));
    }
    if !parent(file).is_dir() {
        let why = "its directory does not exist";
        return Err(format!("cannot write {}: {why}", file.display()));
    }
    Ok(())
}

/// Writes a file as a whole or not at all.
///
/// # Errors
/// Why it cannot be written.
pub(super) fn write(file: &Path, text: &str) -> Result<(), String> {
    try_write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

fn try_write(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", process::id()));
    let draft = parent(file).join(name);
    let written = File::create(&draft).and_then(|mut out| {
        out.write_all(text.as_bytes())?;
        out.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&draft, file));
    if done.is_err() {
        let _ = fs::remove_file(&draft);
    }
    done
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
