"""What well-known tools and job queues say to a server, said through the proxy."""

import contextlib
import os
import subprocess
import threading
import time

import pytest
import redis
from conftest import LOCAL, until
from test_5_tunnel import Tunnel

BENCHMARK = LOCAL / "pkgs/usr/bin/valkey-benchmark"


@contextlib.contextmanager
def port_to(world, database, db_user):
    """A plain port to the database, for tools that know nothing of certificates."""
    with Tunnel(world, "alice", database, "--db-user", db_user, "--no-password") as tunnel:
        yield tunnel.port


@pytest.fixture
def rw(world):
    client = world.redis("alice", "orders", "iam-rw")
    yield client
    if left := list(client.scan_iter(match="e2e:t:*", count=1_000)):
        client.delete(*left)


# -- load generators

@pytest.mark.parametrize("database, options, tests", [
    ("orders", [], "ping,set,get,incr,lpush,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"),
    ("orders", ["-3"], "set,get,lrange_100"),
    ("sessions", [], "ping,set,get,incr,lpush,sadd,hset,zadd"),
    ("sessions", ["--cluster"], "set,get,incr"),
])
def test_valkey_benchmark(world, database, options, tests):
    with port_to(world, database, "iam-admin") as port:
        command = [BENCHMARK, "-p", str(port), "-q", "-n", "2000", "-c", "10", "-P", "16", "-r", "1000", "-t", tests, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
        said = done.stdout.replace("\r", "\n")
        assert done.returncode == 0, said + done.stderr
        rates = [line for line in said.splitlines() if "requests per second" in line]
        assert len(rates) >= tests.count(",") + 1, said
        assert "rror" not in said + done.stderr, said + done.stderr
        keys = redis.Redis(port=port)
        for start in ("key:*", "mylist", "myset", "myhash", "myzset", "counter:*"):
            keys.delete(*list(keys.scan_iter(match=start, count=1_000)) or ["none"])


# -- a browser of keys

def test_what_a_graphical_browser_asks(world):
    """RedisInsight's way in: who is it, what can it do, what is in it."""
    admin = world.admin(world["ORDERS_ADDR"])
    with port_to(world, "orders", "iam-admin") as port:
        client = redis.Redis(port=port, decode_responses=True, protocol=3, client_name="browser", driver_info=None)
        client.client_setinfo("LIB-NAME", "gui")
        client.client_setinfo("LIB-VER", "2.0")
        for i in range(50):
            client.hset(f"e2e:t:row:{i}", mapping={"a": i, "b": "x" * 100})
        hello = client.execute_command("HELLO", 3)
        assert (hello["proto"], hello["mode"], hello["role"]) == (3, "standalone", "master")
        me = client.client_info()
        assert (me["name"], me["lib-name"], me["lib-ver"], me["user"]) == ("browser", "gui", "2.0", "iam-admin")
        assert me["id"] == client.client_id()
        assert client.info()["redis_version"] == admin.info()["redis_version"]
        assert client.info("keyspace")["db0"]["keys"] == client.dbsize()
        assert client.execute_command("MODULE", "LIST") == admin.execute_command("MODULE", "LIST")
        assert client.config_get("databases") == admin.config_get("databases")
        # One word each: redis-py would take what COMMAND DOCS answers for an answer to COMMAND.
        assert client.execute_command("COMMAND DOCS", "get", "xadd") == in_pairs(admin.execute_command("COMMAND DOCS", "get", "xadd"))
        assert set(client.execute_command("COMMAND DOCS")) == set(in_pairs(admin.execute_command("COMMAND DOCS")))
        assert len(client.command()) == client.command_count() == admin.command_count()
        assert client.acl_cat() == admin.acl_cat()
        assert any(row["name"] == "browser" for row in client.client_list())
        seen = set()
        for key in client.scan_iter(match="e2e:t:row:*", count=10, _type="hash"):
            pipe = client.pipeline(transaction=False)
            pipe.type(key).ttl(key).memory_usage(key).hlen(key).object("encoding", key)
            kind, ttl, size, length, _ = pipe.execute()
            assert (kind, ttl, length) == ("hash", -1, 2) and size > 100
            seen.add(key)
        assert len(seen) == 50
        assert isinstance(client.slowlog_get(10), list)
        with pytest.raises(redis.exceptions.NoPermissionError, match="MONITOR|monitor"):
            client.execute_command("MONITOR")
        client.delete(*seen)


def in_pairs(answer):
    """What RESP3 says as maps, where RESP2 says names and values in turn."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2]))


# -- job queues

ADD_JOB = """
local id = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2] .. id, 'data', ARGV[1], 'attempts', 0)
redis.call('LPUSH', KEYS[3], id)
redis.call('ZADD', KEYS[4], 0, '0')
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 100, '*', 'event', 'waiting', 'jobId', id)
return id
"""
TAKE_JOB = """
local id = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
if not id then return false end
redis.call('SET', KEYS[3] .. id .. ':lock', ARGV[1], 'PX', ARGV[2], 'NX')
return {id, redis.call('HGETALL', KEYS[3] .. id)}
"""
END_JOB = """
if redis.call('GET', KEYS[3] .. ARGV[1] .. ':lock') ~= ARGV[2] then return -2 end
redis.call('DEL', KEYS[3] .. ARGV[1] .. ':lock')
redis.call('LREM', KEYS[1], -1, ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('XADD', KEYS[4], '*', 'event', 'completed', 'jobId', ARGV[1])
return 0
"""


@pytest.mark.parametrize("database", ["orders", "sessions"])
def test_a_queue_of_scripts_a_marker_and_a_stream_of_events(world, database):
    """BullMQ's way: workers wait with BZPOPMIN, each step is a script by its SHA, and events go to a stream."""
    name = "{e2e:t:bull}:mail:"
    producer, worker, listener = (world.redis("alice", database, "iam-rw") for _ in range(3))
    add, take, end = (producer.register_script(text) for text in (ADD_JOB, TAKE_JOB, END_JOB))
    done, heard = [], []

    def work():
        while len(done) < 20:
            if worker.bzpopmin(name + "marker", timeout=5) is None:
                return
            while job := take(keys=[name + "wait", name + "active", name], args=["token", 30_000], client=worker):
                assert job[1][:2] == ["data", f"job {job[0]}"]
                keys = [name + "active", name + "completed", name, name + "events"]
                assert end(keys=keys, args=[job[0], "token", time.time()], client=worker) == 0
                done.append(job[0])

    def listen():
        last = "0-0"
        while len(heard) < 40:
            for _, events in listener.xread({name + "events": last}, block=5_000, count=100) or [(None, [])]:
                if not events:
                    return
                heard.extend(fields["event"] for _, fields in events)
                last = events[-1][0]

    threads = [threading.Thread(target=one) for one in (work, listen)]
    for thread in threads:
        thread.start()
    for i in range(20):
        keys = [name + part for part in ("id", "", "wait", "marker", "events")]
        assert add(keys=keys, args=[f"job {i + 1}"]) == i + 1
    for thread in threads:
        thread.join(15)
    assert done == [str(i + 1) for i in range(20)]
    assert (heard.count("waiting"), heard.count("completed")) == (20, 20)
    assert producer.zcard(name + "completed") == 20
    producer.delete(*list(producer.scan_iter(match=name + "*", count=1_000)))


def test_a_queue_of_lists_and_a_sorted_set_of_later(world, rw):
    """Sidekiq's way: BRPOP over queues in the order of their weight, a script that takes what is due, statistics."""
    fetcher = world.redis("alice", "orders", "iam-rw")
    due = rw.register_script("""
        local jobs = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 1)
        if jobs[1] then redis.call('ZREM', KEYS[1], jobs[1]) end
        return jobs[1]""")
    now = time.time()
    with rw.pipeline(transaction=True) as tx:
        tx.sadd("e2e:t:queues", "critical", "default")
        tx.lpush("e2e:t:queue:default", "d1", "d2")
        tx.lpush("e2e:t:queue:critical", "c1")
        tx.zadd("e2e:t:schedule", {"later": now - 1, "much later": now + 3_600})
        assert tx.execute() == [2, 2, 1, 2]
    job = due(keys=["e2e:t:schedule"], args=[now])
    assert job == "later" and due(keys=["e2e:t:schedule"], args=[now]) is None
    rw.lpush("e2e:t:queue:default", job)
    queues = ["e2e:t:queue:critical", "e2e:t:queue:default"]
    taken = [fetcher.brpop(queues, timeout=2)[1] for _ in range(4)]
    assert taken == ["c1", "d1", "d2", "later"]
    began = time.monotonic()
    assert fetcher.brpop(queues, timeout=1) is None and 0.9 < time.monotonic() - began < 3
    pipe = rw.pipeline(transaction=False)
    pipe.incrby("e2e:t:stat:processed", 4).hset("e2e:t:process", mapping={"busy": 0, "beat": now})
    pipe.expire("e2e:t:process", 60).scard("e2e:t:queues").llen("e2e:t:queue:default")
    assert pipe.execute() == [4, 2, True, 2, 0]


def test_a_broker_of_many_queues_and_a_backend_of_results(world, rw):
    """Celery's way: BRPOP over queues of each priority, unacknowledged tasks in a transaction, a fan-out by pub/sub,
    and results that are set and published at once."""
    queues = [f"e2e:t:{queue}{step}" for queue in ("celery", "mail", "slow") for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")]
    worker, waiting = world.redis("alice", "orders", "iam-rw"), rw.pubsub()
    waiting.psubscribe("e2e:t:/0.celeryev/*")
    waiting.subscribe("e2e:t:celery-task-meta-7")
    confirmed = [until(lambda: waiting.get_message(timeout=1), 5)["type"] for _ in range(2)]
    assert confirmed == ["psubscribe", "subscribe"]
    taken = []

    def consume():
        while len(taken) < 3 and (found := worker.brpop(queues, timeout=5)):
            with worker.pipeline(transaction=True) as tx:
                tx.zadd("e2e:t:unacked_index", {found[1]: time.time()}).hset("e2e:t:unacked", found[1], found[0])
                assert tx.execute() == [1, 1]
            taken.append(found)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for queue, task in ((queues[0], "first"), (queues[7], "second"), (queues[11], "third")):
        rw.lpush(queue, task)
    consumer.join(10)
    assert sorted(task for _, task in taken) == ["first", "second", "third"]
    with worker.pipeline(transaction=True) as tx:
        tx.zrem("e2e:t:unacked_index", "first").hdel("e2e:t:unacked", "first")
        tx.execute()
    with worker.pipeline(transaction=True) as tx:
        tx.set("e2e:t:celery-task-meta-7", '{"status": "SUCCESS"}', ex=60)
        tx.publish("e2e:t:celery-task-meta-7", '{"status": "SUCCESS"}')
        assert tx.execute() == [True, 1]
    assert worker.publish("e2e:t:/0.celeryev/worker.heartbeat", "{}") == 1
    heard = [until(lambda: waiting.get_message(timeout=1), 5)["type"] for _ in range(2)]
    assert heard == ["message", "pmessage"]
    assert rw.hlen("e2e:t:unacked") == 2
    waiting.close()
