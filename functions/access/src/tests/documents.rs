//! Documents: written, read, removed, refused; each step audited.

use serde_json::{Value, json};

use super::world::*;

#[tokio::test]
async fn a_role_is_written_read_and_removed() {
    let world = ready().await;
    world.audited("");
    let spec = json!({"allow": {"db_labels": {"env": ["dev", "test"]}, "db_users": ["*"], "db_commands": ["+@read"]}});
    let answer = world.put(ALICE, "role", "reader", spec.clone()).await;
    assert_eq!(answer["outcome"], "created");
    let revision = answer["revision"].as_u64().unwrap();
    let again = world.put(ALICE, "role", "reader", spec).await;
    assert_eq!((&again["outcome"], &again["revision"]), (&json!("unchanged"), &json!(revision)));
    let changed = world.put(ALICE, "role", "reader", json!({"options": {"max_session_ttl": "2h"}})).await;
    assert_eq!((&changed["outcome"], &changed["revision"]), (&json!("updated"), &json!(revision + 1)));
    let read = world.ok(ALICE, "GET", "/v1/documents/role/reader", None).await;
    assert_eq!(read["spec"]["options"]["max_session_ttl"], "2h");
    assert_eq!((&read["kind"], &read["version"]), (&json!("role"), &json!("ks1")));
    world.ok(ALICE, "PUT", "/v1/documents/role/reader", Some(read)).await;
    world.ok(ALICE, "DELETE", "/v1/documents/role/reader", None).await;
    world.refused(404, ALICE, "GET", "/v1/documents/role/reader", None).await;
    world.refused(404, ALICE, "DELETE", "/v1/documents/role/reader", None).await;
    let events = world.audited("keystile.policy.change");
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0]["user"], &events[0]["code"]), (&json!("alice"), &json!("KSP01I")));
    assert_eq!(events[0]["details"]["before"], Value::Null);
    assert_eq!(events[1]["details"]["before"]["spec"]["allow"]["db_commands"], json!(["+@read"]));
    assert_eq!(events[1]["details"]["after"]["spec"]["options"]["max_session_ttl"], "2h");
    assert_eq!(events[2]["details"]["after"], Value::Null);
}

#[tokio::test]
async fn who_has_no_right_changes_nothing() {
    let world = ready().await;
    world.audited("");
    for (method, path) in [
        ("GET", "/v1/documents/role"),
        ("GET", "/v1/documents/role/dev"),
        ("PUT", "/v1/documents/role/dev"),
        ("DELETE", "/v1/documents/role/dev"),
        ("DELETE", "/v1/documents/user/alice"),
    ] {
        let body = (method == "PUT").then(|| document("role", "dev", json!({})));
        let error = world.refused(403, BOB, method, path, body).await;
        assert_eq!(error["rule"], "no role allows it");
    }
    let events = world.audited("keystile.policy.denied");
    assert_eq!(events.len(), 5);
    assert_eq!(
        (&events[2]["user"], &events[2]["code"], &events[2]["success"]),
        (&json!("bob"), &json!("KSP01W"), &json!(false))
    );
}

#[tokio::test]
async fn a_right_to_map_arns_alone_is_no_way_up() {
    let world = ready().await;
    let rules = json!([{"resources": ["arn_rule"], "verbs": ["*"]}]);
    world.put(ALICE, "role", "mapper", json!({"allow": {"rules": rules}})).await;
    world.put(ALICE, "user", "bob", json!({"roles": ["mapper"]})).await;
    let me = json!({"arn": BOB, "user": "alice"});
    let path = format!("/v1/documents/arn_rule/{BOB}");
    world.refused(403, BOB, "PUT", &path, Some(document("arn_rule", BOB, me))).await;
    world.ok(BOB, "GET", "/v1/documents/arn_rule", None).await;
}

#[tokio::test]
async fn the_last_editor_stays() {
    let world = ready().await;
    // Two editors: alice and the bootstrap admin.
    world.ok(ALICE, "DELETE", "/v1/documents/user/bootstrap-admin", None).await;
    let table = [
        ("DELETE", "/v1/documents/user/alice".to_owned(), None),
        ("DELETE", format!("/v1/documents/arn_rule/{ALICE}"), None),
        (
            "PUT",
            "/v1/documents/user/alice".to_owned(),
            Some(document("user", "alice", json!({"roles": ["access"]}))),
        ),
        ("PUT", "/v1/documents/role/editor".to_owned(), Some(document("role", "editor", json!({})))),
        // Who may update but not create can write no document at all.
        (
            "PUT",
            "/v1/documents/role/editor".to_owned(),
            Some(document(
                "role",
                "editor",
                json!({"allow": {"rules": [{"resources": ["*"], "verbs": ["list", "read", "update"]}]}}),
            )),
        ),
        (
            "PUT",
            "/v1/documents/lock/all".to_owned(),
            Some(document("lock", "all", json!({"target": {"role": "editor"}}))),
        ),
        (
            "PUT",
            "/v1/documents/arn_rule/clash".to_owned(),
            Some(document("arn_rule", "clash", json!({"arn": ALICE, "user": "bob"}))),
        ),
        (
            "PUT",
            format!("/v1/documents/arn_rule/{ALICE}"),
            Some(document("arn_rule", ALICE, json!({"arn": ALICE, "user": "bob"}))),
        ),
    ];
    for (method, path, body) in table {
        let error = world.refused(409, ALICE, method, &path, body).await;
        assert_eq!(error["message"], "the last editor cannot be removed", "{path}");
    }
    world.ok(ALICE, "GET", "/v1/documents/role", None).await;
    // With another one that can sign in, the first may go.
    world.put(ALICE, "user", "bob", json!({"roles": ["editor"]})).await;
    world.ok(BOB, "DELETE", "/v1/documents/user/alice", None).await;
    world.refused(403, ALICE, "GET", "/v1/status", None).await;
}

#[tokio::test]
async fn a_user_takes_its_rules_along() {
    let world = ready().await;
    let answer = world.ok(ALICE, "DELETE", "/v1/documents/user/bob", None).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains(BOB));
    world.refused(404, ALICE, "GET", &format!("/v1/documents/arn_rule/{BOB}"), None).await;
    world.put(ALICE, "user", "bob", json!({"roles": ["editor"]})).await;
    let error = world.refused(403, BOB, "GET", "/v1/status", None).await;
    assert_eq!(error["code"], "not_mapped");
}

#[tokio::test]
async fn built_in_roles_are_listed_and_stay() {
    let world = ready().await;
    let list = world.ok(ALICE, "GET", "/v1/documents/role", None).await;
    let names: Vec<&str> = list["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["access", "auditor", "dev", "editor", "requester", "reviewer"]);
    let error = world.refused(409, ALICE, "DELETE", "/v1/documents/role/access", None).await;
    assert_eq!(error["message"], "role access is built in");
}

#[tokio::test]
async fn arn_rules_that_let_in_too_many_do_not_load() {
    let world = ready().await;
    for (arn, user) in [
        ("arn:aws:iam::123456789012:role/*", "bob"),
        ("arn:aws:iam::*:role/dev", "bob"),
        ("arn:aws:iam::999999999999:role/dev", "bob"),
        ("arn:aws:iam::123456789012:root", "bob"),
        ("*", "bob"),
        ("arn:aws:iam::123456789012:role/dev", "{{session}}"),
        ("arn:aws:iam::123456789012:role/dev", "b b"),
    ] {
        world.put_refused(400, "arn_rule", "r", json!({"arn": arn, "user": user})).await;
    }
    // By its ARN as a name, percent-encoded or not.
    let arn = "arn:aws:iam::123456789012:role/team/checkout";
    let body = document("arn_rule", arn, json!({"arn": arn, "user": "bob"}));
    let path = format!("/v1/documents/arn_rule/{}", arn.replace('/', "%2F").replace(':', "%3A"));
    world.ok(ALICE, "PUT", &path, Some(body.clone())).await;
    let plain = world.ok(ALICE, "PUT", &format!("/v1/documents/arn_rule/{arn}"), Some(body)).await;
    assert_eq!(plain["outcome"], "unchanged");
    let checkout = "arn:aws:sts::123456789012:assumed-role/checkout/i-1";
    assert_eq!(world.ok(checkout, "GET", "/v1/status", None).await["user"], "bob");
}

#[tokio::test]
async fn a_matcher_gets_an_external_id_and_keeps_it() {
    let world = ready().await;
    let spec = json!({"types": ["elasticache"], "regions": ["*"], "tags": {"*": "*"},
        "assume_role_arn": "arn:aws:iam::210987654321:role/keystile-discovery"});
    world.put(ALICE, "matcher", "other", spec.clone()).await;
    let id = async || {
        let read = world.ok(ALICE, "GET", "/v1/documents/matcher/other", None).await;
        read["spec"]["external_id"].as_str().unwrap().to_owned()
    };
    let first = id().await;
    assert!(first.starts_with("keystile-") && first.len() == 41, "{first}");
    let again = world.put(ALICE, "matcher", "other", spec.clone()).await;
    assert_eq!(again["outcome"], "unchanged");
    assert!(again["warnings"][0].as_str().unwrap().contains(&first));
    let mut other = spec;
    other["assume_role_arn"] = json!("arn:aws:iam::210987654321:role/another");
    world.put(ALICE, "matcher", "other", other).await;
    assert_ne!(id().await, first);
    let owned = json!({"types": ["elasticache"], "regions": ["*"], "labels": {"account-id": "1"}});
    world.put_refused(400, "matcher", "m", owned).await;
}

#[tokio::test]
async fn a_matcher_may_go_through_a_hub() {
    let world = ready().await;
    let (spoke, hub) = ("arn:aws:iam::210987654321:role/spoke", "arn:aws:iam::123456789012:role/hub");
    let mut spec = json!({"types": ["elasticache"], "regions": ["*"], "tags": {"*": "*"},
        "assume_role_arn": spoke, "external_id": "abc", "through": {"assume_role_arn": hub}});
    let answer = world.put(ALICE, "matcher", "behind", spec.clone()).await;
    let warning = answer["warnings"].to_string();
    assert!(warning.contains(spoke) && warning.contains(hub), "{warning}");
    let read = world.ok(ALICE, "GET", "/v1/documents/matcher/behind", None).await;
    assert_eq!(read["spec"]["through"], json!({"assume_role_arn": hub}), "no external id is made for a hub");
    for bad in [json!({"assume_role_arn": spoke}), json!({"arn": hub}), json!(hub)] {
        spec["through"] = bad;
        world.put_refused(400, "matcher", "behind", spec.clone()).await;
    }
    spec["through"] = json!({"assume_role_arn": hub});
    spec.as_object_mut().unwrap().remove("assume_role_arn");
    world.put_refused(400, "matcher", "behind", spec).await;
}

#[tokio::test]
async fn static_databases_stay_inside_the_allowed_networks() {
    let world = ready().await;
    let spec = |uri: &str| json!({"protocol": "redis", "uri": uri, "auth": "pass-through"});
    let answer = world.put(ALICE, "db", "legacy", spec("rediss://10.1.2.3:6380")).await;
    assert_eq!(answer["outcome"], "created");
    let read = world.ok(ALICE, "GET", "/v1/documents/db/legacy", None).await;
    assert_eq!(read["spec"], spec("rediss://10.1.2.3:6380"));
    for bad in [
        "rediss://127.0.0.1:6379",
        "rediss://localhost:6379",
        "rediss://[::1]:6379",
        "rediss://[::ffff:127.0.0.1]:6379",
        "rediss://169.254.169.254",
        "rediss://[fe80::1]",
        "rediss://[fd00:ec2::254]",
        "rediss://192.168.0.1",
        "rediss://0.0.0.0",
        "redis://10.1.2.3:6379",
    ] {
        world.put_refused(400, "db", "bad", spec(bad)).await;
    }
    let error = world.put_refused(409, "db", "orders", spec("10.0.0.1")).await;
    assert!(error["message"].as_str().unwrap().contains("belongs to a discovered database"));
    world.put_refused(400, "db", "d-01234567", spec("10.0.0.1")).await;
    let error = world.refused(409, ALICE, "DELETE", "/v1/documents/db/orders", None).await;
    assert!(error["message"].as_str().unwrap().contains("was discovered"));
    let list = world.ok(ALICE, "GET", "/v1/documents/db", None).await;
    assert_eq!(list["documents"].as_array().unwrap().len(), 3);
    let silent = json!({"protocol": "valkey", "uri": "10.0.0.1"});
    let answer = world.put(ALICE, "db", "silent", silent).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("auth is missing"));
    let body = json!({"database": "silent", "db_user": "x", "public_key": public_key()});
    world.refused(409, ALICE, "POST", "/v1/route", Some(body)).await;
    let ca = json!({"protocol": "redis", "uri": "10.0.0.1", "ca": "-----BEGIN PRIVATE KEY-----"});
    world.put_refused(400, "db", "bad", ca).await;
}

