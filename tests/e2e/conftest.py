"""What every end-to-end test stands on: the running local world, people who type commands, raw sockets.

The world is started by tests/run; nothing here shares code with what it tests.
"""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import time
import urllib.request

import boto3
import pytest
import redis
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCAL = ROOT / "target" / "local"


def read_env():
    lines = (LOCAL / "env").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    return {key: value.strip("'") for key, value in pairs}


class World:
    """The running local world, seen from outside."""

    def __init__(self):
        self.env = read_env()
        # Calls that a test made the front forget: the last test wants those of the whole suite.
        self.forgotten = []

    def __getitem__(self, name):
        return self.env[name]

    def home(self, user):
        return LOCAL / "home" / user

    def run(self, user, *args, timeout=60, stdin=None, **extra):
        """The keystile command as that person types it."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "KEYSTILE_"))}
        environment = {**clean, "KEYSTILE_HOME": str(self.home(user)), "KEYSTILE_CLIENT": "builtin"}
        # The world's AWS endpoint is what an IAM token or a login would otherwise look for on the internet.
        environment["AWS_ENDPOINT_URL"] = self["AWS_ENDPOINT_URL"]
        environment.update({k: str(v) for k, v in extra.items()})
        return subprocess.run(
            [self["KEYSTILE_BIN"], *map(str, args)],
            env=environment, capture_output=True, text=True, timeout=timeout, input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
        )

    def ok(self, user, *args, **extra):
        done = self.run(user, *args, **extra)
        assert done.returncode == 0, f"keystile {' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, user, *args, **extra):
        return json.loads(self.ok(user, *args, "--format", "json", **extra))

    def invoke(self, function, check=True):
        done = subprocess.run([self["KEYSTILE_INVOKE"], function], capture_output=True, text=True, timeout=120)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def discover(self):
        return json.loads(self.invoke("discover").stdout)

    # -- faults and recorded calls
    def faults(self, method="GET", body=None, query=""):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self["KEYSTILE_FAULTS_URL"] + query, data=data, method=method,
                                         headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def calls(self):
        """Calls since the start, or since the last forget_calls."""
        return self.faults()["calls"]

    def forget_calls(self):
        self.forgotten += self.calls()
        self.faults("DELETE", query="?calls")

    def fault(self, op, fault, count=1, seconds=1):
        self.faults("POST", {"op": op, "fault": fault, "count": count, "seconds": seconds})

    # -- AWS as the admin, through a client that is not ours
    def aws(self, service, region="us-east-1", account=None):
        keys = {"aws_access_key_id": self["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": self["AWS_SECRET_ACCESS_KEY"]}
        if account == "210987654321":
            assumed = self.aws("sts").assume_role(
                RoleArn="arn:aws:iam::210987654321:role/keystile-discovery", RoleSessionName="e2e",
                ExternalId="keystile-test")["Credentials"]
            keys = {"aws_access_key_id": assumed["AccessKeyId"], "aws_secret_access_key": assumed["SecretAccessKey"],
                    "aws_session_token": assumed["SessionToken"]}
        return boto3.client(service, region_name=region, endpoint_url=self["AWS_ENDPOINT_URL"],
                            config=Config(retries={"max_attempts": 1}), **keys)

    # -- RESP
    def route(self, user, database, db_user):
        return self.json(user, "db", "config", database, "--db-user", db_user)

    def redis(self, user, database, db_user, **options):
        """redis-py, straight at the proxy, with the certificate from db config."""
        route = self.route(user, database, db_user)
        pool = redis.ConnectionPool(
            connection_class=server_name_connection(route["server_name"]), host=route["host"], port=route["port"],
            ssl_ca_certs=route["ca"], ssl_certfile=route["cert"], ssl_keyfile=route["key"], decode_responses=True,
            socket_timeout=20, **options)
        return redis.Redis(connection_pool=pool)

    def socket(self, cert=None, server_name="localhost", address=None, timeout=10):
        host, port = (address or self["KEYSTILE_PROXY_ADDR"]).rsplit(":", 1)
        context = ssl.create_default_context(cafile=self["KEYSTILE_CA_FILE"])
        if cert:
            context.load_cert_chain(cert["cert"], cert["key"])
        raw = socket.create_connection((host, int(port)), timeout=timeout)
        return context.wrap_socket(raw, server_hostname=server_name)

    def admin(self, address):
        """The cache itself, behind the proxy's back."""
        host, port = address.rsplit(":", 1)
        return redis.Redis(host=host, port=int(port), ssl=True, ssl_ca_certs=self["CACHE_CA_FILE"], username="test-admin",
                           password=self["TEST_ADMIN_PASSWORD"], decode_responses=True)

    def audit(self, since=0):
        lines = pathlib.Path(self["KEYSTILE_AUDIT_FILE"]).read_text().splitlines()
        return [json.loads(line) for line in lines[since:]]

    def audit_length(self):
        return len(pathlib.Path(self["KEYSTILE_AUDIT_FILE"]).read_text().splitlines())


def server_name_connection(name):
    """redis-py takes the TLS server name from the host; a route's is another."""

    class Connection(redis.SSLConnection):
        def _wrap_socket_with_ssl(self, sock):
            context = ssl.create_default_context(cafile=self.ca_certs)
            context.load_cert_chain(self.certfile, self.keyfile)
            return context.wrap_socket(sock, server_hostname=name)

    return Connection


def command(*parts):
    out = b"*%d\r\n" % len(parts)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        out += b"$%d\r\n%s\r\n" % (len(data), data)
    return out


def lines(sock, count, timeout=10):
    """So many reply lines, as text; for simple replies."""
    sock.settimeout(timeout)
    data = b""
    while data.count(b"\r\n") < count:
        piece = sock.recv(65536)
        if not piece:
            break
        data += piece
    return data.decode(errors="replace").split("\r\n")[:-1]


def until(check, seconds=10, what="it"):
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def world():
    world = World()
    for person in ("alice", "bob", "carol", "dave"):
        world.ok(person, "login")
    return world


@pytest.fixture(autouse=True)
def no_faults_left(world):
    yield
    world.faults("DELETE")
