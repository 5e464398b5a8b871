//! The built command against a small world: sign-in, databases, routes, documents, refusals, exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test by panicking")]

mod world;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::world::{World, mode};

#[test]
fn login_keeps_a_certificate_and_logout_removes_all() {
    let world = World::signed_in();
    for name in ["cert.pem", "key.pem", "ca.pem", "session.json"] {
        assert_eq!(mode(&world.path(name)), 0o600, "{name}");
    }
    let status = world.run(&["status", "--format", "json"]);
    assert_eq!(status.code, 0, "{}", status.err);
    assert_eq!(status.json()["user"], "alice");
    assert_eq!(status.json()["valid_until"], "2099-01-01T00:00:00Z");
    assert_eq!(world.run(&["db", "login", "orders", "--db-user", "iam-ro"]).code, 0);
    assert_eq!(world.run(&["logout"]).code, 0);
    for name in ["cert.pem", "key.pem", "ca.pem", "session.json", "routes"] {
        assert!(!world.path(name).exists(), "{name}");
    }
    assert_eq!(world.run(&["status"]).code, 4);
}

#[test]
fn login_remembers_the_url() {
    let world = World::start();
    std::fs::write(world.path("config.yaml"), "region: us-east-1\n").unwrap();
    assert_eq!(world.run(&["login"]).code, 2);
    assert_eq!(world.run(&["login", "--url", &world.url]).code, 0);
    assert!(std::fs::read_to_string(world.path("config.yaml")).unwrap().contains(&world.url));
    assert_eq!(world.run(&["login", "--ttl", "1h"]).code, 0);
    assert_eq!(world.asked.lock().unwrap().last().unwrap().3["ttl_s"], 3_600);
}

#[test]
fn credentials_of_the_home_are_the_only_ones() {
    let world = World::start();
    let mut login = world.command(&["login"]);
    login.env("AWS_ACCESS_KEY_ID", "AKIDENV").env("AWS_SECRET_ACCESS_KEY", "x").env("AWS_PROFILE", "nope");
    login.env("AWS_REGION", "eu-central-1").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    let output = login.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.asked.lock().unwrap()[0].2, "AKIDHOME");
    std::fs::remove_file(world.path(".aws/credentials")).unwrap();
    let mut login = world.command(&["login"]);
    login.env("AWS_ACCESS_KEY_ID", "AKIDENV").env("AWS_SECRET_ACCESS_KEY", "x");
    let output = login.output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no AWS credentials"));
    std::fs::remove_dir(world.path(".aws")).unwrap();
    let mut login = world.command(&["login"]);
    login.env("AWS_ACCESS_KEY_ID", "AKIDENV").env("AWS_SECRET_ACCESS_KEY", "x");
    assert!(login.output().unwrap().status.success());
    assert_eq!(world.asked.lock().unwrap().last().unwrap().2, "AKIDENV");
}

#[test]
fn without_a_session_every_verb_but_a_few_exits_4_and_asks_nobody() {
    let world = World::start();
    let verbs: &[&[&str]] = &[
        &["db", "ls"],
        &["db", "show", "x"],
        &["db", "connect", "x"],
        &["db", "config", "x"],
        &["db", "env", "x"],
        &["db", "login", "x"],
        &["db", "logout"],
        &["proxy", "db", "x", "--tunnel"],
        &["users", "ls"],
        &["users", "map-arn", "arn", "--user", "u"],
        &["roles", "add", "x"],
        &["locks", "ls"],
        &["create", "-f", "-"],
        &["get", "role"],
        &["edit", "role/x"],
        &["rm", "role/x"],
        &["discover", "run"],
        &["discover", "status"],
        &["rotate", "run"],
        &["rotate", "status"],
        &["rotate", "pause"],
        &["ca", "status"],
        &["ca", "host-cert", "--group", "g", "--out", "d"],
        &["status"],
    ];
    for verb in verbs {
        let ended = world.run(verb);
        assert_eq!(ended.code, 4, "{verb:?}: {}", ended.err);
        assert!(ended.err.contains("keystile login"), "{verb:?}: {}", ended.err);
    }
    assert!(world.asked.lock().unwrap().is_empty());
    assert_eq!(world.run(&["logout"]).code, 0);
    assert_eq!(world.run(&["version"]).out, format!("keystile {}\n", env!("CARGO_PKG_VERSION")));
    assert!(world.run(&["completion", "bash"]).out.contains("keystile"));
    let token =
        ["aws", "token", "--service", "elasticache-serverless", "--cache", "Carts", "--user", "iam-ro"];
    let token = world.run(&token);
    assert!(
        token.out.starts_with("carts/?Action=connect&User=iam-ro&ResourceType=ServerlessCache"),
        "{token:?}"
    );
    let ended = world.run(&["db", "ls", "--format", "json"]);
    let twin: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(twin["error"]["code"], "sign_in");
    assert_eq!(twin["error"]["next"], json!(["keystile login"]));
}