/// Their values would be sent wherever the database is said to be.
#[tokio::test]
async fn secrets_of_managed_users_are_no_shared_tokens() {
    const ARN: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:";
    let world = empty_with(&[("KEYSTILE_SECRET_PREFIX", "prod/keystile/")]);
    people(&world).await;
    let db = |auth: &str| json!({"protocol": "valkey", "uri": "10.0.0.1", "auth": auth});
    world.put(ALICE, "db", "legacy", db("secret:keystile/of-another-prefix")).await;
    let named = "secret:prod/keystile/elasticache/1/us-east-1/app".to_owned();
    for auth in [named, format!("secret:{ARN}prod/keystile/elasticache/1/us-east-1/app-AbCdEf")] {
        for (kind, name, spec) in [
            ("db", "legacy", db(&auth)),
            ("db_auth", "legacy", json!({"auth": auth})),
            (
                "matcher",
                "all",
                json!({"types": ["elasticache"], "regions": ["us-east-1"], "tags": {"*": "*"}, "auth": auth}),
            ),
        ] {
            let error = world.put_refused(400, kind, name, spec).await;
            assert!(error["message"].as_str().unwrap().contains("managed users"), "{kind}: {error}");
            assert!(error["next"].to_string().contains("secret of its own"), "{kind}: {error}");
        }
    }
    let settings = world.ok(ALICE, "GET", "/v1/documents/settings", None).await;
    assert!(settings.to_string().contains("prod/keystile/"), "{settings}");
}

#[tokio::test]
async fn a_local_world_may_dial_loopback() {
    let world = empty_with(&[("KEYSTILE_ALLOW_LOOPBACK", "on"), ("KEYSTILE_STATIC_NETWORKS", "")]);
    people(&world).await;
    let spec = json!({"protocol": "valkey", "uri": "rediss://127.0.0.1:7001", "auth": "none"});
    world.put(ALICE, "db", "local", spec).await;
    let metadata = json!({"protocol": "valkey", "uri": "rediss://169.254.169.254", "auth": "none"});
    world.put_refused(400, "db", "bad", metadata).await;
}

#[tokio::test]
async fn teleports_roles_load_and_say_what_is_lost() {
    let world = ready().await;
    let put = async |name: &str, spec: Value| {
        let body = json!({"kind": "role", "version": "v7", "metadata": {"name": name}, "spec": spec});
        world.call(ALICE, "PUT", &format!("/v1/documents/role/{name}"), Some(body)).await
    };
    let spec = json!({
        "allow": {"db_labels": {"env": "dev"}, "db_users": ["{{internal.db_users}}", "ro"], "db_names": ["*"],
            "logins": ["root"], "rules": [{"resources": ["role"], "verbs": ["list"], "where": "x"}]},
        "deny": {"node_labels": {"x": "y"}},
        "options": {"max_session_ttl": "30h0m0s", "lock": "strict", "require_session_mfa": true,
            "forward_agent": false},
    });
    let (status, answer) = put("legacy", spec).await;
    assert_eq!(status, 200, "{answer}");
    let warnings = answer["warnings"].to_string();
    for named in [
        "allow.logins",
        "deny.node_labels",
        "require_session_mfa",
        "forward_agent",
        "where",
        "db_names",
        "templates",
    ] {
        assert!(warnings.contains(named), "{named}: {warnings}");
    }
    let read = world.ok(ALICE, "GET", "/v1/documents/role/legacy", None).await;
    assert_eq!(read["version"], "v7");
    assert_eq!(read["spec"]["options"]["locking_mode"], "strict");
    assert_eq!(read["spec"]["options"]["max_session_ttl"], "1d6h");
    assert_eq!(read["spec"]["allow"].get("rules"), None);
    let (status, _) = put("x", json!({"deny": {"db_labels_expression": "labels.env == \"prod\""}})).await;
    assert_eq!(status, 400);
    let (status, _) = put("x", json!({"deny": {"db_users": ["{{external.x}}"]}})).await;
    assert_eq!(status, 400);
    let (status, answer) = put("x", json!({"deny": {"db_labels": {"env": []}}})).await;
    assert_eq!(status, 400, "a deny that matches nothing: {answer}");
    // Ours is strict.
    let error = world.put_refused(400, "role", "x", json!({"allow": {"logins": ["root"]}})).await;
    assert!(error["why"].as_str().unwrap().contains("logins"), "{error}");
}

