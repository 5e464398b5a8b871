"""One workload against one target: the load generator's word on the replies, the kernel's on the cost."""

import json
import select
import subprocess
import time
from dataclasses import dataclass

import machine

MIB, GIB = 1 << 20, 1 << 30
# Closed connections are taken down meanwhile, which belongs to their cost.
TEARDOWN_SECONDS = 0.3
# An idle connection has given back its buffers by then.
SETTLE_SECONDS = 1.0
LIMIT_SECONDS = 120


class Invalid(Exception):
    """A wrong byte, an error, a lost connection or no answer in time."""


@dataclass(frozen=True)
class Plan:
    """How much of everything; the two modes differ only here."""

    rounds: int
    seconds: float
    latency_seconds: float
    big_seconds: float
    setups: int
    idle_connections: int
    idle_rounds: int


QUICK = Plan(rounds=3, seconds=0.5, latency_seconds=0.3, big_seconds=0.4, setups=160, idle_connections=1000,
             idle_rounds=1)
FULL = Plan(rounds=5, seconds=1.5, latency_seconds=1.0, big_seconds=1.0, setups=480, idle_connections=1000,
            idle_rounds=3)


@dataclass(frozen=True)
class Requests:
    """A closed loop of GET or SET."""

    name: str
    op: str
    value_bytes: int
    pipeline: int
    connections: int
    keys: int

    @property
    def big(self):
        return self.value_bytes >= MIB

    @property
    def prefix(self):
        # Inside the keys that the fixture's role `checkout` allows.
        return f"cart:bench:{self.op}:{self.value_bytes}:"


GET64 = [Requests(f"get64_p{p}", "get", 64, p, 50, 10_000) for p in (1, 16, 64)]
REQUESTS = [
    *GET64,
    Requests("set1k_p1", "set", 1024, 1, 50, 1_000),
    Requests("latency", "get", 64, 1, 1, 10_000),
    Requests("get1m", "get", MIB, 1, 4, 8),
    Requests("set1m", "set", MIB, 1, 4, 8),
]


class Load:
    """A running load generator, led through its steps."""

    def __init__(self, ground, target, words):
        self.process = subprocess.Popen(
            [ground.bench, "load", *target.client.arguments(), "--limit-seconds", str(LIMIT_SECONDS),
             *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            env=ground.load_environment())
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def go(self):
        self.process.stdin.write("\n")

    def line(self):
        out = self.process.stdout
        ready = select.select([out], [], [], LIMIT_SECONDS + 5)[0]
        line = out.readline().strip() if ready else ""
        if not line:
            if not ready:
                self.process.kill()
            said = self.process.stderr.read().strip()
            raise Invalid(said or "the load generator gave no answer in time")
        return line

    def wait(self, step):
        line = self.line()
        if line != step:
            raise Invalid(f"the load generator said {line!r} and not {step!r}")

    def result(self):
        """The last line, if the load generator found nothing wrong."""
        result = json.loads(self.line())
        if self.process.wait(LIMIT_SECONDS):
            raise Invalid("the load generator failed after its result")
        return result


def store(ground, target, verb, workload):
    """`fill` or `purge` of a workload's keys at the cache itself."""
    done = subprocess.run(
        [ground.bench, "load", *target.client.arguments(), verb, "--prefix", workload.prefix,
         "--keys", str(workload.keys), "--value-bytes", str(workload.value_bytes)],
        env=ground.load_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode and verb == "fill":
        raise Invalid(f"cannot fill the cache: {done.stderr.strip()}")


class Rig:
    """Measures; `foreign` collects which part of the busy CPU time was not the benchmark's."""

    def __init__(self, ground, plan, direct):
        self.ground, self.plan, self.direct = ground, plan, direct
        self.foreign = []
        self._seed = 0

    def requests(self, target, workload):
        """CPU a request (or a GiB), throughput and latency."""
        self._seed += 1
        seconds = self.plan.big_seconds if workload.big else (
            self.plan.latency_seconds if workload.name == "latency" else self.plan.seconds)
        words = ["requests", "--op", workload.op, "--pipeline", workload.pipeline, "--connections",
                 workload.connections, "--seconds", seconds, "--prefix", workload.prefix, "--keys",
                 workload.keys, "--value-bytes", workload.value_bytes]
        if workload.op == "set":
            words += ["--seed", self._seed]
        with Load(self.ground, target, words) as load:
            load.wait("ready")
            mine = {target.pid, self.direct.pid, load.pid}
            busy, own, before = machine.busy_seconds(), sum(map(machine.cpu_seconds, mine)), machine.cpu_seconds(
                target.pid)
            load.go()
            load.wait("done")
            cpu = machine.cpu_seconds(target.pid) - before
            own, busy = sum(map(machine.cpu_seconds, mine)) - own, machine.busy_seconds() - busy
            load.go()
            result = load.result()
        if not workload.big and busy > 0.2:
            self.foreign.append(max(0.0, 1 - own / busy))
        count, name = result["requests"], workload.name
        if not count:
            raise Invalid("not one request was answered")
        sample = {f"{name}.p50": result["p50_us"], f"{name}.p99": result["p99_us"],
                  f"{name}.rate": count / result["seconds"]}
        if workload.big:
            sample[f"{name}.cpu"] = cpu / (count * workload.value_bytes / GIB)
        else:
            sample[f"{name}.cpu"] = cpu / count * 1e6
        return sample

    def setup(self, target, resume):
        """CPU for each connection: TCP, TLS, signing in, one PING, close."""
        name = "setup_resumed" if resume else "setup_full"
        words = ["setup", "--connections", self.plan.setups, *(["--resume"] if resume else [])]
        with Load(self.ground, target, words) as load:
            load.wait("ready")
            time.sleep(TEARDOWN_SECONDS)
            before = machine.cpu_seconds(target.pid)
            load.go()
            load.wait("done")
            time.sleep(TEARDOWN_SECONDS)
            cpu = machine.cpu_seconds(target.pid) - before
            load.go()
            result = load.result()
        if result["resumed"] != (result["connections"] if resume else 0):
            raise Invalid(f"{name}: {result['resumed']} of {result['connections']} connections were resumed")
        return {f"{name}.cpu": cpu / result["connections"] * 1e6, f"{name}.p50": result["p50_us"]}

    def idle(self, target):
        """Resident memory for each silent connection, in a fresh process that has served a few before."""
        if not target.command:
            return {}
        target.restart()
        with Load(self.ground, target, ["setup", "--connections", 64]) as load:
            for step in ("ready", "done"):
                load.wait(step)
                load.go()
            load.result()
        time.sleep(SETTLE_SECONDS)
        before = machine.resident_bytes(target.pid)
        with Load(self.ground, target, ["idle", "--connections", self.plan.idle_connections]) as load:
            load.wait("ready")
            time.sleep(SETTLE_SECONDS)
            after = machine.resident_bytes(target.pid)
            for step in ("done", None):
                load.go()
                if step:
                    load.wait(step)
            load.result()
        return {"idle.kib": (after - before) / 1024 / self.plan.idle_connections}
