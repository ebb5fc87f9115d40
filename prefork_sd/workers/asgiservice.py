"""The event loop of an ASGI worker: accept, heartbeat, drain. One of it in a worker's process."""

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from types import CodeType, FrameType
from typing import Any

from prefork_sd import proxyprotocol
from prefork_sd.applog import REQUEST
from prefork_sd.forwarded import Trust
from prefork_sd.imports import HOUSE
from prefork_sd.listeners import HTTPS, Listener
from prefork_sd.workers.asgiprotocol import Members, Protocols, paths_have_prefix
from prefork_sd.workers.asgirequest import Exchange, Reception, Silence
from prefork_sd.workers.base import Worker
from prefork_sd.workers.lifespan import Lifespan

IDLE_BEAT = 30.0  # seconds between heartbeats while nothing is in hand
BEATS = 8  # within the time that the loop may be blocked, while something is in hand
PAUSE = 0.5  # seconds without accepting when no file descriptor is to be had
RESERVE = 2.0  # of the time to drain, seconds kept for the app's shutdown; a fifth if that is less
LAST_STEPS = 1.0  # seconds for what was canceled to end
MOST_TASKS = 20  # to be named in evidence
NOT_THE_APP = (f'  File "{HOUSE}', f'  File "{asyncio.__path__[0]}/')


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where the app's environment has it, else Python's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Service:
    """What an `asgi` worker does between its boot and its end."""

    def __init__(self, worker: Worker) -> None:
        cfg = worker.cfg
        self.worker = worker
        self.loop = new_loop()
        asyncio.set_event_loop(self.loop)
        prefixed = paths_have_prefix(cfg)
        self.reception = Reception(worker, worker.wsgi, self.hurry, prefixed=prefixed)
        self.lifespan = Lifespan(worker.wsgi, self.report)
        self.reception.state = self.lifespan.state
        silence = Silence(self.reception)
        self.protocols = Protocols(cfg, self.reception, self.someone_left, silence)
        self.reception.tell_time = self.protocols.tell_time
        self.connections = self.protocols.state.connections
        self.tasks = self.protocols.state.tasks
        self.arriving = Members(self.someone_left)  # accepted, and not yet a connection
        self.proxied = Trust(cfg.forwarded_allow_ips) if cfg.proxy_protocol else None
        self.accepting = False
        self.pausing = False
        self.told = asyncio.Event()  # to drain
        self.left = asyncio.Event()
        self.allowance = worker.timeout or inf  # seconds that the loop may be blocked
        self.beating: asyncio.TimerHandle | None = None

    # ---- its life

    def boot(self) -> None:
        """The app's startup. Raises StartupError."""
        self.loop.run_until_complete(self.lifespan.startup())

    def run(self) -> None:
        self.loop.run_until_complete(self.serve())

    async def serve(self) -> None:
        """Until the worker is told to leave, and has."""
        self.beat()
        if (until := self.reception.wear.until) < inf:
            self.loop.call_later(max(0.0, until - time.monotonic()), self.worker.tire)
        self.start_accepting()
        await self.told.wait()
        await self.drain()
        await self.lifespan.shutdown()
        await self.tidy()

    def wake(self) -> None:
        """From a signal handler: time to drain."""
        self.loop.call_soon_threadsafe(self.told.set)

    def report(self, text: str, error: BaseException) -> None:
        """Put on record what the app did outside of any request."""
        worker = self.worker
        worker.log.error("%s: %s", text, error, exc_info=error, extra=worker.fields())

    # ---- heartbeat

    def beat(self) -> None:
        """Promise to be heard again; often while something is in hand, else rarely.

        A request may wait as long as it likes. What must not happen is that the loop is blocked.
        """
        if self.allowance == inf:
            self.worker.notify(inf)
            return
        busy = bool(self.reception.in_hand)
        period = self.allowance / BEATS if busy else min(IDLE_BEAT, self.allowance)
        self.worker.notify(time.monotonic() + self.allowance + (0.0 if busy else period))
        self.beating = self.loop.call_later(period, self.beat)

    def hurry(self) -> None:
        """Something is in hand again: from now on, the loop's silence counts."""
        if self.beating is not None:
            self.worker.notify(time.monotonic() + self.allowance)
            if self.beating.when() - self.loop.time() > self.allowance / BEATS:
                self.beating.cancel()
                self.beating = self.loop.call_later(self.allowance / BEATS, self.beat)

    # ---- accept

    def start_accepting(self) -> None:
        """Wait for clients, as all workers do; who is first takes one at a time."""
        if not self.accepting and not self.pausing and not self.reception.draining:
            self.accepting = True
            for listener in self.worker.sockets:
                self.loop.add_reader(listener.sock.fileno(), self.accept, listener)

    def stop_accepting(self) -> None:
        if self.accepting:
            self.accepting = False
            for listener in self.worker.sockets:
                self.loop.remove_reader(listener.sock.fileno())

    def accept(self, listener: Listener) -> None:
        if not self.worker.alive:
            return
        try:
            sock, _ = listener.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self.cannot_accept(error)
            return
        sock.setblocking(False)
        task = self.loop.create_task(self.welcome(sock, listener))
        self.arriving.add(task)
        task.add_done_callback(self.arriving.discard)
        if self.full:
            self.stop_accepting()

    @property
    def full(self) -> bool:
        most = self.worker.cfg.worker_connections
        return len(self.connections) + len(self.arriving) >= most

    async def welcome(self, sock: socket.socket, listener: Listener) -> None:
        """Make a connection of it, after what comes before HTTP. A client that fails is let go."""
        cfg, secret = self.worker.cfg, listener.name == HTTPS
        try:
            if sock.family != socket.AF_UNIX:
                patience = int(cfg.send_timeout * 1000)  # with a peer that reads nothing: tcp(7)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            async with asyncio.timeout(cfg.head_timeout or None):
                client = await self.announced(sock) if self.proxied is not None else None
                await self.loop.connect_accepted_socket(
                    lambda: self.protocols.make(client),
                    sock,
                    ssl=self.worker.tls if secret else None,
                )
        except (OSError, proxyprotocol.NotProxiedError) as error:
            self.worker.log.debug("a client failed: %s", error, extra=self.worker.fields())
            sock.close()

    async def announced(self, sock: socket.socket) -> tuple[str, int] | None:
        """Who the client is, by its PROXY header; None: the proxy itself.

        Raises NotProxiedError, and OSError.
        """
        assert self.proxied is not None
        peer = sock.getpeername()
        if not self.proxied(peer[0] if isinstance(peer, tuple) else ""):
            raise proxyprotocol.NotProxiedError("this proxy is not in forwarded_allow_ips")
        buffer = bytearray()
        while (found := proxyprotocol.read(buffer)) is False:
            data = await self.loop.sock_recv(sock, proxyprotocol.at_least_missing(buffer))
            if not data:
                raise ConnectionAbortedError("it left before its PROXY header was complete")
            buffer += data
        return (found[0], int(found[1])) if isinstance(found, tuple) else None

    def cannot_accept(self, error: OSError) -> None:
        """Out of descriptors or memory: wait a little, and let others accept."""
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            raise error
        self.worker.log.error("cannot accept a connection: %s", error, extra=self.worker.fields())
        self.stop_accepting()
        self.pausing = True
        self.loop.call_later(PAUSE, self.end_pause)

    def end_pause(self) -> None:
        self.pausing = False
        self.start_accepting()

    def someone_left(self) -> None:
        """A connection or a request is over."""
        self.left.set()
        if not self.accepting and not self.full:
            self.start_accepting()

    # ---- the end

    async def drain(self) -> None:
        """Accept nothing more, let what was accepted finish, and cut what takes too long."""
        grace = self.worker.cfg.graceful_timeout
        until = self.loop.time() + grace - min(RESERVE, grace / 5)
        self.stop_accepting()
        self.reception.draining = True
        for listener in self.worker.sockets:
            listener.sock.close()
        self.worker.drain()
        self.protocols.drain()
        closing = [
            self.loop.create_task(self.close(conversation))
            for conversation in self.reception.conversations()
        ]
        try:
            async with asyncio.timeout_at(until):
                while self.arriving or self.connections or self.tasks:
                    self.left.clear()
                    await self.left.wait()
        except TimeoutError:
            await self.cut()
        for task in closing:
            task.cancel()

    async def close(self, conversation: Any) -> None:
        """A WebSocket that is told so may be gone already."""
        with suppress(Exception):
            await conversation.close()

    async def cut(self) -> None:
        """Cancel what is left, and say what it was."""
        left = [f"{one.method} {one.path}" for one in self.reception.in_hand]
        if left:
            text = "no time left for %d requests: %s"
            shown = ", ".join(sorted(left)[:MOST_TASKS])
            self.worker.log.warning(text, len(left), shown, extra=self.worker.fields())
        self.reception.cutting = True
        await cancel([*self.tasks, *self.arriving])
        self.protocols.cut()

    async def tidy(self) -> None:
        """What the app has left running gets its chance to clean up."""
        await cancel(asyncio.all_tasks() - {asyncio.current_task()})
        await self.loop.shutdown_asyncgens()

    def point_out(self) -> None:
        """In a signal handler: the request whose code blocks the loop; if none does, who waits."""
        guilty = REQUEST.get()
        if isinstance(guilty, Exchange):
            self.reception.point_out(guilty)
            return
        tasks = sorted(asyncio.all_tasks(self.loop), key=asyncio.Task.get_name)
        for task in tasks[:MOST_TASKS]:
            frames = list(waits(task.get_coro()))
            if not all(frame.startswith(NOT_THE_APP) for frame in frames):
                place = "\n".join(frames)
                self.worker.words.write(
                    f"\nTask {task.get_name()} (most recent call first):\n{place}\n"
                )


async def cancel(tasks: Any) -> None:
    """Cancel them and wait a little for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LAST_STEPS)


def waits(awaited: Any) -> Iterator[str]:
    """Where a coroutine waits, innermost first, written as faulthandler writes frames."""
    found: list[str] = []
    while awaited is not None:
        frame: FrameType | None = None
        inner = None
        for kind, then in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = frame or getattr(awaited, f"{kind}_frame", None)
            inner = inner or getattr(awaited, then, None)
        if frame is None:
            break
        code: CodeType = frame.f_code
        found.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        awaited = inner
    return reversed(found)
