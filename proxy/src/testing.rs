//! Nouns for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet};

use keystile_model::arn::Arn;
use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint, EndpointType, Engine};
use keystile_model::name::DatabaseName;

/// A discovered database of this name, cluster mode off.
pub(crate) fn database(name: &str) -> Database {
    Database {
        name: DatabaseName::parse(name).unwrap(),
        description: String::new(),
        kind: DatabaseKind::Elasticache,
        engine: Engine::Valkey,
        engine_version: "8.0".to_owned(),
        endpoint_type: EndpointType::Primary,
        endpoint: Endpoint { host: "localhost".to_owned(), port: 6379 },
        arn: Some(
            Arn::parse(format!("arn:aws:elasticache:us-east-1:123456789012:replicationgroup:{name}"))
                .unwrap(),
        ),
        resource_id: name.to_owned(),
        region: "us-east-1".to_owned(),
        account_id: "123456789012".to_owned(),
        labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        cluster_mode: false,
        groups: BTreeSet::from(["keystile".to_owned()]),
        auth: CacheAuth::Auto,
        assume_role: None,
        matcher: "all".to_owned(),
        import_tags: BTreeSet::new(),
        fixed_labels: BTreeMap::new(),
        nodes: Vec::new(),
        ca: None,
    }
}
