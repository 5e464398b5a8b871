"""What a client sees of the proxy."""

import socket
import ssl
import threading
import time

import re
import pytest
import redis
from conftest import command, lines, until


def test_read_and_write_with_a_stock_client(world):
    rw = world.redis("alice", "orders", "iam-rw")
    ro = world.redis("alice", "orders", "iam-ro")
    assert rw.set("e2e:greeting", "hello")
    assert ro.get("e2e:greeting") == "hello"
    with pytest.raises(redis.exceptions.NoPermissionError):
        ro.set("e2e:greeting", "changed")
    assert ro.acl_whoami() == "iam-ro"
    assert world.admin(world["ORDERS_ADDR"]).get("e2e:greeting") == "hello"


@pytest.mark.parametrize("database", ["orders", "orders-reader", "carts", "carts-reader",
                                      "orders-elasticache-eu-west-1-210987654321"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_each_single_endpoint_is_served(world, database, protocol):
    client = world.redis("alice", database, "iam-ro", protocol=protocol)
    assert client.ping()
    assert client.get("nothing-here") is None


@pytest.mark.parametrize("database", ["sessions", "ledger"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_cluster_mode_looks_like_one_server(world, database, protocol):
    client = world.redis("alice", database, "iam-rw", protocol=protocol)
    assert client.ping()
    pipe = client.pipeline(transaction=False)
    for i in range(500):
        pipe.set(f"e2e:c:{i}", i)
        pipe.get(f"e2e:c:{i}")
    assert pipe.execute()[1::2] == [str(i) for i in range(500)]
    assert world.redis("alice", database, "iam-ro").get("e2e:c:7") == "7"


@pytest.mark.parametrize("database", ["carts", "sessions"])
def test_a_cluster_gives_no_address_away(world, database):
    client = world.redis("alice", database, "iam-ro")
    port = int(client.connection_pool.connection_kwargs["port"])
    # The port of the cluster's bus is the other one and 10,000; nobody listens there.
    here = {str(port), str(port + 10_000)}
    for sub in ("SLOTS", "SHARDS", "NODES"):
        told = str(client.execute_command("CLUSTER", sub))
        ports = set(re.findall(r"\b[1-9][0-9]{3,4}\b", told)) - {"16383"}
        assert ports <= here, f"{sub}: {told}"
    assert client.ping(), "the session goes on"


def test_a_pipeline_keeps_its_order(world):
    client = world.redis("alice", "orders", "iam-rw")
    pipe = client.pipeline(transaction=False)
    for i in range(2_000):
        pipe.set(f"e2e:p:{i}", i)
        pipe.get(f"e2e:p:{i}")
    replies = pipe.execute()
    assert replies[1::2] == [str(i) for i in range(2_000)]
    client.delete(*[f"e2e:p:{i}" for i in range(2_000)])


def test_large_values_go_through(world):
    client = world.redis("alice", "orders", "iam-rw")
    value = "x" * (8 << 20)
    assert client.set("e2e:large", value)
    assert client.get("e2e:large") == value
    client.delete("e2e:large")


def test_transactions_blocking_and_pubsub(world):
    rw = world.redis("alice", "orders", "iam-rw")
    with rw.pipeline(transaction=True) as tx:
        tx.watch("e2e:tx")
        tx.multi()
        tx.set("e2e:tx", 1)
        tx.incr("e2e:tx")
        assert tx.execute() == [True, 2]
    threading.Timer(0.5, lambda: world.redis("alice", "orders", "iam-rw").rpush("e2e:list", "late")).start()
    assert rw.blpop("e2e:list", timeout=5) == ("e2e:list", "late")
    subscriber = rw.pubsub()
    subscriber.subscribe("e2e:news")
    until(lambda: subscriber.get_message(timeout=1), 5)
    rw.publish("e2e:news", "hi")
    message = until(lambda: subscriber.get_message(timeout=1), 5)
    assert message["data"] == "hi"
    subscriber.unsubscribe()
    subscriber.close()


# -- command rules: carol reads

def test_commands_are_refused_plainly_and_in_order(world):
    route = world.route("carol", "orders", "iam-ro")
    sock = world.socket(route, route["server_name"])
    sock.sendall(command("PING") + command("SET", "a", "b") + command("ECHO", "x") + command("KEYS", "*") + command("GET", "nothing-here"))
    got = lines(sock, 6)
    assert got[0] == "+PONG"
    assert got[1].startswith("-NOPERM keystile") and "analyst" in got[1]
    assert got[2:4] == ["$1", "x"]
    assert got[4].startswith("-NOPERM keystile")
    assert got[5] in ("$-1", "_")
    sock.close()


def test_a_refusal_inside_multi_aborts_the_exec(world):
    route = world.route("carol", "orders", "iam-ro")
    sock = world.socket(route, route["server_name"])
    sock.sendall(command("MULTI") + command("GET", "a") + command("SET", "a", "b") + command("EXEC") + command("PING"))
    got = lines(sock, 5)
    assert got[0] == "+OK" and got[1] == "+QUEUED"
    assert got[2].startswith("-NOPERM keystile")
    assert got[3].startswith("-EXECABORT")
    assert got[4] == "+PONG"
    sock.close()


@pytest.mark.parametrize("words", [["MONITOR"], ["SYNC"], ["PSYNC", "?", "-1"], ["REPLCONF", "x"], ["SHUTDOWN"], ["DEBUG", "SLEEP", "0"],
                                   ["MODULE", "LOAD", "x"], ["REPLICAOF", "NO", "ONE"], ["CONFIG", "SET", "timeout", "0"]])
def test_commands_that_never_pass(world, words):
    route = world.route("alice", "orders", "iam-admin")
    sock = world.socket(route, route["server_name"])
    sock.sendall(command(*words) + command("PING"))
    got = lines(sock, 2)
    assert got[0].startswith("-") and "keystile" in got[0], got
    assert got[1] == "+PONG"
    sock.close()


def test_a_role_reaches_its_own_keys_alone(world):
    """The role checkout limits keys to cart:* and order:*; its workload signs in and works with them, as iam-rw."""
    world.ok("checkout", "login")
    assert {row["name"] for row in world.json("checkout", "db", "ls")} == {"orders", "orders-reader", "carts", "carts-reader"}
    done = world.run("checkout", "db", "connect", "orders", "--db-user", "iam-rw", "--", "SET", "order:e2e", "paid")
    assert done.returncode == 0 and "OK" in done.stdout, done.stdout + done.stderr
    done = world.run("checkout", "db", "connect", "orders", "--db-user", "iam-rw", "--", "GET", "payroll:1")
    assert done.returncode != 0
    assert "db_keys" in done.stdout + done.stderr and "checkout" in done.stdout + done.stderr


@pytest.mark.parametrize("database", ["orders", "carts"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_key_limits_with_a_stock_client(world, database, protocol):
    world.ok("checkout", "login")
    shop = world.redis("checkout", database, "iam-rw", protocol=protocol)
    other = world.redis("alice", database, "iam-rw")
    other.set("payroll:1", "secret")
    tag = f"{{e2e{protocol}}}"
    assert shop.set(f"cart:{tag}:1", "x") and shop.get(f"cart:{tag}:1") == "x"
    assert shop.mset({f"cart:{tag}:2": "y", f"order:{tag}:2": "z"})
    pipe = shop.pipeline(transaction=False)
    for key in (f"cart:{tag}:2", "payroll:1", f"order:{tag}:2"):
        pipe.get(key)
    got = pipe.execute(raise_on_error=False)
    assert got[0] == "y" and got[2] == "z"
    assert isinstance(got[1], redis.exceptions.NoPermissionError) and "payroll" not in str(got[1]), got
    for words in (["KEYS", "*"], ["SCAN", "0"], ["DBSIZE"], ["EVAL", "return redis.call('GET', 'payroll:1')", "0"], ["JSON.GET", "cart:1"],
                  ["COPY", "payroll:1", f"cart:{tag}:3"], ["RENAME", f"cart:{tag}:1", "payroll:2"], ["XREAD", "STREAMS", "payroll:1", "0"],
                  ["CLIENT", "TRACKING", "ON", "BCAST"], ["SUBSCRIBE", "__keyevent@0__:set"], ["PSUBSCRIBE", "*"], ["FLUSHALL"]):
        with pytest.raises(redis.exceptions.NoPermissionError) as refused:
            shop.execute_command(*words)
        assert "keystile" in str(refused.value), words
    # redis-py raises the refusal of the command where the server says EXECABORT.
    with pytest.raises(redis.exceptions.NoPermissionError), shop.pipeline(transaction=True) as tx:
        tx.set(f"cart:{tag}:1", "changed")
        tx.get("payroll:1")
        tx.execute()
    assert shop.get(f"cart:{tag}:1") == "x", "nothing of the transaction was done"
    value = "v" * (4 << 20)
    assert shop.set(f"order:{tag}:large", value) and shop.get(f"order:{tag}:large") == value
    subscriber = shop.pubsub()
    subscriber.subscribe("e2e:shop")
    assert until(lambda: subscriber.get_message(timeout=1), 5)["type"] == "subscribe"
    subscriber.close()
    shop.delete(*[f"cart:{tag}:{i}" for i in (1, 2)], f"order:{tag}:2", f"order:{tag}:large")
    other.delete("payroll:1")


# -- who and where

def test_without_a_certificate_the_error_says_sign_in(world):
    sock = world.socket(None)
    sock.sendall(command("PING"))
    got = lines(sock, 1)
    assert got[0].startswith("-NOAUTH") and "keystile login" in got[0], got


def test_a_foreign_certificate_is_an_error(world, tmp_path):
    import subprocess
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                    tmp_path / "k.pem", "-out", tmp_path / "c.pem", "-subj", "/CN=alice", "-days", "1"], check=True, capture_output=True)
    with pytest.raises((ssl.SSLError, ConnectionError, OSError)):
        sock = world.socket({"cert": tmp_path / "c.pem", "key": tmp_path / "k.pem"})
        sock.sendall(command("PING"))
        assert sock.recv(100) == b"", "an answer to a stranger"
        raise ConnectionError("closed")


def test_auth_with_a_routed_certificate(world):
    route = world.route("alice", "orders", "iam-ro")
    sock = world.socket(route, route["server_name"])
    sock.sendall(command("AUTH", "iam-ro", "whatever") + command("AUTH", "whatever") + command("AUTH", "iam-rw", "x") + command("ACL", "WHOAMI"))
    got = lines(sock, 5)
    assert got[0] == "+OK" and got[1] == "+OK"
    assert got[2].startswith("-NOPERM")
    assert got[4] == "iam-ro", "nothing changed who the cache sees"
    sock.close()


def test_the_server_name_is_a_route(world):
    """With the certificate of login the route comes from the server name, the db user from AUTH."""
    home = world.home("alice")
    cert = next(p for p in home.rglob("*.pem") if "cert" in p.name and "routes" not in str(p) and "db" not in p.parent.name)
    key = next(p for p in cert.parent.iterdir() if "key" in p.name)
    sock = world.socket({"cert": cert, "key": key}, f"orders.{world['KEYSTILE_DOMAIN']}")
    sock.sendall(command("AUTH", "iam-ro", "") + command("ACL", "WHOAMI"))
    got = lines(sock, 3)
    assert got[0] == "+OK" and got[2] == "iam-ro", got
    sock.close()


def test_a_route_that_disagrees_is_refused(world):
    route = world.route("alice", "orders", "iam-ro")
    sock = world.socket(route, f"carts.{world['KEYSTILE_DOMAIN']}")
    sock.sendall(command("PING"))
    got = lines(sock, 1)
    assert got[0].startswith("-") and "keystile" in got[0]


def test_http_is_closed(world):
    route = world.route("alice", "orders", "iam-ro")
    sock = world.socket(route, route["server_name"])
    sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    data = sock.recv(1000)
    assert b"PONG" not in data
    sock.settimeout(5)
    while data:
        data = sock.recv(1000)


def test_an_unknown_db_user_is_refused_not_guessed(world):
    done = world.run("alice", "db", "connect", "orders", "--db-user", "nobody-here", "--", "PING")
    assert done.returncode != 0 and "nobody-here" in done.stderr


def test_people_do_not_pass_by_the_proxy(world):
    """A token of alice's own, straight at the cache, is refused by the cache."""
    token = world.ok("alice", "aws", "token", "--service", "elasticache", "--cache", "orders", "--user", "iam-ro",
                     "--region", "us-east-1").strip()
    host, port = world["ORDERS_ADDR"].rsplit(":", 1)
    direct = redis.Redis(host=host, port=int(port), ssl=True, ssl_ca_certs=world["CACHE_CA_FILE"], username="iam-ro", password=token)
    with pytest.raises(redis.exceptions.AuthenticationError):
        direct.ping()


def test_the_second_proxy_and_the_load_balancer_serve_too(world):
    route = world.route("alice", "orders", "iam-ro")
    for address in (world["KEYSTILE_PROXY2_ADDR"], world["KEYSTILE_FRONT_ADDR"]):
        sock = world.socket(route, route["server_name"], address)
        sock.sendall(command("PING"))
        assert lines(sock, 1) == ["+PONG"]
        sock.close()


def test_a_lock_cuts_and_refuses_until_it_is_taken_away(world):
    live = world.redis("bob", "carts", "iam-ro")
    assert live.ping()
    world.ok("alice", "locks", "add", "--name", "e2e", "--user", "bob", "--message", "INC-1", "--ttl", "5m")
    try:
        assert "INC-1" in world.ok("alice", "locks", "ls")

        def cut():
            try:
                live.ping()
                return False
            except Exception as error:
                return str(error) or "closed"

        until(cut, 10, "the end of bob's session")
        done = world.run("bob", "db", "connect", "carts", "--db-user", "iam-ro", "--", "PING")
        assert done.returncode == 5 and "INC-1" in done.stderr, done.stderr
    finally:
        world.ok("alice", "locks", "rm", "e2e")
    until(lambda: world.run("bob", "db", "connect", "carts", "--db-user", "iam-ro", "--", "PING").returncode == 0, 10, "bob again")


# -- limits

def test_a_silent_client_is_let_go(world):
    host, port = world["KEYSTILE_PROXY_ADDR"].rsplit(":", 1)
    raw = socket.create_connection((host, int(port)), timeout=60)
    raw.settimeout(45)
    assert raw.recv(10) == b""


@pytest.mark.parametrize("bad", [b"*-5\r\n$1\r\n", b"*1\r\n+PING\r\n", b"*3000000\r\n", b"*1\r\n$-7\r\n", b"\x00" * 70_000])
def test_nonsense_gets_an_error_and_ends(world, bad):
    route = world.route("alice", "orders", "iam-ro")
    sock = world.socket(route, route["server_name"])
    sock.sendall(command("PING"))
    assert lines(sock, 1) == ["+PONG"]
    sock.sendall(bad)
    sock.settimeout(10)
    data = b""
    try:
        while piece := sock.recv(1000):
            data += piece
            if b"\r\n" in data and data.startswith(b"*"):
                break
    except (ConnectionError, TimeoutError):
        pass
    assert data == b"" or data.startswith(b"-"), data


# -- the second port

def test_health_readiness_and_metrics(world):
    import urllib.request
    base = world["KEYSTILE_METRICS_URL"].rsplit("/", 1)[0]
    for path in ("/livez", "/readyz", "/metrics"):
        with urllib.request.urlopen(base + path, timeout=5) as answer:
            assert answer.status == 200
            text = answer.read().decode()
    assert "keystile_" in text and "sessions" in text


def test_health_shows_in_ls(world):
    def healthy():
        rows = {row["name"]: row["health"] for row in world.json("alice", "db", "ls")}
        return rows if rows["orders"] == "ok" and rows["impostor-elasticache-eu-west-1-210987654321"] == "unreachable" else None

    until(healthy, 60, "health in db ls")


def test_an_unreachable_cache_says_so(world):
    done = world.run("alice", "db", "connect", "impostor-elasticache-eu-west-1-210987654321", "--db-user", "iam-ro", "--", "PING")
    assert done.returncode != 0 and "keystile" in (done.stderr + done.stdout).lower()
    assert any(word in done.stderr + done.stdout for word in ("refused", "reach", "iam-ro"))


# -- audit

def test_every_step_is_audited(world):
    since = world.audit_length()
    client = world.redis("carol", "orders", "iam-ro")
    client.get("a")
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.set("a", "secret-value-e2e")
    client.connection_pool.disconnect()
    world.run("bob", "db", "connect", "orders", "--db-user", "iam-ro", "--", "PING")

    def found():
        events = [e for e in world.audit(since) if e.get("user") in ("carol", "bob")]
        kinds = {(e["event"], e["code"]) for e in events}
        wanted = {("db.session.start", "TDB00I"), ("db.session.query.failed", "TDB02W"), ("keystile.session.summary", "KSS01I"),
                  ("db.session.end", "TDB01I")}
        return events if wanted <= kinds else None

    events = until(found, 15, "the audit of carol's session")
    start = next(e for e in events if e["code"] == "TDB00I" and e["user"] == "carol")
    assert (start["db_service"], start["db_user"], start["success"]) == ("orders", "iam-ro", True)
    assert "analyst" in start["rule"]
    refused = [e for e in events if e["code"] == "TDB02W" and e["db_query"].upper().startswith("SET")]
    assert len(refused) == 1 and "analyst" in refused[0]["message"], events
    assert "secret-value-e2e" not in str(events)
    summary = next(e for e in events if e["event"] == "keystile.session.summary" and e["user"] == "carol")
    assert {name.upper() for name in summary["commands"]} >= {"GET", "SET"}


def test_a_refused_route_is_audited(world):
    """bob's certificate of login, at orders: the proxy itself says no, and notes it."""
    since = world.audit_length()
    home = world.home("bob")
    cert = next(p for p in home.rglob("*.pem") if "cert" in p.name and "routes" not in str(p) and "db" not in p.parent.name)
    key = next(p for p in cert.parent.iterdir() if "key" in p.name)
    sock = world.socket({"cert": cert, "key": key}, f"orders.{world['KEYSTILE_DOMAIN']}")
    sock.sendall(command("AUTH", "iam-ro", "x"))
    got = lines(sock, 1)
    assert got[0].startswith("-NOPERM") and "no role allows it" in got[0], got
    denied = until(lambda: [e for e in world.audit(since) if e["code"] == "TDB00W"], 10)
    assert denied[0]["user"] == "bob" and denied[0]["rule"]


def test_a_first_command_is_not_held_up(world):
    # Python's sockets have Nagle's algorithm on: a second small packet waits for the acknowledgement of the
    # first, and that comes after 40 ms where the proxy has nothing to say.
    route = world.route("alice", "orders", "iam-rw")
    host, port = world["KEYSTILE_PROXY_ADDR"].rsplit(":", 1)
    context = ssl.create_default_context(cafile=route["ca"])
    context.load_cert_chain(route["cert"], route["key"])
    took = []
    for _ in range(20):
        began = time.monotonic()
        with context.wrap_socket(socket.create_connection((host, int(port))),
                                 server_hostname=route["server_name"]) as sock:
            sock.sendall(command("PING"))
            assert lines(sock, 1) == ["+PONG"]
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.035, took