#[tokio::test]
async fn read_only_kinds_cannot_be_written() {
    let world = ready().await;
    for kind in ["db_user", "settings", "db_server", "proxy"] {
        world.put_refused(400, kind, "x", json!({})).await;
        world.refused(400, ALICE, "DELETE", &format!("/v1/documents/{kind}/x"), None).await;
        world.ok(ALICE, "GET", &format!("/v1/documents/{kind}"), None).await;
    }
    let users = world.ok(ALICE, "GET", "/v1/documents/db_user", None).await;
    assert_eq!(users["documents"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn locks_need_a_target_and_a_future() {
    let world = ready().await;
    for spec in [
        json!({"target": {}}),
        json!({}),
        json!({"target": {"user": "bob"}, "expires": "2020-01-01T00:00:00Z"}),
        json!({"target": {"user": "bob"}, "expires": "tomorrow"}),
        json!({"target": {"user": "bob\n"}}),
        json!({"target": {"group": "bob"}}),
    ] {
        world.put_refused(400, "lock", "x", spec).await;
    }
}

#[tokio::test]
async fn a_lock_on_what_is_not_there_says_so() {
    let world = ready().await;
    inventory(&world).await;
    let view = world.ok(ALICE, "GET", "/v1/databases/orders", None).await;
    let alias = view["alias"].as_str().unwrap();
    for (target, told) in [
        (json!({"user": "bob", "role": "editor", "database": "orders", "db_user": "iam-ro"}), &[][..]),
        (json!({"user": "b0b"}), &["user b0b does not exist"]),
        (json!({"role": "admins", "user": "bob"}), &["role admins does not exist"]),
        (json!({"database": "order"}), &["database order does not exist"]),
        (json!({"database": alias}), &["is called orders"]),
        (json!({"db_user": "iam-r0", "user": "b0b"}), &["user b0b does not exist", "db_user iam-r0"]),
    ] {
        let answer = world.put(ALICE, "lock", "x", json!({"target": target})).await;
        let warnings = answer["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(warnings.len(), told.len(), "{answer}");
        for (warning, told) in warnings.iter().zip(told) {
            assert!(warning.as_str().unwrap().contains(told), "{warning}");
        }
    }
}

#[tokio::test]
async fn how_a_database_is_signed_in_to_is_a_document_of_its_own() {
    let world = ready().await;
    world.audited("");
    let answer = world.put(ALICE, "db_auth", "orders", json!({"auth": "none"})).await;
    assert_eq!(answer["outcome"], "created");
    assert!(answer["warnings"][0].as_str().unwrap().contains("nobody signs in to the cache"), "{answer}");
    let view = world.ok(ALICE, "GET", "/v1/databases/orders", None).await;
    assert_eq!((&view["auth"], &view["db_users"]), (&json!("none"), &json!(["default"])));
    assert!(view["warnings"][0].as_str().unwrap().starts_with("no authentication"), "{view}");
    // Discovery writes the database again, and does not touch it.
    inventory(&world).await;
    assert_eq!(world.ok(ALICE, "GET", "/v1/databases/orders", None).await["auth"], "none");
    let read = world.ok(ALICE, "GET", "/v1/documents/db_auth/orders", None).await;
    assert_eq!(read["spec"], json!({"auth": "none"}));
    let alias = view["alias"].as_str().unwrap();
    for name in ["orders", alias] {
        let again = world.put(ALICE, "db_auth", name, json!({"auth": "none"})).await;
        assert_eq!(again["outcome"], "unchanged", "{name}");
    }
    let events = world.audited("keystile.policy.change");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["details"]["kind"], "db_auth");
    world.ok(ALICE, "DELETE", "/v1/documents/db_auth/orders", None).await;
    let view = world.ok(ALICE, "GET", "/v1/databases/orders", None).await;
    assert_eq!((&view["auth"], &view["db_users"]), (&json!("auto"), &json!(["*"])));
    for (name, spec, status) in [
        ("orders", json!({}), 400),
        ("orders", json!({"auth": "password"}), 400),
        ("orders", json!({"auth": "secret:a b"}), 400),
        ("nowhere", json!({"auth": "none"}), 404),
    ] {
        let path = format!("/v1/documents/db_auth/{name}");
        world.refused(status, ALICE, "PUT", &path, Some(document("db_auth", name, spec))).await;
    }
    let path = "/v1/documents/db_auth/orders";
    world.refused(403, BOB, "PUT", path, Some(document("db_auth", "orders", json!({"auth": "none"})))).await;
}

#[tokio::test]
async fn of_a_static_database_its_own_document_says_it() {
    let world = ready().await;
    let spec = json!({"protocol": "redis", "uri": "rediss://10.0.0.5:6380"});
    world.put(ALICE, "db", "legacy", spec).await;
    let view = world.ok(ALICE, "GET", "/v1/databases/legacy", None).await;
    assert!(view["warnings"][0].as_str().unwrap().contains("keystile db set legacy --auth"), "{view}");
    let answer = world.put(ALICE, "db_auth", "legacy", json!({"auth": "secret:shop/token"})).await;
    assert_eq!(answer["outcome"], "updated");
    assert!(answer["warnings"][0].as_str().unwrap().contains("keystile.dev/group/"), "{answer}");
    let read = world.ok(ALICE, "GET", "/v1/documents/db/legacy", None).await;
    assert_eq!(read["spec"]["auth"], "secret:shop/token");
    world.refused(404, ALICE, "GET", "/v1/documents/db_auth/legacy", None).await;
}
