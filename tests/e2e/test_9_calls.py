"""After everything else: what was called, against what the templates grant; and no secret in any log."""

import json
import pathlib
import subprocess

import conftest


def test_recorded_calls_fit_the_policies(world, tmp_path):
    """Every call of the whole suite: nothing is missing in the templates, and nothing is granted for nothing."""
    recorded = world.forgotten + world.calls()
    assert len(recorded) > 500
    file = tmp_path / "calls.json"
    file.write_text(json.dumps({"calls": recorded}))
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
