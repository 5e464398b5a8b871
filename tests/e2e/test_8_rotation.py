"""Managed users are taken over: named first by a dry run, proved at every node, and nobody else is touched."""

import json
import pathlib

import redis
from conftest import until

HOME, REGION = "123456789012", "us-east-1"
MANAGED, LEGACY = "managed-app", "legacy-app"
SECRET = f"keystile/elasticache/{HOME}/{REGION}/"
TELEPORT = f"teleport/elasticache/{REGION}/{HOME}/user/legacy-app"


def rows(world):
    return {row["name"]: row for row in world.json("alice", "rotate", "status")}


def tick(world):
    return json.loads(world.invoke("rotate").stdout)


def is_ready(row):
    return bool(row) and row["state"] == "ready" and row["phase"] == "ready"


def settled(world, *names, step=tick, seconds=120):
    """Ticks until these users are at rest with a password of ours."""

    def check():
        step(world)
        found = rows(world)
        return found if all(is_ready(found.get(name)) for name in names) else None

    return until(check, seconds, f"the rotation of {names}")


def secret(world, name, stage="AWSCURRENT"):
    value = world.aws("secretsmanager").get_secret_value(SecretId=SECRET + name, VersionStage=stage)
    return json.loads(value["SecretString"])


def teleports_password(world):
    return world.aws("secretsmanager").get_secret_value(SecretId=TELEPORT)["SecretBinary"].decode()


def nodes(world):
    found = json.loads(pathlib.Path(world["CACHE_NODES_FILE"]).read_text())
    found = found if isinstance(found, list) else found["nodes"]
    return [row["addr"] for row in found if row["account"] == HOME and row["resource"] in ("orders", "sessions", "carts")]


def logs_in(world, address, user, password):
    host, port = address.rsplit(":", 1)
    client = redis.Redis(host=host, port=int(port), ssl=True, ssl_ca_certs=world["CACHE_CA_FILE"], username=user,
                         password=password, socket_timeout=10)
    try:
        return client.ping()
    except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
        return False
    finally:
        client.close()


def test_1_a_dry_run_names_who_would_be_taken_over_and_changes_nothing(world):
    world.forget_calls()
    report = world.json("alice", "rotate", "run", "--dry-run")
    names = {line["name"] for line in report["take_over"]}
    assert names == {MANAGED, LEGACY}, report
    assert report["dry_run"]
    changed = ("ModifyUser", "UpdateUser", "CreateSecret", "PutSecretValue")
    assert not [call for call in world.calls() if call["operation"] in changed]
    text = world.ok("alice", "rotate", "run", "--dry-run", "--db-user", LEGACY)
    assert f"would take over  {LEGACY}" in text and MANAGED not in text
    assert world.run("alice", "rotate", "run", "--dry-run", "--db-user", "static-app").returncode == 3
    for verb in (["run"], ["status"], ["pause"], ["now", "--db-user", MANAGED, "--lock"]):
        assert world.run("bob", "rotate", *verb).returncode == 5


def test_2_users_are_taken_over_and_others_left_alone(world):
    events = world.audit_length()
    static = world["STATIC_APP_PASSWORD"]
    world.forget_calls()
    world.discover()
    found = settled(world, MANAGED, LEGACY)
    assert set(found) == {MANAGED, LEGACY}, "nobody else has a row"
    for name in (MANAGED, LEGACY):
        value = secret(world, name)
        assert value["username"] == name and len(value["password"]) >= 32
        for address in nodes(world):
            assert logs_in(world, address, name, value["password"]), (name, address)
        row = found[name]
        assert {"orders", "sessions", "carts"} <= set(row["databases"])
        assert row["rotated_at"] and row["secret"] == SECRET + name
        assert row["proof"]["outcome"] == "everywhere", row["proof"]
    # Teleport's password is the second one until the first rotation.
    assert logs_in(world, nodes(world)[0], LEGACY, teleports_password(world))
    assert logs_in(world, nodes(world)[0], "static-app", static)
    told = {call["resource"] for call in world.calls() if call["operation"] == "ModifyUser"}
    assert told == {MANAGED, LEGACY}, "nobody else was told anything"
    tags = {tag["Key"]: tag["Value"] for tag in world.aws("secretsmanager").describe_secret(SecretId=SECRET + MANAGED)["Tags"]}
    assert tags["keystile.dev/group/default"] == "true"
    shown = world.json("alice", "get", f"db_user/{MANAGED}")["spec"]
    assert set(shown["databases"]) >= {"orders", "sessions", "carts"} and shown["rotation"]["phase"] == "ready"
    taken_over = [e for e in world.audit(events) if e["event"] == "keystile.rotation.takeover"]
    assert {e["db_user"] for e in taken_over} == {MANAGED, LEGACY}
