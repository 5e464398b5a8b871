"""The targets: the cache itself, the bare relay, and a proxy process that nobody else uses."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import machine

PATIENCE_SECONDS = 20
NAMES = ("direct", "relay", "keystile")


class Failed(Exception):
    """Something that a measurement needs did not work; the text says what."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Client:
    """How the load generator reaches a target."""

    port: int
    server_name: str
    ca: Path
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None

    def arguments(self):
        given = ["--addr", f"127.0.0.1:{self.port}", "--server-name", self.server_name, "--ca", self.ca]
        for name in ("cert", "key", "user"):
            if value := getattr(self, name):
                given += [f"--{name}", value]
        return [str(word) for word in given]


@dataclass
class Target:
    """What is measured. One without a command runs already and is left running."""

    name: str
    client: Client
    pid: int = 0
    command: list = field(default_factory=list)
    environment: dict | None = None
    ready_url: str = ""
    log: Path | None = None
    process: subprocess.Popen | None = None

    def start(self):
        if not self.command:
            return
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        self.pid = self.process.pid
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise Failed(f"{self.name} does not come up; see {self.log}")
            time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def restart(self):
        """A fresh process, so that its memory holds nothing of before."""
        self.stop()
        self.start()

    def _answers(self):
        try:
            if self.ready_url:
                with urllib.request.urlopen(self.ready_url, timeout=1) as answer:
                    return answer.status == 200
            with socket.create_connection(("127.0.0.1", self.client.port), timeout=1):
                return True
        except (OSError, urllib.error.URLError):
            return False


class Ground:
    """The checkout, the running world, and the work folder of the benchmark."""

    def __init__(self, root):
        self.root = root
        self.env_file = root / "target/local/env"
        self.world = root / "target/release/keystile-world"
        self.bench = root / "target/release/keystile-bench"
        self.work = root / "target/local/bench"
        self.started_world = False

    def up(self, servers_only):
        """Starts the world unless it runs, and reads where things are."""
        if not self._runs():
            self.started_world = True
            subprocess.run([self.world, "servers" if servers_only else "up"], check=True)
        self.env = self._environment()
        if not servers_only and "KEYSTILE_PROXY_PID" not in self.env:
            raise Failed("the running world has no proxy; end it with `make down` and run this again")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        subprocess.run([self.bench, "certificates", self.work / "certificates"], check=True)

    def down(self):
        """Ends the world if it was started here."""
        if self.started_world:
            subprocess.run([self.world, "down"], check=True)

    def _runs(self):
        if not self.env_file.exists():
            return False
        port = int(self._environment()["ORDERS_ADDR"].rpartition(":")[2])
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def _environment(self):
        """target/local/env as a shell reads it."""
        script = 'set -a; . "$1"; exec env -0'
        out = subprocess.run(["sh", "-c", script, "sh", self.env_file], check=True, capture_output=True,
                             env={"PATH": os.environ["PATH"]}).stdout.decode()
        return dict(pair.split("=", 1) for pair in out.split("\0") if "=" in pair)

    def load_environment(self):
        return {**os.environ, "BENCH_PASSWORD": self.env["STATIC_APP_PASSWORD"]}

    def direct(self):
        host, _, port = self.env["ORDERS_ADDR"].rpartition(":")
        nodes = json.loads(Path(self.env["CACHE_NODES_FILE"]).read_text())
        pids = [node["pid"] for node in nodes if node["addr"].rpartition(":")[2] == port]
        if not pids:
            raise Failed(f"no cache node is listed at port {port}")
        return Target("direct", Client(int(port), host, Path(self.env["CACHE_CA_FILE"]), user="static-app"),
                      pid=pids[0])

    def relay(self, name="relay", threads=1):
        made, port = self.work / "certificates", free_port()
        client = Client(port, "localhost", made / "ca.pem", made / "client.pem", made / "client.key",
                        user="static-app")
        command = [self.bench, "relay", "--listen", f"127.0.0.1:{port}", "--cert", made / "server.pem",
                   "--key", made / "server.key", "--client-ca", made / "ca.pem",
                   "--server", self.env["ORDERS_ADDR"], "--server-ca", self.env["CACHE_CA_FILE"],
                   "--threads", str(threads)]
        return Target(name, client, command=command, log=self.work / f"{name}.log")

    def keystile(self, name="keystile", **settings):
        """One more proxy beside the world's, with the first one's environment, these settings and a port of its
        own."""
        first = int(self.env["KEYSTILE_PROXY_PID"])
        listen, metrics = free_port(), free_port()
        environment = {
            **machine.environment(first),
            "KEYSTILE_LISTEN": f"127.0.0.1:{listen}",
            "KEYSTILE_METRICS_LISTEN": f"127.0.0.1:{metrics}",
            "KEYSTILE_ADVERTISE_ADDR": f"127.0.0.1:{listen}",
            "KEYSTILE_AUDIT_FILE": str(self.work / f"audit-{name}.jsonl"),
            "KEYSTILE_DRAIN_S": "1",
            **settings,
        }
        client = self._client(listen, "alice", "orders")
        return Target(name, client, command=[self.root / "target/release/keystile-proxy"],
                      environment=environment, ready_url=f"http://127.0.0.1:{metrics}/readyz",
                      log=self.work / f"{name}.log")

    def same_proxy(self, name, target, person, database):
        """The same process, reached by somebody else or for another database."""
        return Target(name, self._client(target.client.port, person, database), pid=target.pid)

    def _client(self, port, person, database):
        """Somebody signs in and takes a certificate for the one route to a database as `iam-rw`."""
        self.keystile_does(person, "login")
        made = self.keystile_does(person, "db", "config", database, "--db-user", "iam-rw", "--format", "json")
        route = json.loads(made)
        return Client(port, route["server_name"], *(Path(route[name]) for name in ("ca", "cert", "key")))

    def keystile_does(self, person, *words, text=None):
        """The command's standard output."""
        environment = {**os.environ, **self.env, "KEYSTILE_HOME": str(self.root / "target/local/home" / person)}
        done = subprocess.run([self.env["KEYSTILE_BIN"], *words], env=environment, text=True, input=text or "",
                              capture_output=True, check=False)
        if done.returncode:
            raise Failed(f"`keystile {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout
