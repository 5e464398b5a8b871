"""redis-rs's own tests: those of its package on crates.io that talk to one server, with RESP2 and with RESP3."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import fetch

OURS = fetch.ROOT / "tests/suites/redis-rs"
# Versions whose differences known.txt names.
REDIS, REDIS_TEST = "1.8.1", "1.0.4"
# The files that talk to one server; the others test clusters, Sentinel, TLS, modules and parsers.
FILES = ["basic", "async", "streams", "acl", "geospatial", "script", "cache"]
FEATURES = "tokio-comp,connection-manager,cache-aio,streams,acl,geospatial,script"
# They wait for ever for what MONITOR would show.
SKIP = ["--skip", "test_monitor"]
FILE_S = 600


class Rust:
    parts = {"single": [f"{file}, RESP{protocol}" for file in FILES for protocol in (2, 3)]}

    def version(self):
        return REDIS

    def prepare(self, _):
        self.folder = package()
        files = [word for file in FILES for word in ("--test", f"test_{file}")]
        built = self.folder / "target/.built"
        if not built.exists():
            print("  building them takes some minutes", flush=True)
            subprocess.run(["cargo", "test", "--quiet", "--no-run", "--features", FEATURES, *files], cwd=self.folder,
                           check=True)
            built.touch()

    def command(self, part, way, ways):
        """Every test has the server to itself, since each begins by restoring it."""
        self.port = ways.ports[way]
        return ["cargo", "test", "--quiet", "--offline", "--features", FEATURES, "--test", f"test_{part.split(',')[0]}",
                "--", "--test-threads=1", "--format=pretty", *SKIP]

    def bounds(self, _):
        return FILE_S

    def environment(self, part, restore_port):
        return {**os.environ, "PATH": f"{OURS}:{os.environ['PATH']}", "SUITE_PORT": str(self.port),
                "SUITE_RESTORE_PORT": str(restore_port), "PROTOCOL": part.split()[1], "RUST_BACKTRACE": "0"}

    def suspects(self, outcomes):
        """A panic in an asynchronous test is remembered for the whole process."""
        return [test for test, outcome in outcomes.items() if outcome not in ("ok", "skipped")]

    def outcomes(self, part, text):
        """Test by test, with the beginning of what a panic said."""
        # What a test's threads print may come between its name and its end.
        ends = re.findall(r"(?m)^test (\S+)(?: - should panic)? \.\.\. (?:(?!test ).*\n)*?.*?(ok|ignored.*|FAILED)$", text)
        found = {name: {"ok": "ok", "FAILED": "failed"}.get(end, "skipped") for name, end in ends}
        for name, said in re.findall(r"(?ms)^---- (\S+) stdout ----\n(.*?)\n\n", text):
            if found.get(name) == "failed":
                found[name] = " ".join(said.split())[:160]
        return found


def package():
    """The folder of the unpacked package, with what its tests need."""
    folder = fetch.HERE / "redis-rs"
    if not folder.exists():
        source = unpacked_crate()
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(source, new)
        (new / "Cargo.lock").unlink(missing_ok=True)
        (new / "Cargo.toml").write_text(manifest((source / "Cargo.toml").read_text()))
        macros = new / "test-macros"
        (macros / "src").mkdir(parents=True)
        (macros / "Cargo.toml").write_text(
            '[package]\nname = "test-macros"\nversion = "0.0.0"\nedition = "2021"\n\n[lib]\nproc-macro = true\n')
        shutil.copy(OURS / "test_macros.rs", macros / "src/lib.rs")
        new.rename(folder)
    return folder


def unpacked_crate():
    """Where cargo keeps the sources of the package, fetched for a manifest that names it."""
    wish = fetch.HERE / "archives/redis-rs"
    (wish / "src").mkdir(parents=True, exist_ok=True)
    (wish / "src/lib.rs").touch()
    (wish / "Cargo.toml").write_text(
        '[package]\nname = "wish"\nversion = "0.0.0"\nedition = "2021"\n\n'
        f'[dependencies]\nredis = "={REDIS}"\n\n[workspace]\n')
    said = subprocess.run(["cargo", "metadata", "--quiet", "--format-version", "1"], cwd=wish, check=True,
                          capture_output=True, text=True).stdout
    manifests = {package["name"]: package["manifest_path"] for package in json.loads(said)["packages"]}
    return pathlib.Path(manifests["redis"]).parent


def manifest(text):
    """Without examples and benches, and with the two test crates that a published manifest leaves out."""
    left_out = ("[[example]]", "[[bench]]", "[dev-dependencies.criterion]")
    kept = "".join(section for section in re.split(r"(?m)^(?=\[)", text) if not section.startswith(left_out))
    return (f'{kept}\n[dev-dependencies.redis-test]\nversion = "={REDIS_TEST}"\n\n'
            '[dev-dependencies.test-macros]\npath = "test-macros"\n\n'
            '[patch.crates-io.redis]\npath = "."\n\n[profile.test]\ndebug = false\n\n[workspace]\n')
