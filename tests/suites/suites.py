"""Runs the suites both ways, compares test by test, and reports what only fails through the proxy."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import fetch
from report import report
from server import Server
from suite_node import Node
from suite_python import Python
from suite_rust import Rust
from suite_tcl import Tcl
from ways import KINDS, WAYS, Ways

SUITES = {"redis-py": lambda: Python("redis-py"), "valkey-py": lambda: Python("valkey-py"), "valkey": Tcl,
          "redis-rs": Rust, "ioredis": Node}


def main():
    # Asked to stop, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    kind = options.kind
    wanted = [options.suite] if options.suite else SUITES if kind == "single" else ["redis-py"]
    if not options.report:
        env = read_env()
        with Ways(env, kind) as ways:
            server = Server(env, ways)
            for name in wanted:
                run_suite(kind, name, options.parts, ways, server)
            server.restore()
    sys.exit(report({name: results(kind, name) for name in wanted}, kind, options.parts))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="single", help="what the ways lead to: see ways.py")
    parser.add_argument("--report", action="store_true", help="run nothing: compare what the last runs found")
    parser.add_argument("suite", nargs="?", choices=SUITES)
    parser.add_argument("parts", nargs="*", help="files or units of it")
    return parser.parse_args()


def read_env():
    lines = (fetch.ROOT / "target/local/env").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    return {**os.environ, **{key: value.strip("'") for key, value in pairs}}


def run_suite(kind, name, parts, ways, server):
    """Each part both ways, one behind the other; what was found is kept part by part."""
    suite = SUITES[name]()
    print(f"== {name} {suite.version()}", flush=True)
    suite.prepare(kind)
    found = load(kind, name)
    for part in parts or suite.parts[kind]:
        begun = time.monotonic()
        found[part] = {}
        for way in WAYS if ways.behind else WAYS[1:]:
            log = fetch.HERE / f"{kind}.{name}.{part.replace('/', '-').replace(', ', '-')}.{way}.log"
            found[part][way] = run_part(suite, part, way, ways, server, log)
        sums = ", ".join(f"{way} {sum(o == 'ok' for o in tests.values())} passed" for way, tests in found[part].items())
        print(f"  {part}: {time.monotonic() - begun:.0f} s, {sums}", flush=True)
        kept(kind, name).write_text(json.dumps(found, indent=1, sort_keys=True))


def run_part(suite, part, way, ways, server, log):
    """What became of its tests. Where one that fails can take the next one with it, those that failed are run again,
    each by itself."""
    text = run_once(suite, part, suite.command(part, way, ways), server)
    outcomes = suite.outcomes(part, text)
    for test in suite.suspects(outcomes):
        said = run_once(suite, part, suite.command(part, way, ways) + ["--exact", test], server)
        text += said
        outcomes.update(suite.outcomes(part, said))
    log.write_text(text)
    return outcomes


def run_once(suite, part, command, server):
    server.restore()
    return bounded(command, suite.folder, suite.bounds(part), suite.environment(part, server.port))


def kept(kind, name):
    return fetch.HERE / f"results.{kind}.{name}.json"


def load(kind, name):
    return json.loads(kept(kind, name).read_text()) if kept(kind, name).exists() else {}


def results(kind, name):
    """What the last runs found. A cluster behind the proxy is compared with the single server."""
    found = load(kind, name)
    if kind == "cluster":
        for part, single in load("single", name).items():
            found.setdefault(part, {})["direct"] = single["direct"]
    return {part: ways for part, ways in found.items() if "proxy" in ways}


def bounded(command, folder, seconds, env):
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


if __name__ == "__main__":
    main()
