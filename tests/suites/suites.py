"""Runs the suites both ways, compares test by test, and reports what only fails through the proxy."""

import asyncio
import fnmatch
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

import fetch
from direct import Direct

ROOT = fetch.ROOT
HERE = fetch.HERE
USER = "iam-admin"
WAYS = ("direct", "proxy")
# Longest run of one Tcl unit, of one Python file with its twin, and of one Python test, in seconds.
UNIT_S, PYTHON_S, TEST_S = 90, 300, 30

# The files that talk to one server; the others test parsers, clusters, modules and Sentinel.
PYTHON_FILES = ["commands", "pipeline", "pubsub", "scripting", "lock", "connection", "connection_pool", "encoding",
                "monitor", "function", "multiprocessing", "cache"]
# Units that know what an external server is; the others start servers of their own and are skipped whole.
TCL_UNITS = ["type/string", "type/incr", "type/list", "type/list-2", "type/set", "type/zset", "type/hash",
             "type/hash-field-expiration", "type/stream", "type/stream-cgroups", "expire", "scan", "keyspace", "multi",
             "pubsub", "pubsubshard", "scripting", "functions", "protocol", "quit", "auth", "bitops", "bitfield", "geo",
             "hyperloglog", "sort", "dump", "tracking", "introspection", "introspection-2", "other", "slowlog", "info",
             "latency-monitor", "networking", "querybuf", "limits", "lazyfree", "wait", "info-command", "acl-v2"]


def main():
    # Asked to stop, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = sys.argv[1:]
    env = read_env()
    results = {}
    with Ways(env) as ports:
        for suite in ("redis-py", "valkey-py", "valkey"):
            if wanted and wanted[0] != suite:
                continue
            results[suite] = run_suite(suite, ports, wanted[1:], env)
    save(results)
    sys.exit(report(results))


def read_env():
    lines = (ROOT / "target/local/env").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    return {**os.environ, **{key: value.strip("'") for key, value in pairs}}


class Ways:
    """Both ways to `orders`, as plain ports: the relay, and the tunnel through the proxy."""

    def __init__(self, env):
        self.env = env

    def __enter__(self):
        person = {**self.env, "KEYSTILE_HOME": str(ROOT / "target/local/home/alice")}
        subprocess.run([self.env["KEYSTILE_BIN"], "login"], env=person, check=True, capture_output=True)
        tunnel = [self.env["KEYSTILE_BIN"], "proxy", "db", "orders", "--db-user", USER, "--tunnel", "--no-password",
                  "--format", "json"]
        self.tunnel = subprocess.Popen(tunnel, env=person, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = json.loads(self.tunnel.stdout.readline())["port"]
        return {"direct": self.relay(), "proxy": port}

    def relay(self):
        """In a process of its own: token minting must not wait for the suites, nor they for it."""
        ready = threading.Event()
        found = {}

        def serve():
            async def run():
                server, found["port"] = await Direct(self.env, USER).serve()
                ready.set()
                await server.serve_forever()

            asyncio.run(run())

        threading.Thread(target=serve, daemon=True).start()
        ready.wait(10)
        return found["port"]

    def __exit__(self, *_):
        self.tunnel.terminate()
        self.tunnel.wait(10)


def run_suite(suite, ports, only, env):
    print(f"== {suite}", flush=True)
    found = {way: {} for way in WAYS}
    for part in only or (TCL_UNITS if suite == "valkey" else PYTHON_FILES):
        begun = time.monotonic()
        for way in WAYS:
            flush(env)
            found[way].update((tcl if suite == "valkey" else python)(suite, part, way, ports[way]))
        sums = ", ".join(f"{way} {sum(o == 'ok' for o in found[way].values())} passed" for way in WAYS)
        print(f"  {part}: {time.monotonic() - begun:.0f} s; so far {sums}", flush=True)
        save({suite: found})
    return found


def save(results):
    (HERE / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True))


def flush(env):
    cli = next((ROOT / "target/local/pkgs/usr/bin").glob("valkey-cli"))
    host, port = env["ORDERS_ADDR"].rsplit(":", 1)
    subprocess.run([cli, "-h", host, "-p", port, "--tls", "--cacert", env["CACHE_CA_FILE"], "--user", "test-admin",
                    "FLUSHALL"], env={**os.environ, "REDISCLI_AUTH": env["TEST_ADMIN_PASSWORD"],
                                      "VALKEYCLI_AUTH": env["TEST_ADMIN_PASSWORD"],
                                      "LD_LIBRARY_PATH": str(ROOT / "target/local/pkgs/usr/lib/x86_64-linux-gnu")},
                   check=True, capture_output=True)


