"""Both ways to a server, as plain ports: a relay that knows nothing, and the tunnel through the proxy."""

import asyncio
import json
import subprocess
import threading

import fetch
from direct import Direct

WAYS = ("direct", "proxy")
# Who comes, both ways.
USER = "iam-admin"
# What the ways lead to.
#   single   both to `orders`
#   cluster  the proxy's to the cluster `sessions`; it is compared with what was found straight at `orders`
#   aware    both to `sessions`, for clients that know of clusters
KINDS = {"single": ("orders", "orders"), "cluster": (None, "sessions"), "aware": ("sessions", "sessions")}


class Ways:
    def __init__(self, env, kind):
        self.env = env
        self.behind, self.database = KINDS[kind]

    def __enter__(self):
        person = {**self.env, "KEYSTILE_HOME": str(fetch.ROOT / "target/local/home/alice")}
        subprocess.run([self.env["KEYSTILE_BIN"], "login"], env=person, check=True, capture_output=True)
        tunnel = [self.env["KEYSTILE_BIN"], "proxy", "db", self.database, "--db-user", USER, "--tunnel", "--no-password",
                  "--format", "json"]
        self.tunnel = subprocess.Popen(tunnel, env=person, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.ports = {"direct": self.relay() if self.behind == "orders" else None,
                      "proxy": json.loads(self.tunnel.stdout.readline())["port"]}
        return self

    def url(self, way, scheme):
        """Of a client that reads URLs. It reaches every node of a cluster by itself, as a user with a password."""
        if port := self.ports[way]:
            return f"{scheme}://127.0.0.1:{port}/0"
        return (f"{scheme}s://test-admin:{self.env['TEST_ADMIN_PASSWORD']}@{self.env['SESSIONS_ADDR']}/0"
                f"?ssl_ca_certs={self.env['CACHE_CA_FILE']}")

    def relay(self):
        """In a thread of its own: the suites are other processes, so nothing here waits for them."""
        ready = threading.Event()
        found = {}

        def serve():
            async def run():
                server, found["port"] = await Direct(self.env, USER).serve()
                ready.set()
                await server.serve_forever()

            asyncio.run(run())

        threading.Thread(target=serve, daemon=True).start()
        ready.wait(10)
        return found["port"]

    def __exit__(self, *_):
        self.tunnel.terminate()
        self.tunnel.wait(10)
