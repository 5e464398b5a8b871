"""Signing in, and what each exit code means."""

import json
import os
import shutil
import stat

import pytest
from conftest import LOCAL


def test_status_says_who_and_until_when(world):
    status = world.json("alice", "status")
    assert status["user"] == "alice" and set(status["roles"]) == {"access", "editor"}
    text = world.ok("alice", "status")
    assert world["KEYSTILE_DEPLOYMENT"] in text and "sha256:" in text


def test_credentials_are_for_the_owner_alone(world):
    world.route("alice", "orders", "iam-ro")
    pems = [path for path in world.home("alice").rglob("*.pem")]
    assert pems
    for path in pems:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_user_without_roles_signs_in_and_sees_nothing(world):
    assert world.json("dave", "db", "ls") == []
    done = world.run("dave", "db", "connect", "orders", "--db-user", "iam-ro", "--", "PING")
    assert done.returncode == 5 and "no role" in done.stderr


def stranger(world, tmp_path, key, secret):
    home = tmp_path / "home"
    shutil.copytree(world.home("alice"), home, ignore=shutil.ignore_patterns("*.pem", "state", "routes"))
    (home / ".aws" / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return home


def test_an_unmapped_caller_is_refused(world, tmp_path):
    made = world.aws("iam").create_user(UserName="mallory-e2e")
    try:
        key = world.aws("iam").create_access_key(UserName="mallory-e2e")["AccessKey"]
        home = stranger(world, tmp_path, key["AccessKeyId"], key["SecretAccessKey"])
        done = world.run("alice", "login", KEYSTILE_HOME=home)
        assert done.returncode == 5, done.stdout + done.stderr
    finally:
        pass


def test_a_wrong_signature_is_refused(world, tmp_path):
    text = (world.home("alice") / ".aws" / "credentials").read_text()
    key = next(line.split("=")[1].strip() for line in text.splitlines() if "aws_access_key_id" in line)
    home = stranger(world, tmp_path, key, "not-the-secret")
    done = world.run("alice", "login", KEYSTILE_HOME=home)
    assert done.returncode != 0 and not list(home.rglob("*cert*.pem"))


@pytest.mark.parametrize("verb", [
    ["db", "ls"], ["db", "show", "orders"], ["db", "connect", "orders"], ["db", "config", "orders"], ["proxy", "db", "orders"],
    ["users", "ls"], ["roles", "ls"], ["get", "matcher"], ["discover", "status"], ["discover", "run"], ["ca", "status"],
])
def test_without_a_certificate_every_verb_says_sign_in(world, tmp_path, verb):
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    for name in ("config.yaml", ".aws/credentials"):
        if (world.home("alice") / name).exists():
            shutil.copy(world.home("alice") / name, home / name)
    done = world.run("alice", *verb, KEYSTILE_HOME=home)
    assert done.returncode == 4, done.stderr
    assert "keystile login" in done.stderr


def test_logout_removes_it_all(world):
    try:
        world.ok("dave", "logout")
        assert not list(world.home("dave").rglob("*.pem"))
        assert world.run("dave", "db", "ls").returncode == 4
    finally:
        world.ok("dave", "login")


def test_unknown_and_ambiguous_names(world):
    assert world.run("alice", "db", "connect", "nothere", "--db-user", "iam-ro", "--", "PING").returncode == 3
    done = world.run("bob", "db", "connect", "sessions", "--", "PING")
    assert done.returncode == 2
    assert "iam-ro" in done.stderr and "iam-rw" in done.stderr and "--db-user" in done.stderr
    assert world.run("alice", "nonsense").returncode == 2
    assert world.run("alice", "db", "ls", "--nonsense").returncode == 2


def test_a_denial_names_the_rule(world):
    done = world.run("bob", "db", "connect", "orders", "--db-user", "iam-ro", "--", "PING")
    assert done.returncode == 5 and "no role allows it" in done.stderr, done.stderr
    twin = world.run("bob", "db", "connect", "orders", "--db-user", "iam-ro", "--format", "json", "--", "PING")
    error = json.loads(twin.stderr.strip().splitlines()[-1])["error"]
    assert error["code"] == "denied" and error["rule"]


def test_admin_verbs_need_the_right(world):
    assert world.run("bob", "users", "add", "eve", "--roles", "editor").returncode == 5
    assert world.run("bob", "roles", "rm", "dev").returncode == 5
    assert world.run("carol", "users", "ls").returncode == 5


def test_users_and_rules_come_and_go(world):
    world.ok("alice", "users", "add", "zoe", "--roles", "dev")
    world.ok("alice", "users", "map-arn", "arn:aws:iam::123456789012:user/zoe", "--user", "zoe")
    assert "zoe" in {row["name"] for row in world.json("alice", "users", "ls")}
    world.ok("alice", "users", "rm", "zoe")
    assert "zoe" not in {row["name"] for row in world.json("alice", "users", "ls")}


@pytest.mark.parametrize("arn", [
    "arn:aws:iam::999999999999:user/alice", "arn:aws:iam::123456789012:role/*", "arn:aws:iam::*:role/dev", "nonsense"])
def test_a_rule_that_lets_in_the_world_does_not_load(world, arn):
    done = world.run("alice", "users", "map-arn", arn, "--user", "zoe")
    assert done.returncode in (2, 1), done.stderr
    assert done.stderr


def test_the_last_editor_stays(world):
    rows = {row["name"] for row in world.json("alice", "users", "ls")}
    editors = [name for name in rows if "editor" in json.dumps(world.json("alice", "get", f"user/{name}"))]
    assert len(editors) >= 1


def test_documents_are_checked(world, tmp_path):
    bad = {
        "unknown field": "kind: role\nversion: ks1\nmetadata: {name: x}\nspec: {allow: {db_lables: {a: b}}}\n",
        "bad pattern": "kind: role\nversion: ks1\nmetadata: {name: x}\nspec: {allow: {db_labels: {env: '^(($'}}}\n",
        "bad command": "kind: role\nversion: ks1\nmetadata: {name: x}\nspec: {allow: {db_commands: [nonsense]}}\n",
        "no yaml": "kind: [role\n",
        "unknown kind": "kind: banana\nversion: ks1\nmetadata: {name: x}\nspec: {}\n",
        "name": "kind: role\nversion: ks1\nmetadata: {name: '../x'}\nspec: {}\n",
        "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
                "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
    }
    for what, text in bad.items():
        file = tmp_path / "doc.yaml"
        file.write_text(text)
        done = world.run("alice", "create", "-f", file)
        assert done.returncode == 2, f"{what}: {done.returncode} {done.stderr}"
        assert done.stderr.strip(), what


def test_aws_token_needs_no_certificate(world, tmp_path):
    text = world.ok("alice", "aws", "token", "--service", "elasticache", "--cache", "orders", "--user", "iam-ro",
                    "--region", "us-east-1")
    assert text.startswith("orders/?Action=connect") and "X-Amz-Signature=" in text


def test_homes_keep_to_their_own_keys(world):
    """Where a home has .aws, the environment's keys are ignored: bob stays bob with alice's keys around him."""
    text = (world.home("alice") / ".aws" / "credentials").read_text()
    pick = lambda name: next(line.split("=", 1)[1].strip() for line in text.splitlines() if name in line)
    done = world.run("bob", "login", AWS_ACCESS_KEY_ID=pick("aws_access_key_id"), AWS_SECRET_ACCESS_KEY=pick("aws_secret_access_key"))
    assert done.returncode == 0
    assert world.json("bob", "status")["user"] == "bob"


def test_the_function_urls_audit(world):
    events = {event["event"] for event in world.audit()}
    assert {"user.login", "cert.create", "keystile.policy.change"} <= events
