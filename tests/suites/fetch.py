"""Source packages of clients and servers, unpacked under target/suites. Each is fetched once."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "target/suites"
# Versions whose differences known.txt names.
PYPI = {"redis-py": "redis==8.1.0", "valkey-py": "valkey==6.2.0"}


def python_package(suite):
    """The folder of an unpacked source package from PyPI."""
    folder = HERE / suite
    if not folder.exists():
        archives = HERE / "archives" / suite
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                        "--dest", archives, PYPI[suite]], check=True)
        unpack(next(archives.glob("*.tar.*")), folder)
    return folder


def valkey_source():
    """Debian's source package of Valkey: the release's own or its backport, else the next release's."""
    folder = HERE / "valkey"
    if folder.exists():
        return folder
    packages = world_packages()
    release = packages.os_release()
    home = HERE / "apt"
    apt = packages.Apt(home, release)
    sources = packages.machine_sources(release)
    main = next(source for source in sources if source["suite"] == release["VERSION_CODENAME"])
    for suite in [f"{main['suite']}-backports", main["suite"], "trixie"]:
        text = packages.deb822(dict(main, suite=suite)).replace("Types: deb\n", "Types: deb-src\n")
        (home / "sources.list.d/suites.sources").write_text(text)
        try:
            apt.call("apt-get", "update", "-q")
            apt.call("apt-get", "source", "--download-only", "-q", "valkey", folder=home / "debs")
        except packages.Stop as why:
            print(f"  {suite}: no source of valkey ({str(why).strip().splitlines()[-1]})")
            continue
        unpack(next((home / "debs").glob("valkey_*.orig.tar.*")), folder)
        return folder
    raise SystemExit("no package source of this machine offers the source of valkey")


def unpack(archive, folder):
    print(f"  {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder.with_suffix(".new"), filter="data")
    next(folder.with_suffix(".new").iterdir()).rename(folder)
    folder.with_suffix(".new").rmdir()


def world_packages():
    """The local world's own fetcher of Debian packages: apt-get in folders of its own, without root."""
    path = str(ROOT / "tests/world/setup/packages")
    loader = importlib.machinery.SourceFileLoader("world_packages", path)
    spec = importlib.util.spec_from_loader("world_packages", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
