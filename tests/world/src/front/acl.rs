//! Brings users to a cache server, as the servers' own admin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use super::caches::changes::Effect;
use crate::fixture::{self, CacheAuth};
use crate::servers::client::{Client, Reply};

/// How long a server is tried before the change goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who brings users to servers.
#[derive(Debug)]
pub(crate) struct ServerAdmin {
    ca: PathBuf,
    password: SecretString,
}

impl ServerAdmin {
    /// The admin with its password, who trusts the CA in a PEM file.
    pub(crate) fn new(ca: &Path, password: &str) -> Self {
        Self { ca: ca.to_owned(), password: password.into() }
    }

    /// Brings users to one server; tries again for a while where it does not answer.
    pub(crate) async fn apply(&self, port: u16, effects: &[Effect]) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        loop {
            match self.once(port, effects).await {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn once(&self, port: u16, effects: &[Effect]) -> anyhow::Result<()> {
        let password = self.password.expose_secret();
        let mut client = Client::login(&self.ca, port, fixture::TEST_ADMIN, password).await?;
        for effect in effects {
            let words = command(effect);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            // The server's answer may repeat a rule, and a rule may be a password: it is not passed on.
            if let Reply::Error(_) = client.call(&words).await? {
                bail!("the server refuses the rules of {}", words.get(2).unwrap_or(&"a user"));
            }
        }
        // Kept for a restart of the server.
        let saved = client.call(&["ACL", "SAVE"]).await.context("ACL SAVE")?;
        if let Reply::Error(why) = saved {
            bail!("ACL SAVE: {why}");
        }
        Ok(())
    }
}

fn command(effect: &Effect) -> Vec<String> {
    let words = |verb: &str, name: &str| vec!["ACL".to_owned(), verb.to_owned(), name.to_owned()];
    match effect {
        Effect::Set { name, auth, access } => {
            let mut words = words("SETUSER", name);
            words.extend(fixture::acl_rules(auth, access));
            words
        }
        // The default user can't be deleted from a server.
        Effect::Remove { name } if name == "default" => {
            let mut words = words("SETUSER", name);
            words.extend(fixture::acl_rules(&CacheAuth::None, "off -@all"));
            words
        }
        Effect::Remove { name } => words("DELUSER", name),
    }
}
