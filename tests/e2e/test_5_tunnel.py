"""`keystile proxy db --tunnel`: a plain port for any client."""

import json
import os
import signal
import socket
import subprocess

import conftest
import pytest
import redis


class Tunnel:
    def __init__(self, world, user, *args):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "KEYSTILE_"))}
        env.update(KEYSTILE_HOME=str(world.home(user)), AWS_ENDPOINT_URL=world["AWS_ENDPOINT_URL"])
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        self.port = probe.getsockname()[1]
        probe.close()
        self.process = subprocess.Popen(
            [world["KEYSTILE_BIN"], "proxy", "db", *args, "--tunnel", "--port", str(self.port)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        assert self.line, self.process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def test_without_a_password(world):
    with Tunnel(world, "alice", "orders", "--db-user", "iam-rw", "--no-password") as tunnel:
        client = redis.Redis(port=tunnel.port, decode_responses=True)
        assert client.set("e2e:tunnel", "1") and client.get("e2e:tunnel") == "1"
        assert client.acl_whoami() == "iam-rw"


def test_with_its_own_password(world):
    with Tunnel(world, "alice", "orders", "--db-user", "iam-ro", "--format", "json") as tunnel:
        said = json.loads(tunnel.line)
        with pytest.raises(redis.exceptions.RedisError):
            redis.Redis(port=tunnel.port).ping()
        with pytest.raises(redis.exceptions.RedisError):
            redis.Redis(port=tunnel.port, password="wrong").ping()
        for protocol in (2, 3):
            client = redis.Redis(port=tunnel.port, password=said["password"], decode_responses=True, protocol=protocol)
            assert client.acl_whoami() == "iam-ro"


def test_http_is_closed(world):
    with Tunnel(world, "alice", "orders", "--db-user", "iam-ro", "--no-password") as tunnel:
        sock = socket.create_connection(("127.0.0.1", tunnel.port))
        sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n\r\nFLUSHALL\r\nGET\r\n")
        sock.settimeout(5)
        data = b""
        try:
            while piece := sock.recv(4096):
                data += piece
        except (ConnectionError, TimeoutError):
            pass
        assert b"+OK" not in data and b"NOPERM" not in data


@pytest.mark.parametrize("client", ["valkey-cli", "redis-cli"])
def test_stock_command_lines(world, client):
    tool = conftest.LOCAL / "pkgs/usr/bin" / client
    if not tool.exists():
        pytest.skip(f"no {client} among this distribution's packages")
    with Tunnel(world, "alice", "orders", "--db-user", "iam-ro", "--no-password") as tunnel:
        done = subprocess.run([tool, "-p", str(tunnel.port), "PING"], capture_output=True, text=True, timeout=20)
        assert done.stdout.strip() == "PONG", done
    path = f"{conftest.LOCAL / 'pkgs/usr/bin'}:{os.environ['PATH']}"
    done = world.run("alice", "db", "connect", "orders", "--db-user", "iam-ro", "--", "ACL", "WHOAMI", KEYSTILE_CLIENT=client, PATH=path)
    assert done.stdout.strip().strip('"') == "iam-ro", done.stderr


def test_without_a_tunnel_it_prints_paths_and_ends(world):
    done = world.run("alice", "proxy", "db", "orders", "--db-user", "iam-ro")
    assert done.returncode == 0
    for word in ("cert", "key", "ca"):
        assert word in done.stdout.lower()
