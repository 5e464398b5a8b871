"""What connections leave behind when they are closed."""

import os
import pathlib
import resource
import ssl
import socket
import threading
import time

from conftest import command, lines, until

# KEYSTILE_CONNECTIONS=8000 is near the most that 20,000 open files allow: two for each in the proxy.
IDLE = int(os.environ.get("KEYSTILE_CONNECTIONS", "1000"))
BUSY = IDLE // 5
BYTES = 16 * 1024
# What the proxy may keep for good: buffers of its threads, caches of certificates and tickets, its allocator's.
CONSTANT_MIB = 8


def resident_mib(pid):
    pages = int(pathlib.Path("/proc", str(pid), "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def raise_open_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Crowd:
    """Connections of one user to one proxy process, each with a session."""

    def __init__(self, world):
        route = world.route("alice", "orders", "iam-rw")
        host, port = world["KEYSTILE_PROXY_ADDR"].rsplit(":", 1)
        self.address, self.server_name = (host, int(port)), route["server_name"]
        self.context = ssl.create_default_context(cafile=route["ca"])
        self.context.load_cert_chain(route["cert"], route["key"])

    def connect(self):
        raw = socket.create_connection(self.address, timeout=30)
        sock = self.context.wrap_socket(raw, server_hostname=self.server_name)
        sock.sendall(command("PING"))
        assert lines(sock, 1, timeout=30) == ["+PONG"]
        return sock

    def work(self, sock, number):
        """Some large values there and back."""
        value = "v" * BYTES
        for turn in range(5):
            sock.sendall(command("SET", f"e2e:crowd:{number}", value) + command("GET", f"e2e:crowd:{number}"))
            assert lines(sock, 3, timeout=30) == ["+OK", f"${BYTES}", value], f"turn {turn}"
        sock.sendall(command("DEL", f"e2e:crowd:{number}"))
        assert lines(sock, 1, timeout=30) == [":1"]

    def come_and_go(self, idle, busy):
        """The resident memory of the proxy while all are there is for the caller to ask in between."""
        quiet = [self.connect() for _ in range(idle)]
        loud = [self.connect() for _ in range(busy)]
        shares = [range(first, busy, 8) for first in range(8)]
        faults = []

        def all_of(share):
            try:
                for number in share:
                    self.work(loud[number], number)
            except Exception as fault:  # noqa: BLE001, told by the assertion below
                faults.append(fault)

        threads = [threading.Thread(target=all_of, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults, faults[0]
        return quiet + loud


def test_memory_comes_back_when_connections_are_closed(world):
    raise_open_files()
    crowd, pid = Crowd(world), int(world["KEYSTILE_PROXY_PID"])
    open_now = lambda: len(os.listdir(f"/proc/{pid}/fd"))
    # What is needed once is there before the first look.
    for sock in crowd.come_and_go(32, 16):
        sock.close()
    files = open_now()
    time.sleep(1)
    before = resident_mib(pid)
    sockets = crowd.come_and_go(IDLE, BUSY)
    there = resident_mib(pid)
    for sock in sockets:
        sock.close()
    until(lambda: open_now() <= files, 30, "the end of all connections")
    most = before * 1.10 + CONSTANT_MIB
    after = resident_mib(pid)
    assert there < before + (IDLE + BUSY) * 64 / 1024 + CONSTANT_MIB, "much for each connection"
    until(lambda: resident_mib(pid) <= most, 20, f"at most {most:.1f} MiB after {before:.1f} (now {after:.1f})")
    print(f"{IDLE} idle and {BUSY} busy connections: {before:.1f} MiB before, {there:.1f} with them, "
          f"{resident_mib(pid):.1f} after")
