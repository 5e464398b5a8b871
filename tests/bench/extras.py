"""What a route costs that asks for more than the plain one: key rules, an audit of each command, cluster mode.

All of them go through the same process as the plain route, as other people or to another database."""

import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass

import measure
from programs import Failed

AUDITED_ROLE = {
    "kind": "role", "version": "ks1", "metadata": {"name": "bench-audited"},
    "spec": {"allow": {"db_labels": {"*": "*"}, "db_users": ["iam-rw"]}, "options": {"audit": "commands"}},
}
AUDITED = "dave"
# Until the proxy has heard of a new role.
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Extra:
    """A route and what it may cost at P=16, as a multiple of the plain one's; none is no bound."""

    name: str
    title: str
    person: str
    database: str
    must: float | None = None
    aim: float | None = None


EXTRAS = [
    Extra("keys", "key rules (db_keys)", "checkout", "orders"),
    Extra("audited", "audit at commands", AUDITED, "orders", 1.15, 1.05),
    Extra("cluster", "cluster mode, 3 shards", "alice", "sessions"),
]


@contextmanager
def audited_user(ground):
    """Somebody whose role has each command written down; as before afterwards."""
    document = json.loads(ground.keystile_does("alice", "get", f"user/{AUDITED}", "--format", "json"))
    before = document[0] if isinstance(document, list) else document
    after = {**before, "spec": {**before["spec"], "roles": [AUDITED_ROLE["metadata"]["name"]]}}
    for made in (AUDITED_ROLE, after):
        ground.keystile_does("alice", "create", "-f", "-", text=json.dumps(made))
    try:
        yield
    finally:
        ground.keystile_does("alice", "create", "-f", "-", text=json.dumps(before))
        ground.keystile_does("alice", "rm", f"role/{AUDITED_ROLE['metadata']['name']}")


def targets(ground, plain):
    """One for each extra."""
    return [ground.same_proxy(extra.name, plain, extra.person, extra.database) for extra in EXTRAS]


def decide(ground):
    """Pairs: roles that a user holds, and microseconds for a decision."""
    done = subprocess.run([ground.bench, "decide"], text=True, capture_output=True, check=False)
    if done.returncode:
        raise Failed(f"keystile-bench decide: {done.stderr.strip()}")
    return json.loads(done.stdout)


def fill(ground, target):
    """The keys, through the proxy; as soon as the proxy knows the way."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return measure.store(ground, target, "fill", measure.GET64[0])
        except measure.Invalid as error:
            if time.monotonic() > until:
                raise Failed(f"{target.name} was not filled: {error}") from error
            time.sleep(0.5)


def text(results, report):
    """A row for each extra."""
    lines = [["beside the plain route, CPU a request", *(f"P={load.pipeline}" for load in measure.GET64),
              "rounds at P=16", "must", "aim", ""]]
    for extra in EXTRAS:
        ratios = [results.ratios(f"{load.name}.cpu", extra.name, "keystile") for load in measure.GET64]
        middle = [report.middle(of) for of in ratios]
        spread = f"{min(ratios[1]):.2f}–{max(ratios[1]):.2f}" if ratios[1] else "–"
        bounds = [f"≤ {bound:.2f}" if bound else "–" for bound in (extra.must, extra.aim)]
        judged = report.verdict(extra, middle[1]) if extra.must else ""
        lines.append([extra.title, *("–" if of is None else f"{of:.2f}" for of in middle), spread, *bounds, judged])
    parts = [report.aligned(lines)]
    parts += [f"INVALID {name}: {problem}" for name, told in results.problems.items() for problem in told]
    return "\n".join(parts)
