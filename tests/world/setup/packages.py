#!/usr/bin/env python3
"""Puts Valkey's programs and ministack under target/local, without root.

It reads the machine's own package sources, works in an apt folder of its own, and unpacks what it
downloads; nothing is installed and nothing outside the given folder is written. Run again, it does
nothing unless what it would fetch has changed. It needs apt-get, dpkg-deb and Python 3.9 or newer.

    packages.py [--into target/local] [--force]
"""

import argparse
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ["valkey-server", "valkey-tools", "redis-tools"]
PYTHON_PARTS = ["ministack==1.5.33", "cryptography"]
COMPILER = "sudo apt-get install -y gcc libc6-dev make"


class Stop(Exception):
    """What went wrong, and the next thing to do, in words for the person at the terminal."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--into", default="target/local", help="the folder to fill")
    arguments.add_argument("--force", action="store_true", help="fetch again what is there")
    given = arguments.parse_args()
    into = Path(given.into).resolve()
    try:
        check_compiler()
        release = os_release()
        prepare_programs(into, release, given.force)
        prepare_python(into, release, given.force)
    except Stop as stop:
        print(f"packages: {stop}", file=sys.stderr)
        return 1
    return 0


def say(text: str) -> None:
    print(f"packages: {text}", file=sys.stderr, flush=True)


def check_compiler() -> None:
    if not (shutil.which("cc") or shutil.which("gcc")):
        raise Stop(f"there is no C compiler, and the Rust build needs one. Run: {COMPILER}")


def os_release() -> dict:
    facts = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        if "=" in line:
            key, value = line.split("=", 1)
            facts[key] = value.strip().strip('"')
    if "VERSION_CODENAME" not in facts or not shutil.which("apt-get"):
        raise Stop("this world is made for Debian 12, Debian 13 and Ubuntu 24.04 (apt-get is needed)")
    return facts


# --- the programs ---------------------------------------------------------------------------------


def prepare_programs(into: Path, release: dict, force: bool) -> None:
    root = into / "pkgs"
    server = root / "usr/bin/valkey-server"
    if up_to_date(root, stamp_of(release, PROGRAMS)) and server.exists() and not force:
        return
    say(f"fetching {', '.join(PROGRAMS)} and their libraries from this machine's package sources")
    apt = Apt(into / "apt", release)
    apt.update(backports=False)
    if not apt.has("valkey-server"):
        say(f"{release['VERSION_CODENAME']} has no Valkey; adding its backports, same server, same key")
        apt.update(backports=True)
    if not apt.has("valkey-server"):
        raise Stop("the package sources of this machine have no valkey-server; see target/local/apt/sources.list.d")
    fresh(root)
    apt.fetch_with_libraries(PROGRAMS, root)
    check_loads(root)
    version = run_program(root, "valkey-server", "--version").split("v=")[1].split()[0]
    (root / "VERSION").write_text(version + "\n")
    mark(root, stamp_of(release, PROGRAMS))
    say(f"Valkey {version} is in {root}")


def check_loads(root: Path) -> None:
    for name in ["valkey-server", "valkey-cli", "redis-cli"]:
        run_program(root, name, "--version")


def run_program(root: Path, name: str, *arguments: str) -> str:
    environment = dict(os.environ, LD_LIBRARY_PATH=library_path(root))
    done = subprocess.run([str(root / "usr/bin" / name), *arguments], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Stop(f"{name} does not start: {done.stderr.strip()}")
    return done.stdout


def library_path(root: Path) -> str:
    folders = [root / "usr/lib", *(Path(p) for p in glob.glob(str(root / "usr/lib/*-linux-gnu")))]
    return ":".join(str(folder) for folder in folders if folder.is_dir())


class Apt:
    """apt-get with folders of its own: the machine's sources, keys and dpkg status, nobody's lock."""

    def __init__(self, home: Path, release: dict):
        self.home, self.release = home, release
        for name in ["lists/partial", "cache/archives/partial", "sources.list.d", "debs", "etc"]:
            (home / name).mkdir(parents=True, exist_ok=True)
        self.options = [
            "-o", f"Dir::State::lists={home / 'lists'}",
            "-o", f"Dir::Cache={home / 'cache'}",
            "-o", "Dir::Etc::sourcelist=/dev/null",
            "-o", f"Dir::Etc::sourceparts={home / 'sources.list.d'}",
            "-o", f"Dir::Etc::preferences={home / 'etc/none'}",
            "-o", f"Dir::Etc::preferencesparts={home / 'etc'}",
            "-o", "APT::Sandbox::User=",
            "-o", "Acquire::Languages=none",
            "-o", "Acquire::Retries=3",
            "-o", "APT::Update::Post-Invoke-Success::=true",
        ]

    def update(self, backports: bool) -> None:
        sources = machine_sources(self.release)
        if not sources:
            raise Stop(f"no package source of this machine offers {self.release['VERSION_CODENAME']} main")
        if backports:
            first = next(s for s in sources if s["suite"] == self.release["VERSION_CODENAME"])
            sources.append(dict(first, suite=first["suite"] + "-backports"))
        (self.home / "sources.list.d/world.sources").write_text("\n".join(deb822(s) for s in sources))
        for source in sources:
            say(f"  source {source['uri']} {source['suite']} {' '.join(source['components'])}")
        self.call("apt-get", "update", "-q")

    def has(self, package: str) -> bool:
        return bool(self.call("apt-cache", "madison", package).strip())

    def fetch_with_libraries(self, packages: list, root: Path) -> None:
        """Downloads and unpacks the packages and those libraries of theirs that are not installed."""
        waiting, seen = list(packages), set(packages)
        while waiting:
            deb = self.download(waiting.pop())
            subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True)
            for library in libraries_of(deb):
                if library not in seen and not is_installed(library):
                    seen.add(library)
                    waiting.append(library)

    def download(self, package: str) -> Path:
        folder = self.home / "debs" / package
        fresh(folder)
        self.call("apt-get", "download", "-q", package, folder=folder)
        found = list(folder.glob("*.deb"))
        if not found:
            raise Stop(f"apt-get downloaded no {package}")
        say(f"  {found[0].name}")
        return found[0]

    def call(self, program: str, verb: str, *arguments: str, folder=None) -> str:
        command = [program, *self.options, verb, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise Stop(f"{program} {verb} {' '.join(arguments)} failed:\n{(done.stderr or done.stdout).strip()}")
        return done.stdout


def libraries_of(deb: Path) -> list:
    text = subprocess.run(["dpkg-deb", "-f", str(deb), "Depends"], capture_output=True, text=True, check=True).stdout
    first_choices = (entry.split("|")[0].split("(")[0].split(":")[0].strip() for entry in text.split(","))
    return [name for name in first_choices if name.startswith("lib") and name not in ("libc6", "libc-bin")]


def is_installed(package: str) -> bool:
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True)
    return done.stdout.strip() == "installed"


def machine_sources(release: dict) -> list:
    """The distribution's own entries, in either of apt's two forms; third parties' are left out."""
    entries = []
    lists = ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]
    for name in lists:
        if os.path.exists(name):
            entries += one_line_entries(Path(name).read_text())
    for name in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        entries += deb822_entries(Path(name).read_text())
    codename = release["VERSION_CODENAME"]
    ours = [codename, f"{codename}-updates", f"{codename}-security"]
    kept = [e for e in entries if e["suite"] in ours and "main" in e["components"]]
    if release.get("ID") == "ubuntu":  # Valkey lives in universe there
        kept = [dict(e, components=sorted({*e["components"], "universe"})) for e in kept]
    unique = {(e["uri"], e["suite"]): e for e in kept}
    return list(unique.values())


