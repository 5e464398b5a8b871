"""ioredis's own tests, from the newest of its packages on npm that holds them."""

import json
import os
import shutil
import subprocess

import fetch

OURS = fetch.ROOT / "tests/suites/ioredis"
# Versions whose differences known.txt names; later packages of ioredis leave their tests out.
IOREDIS = "2.4.0"
TOOLS = ["bluebird@3.7.2", "chai@3.5.0", "mocha@2.5.3", "sinon@1.17.7", "server-destroy@1.0.1", "redis@2.8.0"]
# The files that talk to one server; the others play servers, clusters and Sentinels of their own.
FILES = ["auth", "connection", "drop_buffer_support", "exports", "fatal_error", "lazy_connect", "monitor", "pipeline",
         "pub_sub", "ready_check", "reconnect_on_error", "scan_stream", "scripting", "select", "send_command",
         "show_friendly_error_stack", "string_numbers", "transaction", "transformer", "watch-exec"]
FILE_S = 120


class Node:
    parts = {"single": FILES}

    def version(self):
        return IOREDIS

    def prepare(self, _):
        self.folder = package()

    def command(self, part, way, ways):
        self.port = ways.ports[way]
        return ["node_modules/.bin/_mocha", "--opts", "/dev/null", "--reporter", "json", "--timeout", "10000", "--require",
                OURS / "port.js", "test/helpers/global.js", "test/helpers/mock_server.js", f"test/functional/{part}.js"]

    def bounds(self, _):
        return FILE_S

    def environment(self, *_):
        return {**os.environ, "NODE_ENV": "test", "SUITE_PORT": str(self.port)}

    def suspects(self, _):
        return []

    def outcomes(self, part, text):
        """Test by test, with the first line of what went wrong."""
        begin = text.find('{\n  "stats"')
        if begin < 0:
            return {"the whole file": "did not end: " + " ".join(text.split())[-120:]}
        answer, _ = json.JSONDecoder().raw_decode(text[begin:])
        bad = {test["fullTitle"]: why(test) for test in answer["failures"]}
        return {**{test["fullTitle"]: "ok" for test in answer["passes"]},
                **{test["fullTitle"]: "skipped" for test in answer["pending"]}, **bad}


def why(test):
    return (test.get("err", {}).get("message") or "failed").splitlines()[0][:160]


def package():
    folder = fetch.HERE / "ioredis"
    if not folder.exists():
        archives = fetch.HERE / "archives/ioredis"
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"ioredis@{IOREDIS}"], cwd=archives, check=True, capture_output=True)
        new = fetch.HERE / "ioredis.unpacked"
        shutil.rmtree(new, ignore_errors=True)
        fetch.unpack(next(archives.glob("ioredis-*.tgz")), new)
        # Its own wishes for development are of 2016, and more than the tests need.
        described = json.loads((new / "package.json").read_text())
        del described["devDependencies"]
        (new / "package.json").write_text(json.dumps(described))
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", *TOOLS], cwd=new,
                       check=True)
        new.rename(folder)
    return folder
