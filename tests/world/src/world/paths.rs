//! Where the world keeps what: one folder, with everything in it made anew by each `up`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders and files of one world.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The checkout.
    pub repository: PathBuf,
    /// The world's own folder, `target/local`.
    pub local: PathBuf,
    /// Where the packages were fetched to; the same folder, but for tests.
    pub packages: PathBuf,
    /// Where the optimised binaries are.
    pub binaries: PathBuf,
}

impl Paths {
    /// The world of this checkout.
    #[must_use]
    pub fn of_checkout() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(repository.join("target"), PathBuf::from);
        let local = repository.join("target/local");
        Self { packages: local.clone(), binaries: target.join("release"), local, repository }
    }

    /// A second world in a folder of its own, on the same packages and binaries.
    #[must_use]
    pub fn beside(&self, local: PathBuf) -> Self {
        Self { local, ..self.clone() }
    }

    /// One record for each process that runs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.local.join("run")
    }

    /// What a process prints.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.local.join("log").join(format!("{name}.log"))
    }

    /// The caches' configuration, certificates and state.
    #[must_use]
    pub fn servers(&self) -> PathBuf {
        self.local.join("servers")
    }

    /// What caches there are, for the front: [`crate::servers::Manifest`].
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.local.join("servers.json")
    }

    /// The passwords of this start: [`crate::fixture::Passwords`].
    #[must_use]
    pub fn passwords(&self) -> PathBuf {
        self.local.join("passwords.json")
    }

    /// Who holds which access key; the front writes it, the servers' module reads it.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.local.join("front/keys.json")
    }

    /// Shell lines that a client sources.
    #[must_use]
    pub fn env(&self) -> PathBuf {
        self.local.join("env")
    }

    /// JSON of all server processes.
    #[must_use]
    pub fn cache_nodes(&self) -> PathBuf {
        self.local.join("cache-nodes.json")
    }

    /// The module that plays the IAM login.
    #[must_use]
    pub fn iam_module(&self) -> PathBuf {
        std::env::var_os("KEYSTILE_VALKEY_MODULE")
            .map_or(self.binaries.join("libkeystile_valkey_iam.so"), PathBuf::from)
    }
}

/// Replaces a file at once, so that a reader sees the old or the new one. Only the owner may read it.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace_file(path: &Path, contents: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let next = path.with_extension(format!("new-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(contents)?;
        std::fs::rename(&next, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
