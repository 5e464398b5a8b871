//! Entities to write: users for the access feed, name claims for the inventory feed. `mark` tells images of
//! one entity apart.

use keystile_model::arn::Arn;
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity, EntityKey, EntityKind, Feed};
use keystile_model::name::{DatabaseName, DbUserName, UserName};
use keystile_model::policy::NameClaim;
use keystile_model::rotation::{Rotation, RotationPhase, VersionId};
use keystile_model::user::User;

/// The time that tests write at, in Unix seconds.
pub(crate) const NOW: i64 = 1_800_000_000;

fn kind(feed: Feed) -> EntityKind {
    match feed {
        Feed::Access => EntityKind::User,
        Feed::Inventory => EntityKind::NameClaim,
    }
}

pub(crate) fn entity(feed: Feed, id: &str, mark: i64) -> Entity {
    match feed {
        Feed::Access => Entity::User(User {
            name: UserName::parse(id).unwrap(),
            roles: Default::default(),
            traits: Default::default(),
            not_before: Some(mark),
        }),
        Feed::Inventory => Entity::NameClaim(NameClaim {
            name: DatabaseName::parse(id).unwrap(),
            arn: Arn::parse(format!("arn:aws:elasticache:us-east-1:123456789012:replicationgroup:{id}"))
                .unwrap(),
            vanished_at: Some(mark),
        }),
    }
}

pub(crate) fn key(feed: Feed, id: &str) -> EntityKey {
    EntityKey { kind: kind(feed), id: id.to_owned() }
}

pub(crate) fn put(feed: Feed, id: &str, mark: i64) -> Change {
    Change::Put(entity(feed, id, mark))
}

pub(crate) fn delete(feed: Feed, id: &str) -> Change {
    Change::Delete(key(feed, id))
}

pub(crate) fn mark(entity: &Entity) -> i64 {
    match entity {
        Entity::User(user) => user.not_before.unwrap(),
        Entity::NameClaim(claim) => claim.vanished_at.unwrap(),
        other => panic!("no sample: {other:?}"),
    }
}

fn user_arn(id: &str) -> Arn {
    Arn::parse(format!("arn:aws:elasticache:us-east-1:123456789012:user:{id}")).unwrap()
}

pub(crate) fn db_user(id: &str) -> DbUser {
    DbUser {
        arn: user_arn(id),
        id: id.to_owned(),
        name: DbUserName::parse(id).unwrap(),
        service: DbUserService::Elasticache,
        auth: DbUserAuth::Password,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: Default::default(),
        managed: true,
    }
}

pub(crate) fn rotation(id: &str) -> Rotation {
    Rotation {
        arn: user_arn(id),
        phase: RotationPhase::Rotating,
        generation: 1,
        secret: None,
        current: Some(VersionId::new("1")),
        pending: Some(VersionId::new("2")),
        prove: Some(VersionId::new("2")),
        reason: String::new(),
    }
}
