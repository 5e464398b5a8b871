"""Valkey's own suite, in its mode for a server that it did not start: one unit at a time, so that one that breaks
ends itself and no other."""

import os
import re

import fetch

# What one unit may take, in seconds.
UNIT_S = 90
# Units with tests for a server that was there before; of the others all want one of their own, or more than this
# machine has (tags `external:skip`, `slow`, `large-memory`).
UNITS = ["type/string", "type/incr", "type/list", "type/set", "type/zset", "type/hash", "type/stream",
         "type/stream-cgroups", "expire", "scan", "keyspace", "multi", "pubsub", "scripting", "functions", "protocol",
         "quit", "bitops", "bitfield", "geo", "hyperloglog", "sort", "dump", "tracking", "introspection",
         "introspection-2", "other", "slowlog", "latency-monitor", "lazyfree", "info-command", "pause", "type/list-3"]
# A Valkey of 8.0 never comes back from it.
SKIPPED = ["Test the randomkey command will not cause the server to get into an infinite loop during the client pause write"]


class Tcl:
    parts = {"single": UNITS}

    def version(self):
        return re.search(r'VALKEY_VERSION "([^"]+)"', (fetch.valkey_source() / "src/version.h").read_text())[1]

    def prepare(self, _):
        self.folder = fetch.valkey_source()

    def command(self, part, way, ways):
        return ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(ways.ports[way]), "--single", f"unit/{part}",
                "--durable", "--ignore-encoding", "--no-latency", "--tags",
                "-slow -needs:debug -large-memory -needs:repl", "--timeout", str(UNIT_S),
                *(word for test in SKIPPED for word in ("--skiptest", test))]

    def bounds(self, _):
        return UNIT_S + 10

    def environment(self, *_):
        return dict(os.environ)

    def suspects(self, _):
        return []

    def outcomes(self, part, text):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        found = {}
        for kind, line, why in re.findall(r"^\[(ok|err|exception|skip|timeout)\]: (.*)\n(?:(?!\[)(.*))?", plain, re.M):
            name = re.sub(r" \(\d+ ms\)$", "", line)
            name = name.partition(" in tests/")[0] if kind == "err" else name
            found[name.strip()] = {"ok": "ok", "skip": "skipped"}.get(kind, f"{kind} {why}".strip()[:160])
        return found
