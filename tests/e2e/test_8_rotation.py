"""Managed users get passwords that nobody sees, and nobody is ever refused: with real servers, the built functions,
clients that log in all the while, and faults and kills at each step."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import conftest
import pytest
import redis
from conftest import until
from redis.backoff import NoBackoff
from redis.retry import Retry

HOME, REGION = "123456789012", "us-east-1"
MANAGED, LEGACY = "managed-app", "legacy-app"
SECRET = f"keystile/elasticache/{HOME}/{REGION}/"
TELEPORT = f"teleport/elasticache/{REGION}/{HOME}/user/legacy-app"
# A client that tries again would hide what it is here to show.
ONCE = Retry(NoBackoff(), 0)
# How many turns stock clients work through. A turn takes about seven seconds in the local world.
TURNS = int(os.environ.get("KEYSTILE_TURNS", "2"))
# One call of each step, and the lists and tables beside them.
STEPS = ["elasticache:DescribeUsers", "secretsmanager:PutSecretValue", "elasticache:ModifyUser",
         "secretsmanager:UpdateSecretVersionStage", "dynamodb:TransactWriteItems"]


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


def turned(world, name, step=tick, seconds=90, faults=()):
    """A whole turn of one user, begun now; with faults from its first call on."""
    before = rows(world)[name]
    # Paused, so that the look that comes with the wish begins nothing, and meets no fault.
    world.ok("alice", "rotate", "pause", "--db-user", name)
    forced(world, name)
    for fault in faults:
        world.fault(*fault)
    world.ok("alice", "rotate", "resume", "--db-user", name)

    def check():
        step(world)
        row = rows(world)[name]
        if row["rotated_at"] == before["rotated_at"] and row["reason"]:
            # A pause after a failure would be a minute; a person may ask for the turn at once.
            world.run("alice", "rotate", "run", "--db-user", name, "--force")
        return row if is_ready(row) and row["rotated_at"] != before["rotated_at"] else None

    return until(check, seconds, f"a turn of {name}")


def forced(world, name):
    return world.json("alice", "rotate", "run", "--db-user", name, "--force")


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
                         password=password, socket_timeout=10, retry=ONCE)
    try:
        return client.ping()
    except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError):
        return False
    finally:
        client.close()


def served(world, database, user):
    """A client that works, once the proxy has heard of the last change."""
    client = world.redis("alice", database, user)

    def works():
        try:
            return client.ping()
        except redis.exceptions.RedisError:
            return False

    until(works, 20, f"a session to {database} as {user}")
    return client


def refusal(world, database, user):
    """What a client reads that logs in now; nothing if it may."""
    client = world.redis("alice", database, user, retry=ONCE)
    try:
        client.ping()
        return ""
    except redis.exceptions.RedisError as error:
        return str(error)
    finally:
        client.close()


class Logins:
    """Logs in again and again, at every node, with what the secret says is current."""

    def __init__(self, world, *names):
        self.world, self.names, self.refused, self.done = world, names, [], 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        addresses = nodes(self.world)
        while not self.stop.is_set():
            for name in self.names:
                password = secret(self.world, name)["password"]
                for address in addresses:
                    if not logs_in(self.world, address, name, password):
                        self.refused.append((time.time(), name, address))
                    self.done += 1
            self.stop.wait(0.1)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30)
        assert not self.refused, self.refused[:5]
        assert self.done > 0


class Clients:
    """Stock clients of the proxy: one logs in anew for each command, one keeps its session all the while."""

    def __init__(self, world, database, user):
        self.key = f"rotation:work:{database}:{user}"
        self.anew = world.redis("alice", database, user, retry=ONCE)
        self.session = world.redis("alice", database, user, retry=ONCE)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.errors, self.logins, self.done = [], 0, 0

    def work(self, client):
        try:
            client.incr(self.key)
            self.done += 1
        except redis.exceptions.RedisError as error:
            self.errors.append((time.time(), repr(error)))

    def run(self):
        while not self.stop.wait(0.02):
            self.work(self.session)
            self.anew.connection_pool.disconnect()
            self.work(self.anew)
            self.logins += 1

    def held(self):
        """The session's socket."""
        connection = self.session.connection_pool.get_connection()
        self.session.connection_pool.release(connection)
        return connection._sock

    def __enter__(self):
        self.session.set(self.key, 0)
        self.socket = self.held()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30)
        assert not self.errors, f"{len(self.errors)} of {self.done} failed: {self.errors[:5]}"
        assert int(self.session.get(self.key)) == self.done > 0, "no command was lost, none was done twice"
        assert self.held() is self.socket, "the session is the same"
        self.session.delete(self.key)


