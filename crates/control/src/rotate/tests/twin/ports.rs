//! What the twin is to the code under test: each port, through the gate.

use super::*;

#[async_trait]
impl CacheUsers for Twin {
    async fn users(&self, _: &Place, _: DbUserService) -> Result<Vec<CacheUser>, CallError> {
        self.call("users", |world| Ok(world.listed())).await
    }

    async fn set_passwords(
        &self,
        _: &Place,
        _: DbUserService,
        id: &str,
        passwords: &[SecretString],
    ) -> Result<(), CallError> {
        let passwords = passwords.iter().map(|p| p.expose_secret().to_owned()).collect();
        self.call("set_passwords", |world| {
            if world.manner.change_denied {
                return Err(CallError::Denied("no identity-based policy allows it".to_owned()));
            }
            world.set(id, passwords)
        })
        .await
    }
}

#[async_trait]
impl Secrets for Twin {
    async fn describe(&self, secret: &str) -> Result<Option<SecretRecord>, CallError> {
        self.call("describe", |world| {
            Ok(world.secret(secret).map(|(name, secret)| SecretRecord {
                arn: secret.arn.clone(),
                name: name.clone(),
                tags: secret.tags.clone(),
                stages: secret.stages.clone(),
                deleted_at: secret.deleted_at.map(|at| at / 1_000),
            }))
        })
        .await
    }

    async fn create(&self, new: &NewSecret) -> Result<Arn, CallError> {
        self.call("create", |world| world.create(new)).await
    }

    async fn put_pending(
        &self,
        secret: &str,
        token: &VersionId,
        value: &SecretString,
    ) -> Result<(), CallError> {
        self.call("put_pending", |world| world.put(secret, token, value)).await
    }

    async fn read(&self, secret: &str, which: &Which) -> Result<SecretRead, CallError> {
        self.call("read", |world| world.read(secret, which)).await
    }

    async fn promote(&self, secret: &str, from: &VersionId, to: &VersionId) -> Result<(), CallError> {
        self.call("promote", |world| world.promote(secret, from, to)).await
    }

    async fn tag(&self, secret: &str, tags: &Tags) -> Result<(), CallError> {
        self.call("tag", |world| {
            world.living(secret)?.tags.extend(tags.clone());
            Ok(())
        })
        .await
    }

    async fn untag(&self, secret: &str, keys: &[String]) -> Result<(), CallError> {
        self.call("untag", |world| {
            world.living(secret)?.tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await
    }

    async fn delete(&self, secret: &str, _: u8) -> Result<(), CallError> {
        self.call("delete", |world| {
            let now = world.now();
            world.living(secret)?.deleted_at = Some(now);
            Ok(())
        })
        .await
    }

    async fn restore(&self, secret: &str) -> Result<(), CallError> {
        self.call("restore", |world| {
            let (_, secret) = world.secret(secret).ok_or(CallError::NotFound(String::new()))?;
            secret.deleted_at = None;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl RuntimeStore for Twin {
    async fn read(&self, key: &RuntimeKey) -> Result<Option<RuntimeItem>, StoreError> {
        let read = self.call("row read", |world| Ok(world.items.get(key).cloned())).await;
        read.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn list(&self, partition: &str) -> Result<Vec<RuntimeItem>, StoreError> {
        let listed = self.call("row list", |world| {
            Ok(world.items.values().filter(|item| item.key.partition == partition).cloned().collect())
        });
        listed.await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn write(
        &self,
        key: &RuntimeKey,
        expected: Option<u64>,
        expires_at: Option<i64>,
        body: Value,
    ) -> Result<u64, CommitError> {
        let written = self.call("row write", |world| {
            let version = world.items.get(key).map_or(0, |item| item.version);
            if expected.is_some_and(|expected| expected != version) {
                return Err(CallError::Moved("conflict".to_owned()));
            }
            let item = RuntimeItem { key: key.clone(), version: version + 1, expires_at, body };
            world.items.insert(key.clone(), item);
            Ok(version + 1)
        });
        written.await.map_err(|error| match error {
            CallError::Moved(_) => CommitError::Conflict,
            error => CommitError::Store(StoreError::Unavailable(error.to_string())),
        })
    }

    async fn remove(&self, key: &RuntimeKey) -> Result<(), StoreError> {
        let removed = self.call("row remove", |world| {
            world.items.remove(key);
            Ok(())
        });
        removed.await.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

impl Clock for Twin {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.world().seconds()).unwrap()
    }
}

impl Entropy for Twin {
    fn fill(&self, buffer: &mut [u8]) {
        let mut world = self.world();
        for byte in buffer {
            world.entropy =
                world.entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (world.entropy >> 56) as u8;
        }
    }
}
