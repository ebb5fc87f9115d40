"""The lifespan of an ASGI app: its startup before the first request, its shutdown after the last.

Source: the ASGI specification, "Lifespan Protocol" 2.0.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prefork_sd.errors import AppImportError, ExitCode
from prefork_sd.imports import said, trimmed

App = Callable[..., Awaitable[object]]
Message = dict[str, Any]

LAST_STEPS = 2.0  # seconds for an app that said it failed to raise the reason


class StartupError(AppImportError):
    """The app's startup failed. The text says why in a line; `details` is the traceback."""

    exit_code = ExitCode.WORKER_BOOT_ERROR


class Lifespan:
    """One run of the app with a scope of "lifespan". `state` is what it has for its requests.

    An app that raises before it has received anything has no lifespan, which is no error.
    """

    def __init__(self, app: App, report: Callable[[str, BaseException], None]) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._report = report
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._started, self._stopped = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listens = False  # it has received something, so it knows of lifespans
        self._failed: str | None = None  # as it said itself
        self._error: BaseException | None = None

    async def startup(self) -> None:
        """Run the app until its startup is complete. Raises StartupError."""
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")
        await self._started.wait()
        if self._failed is not None:
            await asyncio.wait([self._task], timeout=LAST_STEPS)
        if self._error is not None and self._listens:
            reason, details = said(self._error), trimmed(self._error)
        elif self._failed is not None:
            details = self._failed.strip()
            reason = details.rpartition("\n")[2]  # of a traceback, what was raised
        else:
            return
        raise StartupError(f"the app's startup failed: {reason or 'it did not say why'}", details)

    async def shutdown(self) -> None:
        """Have the app end what its startup began."""
        if self._task is None or self._task.done():
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        if self._failed is not None:
            await asyncio.wait([self._task], timeout=LAST_STEPS)
            error = self._error or RuntimeError(self._failed.strip() or "it did not say why")
            self._report("the app's shutdown failed", error)

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 (anything may come out of app code)
            self._error = error
            if self._started.is_set() and self._failed is None:
                self._report("the app's lifespan ended with an error", error)
        finally:
            self._started.set()
            self._stopped.set()

    async def _receive(self) -> Message:
        self._listens = True
        return await self._events.get()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._started.set()
            case "lifespan.startup.failed":
                self._failed = message.get("message", "")
                self._started.set()
            case "lifespan.shutdown.complete":
                self._stopped.set()
            case "lifespan.shutdown.failed":
                self._failed = message.get("message", "")
                self._stopped.set()
            case kind:
                self._listens = False  # it takes us for a client
                raise RuntimeError(f'"{kind}" is no message of a lifespan')
