//! A JSON file that someone else replaces: read again when it has changed.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

/// A file and its last good contents. A file that is missing or broken keeps the last good contents
/// (at first: empty, which lets nobody in), and says so once per change.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    path: PathBuf,
    seen: Option<Mark>,
    value: T,
}

/// What tells one version of a file from the next. A writer that replaces the file changes the inode
/// even within one tick of the clock.
#[derive(Debug, PartialEq)]
struct Mark {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl<T: Default + DeserializeOwned> Watched<T> {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, value: T::default() }
    }

    /// The contents as they are now, and a complaint if they could not be read.
    pub(crate) fn current(&mut self) -> (&T, Option<String>) {
        let mark = match std::fs::metadata(&self.path) {
            Ok(found) => {
                Mark { inode: found.ino(), size: found.size(), modified: (found.mtime(), found.mtime_nsec()) }
            }
            Err(error) => return (&self.value, Some(format!("{}: {error}", self.path.display()))),
        };
        if self.seen.as_ref() == Some(&mark) {
            return (&self.value, None);
        }
        let read = std::fs::read(&self.path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        self.seen = Some(mark);
        match read {
            Ok(value) => {
                self.value = value;
                (&self.value, None)
            }
            Err(error) => (&self.value, Some(format!("{}: {error}", self.path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Users;

    #[test]
    fn a_replaced_file_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = std::env::temp_dir().join(format!("keystile-watched-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("users.json");
        let replace = |text: &str| {
            std::fs::write(folder.join("new"), text).unwrap();
            std::fs::rename(folder.join("new"), &path).unwrap();
        };
        let mut users: Watched<Users> = Watched::new(path.clone());
        assert!(!users.current().0.is_iam("ro"), "no file, no users");
        assert!(users.current().1.is_some());

        replace(r#"{"users": {"ro": {"auth": "iam"}, "app": {"auth": "password"}}}"#);
        assert!(users.current().0.is_iam("ro"));
        assert!(!users.current().0.is_iam("app"));
        replace("{");
        let (kept, complaint) = users.current();
        assert!(kept.is_iam("ro") && complaint.is_some());
        replace(r#"{"users": {"app": {"auth": "iam"}}}"#);
        assert!(users.current().0.is_iam("app"));
        assert!(!users.current().0.is_iam("ro"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
