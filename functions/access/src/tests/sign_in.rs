//! Set-up, who is let in, and who is not.

use keystile_model::feed::{EntityKind, Feed};
use keystile_model::store::{Consistency, PolicyStore, StoreError};
use serde_json::json;

use super::world::*;

#[tokio::test]
async fn nobody_but_the_bootstrap_admin_sets_up() {
    let world = empty_with(&[]);
    let error = world.refused(503, ALICE, "GET", "/v1/status", None).await;
    assert_eq!(error["code"], "unavailable");
    assert!(world.memory.head(Feed::Access, Consistency::Strong).await.is_err());
    let status = world.ok(ADMIN, "GET", "/v1/status", None).await;
    assert_eq!((&status["user"], &status["roles"]), (&json!("bootstrap-admin"), &json!(["editor"])));
    assert_eq!(status["deployment"], "prod");
    assert_eq!(status["ca_pins"].as_array().unwrap().len(), 2);
    assert_eq!(world.audited("keystile.policy.change").len(), 5);
}

#[tokio::test]
async fn set_up_is_done_once() {
    let world = empty_with(&[]);
    for _ in 0..3 {
        world.ok(ADMIN, "GET", "/v1/status", None).await;
    }
    assert_eq!(world.memory.head(Feed::Access, Consistency::Strong).await.unwrap().revision, 1);
    let entities = world.memory.entities(Feed::Access).await.unwrap();
    let cas = entities.iter().filter(|entity| entity.kind() == EntityKind::CaCertificate).count();
    assert_eq!(cas, 2);
}

#[tokio::test]
async fn settings_follow_the_environment_and_a_removed_admin_stays_removed() {
    let world = ready().await;
    world.ok(ALICE, "DELETE", "/v1/documents/user/bootstrap-admin", None).await;
    let later = empty_over(&[("KEYSTILE_MAX_SESSION_TTL", "2h")], world.memory.clone(), world.memory.clone());
    let error = later.refused(403, ADMIN, "GET", "/v1/status", None).await;
    assert_eq!(error["code"], "not_mapped");
    let settings = world.ok(ALICE, "GET", "/v1/documents/settings/settings", None).await;
    assert_eq!(settings["spec"]["max_session_ttl"], "2h");
}

#[tokio::test]
async fn an_unmapped_caller_reads_what_to_do() {
    let world = ready().await;
    let mallory = "arn:aws:iam::123456789012:user/mallory";
    let error = world.refused(403, mallory, "POST", "/v1/login", None).await;
    assert_eq!(error["code"], "not_mapped");
    assert!(error["message"].as_str().unwrap().contains(mallory));
    assert_eq!(error["next"][0], format!("ask an editor: keystile users map-arn {mallory} --user NAME"));
    let role = "arn:aws:sts::123456789012:assumed-role/ci/build-7";
    let error = world.refused(403, role, "POST", "/v1/login", None).await;
    assert!(error["next"][0].as_str().unwrap().contains("arn:aws:iam::123456789012:role/ci "));
    let stranger = "arn:aws:iam::999999999999:user/alice";
    let error = world.refused(403, stranger, "POST", "/v1/login", None).await;
    assert!(error["why"].as_str().unwrap().contains("not trusted"), "{error}");
    let events = world.audited("user.login");
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0]["success"], &events[0]["code"]), (&json!(false), &json!("T1000W")));
    assert_eq!(events[0]["error"], "not_mapped");
    assert_eq!(events[0]["details"]["arn"], mallory);
}

#[tokio::test]
async fn only_the_verified_identity_counts() {
    let world = ready().await;
    let good = || event(ALICE, "GET", "/v1/status", None);
    assert_eq!(world.raw(good()).await.0, 200);
    let mut none = good();
    none["requestContext"]["authorizer"] = json!(null);
    none["headers"]["x-amzn-caller"] = json!(ALICE);
    assert_eq!(world.raw(none).await.0, 403);
    let mut no_arn = good();
    no_arn["requestContext"]["authorizer"]["iam"]["userArn"] = json!(null);
    assert_eq!(world.raw(no_arn).await.0, 403);
    let mut odd = good();
    odd["requestContext"]["authorizer"]["iam"]["accountId"] = json!("210987654321");
    assert_eq!(world.raw(odd).await.0, 403);
    assert_eq!(world.raw(json!({"source": "aws.scheduler"})).await.0, 400);
    assert_eq!(world.raw(json!(null)).await.0, 400);
}

#[tokio::test]
async fn a_locked_user_is_shut_out() {
    let world = ready().await;
    let spec =
        json!({"target": {"user": "bob"}, "message": "laptop lost", "expires": "2027-01-15T09:00:00Z"});
    world.put(ALICE, "lock", "bob-laptop", spec).await;
    let error = world.refused(403, BOB, "POST", "/v1/login", None).await;
    assert_eq!((&error["code"], &error["rule"]), (&json!("denied"), &json!("lock bob-laptop")));
    assert!(error["why"].as_str().unwrap().contains("laptop lost"));
    // NOW is 2027-01-15T08:00:00Z.
    world.clock.advance(time::Duration::seconds(3_601));
    world.ok(BOB, "GET", "/v1/status", None).await;
}

#[tokio::test]
async fn a_rule_to_a_user_who_is_not_there_lets_nobody_in() {
    let world = ready().await;
    let arn = "arn:aws:iam::123456789012:user/eve";
    let answer = world.put(ALICE, "arn_rule", arn, json!({"arn": arn, "user": "eve"})).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("eve does not exist"));
    let error = world.refused(403, arn, "GET", "/v1/status", None).await;
    assert_eq!(error["code"], "not_mapped");
}

#[tokio::test]
async fn a_store_that_is_away_is_no_refusal_of_the_person() {
    let world = ready().await;
    world.memory.set_outage(Some(StoreError::Unavailable("dynamodb.internal: timeout".to_owned())));
    let error = world.refused(503, ALICE, "GET", "/v1/status", None).await;
    assert!(!error.to_string().contains("dynamodb.internal"), "{error}");
    world.memory.set_outage(None);
    world.ok(ALICE, "GET", "/v1/status", None).await;
}