def bounded(command, folder, seconds, env=None):
    """Runs a command in a process group of its own; what it wrote until its end, or until time was up."""
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True)
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0] + "\n[err]: the run took too long\n"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def python(suite, part, way, port):
    """A part of redis-py or valkey-py under pytest: the file of that name, and its asynchronous twin."""
    folder = fetch.python_package(suite)
    name = suite.removesuffix("-py")
    files = [path for path in (f"tests/test_{part}.py", f"tests/test_asyncio/test_{part}.py") if (folder / path).exists()]
    if not files:
        return {}
    xml_file = HERE / f"{suite}.xml"
    xml_file.unlink(missing_ok=True)
    marks = "not onlycluster and not redismod and not ssl and not cp_integration and not replica"
    text = bounded([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=", "-m", marks,
                    f"--timeout={TEST_S}", f"--{name}-url={name}://127.0.0.1:{port}/0", f"--junitxml={xml_file}", *files],
                   folder, PYTHON_S, {**os.environ, "PYTHONPATH": str(folder)})
    (HERE / f"{suite}.{part}.{way}.log").write_text(text)
    if not xml_file.exists():
        return {f"{part}: the whole file": "did not end"}
    return dict(case_outcome(case) for case in xml.etree.ElementTree.parse(xml_file).iter("testcase"))


def case_outcome(case):
    bad = [child for child in case if child.tag in ("failure", "error")]
    skipped = any(child.tag == "skipped" for child in case)
    why = (bad[0].get("message") or "failed").splitlines()[0][:160] if bad else "skipped" if skipped else "ok"
    return f"{case.get('classname')}.{case.get('name')}".removeprefix("tests."), why


def tcl(suite, part, way, port):
    """A unit of Valkey's own suite: one that breaks ends itself and no other."""
    folder = fetch.valkey_source()
    unit = part if part.startswith("unit/") else f"unit/{part}"
    text = bounded(["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(port), "--single", unit,
                    "--durable", "--ignore-encoding", "--no-latency", "--tags",
                    "-slow -needs:debug -large-memory -needs:repl", "--timeout", str(UNIT_S)], folder, UNIT_S + 10)
    (HERE / f"{suite}.{unit.replace('/', '-')}.{way}.log").write_text(text)
    return {f"{unit}: {name}": outcome for name, outcome in tcl_outcomes(text).items()}


def tcl_outcomes(text):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    outcomes = {}
    for kind, line in re.findall(r"^\[(ok|err|exception|skip|timeout)\]: (.*)$", plain, re.M):
        name = re.sub(r" \(\d+ ms\)$", "", line)
        name, _, why = name.partition(" in tests/") if kind == "err" else (name, "", "")
        outcomes[name.strip()] = {"ok": "ok", "skip": "skipped"}.get(kind, f"{kind} {why}".strip()[:160])
    return outcomes


def report(results):
    """Prints each suite's sums and differences; 1 if one is not in known.txt."""
    known = read_known()
    unexplained = 0
    for suite, ways in results.items():
        direct, proxy = ways["direct"], ways["proxy"]
        passed = [test for test, outcome in direct.items() if outcome == "ok"]
        differ = [test for test in passed if proxy.get(test) != "ok"]
        better = [test for test, outcome in proxy.items() if outcome == "ok" and direct.get(test) != "ok"]
        print(f"\n{suite}: {len(passed)} of {len(direct)} pass directly, {len(passed) - len(differ)} of those through "
              f"the proxy; {len(better)} pass through the proxy alone")
        for test in differ:
            reason = next((why for pattern, why in known if fnmatch.fnmatchcase(f"{suite} {test}", pattern)), None)
            unexplained += reason is None
            print(f"  {'known' if reason else 'NEW'}  {test}\n         {proxy.get(test, 'not run')}\n         {reason or ''}".rstrip())
    return 1 if unexplained else 0


def read_known():
    lines = (pathlib.Path(__file__).parent / "known.txt").read_text().splitlines()
    entries = (line.split(" ## ", 1) for line in lines if line and not line.startswith("#"))
    return [(pattern.strip().replace("[", "[[]"), why.strip()) for pattern, why in entries]


if __name__ == "__main__":
    main()
