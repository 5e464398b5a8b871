//! Lists, health, discovery, and the table of routes.

use keystile_model::runtime::{DISCOVER, REPORTS};
use serde_json::{Value, json};

use super::world::*;

fn names(list: &Value) -> Vec<&str> {
    list["databases"].as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn databases_are_those_that_the_roles_allow() {
    let world = ready().await;
    let list = world.ok(ALICE, "GET", "/v1/databases", None).await;
    assert_eq!(names(&list), ["carts", "orders"]);
    assert_eq!(list["databases"][1]["db_users"], json!(["*"]));
    let list = world.ok(BOB, "GET", "/v1/databases", None).await;
    assert_eq!((names(&list), &list["total"]), (vec!["carts"], &json!(2)));
    assert_eq!(list["databases"][0]["db_users"], json!(["iam-ro", "iam-rw"]));
    assert_eq!(names(&world.ok(DAVE, "GET", "/v1/databases", None).await), Vec::<&str>::new());
}

#[tokio::test]
async fn one_database_is_shown_denied_or_unknown() {
    let world = ready().await;
    let view = world.ok(BOB, "GET", "/v1/databases/carts", None).await;
    assert_eq!(view["uri"], "rediss://master.carts.use1.cache.amazonaws.com:6379");
    assert_eq!(view["health"], "unknown");
    let error = world.refused(403, BOB, "GET", "/v1/databases/orders", None).await;
    assert_eq!(error["rule"], "no role allows it");
    world.refused(404, BOB, "GET", "/v1/databases/nothing", None).await;
    world.refused(404, BOB, "GET", "/v1/databases/..%2f..%2fusers", None).await;
}

#[tokio::test]
async fn health_comes_from_the_proxies() {
    let world = ready().await;
    let beat = |id: &str, at: i64, state: &str| {
        json!({"id": id, "group": "default", "hostname": "h", "version": "1", "address": "a:1",
            "started_at": NOW, "at": at, "sessions": 3,
            "databases": {"orders": {"state": state, "reason": "timeout", "since": NOW}}})
    };
    world.report("proxy#default", "p1", beat("p1", NOW, "ok")).await;
    world.report("proxy#default", "p2", beat("p2", NOW - 61, "unreachable")).await;
    world.report("proxy#default", "junk", json!({"x": 1})).await;
    let view = world.ok(ALICE, "GET", "/v1/databases/orders", None).await;
    assert_eq!(view["health"], "ok", "a proxy that is gone says nothing");
    world.report("proxy#default", "p3", beat("p3", NOW, "degraded")).await;
    let view = world.ok(ALICE, "GET", "/v1/databases/orders", None).await;
    assert_eq!(view["health"], "degraded");
    let server = world.ok(ALICE, "GET", "/v1/documents/db_server/orders", None).await;
    assert_eq!(server["spec"]["proxies"].as_array().unwrap().len(), 2);
    let proxies = world.ok(ALICE, "GET", "/v1/documents/proxy", None).await;
    assert_eq!(proxies["documents"].as_array().unwrap().len(), 3);
    world.refused(403, BOB, "GET", "/v1/documents/proxy", None).await;
}

#[tokio::test]
async fn discovery_is_an_editors() {
    let world = ready().await;
    world.refused(403, BOB, "POST", "/v1/discover/run", Some(json!({}))).await;
    assert_eq!(world.audited("keystile.policy.denied").len(), 1);
    assert!(world.discovery.events.lock().unwrap().is_empty());
    world.ok(ALICE, "POST", "/v1/discover/run", None).await;
    let matcher = document(
        "matcher",
        "m",
        json!({"types": ["memorydb"], "regions": ["us-east-1"], "tags": {"*": "*"}}),
    );
    let body = json!({"dry_run": true, "matchers": [matcher]});
    let report = world.ok(ALICE, "POST", "/v1/discover/run", Some(body)).await;
    assert_eq!(report["dry_run"], true);
    let events = world.discovery.events.lock().unwrap().clone();
    assert_eq!(events[0], json!({"dry_run": false, "allow_removals": [], "asked_by": "alice"}));
    assert_eq!(events[1]["matchers"][0]["name"], "m");
    assert_eq!(events[1]["matchers"][0]["spec"]["types"], json!(["memorydb"]));
    for bad in [
        json!({"matchers": [matcher]}),
        json!({"dry_run": true, "matchers": [document("matcher", "m", json!({"types": [], "regions": []}))]}),
        json!({"dry_run": true, "matchers": [document("role", "m", json!({}))]}),
        json!({"dryrun": true}),
        json!({"allow_removals": ["orders"]}),
    ] {
        world.refused(400, ALICE, "POST", "/v1/discover/run", Some(bad)).await;
    }
    let scope = "123456789012/us-east-1/elasticache";
    world.ok(ALICE, "POST", "/v1/discover/run", Some(json!({"allow_removals": [scope]}))).await;
    assert_eq!(world.discovery.events.lock().unwrap()[2]["allow_removals"], json!([scope]));
    let runs = world.audited("keystile.discovery.run");
    assert_eq!(runs.len(), 3);
    assert_eq!((&runs[2]["user"], &runs[2]["code"]), (&json!("alice"), &json!("KSD01I")));
    assert_eq!(runs[2]["details"]["allow_removals"], json!([scope]));
    world.refused(404, ALICE, "GET", "/v1/discover/status", None).await;
    world.report(REPORTS, DISCOVER, json!({"complete": true})).await;
    assert_eq!(world.ok(ALICE, "GET", "/v1/discover/status", None).await["complete"], true);
    world.refused(403, BOB, "GET", "/v1/discover/status", None).await;
}

#[tokio::test]
async fn cas_are_shown_with_their_pins() {
    let world = ready().await;
    let cas = world.ok(DAVE, "GET", "/v1/ca", None).await;
    let all = cas["certificates"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0]["ca"], &all[0]["generation"], &all[0]["signing"]),
        (&json!("user"), &json!(1), &json!(true))
    );
    assert!(all[0]["pin"].as_str().unwrap().starts_with("sha256:"));
    assert!(!cas.to_string().contains("PRIVATE"));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let world = ready().await;
    for path in ["/", "", "/v1", "/v2/status", "/v1/status/", "/v1/login/x", "/v1/discover", "/v1/documents"]
    {
        world.refused(404, ALICE, "GET", path, None).await;
    }
    for (method, path) in [
        ("GET", "/v1/login"),
        ("PUT", "/v1/status"),
        ("POST", "/v1/databases"),
        ("DELETE", "/v1/documents/role"),
        ("PATCH", "/v1/documents/role/dev"),
        ("GET", "/v1/ca/host-cert"),
    ] {
        let error = world.refused(400, ALICE, method, path, None).await;
        assert!(error["why"].as_str().unwrap().starts_with("it takes"), "{error}");
    }
    let error = world.refused(400, ALICE, "GET", "/v1/documents/secrets", None).await;
    assert!(error["why"].as_str().unwrap().contains("arn_rule"));
}
