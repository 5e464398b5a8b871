//! What login, route and host-cert hand out.

use keystile_identity::Certificate;
use keystile_identity::client::ClientIdentity;
use keystile_identity::host::HostIdentity;
use serde_json::{Value, json};

use super::world::*;

fn der(answer: &Value) -> Vec<u8> {
    use base64::Engine as _;
    let pem = answer["certificate"].as_str().unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

#[tokio::test]
async fn login_gives_a_certificate_of_the_shortest_life() {
    let world = ready().await;
    let login = async |who: &str, ttl: Option<u64>| {
        let body = json!({"public_key": public_key(), "ttl_s": ttl});
        let answer = world.ok(who, "POST", "/v1/login", Some(body)).await;
        let identity = ClientIdentity::from_der(&der(&answer), "prod").unwrap();
        (identity.user.to_string(), identity.route, identity.not_after - NOW, answer)
    };
    let (user, route, life, answer) = login(ALICE, None).await;
    assert_eq!((user.as_str(), route, life), ("alice", None, 28_800));
    assert_eq!(answer["status"]["valid_until"], "2027-01-15T16:00:00Z");
    assert!(answer["status"]["host_ca"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(login(ALICE, Some(999_999)).await.2, 28_800);
    assert_eq!(login(ALICE, Some(60)).await.2, 60);
    assert_eq!(login(BOB, None).await.2, 3_600, "the role says 1h");
    let (user, _, life, answer) = login(DAVE, None).await;
    assert_eq!((user.as_str(), life), ("dave", 28_800));
    assert_eq!(answer["status"]["roles"], json!([]));
    let events = world.audited("cert.create");
    assert_eq!(events.len(), 5);
    assert_eq!(events[0]["code"], "TC000I");
}

#[tokio::test]
async fn a_certificate_is_signed_by_the_user_ca() {
    let world = ready().await;
    let answer = world.ok(ALICE, "POST", "/v1/login", Some(json!({"public_key": public_key()}))).await;
    let leaf = Certificate::from_der(&der(&answer)).unwrap();
    let cas = world.ok(ALICE, "GET", "/v1/ca", None).await;
    let ca = |kind: &str| {
        let all = cas["certificates"].as_array().unwrap();
        let view = all.iter().find(|view| view["ca"] == kind).unwrap();
        Certificate::from_pem(view["certificate"].as_str().unwrap()).unwrap()
    };
    assert_eq!(leaf.issuer_key_id, ca("user").key_id);
    assert_ne!(leaf.issuer_key_id, ca("host").key_id);
    assert_ne!(ca("user").pin(), ca("host").pin());
}

#[tokio::test]
async fn bad_keys_get_nothing() {
    let world = ready().await;
    for key in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        let error = world.refused(400, ALICE, "POST", "/v1/login", Some(json!({"public_key": key}))).await;
        assert_eq!(error["code"], "bad_request");
    }
    let none = json!({"public_key": public_key(), "ttl_s": 0});
    world.refused(400, ALICE, "POST", "/v1/login", Some(none)).await;
    let unknown = json!({"public_key": public_key(), "user": "root"});
    world.refused(400, ALICE, "POST", "/v1/login", Some(unknown)).await;
    assert_eq!(world.audited("cert.create").len(), 0);
}

#[tokio::test]
async fn a_route_is_decided_before_it_is_opened() {
    let world = ready().await;
    let route = |database: &str, db_user: Option<&str>| {
        Some(json!({"database": database, "db_user": db_user, "public_key": public_key()}))
    };
    let answer = world.ok(BOB, "POST", "/v1/route", route("carts", Some("iam-ro"))).await;
    let identity = ClientIdentity::from_der(&der(&answer), "prod").unwrap();
    let opened = identity.route.unwrap();
    assert_eq!((opened.database.as_str(), opened.db_user.as_str()), ("carts", "iam-ro"));
    assert_eq!(identity.not_after, NOW + 3_600);
    assert_eq!(answer["server_name"], "carts.cache.acme.example");
    assert_eq!(answer["proxy_address"], "proxy.cache.acme.example:6379");
    assert_eq!(answer["engine"], "valkey");
    world.audited("");

    let error = world.refused(403, BOB, "POST", "/v1/route", route("orders", Some("iam-ro"))).await;
    assert_eq!((&error["code"], &error["rule"]), (&json!("denied"), &json!("no role allows it")));
    let events = world.audited("db.session.start");
    assert_eq!((&events[0]["code"], &events[0]["db_service"]), (&json!("TDB00W"), &json!("orders")));
    let error = world.refused(403, BOB, "POST", "/v1/route", route("carts", Some("legacy"))).await;
    assert!(error["why"].as_str().unwrap().contains("nearest: role dev"), "{error}");
    assert_eq!(error["choices"], json!(["iam-ro", "iam-rw"]));
    let error = world.refused(404, BOB, "POST", "/v1/route", route("nowhere", Some("iam-ro"))).await;
    assert_eq!(error["code"], "not_found");
    let error = world.refused(409, BOB, "POST", "/v1/route", route("carts", None)).await;
    assert_eq!(error["code"], "ambiguous");
    assert_eq!(error["choices"], json!(["iam-ro", "iam-rw"]));
    assert_eq!(error["next"][0], "keystile db connect carts --db-user iam-ro");
    world.refused(403, DAVE, "POST", "/v1/route", route("carts", None)).await;
}

#[tokio::test]
async fn a_db_user_that_cannot_sign_in_is_told_apart() {
    let world = ready().await;
    let route =
        |db_user: &str| Some(json!({"database": "orders", "db_user": db_user, "public_key": public_key()}));
    let table = [
        ("legacy", 409, "with a password"),
        ("elsewhere", 409, "groups are [app]"),
        ("ghost", 404, "no such user"),
    ];
    for (db_user, status, why) in table {
        let error = world.refused(status, ALICE, "POST", "/v1/route", route(db_user)).await;
        assert!(error["why"].as_str().unwrap().contains(why), "{error}");
    }
    world.refused(400, ALICE, "POST", "/v1/route", route("a b")).await;
    world.ok(ALICE, "POST", "/v1/route", route("iam-rw")).await;
}

#[tokio::test]
async fn a_routes_alias_and_default_db_user() {
    let world = ready().await;
    let role = json!({"allow": {"db_labels": {"env": "dev"}, "db_users": ["iam-ro"]}});
    world.put(ALICE, "role", "reader", role).await;
    world.put(ALICE, "user", "bob", json!({"roles": ["reader"]})).await;
    let alias = database("carts", "dev").alias();
    let body = json!({"database": alias, "public_key": public_key()});
    let answer = world.ok(BOB, "POST", "/v1/route", Some(body)).await;
    assert_eq!((&answer["database"], &answer["db_user"]), (&json!("carts"), &json!("iam-ro")));
}

#[tokio::test]
async fn host_certificates_are_an_editors() {
    let world = ready().await;
    let body = |names: &[&str], ttl: Option<u64>| {
        Some(json!({"group": "default", "public_key": public_key(), "names": names, "ttl_s": ttl}))
    };
    let answer = world.ok(ALICE, "POST", "/v1/ca/host-cert", body(&["p1.cache.acme.example"], None)).await;
    let identity = HostIdentity::from_der(&der(&answer), "prod").unwrap();
    assert_eq!(identity.group, "default");
    assert_eq!(identity.not_after - NOW, 30 * 86_400);
    assert_eq!(
        identity.hosts,
        ["*.cache.acme.example", "cache.acme.example", "proxy.cache.acme.example", "p1.cache.acme.example"]
    );
    let events = world.audited("cert.create");
    assert_eq!(events[0]["details"]["ca"], "host");
    for bad in
        ["localhost", "127.0.0.1", "evil.example", "xcache.acme.example", "*", "a b.cache.acme.example"]
    {
        world.refused(400, ALICE, "POST", "/v1/ca/host-cert", body(&[bad], None)).await;
    }
    world.refused(400, ALICE, "POST", "/v1/ca/host-cert", body(&[], Some(91 * 86_400))).await;
    let group = json!({"group": "../x", "public_key": public_key()});
    world.refused(400, ALICE, "POST", "/v1/ca/host-cert", Some(group)).await;
    world.audited("");
    let error = world.refused(403, BOB, "POST", "/v1/ca/host-cert", body(&[], None)).await;
    assert_eq!(error["rule"], "no role allows it");
    assert_eq!(world.audited("keystile.policy.denied").len(), 1);
}

#[tokio::test]
async fn a_local_worlds_proxies_are_on_loopback() {
    let world =
        empty_with(&[("KEYSTILE_ALLOW_LOOPBACK", "on"), ("KEYSTILE_PROXY_ADDRESS", "127.0.0.1:7000")]);
    let body = json!({"group": "default", "public_key": public_key(), "names": ["localhost"]});
    let answer = world.ok(ADMIN, "POST", "/v1/ca/host-cert", Some(body)).await;
    let hosts = HostIdentity::from_der(&der(&answer), "prod").unwrap().hosts;
    assert!(hosts.contains(&"localhost".to_owned()) && hosts.contains(&"127.0.0.1".to_owned()), "{hosts:?}");
}
