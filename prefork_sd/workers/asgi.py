"""The `asgi` worker: an event loop that serves an ASGI 3 app by uvicorn's protocols."""

from types import FrameType
from typing import TYPE_CHECKING

from prefork_sd.config import Config
from prefork_sd.imports import ASGI
from prefork_sd.workers.base import Worker

if TYPE_CHECKING:
    from prefork_sd.workers.asgiservice import Service


class AsgiWorker(Worker):
    """For apps that await: any number of requests at a time.

    The rooms behind it need asyncio and uvicorn, so that only the process of a worker, or of a
    mold, enters them: the arbiter stays small, and uvicorn may be that of the app's environment.
    """

    interface = ASGI
    service: "Service"

    @classmethod
    def equip(cls, cfg: Config) -> None:
        from prefork_sd.workers import asgiprotocol, asgiservice

        asgiprotocol.uvicorn(cfg)
        asgiservice.new_loop().close()

    def boot(self) -> None:
        """The app's startup, too, has to succeed before this worker is ready."""
        from prefork_sd.workers.asgiservice import Service

        self.service = Service(self)
        self.service.boot()

    def run(self) -> None:
        self.service.run()

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        super().handle_exit(signum, frame)
        self.service.wake()

    def point_out(self) -> None:
        self.service.point_out()