def one_line_entries(text: str) -> list:
    entries = []
    for line in text.splitlines():
        found = re.match(r"^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if found:
            options = dict(o.split("=", 1) for o in (found[1] or "").split() if "=" in o)
            entries.append(entry(found[2], found[3], found[4].split(), options.get("signed-by")))
    return entries


def deb822_entries(text: str) -> list:
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        fields, last = {}, None
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in " \t" and last:
                fields[last] += "\n" + line
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                entries.append(entry(uri, suite, fields.get("components", "").split(), fields.get("signed-by")))
    return entries


def entry(uri: str, suite: str, components: list, signed_by) -> dict:
    return {"uri": uri, "suite": suite.rstrip("/"), "components": components, "signed_by": signed_by}


def deb822(source: dict) -> str:
    lines = ["Types: deb", f"URIs: {source['uri']}", f"Suites: {source['suite']}",
             f"Components: {' '.join(source['components'])}"]
    if source["signed_by"]:
        lines.append(f"Signed-By: {source['signed_by']}")
    return "\n".join(lines) + "\n"


# --- the Python parts -----------------------------------------------------------------------------


def prepare_python(into: Path, release: dict, force: bool) -> None:
    root = into / "venv"
    wanted = stamp_of({"python": sys.version, "where": sys.executable}, PYTHON_PARTS)
    if up_to_date(root, wanted) and (root / "bin/ministack").exists() and not force:
        return
    say(f"fetching {', '.join(PYTHON_PARTS)} from this machine's Python package index")
    fresh(root)
    # Without pip of its own: Debian keeps `ensurepip` in a package that a fresh machine lacks.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    pip = pip_command(into, release)
    target = ["--python", str(root / "bin/python")]
    command = [*pip, *target, "install", "--quiet", "--disable-pip-version-check", "--no-input", *PYTHON_PARTS]
    if subprocess.run(command).returncode != 0:
        raise Stop(f"this failed: {' '.join(command)}")
    mark(root, wanted)
    say(f"ministack is in {root}")


def pip_command(into: Path, release: dict) -> list:
    """A pip of at least 22.3 (the first with --python): the machine's, else the distribution's wheel."""
    own = [sys.executable, "-m", "pip"]
    done = subprocess.run([*own, "--version"], capture_output=True, text=True)
    if done.returncode == 0 and version_at_least(done.stdout.split()[1], (22, 3)):
        return own
    say("  this machine has no fitting pip; unpacking the distribution's own")
    apt, root = Apt(into / "apt", release), into / "pip"
    apt.update(backports=False)
    fresh(root)
    apt.fetch_with_libraries(["python3-pip-whl"], root)
    wheels = sorted(root.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise Stop("python3-pip-whl holds no pip. Run: sudo apt-get install -y python3-pip")
    return [sys.executable, str(wheels[-1] / "pip")]


def version_at_least(text: str, least: tuple) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2]) >= least


# --- stamps ---------------------------------------------------------------------------------------


def stamp_of(facts: dict, parts: list) -> str:
    """Changes when the machine, the list, or this script does."""
    text = repr((sorted(facts.items()), parts)) + Path(__file__).read_text()
    return hashlib.sha256(text.encode()).hexdigest()


def up_to_date(root: Path, stamp: str) -> bool:
    file = root / ".stamp"
    return file.exists() and file.read_text() == stamp


def mark(root: Path, stamp: str) -> None:
    (root / ".stamp").write_text(stamp)


def fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
