"""The servers that the ways lead to, behind everybody's back: empties them, and undoes what a suite has set."""

import json
import pathlib
import socket
import sys
import threading

import fetch

HOME = "123456789012"
# What empties a server. Its replicas follow, and refuse the first ones themselves.
WRITES = ("FLUSHALL", "FUNCTION FLUSH")
CLEANING = ("SCRIPT FLUSH", "CONFIG RESETSTAT", "SLOWLOG RESET", "ACL LOG RESET", "LATENCY RESET")


class Server:
    """Knows how the servers were at first. What a run that was cut short left behind is no part of that: the first
    state is kept, for as long as the same server runs."""

    def __init__(self, env, ways):
        nodes = json.loads(pathlib.Path(env["CACHE_NODES_FILE"]).read_text())
        wanted = {ways.behind, ways.database} - {None}
        self.servers = [One(env, node) for node in nodes if node["resource"] in wanted and node["account"] == HOME]
        self.port = self.listen()

    def restore(self):
        for server in self.servers:
            server.restore()

    def listen(self):
        """A port for suites that want a fresh server for every test: whoever connects waits until all is restored."""
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                with listener.accept()[0]:
                    self.restore()

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]


def connect(env, address):
    """As the user that only checks know, with the client of a suite's own package."""
    folder = str(fetch.python_package("redis-py"))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import redis

    host, port = address.rsplit(":", 1)
    return redis.Redis(host=host, port=int(port), ssl=True, ssl_ca_certs=env["CACHE_CA_FILE"], username="test-admin",
                       password=env["TEST_ADMIN_PASSWORD"], decode_responses=True, protocol=2, socket_timeout=20)


class One:
    """A node, and how it was at first."""

    def __init__(self, env, node):
        self.client = connect(env, node["addr"])
        # A primary that a suite made a replica is made a primary again; in a cluster that is the cluster's business.
        self.always_primary = node["role"] == "primary" and node["resource"] == "orders"
        run = self.client.info("server")["run_id"]
        kept = fetch.HERE / f"first-state.{node['addr'].rsplit(':', 1)[1]}.json"
        state = json.loads(kept.read_text()) if kept.exists() else {}
        if state.get("run_id") != run:
            state = {"run_id": run, "settings": self.settings(), "users": self.users()}
            kept.write_text(json.dumps(state))
        self.first = state

    def settings(self):
        words = self.client.execute_command("CONFIG GET", "*")
        return words if isinstance(words, dict) else dict(zip(words[::2], words[1::2]))

    def users(self):
        return {line.split()[1]: line for line in self.client.execute_command("ACL LIST")}

    def restore(self):
        replica = self.client.execute_command("ROLE")[0] == "slave"
        if replica and self.always_primary:
            self.quietly("REPLICAOF NO ONE")
            replica = False
        now, users = self.settings(), self.users()
        for name, value in self.first["settings"].items():
            if now.get(name) != value:
                self.quietly("CONFIG SET", name, value)
        for name, line in self.first["users"].items():
            if users.get(name) != line:
                self.quietly("ACL SETUSER", name, "reset", *line.split()[2:])
        for name in users.keys() - self.first["users"].keys():
            self.quietly("ACL DELUSER", name)
        for words in (*([] if replica else WRITES), *CLEANING):
            self.quietly(words)

    def quietly(self, *words):
        """Some settings cannot be set; what could not be undone shows as a difference of its own."""
        try:
            self.client.execute_command(*words)
        except Exception as why:
            print(f"  {' '.join(words[:2])}: {why}")
