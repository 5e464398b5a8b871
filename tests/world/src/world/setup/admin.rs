//! What the first editor types, with the built command.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::Ground;
use crate::fixture::HOME_ACCOUNT;
use crate::world::homes::home;

const ADMIN: &str = "keystile-admin";

/// People and the workload: name, roles, and the kind of IAM principal.
const USERS: [(&str, &str, &str); 5] = [
    ("alice", "access,editor", "user"),
    ("bob", "dev", "user"),
    ("carol", "analyst", "user"),
    ("dave", "", "user"),
    ("checkout", "checkout", "role"),
];

/// Signs in, writes matchers and roles, users and who they are, and the proxies' certificate.
pub(super) async fn set_up(ground: &Ground<'_>) -> Result<()> {
    keystile(ground, &["login"]).await?;
    let documents = ground.paths.repository.join("tests/world/setup/documents.yaml");
    keystile(ground, &["create", "-f", &documents.display().to_string()]).await?;
    for (name, roles, kind) in USERS {
        let mut add = vec!["users", "add", name];
        if !roles.is_empty() {
            add.extend(["--roles", roles]);
        }
        keystile(ground, &add).await?;
        let arn = format!("arn:aws:iam::{HOME_ACCOUNT}:{kind}/{name}");
        keystile(ground, &["users", "map-arn", &arn, "--user", name]).await?;
    }
    let out = certificate_folder(ground).display().to_string();
    let names = ["--name", "localhost", "--name", "127.0.0.1"];
    keystile(ground, &[&["ca", "host-cert", "--group", "default", "--out", &out], &names[..]].concat()).await
}

/// Where the proxies' certificate, key and CA are.
pub(super) fn certificate_folder(ground: &Ground<'_>) -> PathBuf {
    ground.paths.local.join("proxy")
}

/// Runs a scheduled function once.
pub(super) async fn invoke(ground: &Ground<'_>, function: &str) -> Result<()> {
    let mut command = Command::new(&ground.front.invoke);
    run(command.arg(function), &format!("invoke {function}")).await
}

async fn keystile(ground: &Ground<'_>, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(ground.command());
    command.args(arguments).env("KEYSTILE_HOME", home(ground.paths, ADMIN));
    run(&mut command, &format!("keystile {}", arguments.join(" "))).await
}

async fn run(command: &mut Command, shown: &str) -> Result<()> {
    let done =
        command.stdin(Stdio::null()).output().await.with_context(|| format!("cannot start {shown}"))?;
    if !done.status.success() {
        bail!(
            "`{shown}` ended with {}:\n{}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(())
}
