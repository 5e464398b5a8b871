//! What no honest client sends.

use base64::Engine as _;
use serde_json::json;

use super::world::*;

#[tokio::test]
async fn names_that_are_none() {
    let world = ready().await;
    for name in ["a b", "😀", "..", "a..b", "%2f", "a\u{0}", "a\n", "-a", "", &"a".repeat(300)] {
        let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        for kind in ["role", "user", "matcher", "lock", "db", "arn_rule"] {
            let path = format!("/v1/documents/{kind}/{encoded}");
            let (status, body) = world.call(ALICE, "PUT", &path, Some(document(kind, name, json!({})))).await;
            assert_eq!(status, 400, "{kind} {name:?}: {body}");
            let shown = body["error"]["message"].as_str().unwrap();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
    let body = document("role", "b", json!({}));
    world.refused(400, ALICE, "PUT", "/v1/documents/role/a", Some(body)).await;
    world.refused(400, ALICE, "PUT", "/v1/documents/role/%ff", Some(document("role", "x", json!({})))).await;
    let twice = document("role", "%2f", json!({}));
    world.refused(400, ALICE, "PUT", "/v1/documents/role/%252f", Some(twice)).await;
}

#[tokio::test]
async fn documents_that_are_none() {
    let world = ready().await;
    let path = "/v1/documents/role/x";
    for body in [
        json!([]),
        json!("x"),
        json!({}),
        json!({"kind": "user", "version": "ks1", "metadata": {"name": "x"}}),
        json!({"kind": "role", "version": "ks9", "metadata": {"name": "x"}}),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x"}, "extra": 1}),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x", "owner": "y"}}),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x"}, "spec": {"allow": {"nodes": []}}}),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x"}, "spec": []}),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x"}, "spec": {"deny": []}}),
        json!({"kind": "role", "version": "v7", "metadata": {"name": "x"}, "spec": {"deny": []}}),
        json!(["role", "ks1", {"name": "x"}, {}]),
        json!({"kind": "role", "version": "ks1", "metadata": {"name": "x", "description": "a\u{1b}[31m"}}),
    ] {
        world.refused(400, ALICE, "PUT", path, Some(body)).await;
    }
    for bad in ["{", "", "kind: role", "\u{feff}{}"] {
        let (status, _) = world.raw(event(ALICE, "PUT", path, Some(bad.to_owned()))).await;
        assert_eq!(status, 400, "{bad:?}");
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(world.raw(event(ALICE, "PUT", path, Some(deep))).await.0, 400);
    for spec in [
        json!({"allow": {"db_labels": {"env": "^($"}}}),
        json!({"allow": {"db_users": ["^(a{1000}){1000}$"]}}),
        json!({"allow": {"db_commands": ["get"]}}),
        json!({"allow": {"db_keys": ["app:*"]}}),
        json!({"options": {"max_session_ttl": "0s"}}),
        json!({"allow": {"db_users": (0..1_001).map(|i| i.to_string()).collect::<Vec<_>>()}}),
    ] {
        world.put_refused(400, "role", "x", spec).await;
    }
    let roles: Vec<String> = (0..10_000).map(|i| format!("r{i}")).collect();
    let error = world.put_refused(400, "user", "x", json!({"roles": roles})).await;
    assert!(error["message"].as_str().unwrap().contains("10000 roles"));
}

#[tokio::test]
async fn sizes() {
    let world = ready().await;
    let path = "/v1/documents/role/x";
    let large = json!({"kind": "role", "version": "ks1", "metadata": {"name": "x"},
        "spec": {"allow": {"db_users": ["x".repeat(300_000)]}}});
    let error = world.refused(413, ALICE, "PUT", path, Some(large)).await;
    assert_eq!(error["code"], "too_large");
    let huge = "x".repeat(keystile_api::MAX_BODY + 1);
    assert_eq!(world.raw(event(ALICE, "PUT", path, Some(huge))).await.0, 413);
    let long = format!("/v1/documents/role/{}", "a".repeat(5_000));
    world.refused(413, ALICE, "GET", &long, None).await;
}

#[tokio::test]
async fn base64_bodies() {
    let world = ready().await;
    let body = document("role", "x", json!({})).to_string();
    let send = async |text: String| {
        let mut event = event(ALICE, "PUT", "/v1/documents/role/x", Some(text));
        event["isBase64Encoded"] = json!(true);
        world.raw(event).await.0
    };
    assert_eq!(send(base64::engine::general_purpose::STANDARD.encode(&body)).await, 200);
    assert_eq!(send(body).await, 400);
    assert_eq!(send("A".repeat(keystile_api::MAX_BODY * 2)).await, 413);
}

#[tokio::test]
async fn content_that_is_no_json() {
    let world = ready().await;
    let body = document("role", "x", json!({})).to_string();
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("text/yaml", 400),
        ("application/x-www-form-urlencoded", 400),
    ] {
        let mut event = event(ALICE, "PUT", "/v1/documents/role/x", Some(body.clone()));
        event["headers"]["content-type"] = json!(kind);
        assert_eq!(world.raw(event).await.0, status, "{kind}");
    }
    let mut bare = event(ALICE, "PUT", "/v1/documents/role/x", Some(body));
    bare["headers"] = json!({});
    assert_eq!(world.raw(bare).await.0, 200);
}

#[tokio::test]
async fn a_refused_write_is_audited_and_changes_nothing() {
    let world = ready().await;
    world.audited("");
    world.put_refused(400, "role", "dev", json!({"allow": {"nodes": []}})).await;
    let events = world.audited("keystile.policy.denied");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["error"], "bad_request");
    let dev = world.ok(ALICE, "GET", "/v1/documents/role/dev", None).await;
    assert_eq!(dev["spec"]["options"]["max_session_ttl"], "1h");
}
