"""After everything else: what was called, against what the templates grant; and no secret in any log."""

import json
import pathlib
import subprocess

import conftest


def test_recorded_calls_fit_the_policies(world, tmp_path):
    # Everything that each role does, in one recording.
    world.faults("DELETE", query="?calls")
    memorydb = world.aws("memorydb")
    arn = "arn:aws:memorydb:us-east-1:123456789012:cluster/ledger"
    memorydb.tag_resource(ResourceArn=arn, Tags=[{"Key": "keystile.dev/name", "Value": "books2"}])
    world.discover()
    memorydb.untag_resource(ResourceArn=arn, TagKeys=["keystile.dev/name"])
    memorydb.tag_resource(ResourceArn=arn, Tags=[{"Key": "team", "Value": "paying"}])
    world.invoke("sync-labels")
    memorydb.tag_resource(ResourceArn=arn, Tags=[{"Key": "team", "Value": "pay"}])
    world.invoke("sync-labels")
    world.discover()
    world.fault("tagging:*", "error-before", count=4)
    world.invoke("sync-labels", check=False)
    world.fault("tagging:*", "error-before", count=4)
    world.discover()
    world.faults("DELETE")
    world.ok("alice", "login")
    world.ok("alice", "discover", "run")
    world.ok("alice", "users", "add", "zoe", "--roles", "dev")
    world.ok("alice", "users", "rm", "zoe")
    world.ok("alice", "db", "ls")
    for database in ("orders", "orders-elasticache-eu-west-1-210987654321"):
        assert world.redis("alice", database, "iam-ro").ping()
    file = tmp_path / "calls.json"
    file.write_text(json.dumps(world.faults()))
    done = subprocess.run([conftest.ROOT / "target/tools/e2e/bin/python", conftest.ROOT / "infra/checks/iam.py", "--calls", file],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_log_holds_a_secret(world):
    secrets = {world["STATIC_APP_PASSWORD"], world["TEST_ADMIN_PASSWORD"], world["AWS_SECRET_ACCESS_KEY"]}
    passwords = json.loads((conftest.LOCAL / "passwords.json").read_text())
    secrets |= {value for value in passwords.values() if isinstance(value, str)}
    needles = secrets | {"X-Amz-Signature=", "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY"}
    logs = [p for p in (conftest.LOCAL / "log").rglob("*") if p.is_file() and not p.name.startswith("valkey-")]
    logs.append(pathlib.Path(world["KEYSTILE_AUDIT_FILE"]))
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        for needle in needles:
            assert needle not in text, f"{log} holds {needle[:16]}…"
