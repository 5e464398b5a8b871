//! What `setup/packages` has fetched: Valkey's programs and ministack, and how to start them.
//!
//! It looks and never downloads: the script does, and says what.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The fetched programs, checked to be there.
#[derive(Debug, Clone)]
pub struct Packages {
    root: PathBuf,
    venv: PathBuf,
    /// What the servers report, such as `8.0.1`.
    pub version: String,
}

impl Packages {
    /// Runs the package script, which does nothing when nothing has changed.
    ///
    /// # Errors
    /// When Python is missing or the script stops; it has then said why on standard error.
    pub fn fetch(repository: &Path, into: &Path) -> Result<()> {
        let script = repository.join("tests/world/setup/packages");
        let status = Command::new("python3")
            .arg(&script)
            .arg("--into")
            .arg(into)
            .status()
            .context("python3 does not start, and the package script needs it")?;
        if !status.success() {
            bail!("the packages are not complete; {} says why above", script.display());
        }
        Ok(())
    }

    /// Finds what was fetched into a folder.
    ///
    /// # Errors
    /// When something is missing, with the command that fetches it.
    pub fn locate(folder: &Path) -> Result<Self> {
        let (root, venv) = (folder.join("pkgs"), folder.join("venv"));
        let version = std::fs::read_to_string(root.join("VERSION")).unwrap_or_default().trim().to_owned();
        let found = Self { root, venv, version };
        for program in [found.program("valkey-server"), found.program("valkey-cli"), found.ministack()] {
            if !program.exists() || found.version.is_empty() {
                bail!(
                    "{} is missing; run: tests/world/setup/packages --into {}",
                    program.display(),
                    folder.display()
                );
            }
        }
        Ok(found)
    }

    /// Path of `valkey-server`, `valkey-cli`, `valkey-benchmark`, `redis-cli`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("usr/bin").join(name)
    }

    /// Path of ministack's start script.
    #[must_use]
    pub fn ministack(&self) -> PathBuf {
        self.venv.join("bin/ministack")
    }
}