#[test]
fn an_expired_session_exits_4_too() {
    let world = World::signed_in();
    let path = world.path("session.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("2099-", "2020-");
    std::fs::write(&path, text).unwrap();
    let status = world.run(&["status"]);
    assert!(status.code == 4 && status.out.contains("alice") && status.out.contains("(ended)"), "{status:?}");
    assert_eq!(world.run(&["db", "ls"]).code, 4);
}

#[test]
fn databases_in_every_form() {
    let world = World::signed_in();
    let list = world.run(&["db", "ls", "-f", "json"]).json();
    let first = &list.as_array().unwrap()[0];
    let fields = "name description kind engine engine_version endpoint_type uri region account_id labels db_users health";
    for field in fields.split(' ') {
        assert!(first.get(field).is_some(), "{field}");
    }
    let text = world.run(&["db", "ls"]);
    assert!(text.out.starts_with("NAME ") && text.err.contains("1 of 3 databases"), "{text:?}");
    assert!(world.run(&["db", "ls", "--format", "yaml"]).out.contains("name: orders"));
    assert_eq!(world.run(&["db", "ls", "--label", "env=dev", "-f", "json"]).json(), json!([]));
    assert_eq!(
        world.run(&["db", "ls", "--search", "ORD prod", "-f", "json"]).json().as_array().unwrap().len(),
        1
    );
    assert_eq!(world.run(&["db", "ls", "--label", "x"]).code, 2);
    assert_eq!(world.run(&["db", "show", "orders", "-f", "json"]).json()["uri"], "rediss://orders:6379");
    assert_eq!(world.run(&["db", "show", "nothing"]).code, 3);
    let file = world.path("list.json");
    assert_eq!(world.run(&["db", "ls", "-f", "json", "-o", file.to_str().unwrap()]).out, "");
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn config_gives_files_that_open_the_route() {
    let world = World::signed_in();
    let args = ["db", "config", "orders", "--db-user", "iam-ro", "--format", "json"];
    let config = world.run(&args).json();
    for file in ["ca", "cert", "key"] {
        let path = std::path::Path::new(config[file].as_str().unwrap());
        assert!(path.is_absolute() && mode(path) == 0o600, "{config}");
    }
    assert_eq!(config["server_name"], "orders.ks.test");
    assert!(config["port"].is_u64());
    let key = std::fs::read(config["key"].as_str().unwrap()).unwrap();
    let again = world.run(&args).json();
    assert_eq!(std::fs::read(again["key"].as_str().unwrap()).unwrap(), key);
    let mut other = world.command(&args);
    let other: Value =
        serde_json::from_slice(&other.env("KEYSTILE_PROXY_ADDR", "proxy.test:7").output().unwrap().stdout)
            .unwrap();
    assert_eq!((&other["host"], &other["port"]), (&json!("proxy.test"), &json!(7)));
    let env = world.run(&["db", "env", "orders", "--db-user", "iam-ro"]);
    assert!(env.out.contains("export REDIS_TLS_CERT_FILE=/"), "{env:?}");
    let files = world.run(&["proxy", "db", "orders", "--db-user", "iam-ro"]);
    assert!(files.code == 0 && files.out.contains("cert.pem"), "{files:?}");
    assert_eq!(world.run(&["db", "logout", "orders"]).code, 0);
    assert_eq!(world.run(&["db", "logout", "orders"]).code, 3);
    assert_eq!(world.run(&["db", "logout"]).code, 0);
}

#[test]
fn one_command_exits_with_its_outcome() {
    let world = World::signed_in();
    let connect = |words: &[&str]| {
        world.run(&[&["db", "connect", "orders", "--db-user", "iam-ro", "--"], words].concat())
    };
    let echo = connect(&["ECHO", "a b"]);
    assert_eq!((echo.code, echo.out.as_str()), (0, "a b\n"), "{}", echo.err);
    let set = connect(&["SET", "k", "v"]);
    assert!(set.code == 1 && set.out.starts_with("NOPERM User"), "{set:?}");
    assert_eq!(connect(&["KEYS", "*"]).code, 5);
    let list = world.run(&[
        "db",
        "connect",
        "orders",
        "--db-user",
        "iam-ro",
        "-f",
        "json",
        "--",
        "LRANGE",
        "l",
        "0",
        "1",
    ]);
    assert_eq!(list.json(), json!(["a", null]));
}

#[test]
fn lines_of_standard_input_are_commands() {
    let world = World::signed_in();
    let args = ["db", "connect", "orders", "--db-user", "iam-ro"];
    let mut child =
        world.command(&args).env("KEYSTILE_CLIENT", "builtin").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"PING\n\nECHO \"x y\"\nNOPE\nPING\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\nx y\nERR unknown command\nPONG\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn each_refusal_of_a_route_has_its_code() {
    let world = World::signed_in();
    let none = world.run(&["db", "connect", "nothing", "--db-user", "iam-ro", "--", "PING"]);
    assert_eq!(none.code, 3, "{none:?}");
    let denied = world.run(&["db", "connect", "orders", "--db-user", "admin", "--", "PING"]);
    assert!(denied.code == 5 && denied.err.contains("dev/1"), "{denied:?}");
    let several = world.run(&["db", "connect", "orders", "--", "GET", "a b"]);
    assert_eq!(several.code, 2);
    assert!(
        several.err.contains("next  keystile db connect orders --db-user iam-rw -- GET 'a b'"),
        "{}",
        several.err
    );
    let mut dead = world.command(&["db", "connect", "orders", "--db-user", "iam-ro", "--", "PING"]);
    assert_eq!(dead.env("KEYSTILE_PROXY_ADDR", "127.0.0.1:1").output().unwrap().status.code(), Some(7));
    let mut strange = world.command(&["db", "connect", "orders", "--db-user", "iam-ro"]);
    assert_eq!(strange.env("KEYSTILE_CLIENT", "nc").output().unwrap().status.code(), Some(2));
}

#[test]
fn each_refusal_of_the_access_function_has_its_code() {
    let world = World::signed_in();
    let cases = [
        (503, "unavailable", 7),
        (500, "internal", 1),
        (409, "conflict", 1),
        (400, "bad_request", 2),
        (403, "not_mapped", 5),
    ];
    for (status, code, exit) in cases {
        world.answer("/v1/databases", status, json!({"error": {"code": code, "message": "no"}}));
        assert_eq!(world.run(&["db", "ls"]).code, exit, "{code}");
    }
    world.answer("/v1/databases", 403, json!({"Message": "Forbidden"}));
    assert_eq!(world.run(&["db", "ls"]).code, 5);
    world.answer(
        "/v1/databases",
        403,
        json!({"message": "The security token included in the request is expired"}),
    );
    assert_eq!(world.run(&["db", "ls"]).code, 4);
    world.answer("/v1/databases", 200, json!({"hello": "world"}));
    let page = world.run(&["db", "ls"]);
    assert!(page.code == 1 && page.err.contains("not a Keystile access function"), "{page:?}");
    let mut away = world.command(&["db", "ls"]);
    assert_eq!(
        away.env("KEYSTILE_ACCESS_URL", "http://127.0.0.1:1").output().unwrap().status.code(),
        Some(7)
    );
    let mut status = world.command(&["status"]);
    let status = status.env("KEYSTILE_ACCESS_URL", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(status.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&status.stderr).contains("note:"));
}

#[test]
fn documents_are_written_listed_and_removed() {
    let world = World::signed_in();
    let yaml =
        "kind: role\nversion: ks1\nmetadata: {name: a}\n---\nkind: role\nversion: ks1\nmetadata: {name: b}\n";
    let created = world.run_with(&["create", "-f", "-"], yaml);
    assert_eq!(
        (created.code, created.out.as_str()),
        (0, "role/a created\nrole/b created\n"),
        "{}",
        created.err
    );
    assert!(created.err.contains("warning: role/a: db_names"), "{}", created.err);
    assert_eq!(world.run_with(&["create", "-f", "-"], "nonsense").code, 2);
    assert_eq!(world.run(&["create", "-f", "/nonexistent"]).code, 2);
    assert_eq!(world.run(&["get", "roles", "-f", "json"]).json()[0]["metadata"]["name"], "dev");
    assert!(world.run(&["get", "role/dev"]).out.contains("kind: role"));
    assert_eq!(world.run(&["get", "role/none"]).code, 3);
    assert_eq!(world.run(&["roles", "ls", "-f", "json"]).json()[0]["name"], "dev");
    assert!(world.run(&["roles", "ls"]).out.contains("env=dev"));
    assert_eq!(world.run(&["rm", "role/dev"]).code, 0);
    assert_eq!(world.run(&["rm", "role"]).code, 2);
    let edit = world.run(&["edit", "role/dev"]);
    assert!(edit.code == 2 && edit.err.contains("needs a terminal"), "{edit:?}");
    assert_eq!(world.run(&["users", "add", "bob", "--roles", "dev,x"]).code, 0);
    let arn = "arn:aws:iam::123456789012:role/checkout";
    assert_eq!(world.run(&["users", "map-arn", arn, "--user", "checkout"]).code, 0);
    let asked = world.asked.lock().unwrap();
    let (method, path, _, body) = asked.last().unwrap();
    assert_eq!((method.as_str(), path.as_str()), ("PUT", format!("/v1/documents/arn_rule/{arn}").as_str()));
    assert_eq!(body["spec"], json!({"arn": arn, "user": "checkout", "sso": false}));
    assert_eq!(asked[asked.len() - 2].3["spec"]["roles"], json!(["dev", "x"]));
}

#[test]
fn rotation() {
    let world = World::signed_in();
    let run = world.run(&["rotate", "run", "--dry-run", "--db-user", "legacy-app"]);
    assert!(run.out.contains("would take over  legacy-app"), "{}", run.out);
    let rows = world.run(&["rotate", "status", "--format", "json"]).json();
    for field in ["name", "arn", "state", "rotated_at", "proof"] {
        assert!(rows[0].as_object().unwrap().contains_key(field), "{field}");
    }
    assert!(world.run(&["rotate", "status"]).out.contains("managed-app  ready"));
    assert_eq!(world.run(&["rotate", "pause", "-f", "json"]).json()[0]["paused"], true);
    assert_eq!(world.run(&["rotate", "resume", "--db-user", "managed-app"]).code, 0);
    assert_eq!(world.run(&["rotate", "now", "--db-user", "managed-app"]).code, 2, "--lock is needed");
    assert_eq!(world.run(&["rotate", "now", "--lock"]).code, 2);
    assert_eq!(world.run(&["rotate", "now", "--db-user", "managed-app", "--lock"]).code, 0);
}

#[test]
fn discovery_and_authorities() {
    let world = World::signed_in();
    assert_eq!(world.run(&["discover", "run", "--dry-run", "-f", "json"]).json()["dry_run"], true);
    let matchers = world.path("m.yaml");
    std::fs::write(
        &matchers,
        "kind: matcher\nversion: ks1\nmetadata: {name: m}\nspec: {types: [memorydb]}\n",
    )
    .unwrap();
    assert_eq!(
        world.run(&["discover", "run", "--dry-run", "--matchers", matchers.to_str().unwrap()]).code,
        0
    );
    assert_eq!(world.asked.lock().unwrap().last().unwrap().3["matchers"][0]["metadata"]["name"], "m");
    assert!(world.run(&["discover", "status"]).out.contains("orders"));
    assert!(world.run(&["ca", "status"]).out.contains("sha256:00"));
    let folder = world.path("host");
    let ended = world.run(&[
        "ca",
        "host-cert",
        "--group",
        "g",
        "--out",
        folder.to_str().unwrap(),
        "--name",
        "a.test",
    ]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_tunnel_wants_its_password_and_ends_at_a_signal() {
    let world = World::signed_in();
    let args = ["proxy", "db", "orders", "--db-user", "iam-ro", "--tunnel", "--format", "json"];
    let mut child = world.command(&args).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let dial = || {
        TcpStream::connect(("127.0.0.1", u16::try_from(ready["port"].as_u64().unwrap()).unwrap())).unwrap()
    };
    let password = ready["password"].as_str().unwrap();
    let mut client = dial();
    client.write_all(b"PING\r\n").unwrap();
    assert!(read_line(&mut client).starts_with("-NOAUTH"));
    client.write_all(format!("AUTH x {password}\r\n").as_bytes()).unwrap();
    assert_eq!(read_line(&mut client), "+OK");
    client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    assert_eq!(read_line(&mut client), "+PONG");
    let mut hello = dial();
    let words = ["HELLO", "3", "AUTH", "default", password];
    let request: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    hello.write_all(format!("*5\r\n{request}").as_bytes()).unwrap();
    assert_eq!([read_line(&mut hello), read_line(&mut hello), read_line(&mut hello)], ["$5", "hello", ":2"]);
    let mut browser = dial();
    browser.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = browser.read_to_end(&mut answer);
    assert!(answer.is_empty());
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_tunnel_without_a_password_and_a_proxy_says_why() {
    let world = World::signed_in();
    let socket = world.path("s.sock");
    let args = [
        "proxy",
        "db",
        "orders",
        "--db-user",
        "iam-ro",
        "--tunnel",
        "--no-password",
        "--unix",
        socket.to_str().unwrap(),
    ];
    let mut child = world.command(&args).env("KEYSTILE_PROXY_ADDR", "127.0.0.1:1").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("orders (iam-ro)  no password"), "{line}");
    assert_eq!(mode(&socket), 0o600);
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.write_all(b"PING\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("-ERR keystile: the proxy at 127.0.0.1:1 is out of reach"), "{answer}");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let world = World::start();
    let mut child = world.command(&["completion", "zsh"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn wrong_lines_exit_2_with_a_suggestion() {
    let world = World::start();
    let verb = world.run(&["statsu"]);
    assert!(verb.code == 2 && verb.err.contains("'status'"), "{verb:?}");
    let flag = world.run(&["db", "ls", "--serch", "x"]);
    assert!(flag.code == 2 && flag.err.contains("--search"), "{flag:?}");
    let twin: Value = serde_json::from_str(&world.run(&["db", "lz", "--format", "json"]).err).unwrap();
    assert_eq!(twin["error"]["code"], "usage");
    assert_eq!(world.run(&["--help"]).code, 0);
    std::fs::write(world.path("config.yaml"), "access_url: [").unwrap();
    assert_eq!(world.run(&["db", "ls"]).code, 2);
    assert_eq!(world.run(&["version"]).code, 0);
}

fn read_line(from: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        from.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}
