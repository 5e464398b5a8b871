//! Where the command keeps things: its configuration, the person's certificate and key, and the
//! credentials of single routes. Files are for their owner alone and are replaced whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::failure::Failure;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;
const FILE_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The folders of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    config: PathBuf,
    state: PathBuf,
    aws: Option<PathBuf>,
}

/// `config.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// The Function URL of functions/access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_url: Option<String>,
    /// The region to sign for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    /// `text`, `json` or `yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
    /// What a newer version wrote, kept as it is.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

impl Home {
    /// `KEYSTILE_HOME`, else the XDG folders. Makes nothing.
    pub(crate) fn locate(environment: &Environment) -> Result<Self, Failure> {
        if let Some(own) = environment.var("KEYSTILE_HOME") {
            let own = absolute(Path::new(own))?;
            let aws = Some(own.join(".aws")).filter(|folder| folder.is_dir());
            return Ok(Self { config: own.clone(), state: own, aws });
        }
        let folder = |variable: &str, under_home: &str| -> Result<PathBuf, Failure> {
            if let Some(base) = environment.var(variable).map(Path::new).filter(|base| base.is_absolute()) {
                return Ok(base.join("keystile"));
            }
            let home = environment.var("HOME").ok_or_else(|| {
                Failure::usage("there is no place for Keystile's files")
                    .why("neither KEYSTILE_HOME nor HOME is set")
            })?;
            Ok(absolute(Path::new(home))?.join(under_home).join("keystile"))
        };
        Ok(Self {
            config: folder("XDG_CONFIG_HOME", ".config")?,
            state: folder("XDG_STATE_HOME", ".local/state")?,
            aws: None,
        })
    }

    /// The folder whose AWS credentials are the only ones that count, if there is one.
    pub(crate) fn aws_folder(&self) -> Option<&Path> {
        self.aws.as_deref()
    }

    /// The configuration's file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.join("config.yaml")
    }

    /// A file of the state folder.
    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The folder of all routes' credentials.
    pub(crate) fn routes(&self) -> PathBuf {
        self.state.join("routes")
    }

    /// The folder of a database's routes; the name is escaped, so that none leads elsewhere.
    pub(crate) fn database_routes(&self, database: &str) -> PathBuf {
        self.routes().join(file_name(database))
    }

    /// The folder of one route's credential.
    pub(crate) fn route(&self, database: &str, db_user: &str) -> PathBuf {
        self.database_routes(database).join(file_name(db_user))
    }

    /// Reads the configuration; none is an empty one.
    pub(crate) fn read_config(&self) -> Result<Config, Failure> {
        let path = self.config_file();
        let Some(text) = read_text(&path, MAX_CONFIG)? else { return Ok(Config::default()) };
        if text.trim().is_empty() {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} can't be read", path.display())).why(error.to_string())
        })
    }

    /// Replaces the configuration.
    pub(crate) fn write_config(&self, config: &Config) -> Result<(), Failure> {
        write_private(&self.config_file(), crate::output::yaml(config)?.as_bytes())
    }
}

/// The text of a file; none if it is not there.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, Failure> {
    let refused = |why: String| Failure::failed(format!("{} can't be read", path.display())).why(why);
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.to_string())),
        Ok(facts) if facts.len() > limit => return Err(refused(format!("it has more than {limit} bytes"))),
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(|error| refused(error.to_string()))
}

/// Writes a file of mode 0600 in one step: a reader sees the old one or the new one.
pub(crate) fn write_private(path: &Path, data: &[u8]) -> Result<(), Failure> {
    let refused = |error: std::io::Error| {
        Failure::failed(format!("{} can't be written", path.display())).why(error.to_string())
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_private_folder(folder)?;
    let draft = folder.join(format!(".keystile-{}", uuid::Uuid::new_v4().simple()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(data).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&draft);
        refused(error)
    })
}

/// Makes a folder of mode 0700, with those above it; one that is there is left as it is.
pub(crate) fn make_private_folder(folder: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::failed(format!("folder {} can't be made", folder.display())).why(error.to_string())
    })
}

/// Removes a file or a folder with all that is in it. Says whether it was there.
pub(crate) fn remove(path: &Path) -> Result<bool, Failure> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => {
            Err(Failure::failed(format!("{} can't be removed", path.display())).why(error.to_string()))
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{} is no folder", path.display())).why(error.to_string()))
}

fn file_name(name: &str) -> String {
    utf8_percent_encode(name, FILE_NAME).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keystile_home_replaces_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().to_str().unwrap();
        let vars = [("KEYSTILE_HOME", own), ("XDG_CONFIG_HOME", "/elsewhere"), ("HOME", "/home/x")];
        let home = Home::locate(&Environment::of(&vars)).unwrap();
        assert_eq!(home.config_file(), folder.path().join("config.yaml"));
        assert_eq!(home.state_file("cert.pem"), folder.path().join("cert.pem"));
        assert_eq!(home.aws_folder(), None);
        fs::create_dir(folder.path().join(".aws")).unwrap();
        let home = Home::locate(&Environment::of(&vars)).unwrap();
        assert_eq!(home.aws_folder(), Some(folder.path().join(".aws").as_path()));
    }

    #[test]
    fn without_it_the_xdg_folders() {
        let home =
            Home::locate(&Environment::of(&[("HOME", "/home/x"), ("XDG_STATE_HOME", "/state")])).unwrap();
        assert_eq!(home.config_file(), Path::new("/home/x/.config/keystile/config.yaml"));
        assert_eq!(home.state_file("key.pem"), Path::new("/state/keystile/key.pem"));
        assert_eq!(Home::locate(&Environment::of(&[])).unwrap_err().exit, 2);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let home = Home::locate(&Environment::of(&[("KEYSTILE_HOME", "/h")])).unwrap();
        assert_eq!(home.route("../x", ".."), Path::new("/h/routes/%2E%2E%2Fx/%2E%2E"));
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file");
        write_private(&path, b"1").unwrap();
        write_private(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("new")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn configuration_keeps_what_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().to_str().unwrap();
        let home = Home::locate(&Environment::of(&[("KEYSTILE_HOME", own)])).unwrap();
        assert_eq!(home.read_config().unwrap(), Config::default());
        fs::write(home.config_file(), "region: eu-west-1\nlater: {a: 1}\n").unwrap();
        let mut config = home.read_config().unwrap();
        config.access_url = Some("https://x".to_owned());
        home.write_config(&config).unwrap();
        let text = fs::read_to_string(home.config_file()).unwrap();
        assert!(text.contains("later") && text.contains("https://x") && text.contains("eu-west-1"), "{text}");
        fs::write(home.config_file(), "region: [").unwrap();
        assert_eq!(home.read_config().unwrap_err().exit, 2);
    }
}
