"""The way without the proxy: a plain port whose bytes go to a cache over TLS, signed in by an IAM token."""

import asyncio
import ssl
import subprocess
import time

# A token lives 900 s; one is used for this long.
TOKEN_S = 600


class Direct:
    """Serves `port` on 127.0.0.1 until its event loop ends."""

    def __init__(self, env, user):
        self.env, self.user = env, user
        self.host, self.port = env["ORDERS_ADDR"].rsplit(":", 1)
        self.tls = ssl.create_default_context(cafile=env["CACHE_CA_FILE"])
        self.minted = (0.0, b"")

    def token(self):
        at, token = self.minted
        if time.monotonic() - at > TOKEN_S or not token:
            command = [self.env["KEYSTILE_BIN"], "aws", "token", "--service", "elasticache", "--cache", "orders",
                       "--user", self.user, "--region", "us-east-1"]
            token = subprocess.run(command, env=self.env, check=True, capture_output=True).stdout.strip()
            self.minted = (time.monotonic(), token)
        return token

    async def serve(self):
        server = await asyncio.start_server(self.client, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def client(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection(
                self.host, int(self.port), ssl=self.tls, server_hostname=self.host)
            user, token = self.user.encode(), self.token()
            up_writer.write(b"*3\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(user), user, len(token), token))
            answer = await up_reader.readline()
            if answer != b"+OK\r\n":
                raise ConnectionError(f"the cache refused {self.user}: {answer!r}")
            ways = [asyncio.ensure_future(pump(reader, up_writer)), asyncio.ensure_future(pump(up_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            up_writer.close()
        except (OSError, ConnectionError) as error:
            print(f"direct: {error}")
        finally:
            writer.close()


async def pump(reader, writer):
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