@pytest.fixture(scope="module")
def taken(world):
    """Both managed users, taken over."""
    world.discover()
    return settled(world, MANAGED, LEGACY)


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


def test_3_stock_clients_work_through_turns(world, taken):
    events = world.audit_length()
    served(world, "orders", MANAGED).close()
    served(world, "sessions", MANAGED).close()
    with Logins(world, MANAGED), Clients(world, "orders", MANAGED) as orders, Clients(world, "sessions", MANAGED) as sessions:
        begun = time.monotonic()
        for _ in range(TURNS):
            before = secret(world, MANAGED)["password"]
            turned(world, MANAGED)
            assert secret(world, MANAGED)["password"] != before
            for address in nodes(world):
                assert logs_in(world, address, MANAGED, before), "the previous password is good until the next turn"
        took = time.monotonic() - begun
    print(f"{TURNS} turns in {took:.0f} s, {orders.logins + sessions.logins} logins, {orders.done + sessions.done} commands")
    assert len([e for e in world.audit(events) if e["event"] == "keystile.rotation.rotate" and e["success"]]) >= TURNS


def test_4_pause_and_resume(world, taken):
    world.ok("alice", "rotate", "pause", "--db-user", MANAGED)
    before = rows(world)[MANAGED]
    assert before["paused"]
    forced(world, MANAGED)
    for _ in range(3):
        tick(world)
    assert rows(world)[MANAGED]["rotated_at"] == before["rotated_at"]
    assert world.run("alice", "rotate", "pause", "--db-user", "nobody").returncode == 3
    world.ok("alice", "rotate", "resume", "--db-user", MANAGED)
    assert not rows(world)[MANAGED]["paused"]


@pytest.mark.parametrize("fault", ["error-before", "error-after", "throttle", "drop"])
def test_5_a_fault_at_each_step_refuses_nobody(world, taken, fault):
    with Logins(world, MANAGED), Clients(world, "orders", MANAGED):
        turned(world, MANAGED, lambda world: world.invoke("rotate", check=False), faults=[(op, fault) for op in STEPS])


def test_6_a_kill_at_each_step_refuses_nobody(world, taken):
    kills = []
    with Logins(world, MANAGED), Clients(world, "orders", MANAGED):
        faults = [(op, "slow", 1, 5) for op in STEPS]
        turned(world, MANAGED, lambda world: kills.append(killed(world)), faults=faults)
    assert sum(kills) == len(STEPS), kills


