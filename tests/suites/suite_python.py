"""redis-py's and valkey-py's own tests: the files of their source packages that talk to one server."""

import os
import re
import sys
import xml.etree.ElementTree

import fetch

OURS = fetch.ROOT / "tests/suites/redis-py"
# What one file with its asynchronous twin, and one test, may take, in seconds.
FILE_S, TEST_S = 900, 30
# The others test parsers, clusters, modules and Sentinel.
FILES = ["commands", "pipeline", "pubsub", "scripting", "lock", "connection", "connection_pool", "encoding", "monitor",
         "function", "multiprocessing", "cache"]
# Through a client that knows of clusters.
AWARE_FILES = ["cluster::", "cluster_transaction", "commands", "pipeline", "pubsub", "scripting", "lock", "function"]
MARKS = "not redismod and not ssl and not cp_integration"
SINGLE_MARKS = f"{MARKS} and not onlycluster and not replica"
AWARE_MARKS = f"{MARKS} and not onlynoncluster"
# Of the cluster `sessions`: 3 primaries with a replica each; of the proxy, which is one.
NODES = {"direct": 6, "proxy": 1}


class Python:
    parts = {"single": FILES, "cluster": FILES, "aware": AWARE_FILES}

    def __init__(self, suite):
        self.suite = suite
        self.name = suite.removesuffix("-py")

    def version(self):
        return fetch.PYPI[self.suite].split("==")[1]

    def prepare(self, kind):
        self.folder, self.kind = fetch.python_package(self.suite), kind
        self.parts = {kind: [part for file in self.parts[kind] for part in self.split(file)]}

    def split(self, file):
        """A file that would take longer than one may, `file::`, is a part for each of its classes."""
        name, colons, _ = file.partition("::")
        if not colons:
            return [file]
        classes = (found for path in self.files(name) for found in re.findall(r"^class (Test\w+)", path.read_text(), re.M))
        return [f"{name}::{found}" for found in dict.fromkeys(classes)]

    def files(self, name):
        paths = (self.folder / folder / f"test_{name}.py" for folder in ("tests", "tests/test_asyncio"))
        return [path for path in paths if path.exists()]

    def command(self, part, way, ways):
        name, colons, wanted = part.partition("::")
        files = [f"{path.relative_to(self.folder)}{colons}{wanted}" for path in self.files(name)
                 if not wanted or re.search(rf"^class {wanted}\b", path.read_text(), re.M)]
        self.written().unlink(missing_ok=True)
        return [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-o", "filterwarnings=",
                f"--timeout={TEST_S}", f"--{self.name}-url={ways.url(way, self.name)}", f"--junitxml={self.written()}",
                *self.kind_options(way), *(files or ["--version"])]

    def kind_options(self, way):
        if self.kind == "aware":
            return ["-m", AWARE_MARKS, f"--{self.name}-cluster-nodes={NODES[way]}"]
        return ["-m", SINGLE_MARKS, *(["-p", "as_single"] if self.kind == "cluster" else [])]

    def bounds(self, _):
        return FILE_S

    def environment(self, *_):
        return {**os.environ, "PYTHONPATH": f"{self.folder}:{OURS}"}

    def written(self):
        return fetch.HERE / f"{self.kind}.{self.suite}.xml"

    def suspects(self, _):
        return []

    def outcomes(self, part, _):
        if not self.written().exists():
            return {"the whole file": "did not end"}
        return dict(outcome(case) for case in xml.etree.ElementTree.parse(self.written()).iter("testcase"))


def outcome(case):
    bad = [child for child in case if child.tag in ("failure", "error")]
    skipped = any(child.tag == "skipped" for child in case)
    why = (bad[0].get("message") or "failed").splitlines()[0][:160] if bad else "skipped" if skipped else "ok"
    return f"{case.get('classname')}.{case.get('name')}".removeprefix("tests."), why
