//! The functions: by Lambda's Invoke, by the access URL, and by the `invoke` command's ways.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use keystile_world::front::Credentials;
use keystile_world::lambda::{Deployed, Ending, FunctionSpec, invoke};
use keystile_world::sigv4::{self, KnownKey};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::ground::{Ground, http};

/// A function in Python that answers with its event and who it is, or does as the event says.
const SCRIPT: &str = r#"
import json, os, sys, time, urllib.request
base = 'http://%s/2018-06-01/runtime' % os.environ['AWS_LAMBDA_RUNTIME_API']
def post(path, value):
    urllib.request.urlopen(urllib.request.Request(base + path, json.dumps(value).encode(), method='POST')).read()
while True:
    with urllib.request.urlopen(base + '/invocation/next') as answer:
        id, event = answer.headers['Lambda-Runtime-Aws-Request-Id'], json.loads(answer.read())
    print('working on it', flush=True)
    wish = event.get('wish') or os.environ.get('WISH') if isinstance(event, dict) else None
    if wish == 'exit': os._exit(7)
    if wish == 'sleep': time.sleep(60)
    if wish == 'error': post('/invocation/%s/error' % id, {'errorType': 'Boom', 'errorMessage': 'as asked'})
    else:
        body = {'event': event, 'pid': os.getpid(), 'name': os.environ['AWS_LAMBDA_FUNCTION_NAME'], 'own': os.environ.get('OWN'), 'role': os.environ['AWS_ACCESS_KEY_ID']}
        if wish is None and isinstance(event, dict) and 'requestContext' in event:
            body = {'statusCode': 201, 'headers': {'x-own': 'yes'}, 'body': json.dumps(body)}
        post('/invocation/%s/response' % id, body)
"#;

fn spec(ground: &Ground, name: &str, warm: bool) -> FunctionSpec {
    let binary = ground.folder().join(format!("{name}.py"));
    let python = keystile_world::packages::Packages::locate(&ground.paths.packages).unwrap().ministack();
    let python = python.with_file_name("python");
    std::fs::write(&binary, format!("#!{}\n{SCRIPT}", python.display())).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
    FunctionSpec {
        name: name.into(),
        function_name: format!("keystile-{name}"),
        binary,
        role: format!("keystile-{name}"),
        env: BTreeMap::from([("OWN".to_owned(), "set".to_owned())]),
        timeout_s: 2,
        warm,
        log: None,
    }
}

fn deploy(ground: &Ground) -> Vec<FunctionSpec> {
    let functions = vec![spec(ground, "access", true), spec(ground, "discover", false)];
    let deployed = serde_json::to_vec(&Deployed { functions: functions.clone() }).unwrap();
    std::fs::write(ground.folder().join("front/functions.json"), deployed).unwrap();
    functions
}

#[tokio::test]
async fn each_invocation_of_a_scheduled_function_is_a_fresh_process() {
    let ground = Ground::new().await;
    deploy(&ground);
    let client = Client::new(&ground.admin().await);
    let call = |wish: &str| {
        let payload = Blob::new(json!({ "wish": wish }).to_string());
        client.invoke().function_name("keystile-discover").payload(payload).send()
    };
    let (one, two) = (call("a").await.unwrap(), call("b").await.unwrap());
    let read = |blob: Option<&Blob>| serde_json::from_slice::<Value>(blob.unwrap().as_ref()).unwrap();
    let (first, second) = (read(one.payload()), read(two.payload()));
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!((&first["name"], &first["own"]), (&json!("keystile-discover"), &json!("set")));
    let key = first["role"].as_str().unwrap();
    let arn = "arn:aws:sts::123456789012:assumed-role/keystile-discover/keystile-discover";
    assert_eq!(ground.keys_file()["keys"][key]["arn"], arn);

    let failed = call("error").await.unwrap();
    assert_eq!(failed.function_error(), Some("Unhandled"));
    assert_eq!(read(failed.payload())["errorType"], "Boom");
    let gone = client.invoke().function_name("nothing").send().await.unwrap_err();
    assert!(gone.as_service_error().unwrap().is_resource_not_found_exception());
}

#[tokio::test]
async fn a_run_that_exits_or_takes_too_long_is_told_from_an_error() {
    let ground = Ground::new().await;
    let functions = deploy(&ground);
    let credentials = BTreeMap::from([("AWS_ACCESS_KEY_ID".to_owned(), "x".to_owned())]);
    let run = async |wish: &str| {
        invoke(&functions[1], "http://127.0.0.1:1", &credentials, json!({ "wish": wish }).to_string().into())
            .await
            .unwrap()
    };
    assert_eq!(run("exit").await.ending, Ending::Exited);
    let late = run("sleep").await;
    assert_eq!(late.ending, Ending::TimedOut);
    assert!(late.log.contains("working on it"));
    assert_eq!(run("error").await.ending, Ending::Failed);
    assert_eq!(run("anything").await.ending, Ending::Answered);
}

