//! What the APIs accept reaches the real servers, and what the front learns opens them.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::types::{AuthenticationMode, InputAuthenticationType};
use keystile_world::fixture::{HOME_ACCOUNT, Kind};
use keystile_world::front::Credentials;
use keystile_world::servers::client::Client as Cache;
use keystile_world::servers::{Manifest, Node};
use keystile_world::sigv4::{self, KnownKey};

use crate::ground::{DELAY, Ground};

async fn logs_in(manifest: &Manifest, node: &Node, user: &str, password: &str) -> bool {
    Cache::login(&manifest.ca_file, node.port, user, password).await.is_ok()
}

fn mode(kind: InputAuthenticationType, passwords: &[&str]) -> AuthenticationMode {
    let mode = AuthenticationMode::builder().r#type(kind);
    passwords.iter().fold(mode, |mode, text| mode.passwords(*text)).build()
}

/// An IAM token for `orders`.
fn token(credentials: &Credentials, user: &str) -> String {
    let env = credentials.env();
    let key = KnownKey {
        secret: env["AWS_SECRET_ACCESS_KEY"].clone(),
        session_token: env.get("AWS_SESSION_TOKEN").cloned(),
        expires_at: None,
    };
    let headers = BTreeMap::from([("host".to_owned(), "orders".to_owned())]);
    let query = format!("Action=connect&User={user}");
    let request = sigv4::Request { method: "GET", path: "/", query: &query, headers: &headers, body: b"" };
    let (life, now) = (time::Duration::minutes(15), time::OffsetDateTime::now_utc());
    let id = &env["AWS_ACCESS_KEY_ID"];
    format!("orders/?{}", sigv4::presign(&request, id, &key, "us-east-1", "elasticache", life, now))
}

#[tokio::test]
async fn changes_reach_every_node_after_their_delay() {
    let ground = Ground::with_servers(&["orders"]).await;
    let manifest = Manifest::read(&ground.paths.manifest()).unwrap();
    let orders = manifest.cache(HOME_ACCOUNT, Kind::ReplicationGroup, "orders").unwrap();
    let client = Client::new(&ground.admin().await);
    let (old, new) = (ground.passwords.static_app.clone(), "n".repeat(64));
    let modify = |mode: AuthenticationMode| {
        client.modify_user().user_id("static-app").authentication_mode(mode).send()
    };
    let settle = || tokio::time::sleep(DELAY + Duration::from_millis(900));

    let first = client.describe_replication_groups().replication_group_id("orders").send().await.unwrap();
    let primary = first.replication_groups()[0].node_groups()[0].primary_endpoint().unwrap().clone();
    assert_eq!(primary.port(), Some(i32::from(orders.nodes[0].port)));

    modify(mode(InputAuthenticationType::Password, &[&old, &new])).await.unwrap();
    for node in &orders.nodes {
        assert!(!logs_in(&manifest, node, "static-app", &new).await, "not before the delay");
    }
    settle().await;
    for node in &orders.nodes {
        for password in [&old, &new] {
            assert!(logs_in(&manifest, node, "static-app", password).await, "{}", node.id);
        }
    }
    modify(mode(InputAuthenticationType::Iam, &[])).await.unwrap();
    settle().await;
    let users: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&orders.users_file).unwrap()).unwrap();
    assert_eq!(
        (&users["users"]["static-app"]["auth"], &users["users"]["iam-ro"]["auth"]),
        (&"iam".into(), &"iam".into())
    );
    for node in &orders.nodes {
        assert!(!logs_in(&manifest, node, "static-app", &new).await, "{}", node.id);
    }
}

#[tokio::test]
async fn a_token_of_the_proxys_role_opens_a_cache_and_a_persons_does_not() {
    let ground = Ground::with_servers(&["orders"]).await;
    let manifest = Manifest::read(&ground.paths.manifest()).unwrap();
    let orders = manifest.cache(HOME_ACCOUNT, Kind::ReplicationGroup, "orders").unwrap();
    let proxy = ground.front.role_credentials("keystile-proxy", "task-1", 3600).await.unwrap();
    for node in &orders.nodes {
        assert!(logs_in(&manifest, node, "iam-ro", &token(&proxy, "iam-ro")).await);
        assert!(!logs_in(&manifest, node, "iam-rw", &token(&proxy, "iam-ro")).await, "another user");
        let alice = ground.front.users["alice"].clone();
        assert!(
            !logs_in(&manifest, node, "iam-ro", &token(&alice, "iam-ro")).await,
            "nobody passes by the proxy"
        );
        let admin = ground.front.users["keystile-admin"].clone();
        assert!(logs_in(&manifest, node, "iam-admin", &token(&admin, "iam-admin")).await);
    }
}