def killed(world):
    """A tick that is killed if it is not done in time; then its minute passes. Whether it was."""
    invoke = subprocess.Popen([world["KEYSTILE_INVOKE"], "rotate"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        invoke.wait(2)
        return False
    except subprocess.TimeoutExpired:
        for child in children(invoke.pid):
            os.killpg(os.getpgid(child), signal.SIGKILL)
        invoke.wait(30)
        # A killed run keeps its lease for a minute, which a test does not wait for.
        world.aws("dynamodb").delete_item(
            TableName=world["KEYSTILE_RUNTIME_TABLE"], Key={"pk": {"S": "lease"}, "sk": {"S": f"rotate#{HOME}#{REGION}"}})
        return True


def children(parent):
    """Processes whose parent this is, by /proc."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except (OSError, IndexError, ValueError):
            continue
    return found


def test_7_break_glass_replaces_both_passwords(world, taken):
    events = world.audit_length()
    leaked = [secret(world, MANAGED)["password"], secret(world, MANAGED, "AWSPREVIOUS")["password"]]
    assert world.run("alice", "rotate", "now", "--db-user", MANAGED).returncode == 2, "it wants --lock"
    rotated = rows(world)[MANAGED]["rotated_at"]
    client = served(world, "orders", MANAGED)
    row = world.json("alice", "rotate", "now", "--db-user", MANAGED, "--lock")[0]
    assert row["phase"] == "locked"
    until(lambda: "locked" in refusal(world, "orders", MANAGED), 10, "a refusal that names the lock")
    with pytest.raises(redis.exceptions.RedisError):
        client.ping()

    def done():
        tick(world)
        row = rows(world)[MANAGED]
        return row if is_ready(row) and row["rotated_at"] != rotated else None

    until(done, 90, "the end of break-glass")
    for address in nodes(world):
        for password in leaked:
            assert not logs_in(world, address, MANAGED, password)
        assert logs_in(world, address, MANAGED, secret(world, MANAGED)["password"])
    served(world, "orders", MANAGED).close()
    locked = [e for e in world.audit(events) if e["event"] == "keystile.rotation.lock"]
    assert locked and locked[0]["user"] == "alice"


def test_8_a_user_that_is_given_up_keeps_no_password_of_ours(world, taken):
    arn = f"arn:aws:elasticache:{REGION}:{HOME}:user:{LEGACY}"
    elasticache, password = world.aws("elasticache"), secret(world, LEGACY)["password"]
    elasticache.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "teleport.dev/managed", "Value": "false"}])
    try:
        world.discover()
        tick(world)
        assert rows(world)[LEGACY]["state"] == "ready", "one listing is not enough"
        world.discover()

        def gone():
            tick(world)
            return rows(world).get(LEGACY, {}).get("state") in (None, "withdrawn")

        until(gone, 60, "the end of its management")
        described = world.aws("secretsmanager").describe_secret(SecretId=SECRET + LEGACY)
        assert described["DeletedDate"]
        for address in nodes(world):
            until(lambda: not logs_in(world, address, LEGACY, password), 15, f"the end of the password at {address}")
    finally:
        elasticache.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "teleport.dev/managed", "Value": "true"}])
    told = world.json("alice", "rotate", "run", "--dry-run", "--db-user", LEGACY)
    assert [line["name"] for line in told["take_over"]] == [LEGACY], "a dry run sees the tag at once"
    assert not world.json("alice", "get", f"db_user/{LEGACY}")["spec"].get("managed"), "and writes nothing down"
    world.discover()
    settled(world, LEGACY)
    assert "DeletedDate" not in world.aws("secretsmanager").describe_secret(SecretId=SECRET + LEGACY)
    for address in nodes(world):
        assert logs_in(world, address, LEGACY, secret(world, LEGACY)["password"])


def test_9_no_log_and_no_table_holds_a_password(world, taken):
    passwords = []
    for name in (MANAGED, LEGACY):
        for stage in ("AWSCURRENT", "AWSPREVIOUS"):
            try:
                passwords.append(secret(world, name, stage).get("password"))
            except Exception:  # the secret may have no such stage
                continue
    passwords = [password for password in passwords if password]
    assert passwords
    table = json.dumps(world.aws("dynamodb").scan(TableName=world["KEYSTILE_RUNTIME_TABLE"])["Items"])
    table += json.dumps(world.aws("dynamodb").scan(TableName=world["KEYSTILE_POLICY_TABLE"])["Items"])
    logs = [path for path in (conftest.LOCAL / "log").rglob("*") if path.is_file()]
    logs.append(pathlib.Path(world["KEYSTILE_AUDIT_FILE"]))
    for password in passwords:
        assert password not in table
        for log in logs:
            assert password not in log.read_text(errors="replace"), log