struct Signed {
    headers: Vec<(String, String)>,
}

fn sign(ground: &Ground, credentials: &Credentials, service: &str, body: &str, at: OffsetDateTime) -> Signed {
    let env = credentials.env();
    let host = ground.front.access_url.trim_start_matches("http://").to_owned();
    let mut headers = BTreeMap::from([
        ("host".to_owned(), host),
        ("content-type".to_owned(), "application/json".to_owned()),
    ]);
    let key = KnownKey {
        secret: env["AWS_SECRET_ACCESS_KEY"].clone(),
        session_token: env.get("AWS_SESSION_TOKEN").cloned(),
        expires_at: None,
    };
    let copy = headers.clone();
    let request =
        sigv4::Request { method: "POST", path: "/v1/a", query: "x=1", headers: &copy, body: body.as_bytes() };
    headers.extend(sigv4::sign(&request, &env["AWS_ACCESS_KEY_ID"], &key, "us-east-1", service, at));
    Signed { headers: headers.into_iter().collect() }
}

#[tokio::test]
async fn the_access_url_tells_the_function_who_calls_and_refuses_all_else() {
    let ground = Ground::new().await;
    deploy(&ground);
    let url = format!("{}/v1/a?x=1", ground.front.access_url);
    let now = OffsetDateTime::now_utc();
    let alice = ground.front.users["alice"].clone();
    let good = sign(&ground, &alice, "lambda", "{\"a\":1}", now);
    let (status, body) = http("POST", &url, &good.headers, "{\"a\":1}".into()).await;
    assert_eq!(status, 201, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let event = &body["event"];
    let iam = &event["requestContext"]["authorizer"]["iam"];
    assert_eq!(iam["userArn"], "arn:aws:iam::123456789012:user/alice");
    assert_eq!(
        (&event["version"], &event["rawPath"], &event["rawQueryString"]),
        (&json!("2.0"), &json!("/v1/a"), &json!("x=1"))
    );
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("{\"a\":1}"), &json!(false)));
    assert!(iam["userId"].as_str().unwrap().starts_with("AIDA"));

    let (_, again) = http("POST", &url, &good.headers, "{\"a\":1}".into()).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["pid"], body["pid"], "its process stays warm");

    let forged = sign(&ground, &alice, "lambda", "{\"a\":2}", now);
    assert_eq!(http("POST", &url, &forged.headers, "{\"a\":1}".into()).await.0, 403);
    assert_eq!(http("POST", &url, &[], "{\"a\":1}".into()).await.0, 403);
    let stale = sign(&ground, &alice, "lambda", "{}", now - Duration::minutes(6));
    assert_eq!(http("POST", &url, &stale.headers, "{}".into()).await.0, 403);
    let service = sign(&ground, &alice, "sts", "{}", now);
    assert_eq!(http("POST", &url, &service.headers, "{}".into()).await.0, 403);
    let calls = ground.front.calls();
    assert_eq!(
        calls.iter().filter(|call| call.operation == "InvokeFunctionUrl" && call.status == 403).count(),
        4
    );
}

/// Starts `keystile-world invoke discover` in a group of its own, with a wish for the function.
async fn invoke_command(ground: &Ground, wish: &str) -> tokio::process::Child {
    let mut functions = deploy(ground);
    functions[1].env.insert("WISH".into(), wish.into());
    let deployed = serde_json::to_vec(&Deployed { functions }).unwrap();
    std::fs::write(ground.folder().join("front/functions.json"), deployed).unwrap();
    tokio::process::Command::new(env!("CARGO_BIN_EXE_keystile-world"))
        .args(["invoke", "discover", "--front"])
        .arg(ground.folder().join("front"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Processes that run this ground's script.
fn running(ground: &Ground) -> Vec<i32> {
    let script = ground.folder().join("discover.py").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let runs = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&script))
    };
    pids.filter(runs).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..100 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn the_invoke_command_prints_the_answer_and_its_exit_code_tells_an_error_from_a_kill() {
    let ground = Ground::new().await;
    let done = invoke_command(&ground, "").await.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["event"]["detail-type"], "Scheduled Event");
    assert!(String::from_utf8_lossy(&done.stderr).contains("working on it"));
    assert_eq!(
        invoke_command(&ground, "error").await.wait_with_output().await.unwrap().status.code(),
        Some(1)
    );

    // The function's own group is killed: the run ends, and that is no error of the function.
    let run = invoke_command(&ground, "sleep").await;
    until("the function never ran", || !running(&ground).is_empty()).await;
    let pid = rustix::process::Pid::from_raw(running(&ground)[0]).unwrap();
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(run.wait_with_output().await.unwrap().status.code(), Some(3));

    // The command is killed, group and all: the function goes with it.
    let run = invoke_command(&ground, "sleep").await;
    until("the function never ran", || !running(&ground).is_empty()).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
    until("the function outlived its command", || running(&ground).is_empty()).await;
}
