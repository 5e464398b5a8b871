//! What stands in for the clock, for AWS, and for a cache.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keystile_model::database::Database;
use keystile_model::store::Clock;
use keystile_proxy::credentials::{Fault, Secrets, Stage, Version};
use keystile_proxy::tls::{PemPair, PemSecrets};
use keystile_proxy::upstream::Tokens;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;

use super::{TOKEN, World};

/// The machine's clock, moved by hand.
#[derive(Debug, Default)]
pub struct MovedClock(AtomicI64);

impl MovedClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::now_utc() + time::Duration::seconds(self.0.load(Ordering::Relaxed))
    }
}

/// Gives the password that the server knows, or another one.
#[derive(Debug, Default)]
pub struct FixedTokens {
    pub minted: AtomicUsize,
    pub wrong: AtomicUsize,
}

#[async_trait]
impl Tokens for FixedTokens {
    async fn mint(&self, _: &Database, _: &str) -> Result<SecretString, String> {
        self.minted.fetch_add(1, Ordering::Relaxed);
        let wrong = self.wrong.load(Ordering::Relaxed) > 0;
        if wrong {
            self.wrong.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(SecretString::from(if wrong { "wrong" } else { TOKEN }))
    }
}

/// One secret, or none.
#[derive(Debug, Default)]
pub struct FixedSecrets {
    pub pair: Mutex<Option<(String, String)>>,
    pub asked: AtomicUsize,
}

#[async_trait]
impl PemSecrets for FixedSecrets {
    async fn pem_pair(&self, _: &str) -> Result<PemPair, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (certificate, key) = self.pair.lock().unwrap().clone().ok_or("it is away")?;
        Ok(PemPair { certificate, key: SecretString::from(key) })
    }
}

/// Secrets by name and stage.
#[derive(Debug, Default)]
pub struct FixedPasswords {
    pub values: Mutex<HashMap<(String, Stage), (String, String)>>,
    pub reads: AtomicUsize,
}

impl FixedPasswords {
    /// Sets a version: its id and its value.
    pub fn set(&self, secret: &str, stage: Stage, id: &str, value: &str) {
        let version = (id.to_owned(), value.to_owned());
        self.values.lock().unwrap().insert((secret.to_owned(), stage), version);
    }
}

#[async_trait]
impl Secrets for FixedPasswords {
    async fn read(&self, secret: &str, stage: Stage) -> Result<Version, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let values = self.values.lock().unwrap();
        let (id, value) = values.get(&(secret.to_owned(), stage)).cloned().ok_or(Fault::Missing)?;
        Ok(Version { id, value: SecretString::from(value) })
    }
}

/// The settings of a server that shows the certificate of the world's cache.
pub fn cache_tls(world: &World) -> Arc<ServerConfig> {
    let read = |name: &str| std::fs::read(world.dir.path().join(name)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read("cache.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("cache.key")).unwrap();
    let config = ServerConfig::builder_with_provider(keystile_proxy::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}
