//! Rotation: who may ask what, what rotate is told, and what people read.

use keystile_model::arn::Arn;
use keystile_model::db_user::DbUserService;
use keystile_model::rotation::row::{RotationRow, row_key};
use keystile_model::store::RuntimeStore as _;
use serde_json::json;

use super::world::{ALICE, BOB, NOW, ready};

const LEGACY: &str = "arn:aws:elasticache:us-east-1:123456789012:user:legacy";

#[tokio::test]
async fn rotation_is_an_editors() {
    let world = ready().await;
    for (method, path) in [
        ("POST", "/v1/rotation/run"),
        ("GET", "/v1/rotation/status"),
        ("POST", "/v1/rotation/pause"),
        ("POST", "/v1/rotation/resume"),
        ("POST", "/v1/rotation/lock"),
    ] {
        world.refused(403, BOB, method, path, None).await;
    }
    world.refused(400, ALICE, "GET", "/v1/rotation/run", None).await;
    world.refused(404, ALICE, "POST", "/v1/rotation/explode", None).await;
    assert!(world.rotation.events.lock().unwrap().is_empty());
    assert!(world.discovery.events.lock().unwrap().is_empty(), "a refusal looks at nothing");
}

#[tokio::test]
async fn a_run_looks_at_users_first_and_tells_rotate_who_asks() {
    let world = ready().await;
    *world.rotation.answer.lock().unwrap() = json!({"queued": [], "warnings": [], "complete": true});
    let body = json!({"db_user": "legacy", "force": true});
    world.ok(ALICE, "POST", "/v1/rotation/run", Some(body)).await;
    let looked = world.discovery.events.lock().unwrap().clone();
    assert_eq!((looked.len(), &looked[0]["only"]), (1, &json!("users")));
    let told = world.rotation.events.lock().unwrap().clone();
    assert_eq!(told[0]["operation"], "run");
    assert_eq!(
        (&told[0]["db_user"], &told[0]["force"], &told[0]["by"]),
        (&json!("legacy"), &json!(true), &json!("alice"))
    );
    let audited = world.audited("keystile.rotation.asked");
    assert_eq!((audited.len(), &audited[0]["details"]["db_user"]), (1, &json!("legacy")));
    world.refused(400, ALICE, "POST", "/v1/rotation/run", Some(json!({"password": "x"}))).await;
}

#[tokio::test]
async fn a_dry_run_looks_without_writing_and_tells_rotate_whom_it_found() {
    let world = ready().await;
    *world.rotation.answer.lock().unwrap() = json!({"take_over": [], "warnings": [], "complete": true});
    world.ok(ALICE, "POST", "/v1/rotation/run", Some(json!({"dry_run": true}))).await;
    let looked = world.discovery.events.lock().unwrap().clone();
    assert_eq!((&looked[0]["only"], &looked[0]["dry_run"]), (&json!("users"), &json!(true)));
    let told = world.rotation.events.lock().unwrap().clone();
    assert_eq!((&told[0]["dry_run"], &told[0]["found"]), (&json!(true), &json!([{"id": "newly-tagged"}])));
}

#[tokio::test]
async fn what_rotate_refuses_keeps_its_kind() {
    let world = ready().await;
    for (code, status) in [("not-found", 404), ("bad-request", 400)] {
        *world.rotation.answer.lock().unwrap() =
            json!({"refused": {"code": code, "message": "no such user"}});
        let body = Some(json!({"db_user": "nobody"}));
        let error = world.refused(status, ALICE, "POST", "/v1/rotation/lock", body).await;
        assert_eq!(error["message"], "no such user");
    }
    assert!(world.discovery.events.lock().unwrap().is_empty(), "only a run looks at users");
}

#[tokio::test]
async fn the_status_is_of_the_stored_rows() {
    let world = ready().await;
    let arn = Arn::parse(LEGACY).unwrap();
    let row =
        RotationRow::found(arn.clone(), DbUserService::Elasticache, "legacy".into(), "legacy".into(), NOW);
    world.memory.write(&row_key(&arn), None, None, serde_json::to_value(&row).unwrap()).await.unwrap();
    let status = world.ok(ALICE, "GET", "/v1/rotation/status", None).await;
    let user = &status["users"][0];
    assert_eq!(
        (&user["name"], &user["state"], &user["proof"]),
        (&json!("legacy"), &json!("found"), &json!(null))
    );
    assert_eq!(user["databases"], json!(["carts", "orders"]));
}

#[tokio::test]
async fn a_db_user_shows_its_databases_and_is_found_by_name() {
    let world = ready().await;
    let shown = world.ok(ALICE, "GET", "/v1/documents/db_user/legacy", None).await;
    assert_eq!(shown["metadata"]["name"], LEGACY);
    assert_eq!(shown["spec"]["databases"], json!(["carts", "orders"]));
    let same = world.ok(ALICE, "GET", &format!("/v1/documents/db_user/{LEGACY}"), None).await;
    assert_eq!(same, shown);
    world.refused(404, ALICE, "GET", "/v1/documents/db_user/nobody", None).await;
}
