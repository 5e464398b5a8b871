//! A home for each Keystile user, with the AWS files that a person would have there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::front::FrontFile;
use super::paths::{Paths, replace_file};
use crate::fixture::{HOME_ACCOUNT, HOME_REGION};

/// The IAM user who may assume the role of the workload.
const ADMIN: &str = "keystile-admin";
/// The workload, which signs in with its role's keys.
const WORKLOAD: &str = "checkout";

/// `target/local/home/<user>`: a value of `KEYSTILE_HOME`.
#[must_use]
pub fn home(paths: &Paths, user: &str) -> PathBuf {
    paths.local.join("home").join(user)
}

/// Makes the homes anew: one for each IAM user, and one for the workload, whose profile assumes its role.
///
/// # Errors
/// When a file cannot be written.
pub fn make(paths: &Paths, front: &FrontFile) -> Result<()> {
    let _ = std::fs::remove_dir_all(paths.local.join("home"));
    for (user, keys) in &front.users {
        write_home(paths, front, user, &profile(front, ""), &credentials("default", keys))?;
    }
    let admin = front.users.get(ADMIN).with_context(|| format!("the front has no user {ADMIN}"))?;
    let role = format!(
        "role_arn = arn:aws:iam::{HOME_ACCOUNT}:role/{WORKLOAD}\nrole_session_name = {WORKLOAD}\nsource_profile = admin\n"
    );
    let admins = format!("[profile admin]\nregion = {HOME_REGION}\nendpoint_url = {}\n", front.endpoint_url);
    let config = format!("{}{admins}", profile(front, &role));
    write_home(paths, front, WORKLOAD, &config, &credentials("admin", admin))
}

fn profile(front: &FrontFile, more: &str) -> String {
    format!("[default]\nregion = {HOME_REGION}\nendpoint_url = {}\n{more}", front.endpoint_url)
}

fn credentials(profile: &str, keys: &BTreeMap<String, String>) -> String {
    let line = |name: &str| keys.get(name).map(|value| format!("{} = {value}\n", name.to_lowercase()));
    let lines = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(line);
    let lines: String = lines.into_iter().flatten().collect();
    format!("[{profile}]\n{lines}")
}

fn write_home(paths: &Paths, front: &FrontFile, user: &str, config: &str, credentials: &str) -> Result<()> {
    let home = home(paths, user);
    replace_file(&home.join(".aws/config"), config.as_bytes())?;
    replace_file(&home.join(".aws/credentials"), credentials.as_bytes())?;
    let own = format!("access_url: {}\nregion: {HOME_REGION}\n", front.access_url);
    replace_file(&home.join("config.yaml"), own.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_own_keys_and_the_workload_assumes_its_role() {
        let folder = std::env::temp_dir().join(format!("keystile-homes-{}", std::process::id()));
        let paths = Paths::of_checkout().beside(folder);
        let keys = |id: &str| {
            BTreeMap::from([
                ("AWS_ACCESS_KEY_ID".to_owned(), id.to_owned()),
                ("AWS_SECRET_ACCESS_KEY".to_owned(), "secret".to_owned()),
            ])
        };
        let front = FrontFile {
            endpoint_url: "http://127.0.0.1:1".into(),
            faults_url: String::new(),
            access_url: "http://127.0.0.1:2".into(),
            control_url: String::new(),
            control_token: String::new(),
            invoke: PathBuf::new(),
            users: BTreeMap::from([("alice".into(), keys("AKIAALICE")), (ADMIN.into(), keys("AKIAADMIN"))]),
        };
        make(&paths, &front).unwrap();
        let read = |file: &str| std::fs::read_to_string(paths.local.join("home").join(file)).unwrap();
        assert_eq!(
            read("alice/.aws/credentials"),
            "[default]\naws_access_key_id = AKIAALICE\naws_secret_access_key = secret\n"
        );
        assert!(read("alice/config.yaml").contains("access_url: http://127.0.0.1:2\n"));
        assert!(read("checkout/.aws/config").contains("source_profile = admin"));
        assert!(read("checkout/.aws/credentials").starts_with("[admin]\naws_access_key_id = AKIAADMIN\n"));
        std::fs::remove_dir_all(&paths.local).unwrap();
    }
}
