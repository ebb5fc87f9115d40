"""Load for one server, run inside the machine: many clients, and a record of each request.

Reads its orders as JSON from the first argument: `host` and `port`, or `unix`; `name` for the Host
header; `tls`, without a look at the certificate; `path`, `clients`, `keepalive`, `count` (0: until
standard input ends) and `pause` (seconds between a client's requests). Says "running" on standard
error once each client could have had an answer, and prints the records as JSON at the end.
"""

import asyncio
import json
import ssl
import sys
import time
from dataclasses import dataclass, field

TIMEOUT = 30.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RequestError(Exception):
    """Why a request was not answered, in one word."""


@dataclass
class Orders:
    """What to ask of whom; see the module's text."""

    host: str = "127.0.0.1"
    port: int = 0
    unix: str = ""
    name: str = "load"
    tls: bool = False
    path: str = "/"
    clients: int = 8
    keepalive: bool = False
    count: int = 0
    pause: float = 0.0
    records: list[tuple[float, float, str, str, str]] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0

    def more(self) -> bool:
        self.begun += 1
        return not self.stopping.is_set() and not (self.count and self.begun > self.count)


async def connect(orders: Orders) -> Connection:
    try:
        if orders.unix:
            return await asyncio.open_unix_connection(orders.unix)
        if orders.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return await asyncio.open_connection(
                orders.host, orders.port, ssl=context, server_hostname=orders.name
            )
        return await asyncio.open_connection(orders.host, orders.port)
    except OSError as error:
        raise RequestError("refused") from error


async def exchange(orders: Orders, connection: Connection, reused: bool) -> tuple[str, bool]:
    """One request; the body of its answer, and whether the connection may serve another."""
    reader, writer = connection
    mode = "keep-alive" if orders.keepalive else "close"
    request = f"GET {orders.path} HTTP/1.1\r\nHost: {orders.name}\r\nConnection: {mode}\r\n\r\n"
    try:
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, _, lines = head.partition("\r\n")
        names = (line.partition(":") for line in lines.lower().splitlines())
        headers = {name: value.strip() for name, _, value in names}
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
    except asyncio.IncompleteReadError as error:
        # an idle connection that ends as we use it: the server had not promised to keep it
        raise RequestError("stale" if reused and not error.partial else "cut") from error
    except OSError as error:
        raise RequestError("stale" if reused else "reset") from error
    if status.split()[1] != "200":
        raise RequestError(f"status {status.split()[1]}")
    lasts = orders.keepalive and headers.get("connection") != "close"
    return body.decode(errors="replace"), lasts and "content-length" in headers


async def client(orders: Orders) -> None:
    connection: Connection | None = None
    previous = ""
    while orders.more():
        began, failure, body, lasts = time.monotonic(), "", "", False
        try:
            async with asyncio.timeout(TIMEOUT):
                reused = connection is not None
                connection = connection or await connect(orders)
                body, lasts = await exchange(orders, connection, reused)
        except RequestError as error:
            failure = str(error)
        except TimeoutError:
            failure = "timeout"
        orders.records.append((began, time.monotonic(), failure, previous, body))
        if len(orders.records) == orders.clients:
            print("running", file=sys.stderr, flush=True)
        previous = body if lasts else ""
        if connection and not lasts:
            connection[1].close()
            connection = None
        if orders.pause or failure:
            await asyncio.sleep(orders.pause or 0.01)


async def main() -> None:
    orders = Orders(**json.loads(sys.argv[1]))
    if not orders.count:
        asyncio.get_running_loop().add_reader(0, orders.stopping.set)
    await asyncio.gather(*(client(orders) for _ in range(orders.clients)))
    print(json.dumps(orders.records))


if __name__ == "__main__":
    asyncio.run(main())
