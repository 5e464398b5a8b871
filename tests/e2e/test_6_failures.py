"""Killing things, and what people see of it."""

import json
import os
import pathlib
import signal
import subprocess
import time

import conftest
import pytest
import redis
from conftest import command, lines, until


def node(world, resource, role="primary"):
    rows = json.load(open(world["CACHE_NODES_FILE"]))
    return next(row for row in rows if row["resource"] == resource and row["role"] == role and row["account"] == "123456789012")


def test_dynamodb_away_refuses_new_sessions_and_keeps_live_ones(world):
    live = world.redis("alice", "orders", "iam-ro")
    assert live.ping()
    route = world.route("alice", "orders", "iam-ro")
    world.fault("dynamodb:*", "error-before", count=100_000)
    try:
        def refused():
            sock = world.socket(route, route["server_name"])
            sock.sendall(command("PING"))
            got = lines(sock, 1)
            sock.close()
            return got and got[0].startswith("-") and got[0]

        text = until(refused, 90, "the refusal of new sessions")
        assert "keystile" in text and ("old" in text or "policy" in text), text
        assert live.ping(), "a live session goes on"
    finally:
        world.faults("DELETE")

    def served():
        sock = world.socket(route, route["server_name"])
        sock.sendall(command("PING"))
        return lines(sock, 1) == ["+PONG"]

    until(served, 20, "recovery")


def test_a_killed_discovery_loses_nothing(world):
    before = {row["name"] for row in world.json("alice", "db", "ls")}
    world.fault("elasticache:DescribeReplicationGroups", "slow", count=10, seconds=5)
    process = subprocess.Popen([world["KEYSTILE_INVOKE"], "discover"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    world.faults("DELETE")
    assert {row["name"] for row in world.json("alice", "db", "ls")} == before

    def again():
        done = world.invoke("discover", check=False)
        return done.returncode == 0 and not json.loads(done.stdout).get("remove")

    until(again, 120, "a run after the killed one")
    assert {row["name"] for row in world.json("alice", "db", "ls")} == before


def test_the_cache_dies_during_a_session(world):
    victim = node(world, "carts")
    client = world.redis("alice", "carts", "iam-ro")
    assert client.ping()
    connection = client.connection_pool.get_connection()
    os.kill(victim["pid"], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(redis.exceptions.RedisError):
        for _ in range(50):
            connection.send_command("PING")
            connection.read_response()
            time.sleep(0.1)
    # A serverless cache is a cluster: its commands wait 15 s for a node that can be reached.
    assert time.monotonic() - started < 25
    done = world.run("alice", "db", "connect", "carts", "--db-user", "iam-ro", "--", "PING")
    assert done.returncode != 0 and "carts" in done.stderr + done.stdout
    name = pathlib.Path(victim["log"]).stem
    subprocess.run([conftest.ROOT / "target/release/keystile-world", "restart-node", name], check=True, timeout=60)
    until(lambda: world.run("alice", "db", "connect", "carts", "--db-user", "iam-ro", "--", "PING").returncode == 0, 60, "carts again")


def restart_proxy_2(world):
    subprocess.run([conftest.ROOT / "target/release/keystile-world", "restart-proxy", "2"], check=True, timeout=60)
    world.env = conftest.read_env()


def test_a_killed_proxy_takes_its_own_sessions_only(world):
    route = world.route("alice", "orders", "iam-ro")
    other = world.redis("alice", "orders", "iam-ro")
    assert other.ping()
    sock = world.socket(route, route["server_name"], world["KEYSTILE_PROXY2_ADDR"])
    sock.sendall(command("PING"))
    assert lines(sock, 1) == ["+PONG"]
    os.kill(int(world["KEYSTILE_PROXY2_PID"]), signal.SIGKILL)
    try:
        assert sock.recv(10) == b""
    except OSError:
        pass
    assert other.ping()
    restart_proxy_2(world)

    def served():
        again = world.socket(route, route["server_name"], world["KEYSTILE_PROXY2_ADDR"])
        again.sendall(command("PING"))
        return lines(again, 1) == ["+PONG"]

    until(served, 20, "the second proxy")


def test_sigterm_drains_the_proxy(world):
    """The second proxy: nothing new is taken, the live session is told and ends, the audit is whole."""
    route = world.route("alice", "orders", "iam-ro")
    since = world.audit_length()
    sock = world.socket(route, route["server_name"], world["KEYSTILE_PROXY2_ADDR"], timeout=150)
    sock.sendall(command("PING"))
    assert lines(sock, 1) == ["+PONG"]
    os.kill(int(world["KEYSTILE_PROXY2_PID"]), signal.SIGTERM)
    time.sleep(0.5)
    with pytest.raises(OSError):
        world.socket(route, route["server_name"], world["KEYSTILE_PROXY2_ADDR"], timeout=3).recv(1)
    sock.sendall(command("PING"))
    assert lines(sock, 1) == ["+PONG"], "a live session goes on while it drains"
    sock.close()
    until(lambda: any(e["event"] == "db.session.end" and e["user"] == "alice" for e in world.audit(since)), 30, "the end in the audit")
    restart_proxy_2(world)
