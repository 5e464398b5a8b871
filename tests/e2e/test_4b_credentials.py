"""Ways to sign in to a cache other than IAM: the client's own password, a shared token, nothing at all, and static
databases."""

import pathlib
import socket
import subprocess
import tempfile

import pytest
import redis
from conftest import ROOT, lines, until

TAG = [{"Key": "keystile.dev/group/default", "Value": "true"}]


@pytest.fixture(scope="module")
def cache(world):
    """A server that AWS knows nothing of, with TLS by the world's CA of caches; give it lines of configuration."""
    running = []
    packages = ROOT / "target" / "local" / "pkgs" / "usr"
    made = pathlib.Path(world["CACHE_CA_FILE"]).parent
    folder = tempfile.mkdtemp(prefix="ks-static-")

    def start(*settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        built = packages / "bin" / "valkey-server"
        process = subprocess.Popen(
            [built if built.exists() else "valkey-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1",
             "--tls-cert-file", made / "node.pem", "--tls-key-file", made / "node-key.pem",
             "--tls-ca-cert-file", made / "ca.pem", "--tls-auth-clients", "no", "--save", "", *settings],
            env={"LD_LIBRARY_PATH": str(next((packages / "lib").glob("*-linux-gnu"), packages))},
            cwd=folder, stdout=subprocess.DEVNULL)
        running.append(process)
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, what="the server")
        return f"rediss://127.0.0.1:{port}", str(made / "ca.pem")

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def named(world):
    """Names to take away at the end: static databases and what was said of others."""
    names = []
    yield names.append
    for what in names:
        world.run("alice", "rm", what)


def said(world, user, database, db_user, *commands):
    """What a client hears that sends these and has no library that signs in by itself."""
    route = world.route(user, database, db_user)
    with world.socket(route, route["server_name"]) as sock:
        heard = []
        for command in commands:
            sock.sendall(command.encode() + b"\r\n")
            heard += lines(sock, 1)[:1]
        return heard


def served(world, user, database, db_user):
    """A client that works, once the proxy has heard of the last change."""

    def works():
        try:
            client = world.redis(user, database, db_user)
            client.ping()
            return client
        except redis.exceptions.RedisError:
            return None

    return until(works, 20, f"a session to {database}")


def test_a_client_s_own_password_goes_through(world, named):
    named("db_auth/orders")
    world.ok("alice", "db", "set", "orders", "--auth", "pass-through")
    until(lambda: said(world, "alice", "orders", "static-app", "GET e2e:x")[0].startswith("-NOAUTH"), what="the change")
    password = world["STATIC_APP_PASSWORD"]
    heard = said(world, "alice", "orders", "static-app", "AUTH static-app wrong", f"AUTH iam-rw {password}",
                 f"AUTH static-app {password}", "SET e2e:own 1", "RESET", "GET e2e:own", f"AUTH {password}", "PING")
    assert heard[0].startswith("-WRONGPASS") and heard[1].startswith("-NOPERM keystile")
    assert heard[2:5] == ["+OK", "+OK", "+RESET"] and heard[5].startswith("-NOAUTH keystile")
    assert heard[6:] == ["+OK", "+PONG"]
    # The roles are asked first: bob may not be static-app, with whatever password.
    with pytest.raises(AssertionError):
        world.route("bob", "orders", "static-app")
    # It is discovery's to write the database, and not how it is signed in to.
    world.discover()
    assert world.json("alice", "get", "db_auth/orders")["spec"] == {"auth": "pass-through"}
    assert said(world, "alice", "orders", "static-app", "GET e2e:x")[0].startswith("-NOAUTH")
    world.ok("alice", "rm", "db_auth/orders")
    assert served(world, "alice", "orders", "iam-ro").acl_whoami() == "iam-ro"


def test_a_shared_token_from_secrets_manager(world, cache, named):
    uri, ca = cache("--requirepass", "a-shared-token-of-the-test")
    named("db/shared")
    secrets = world.aws("secretsmanager")
    secrets.create_secret(Name="e2e/shared-token", SecretString="a-shared-token-of-the-test")
    added = world.json("alice", "db", "add", "shared", "--protocol", "redis", "--uri", uri, "--ca", ca, "--labels",
                       "env=dev,team=legacy", "--auth", "secret:e2e/shared-token")
    assert added[0]["outcome"] == "created" and "keystile.dev/group" in added[0]["warnings"][0]
    # Without the group's tag the proxy's role may not read it.
    heard = until(lambda: (text := said(world, "alice", "shared", "default", "PING")[0]) and
                  "there is no database" not in text and text, what="the database")
    assert "secret e2e/shared-token cannot be read: Secrets Manager refused (AccessDenied" in heard, heard
    secrets.tag_resource(SecretId="e2e/shared-token", Tags=TAG)
    client = served(world, "alice", "shared", "default")
    assert client.set("e2e:k", "v") and client.acl_whoami() == "default"
    shown = [row for row in world.json("alice", "db", "ls") if row["name"] == "shared"][0]
    assert shown["auth"] == "secret" and shown["db_users"] == ["default"]
    # A new token is found where the old one is refused; who is in stays in.
    client.execute_command("ACL", "SETUSER", "default", "resetpass", ">the-next-shared-token")
    secrets.put_secret_value(SecretId="e2e/shared-token", SecretString="the-next-shared-token")
    assert world.redis("alice", "shared", "default").get("e2e:k") == "v"
    assert client.get("e2e:k") == "v"
    world.ok("alice", "db", "rm", "shared")
    assert world.run("alice", "db", "show", "shared").returncode == 3


def test_no_authentication_only_when_asked_for(world, cache, named):
    uri, ca = cache("--protected-mode", "no")
    named("db/open")
    world.ok("alice", "db", "add", "open", "--protocol", "redis", "--uri", uri, "--ca", ca, "--labels", "env=dev")
    refused = world.run("alice", "db", "config", "open", "--db-user", "default")
    assert refused.returncode != 0 and "keystile db set open --auth" in refused.stderr
    set_ = world.json("alice", "db", "set", "open", "--auth", "none")
    assert set_[0]["outcome"] == "updated" and "nobody signs in to the cache" in set_[0]["warnings"][0]
    client = served(world, "alice", "open", "default")
    assert client.acl_whoami() == "default"
    listed = world.run("alice", "db", "ls")
    assert "warning: open: no authentication" in listed.stderr, listed.stderr
    assert "no authentication" in [r for r in world.json("alice", "db", "ls") if r["name"] == "open"][0]["warnings"][0]
    # bob's role has other db users than default.
    assert "open" not in [row["name"] for row in world.json("bob", "db", "ls")]


def test_what_is_no_way_to_sign_in_is_refused(world):
    for auth in ("password", "secret:", "secret:a b", ""):
        assert world.run("alice", "db", "set", "orders", "--auth", auth).returncode == 2
    assert world.run("alice", "db", "set", "nowhere", "--auth", "none").returncode == 3
    assert world.run("bob", "db", "set", "orders", "--auth", "none").returncode == 5
    for uri in ("rediss://169.254.169.254:80", "redis://127.0.0.1:6379", "rediss://8.8.8.8:6379"):
        assert world.run("alice", "db", "add", "bad", "--protocol", "redis", "--uri", uri, "--auth", "none").returncode == 2
    assert world.run("alice", "db", "rm", "orders").returncode == 1, "discovery's to remove"
