"""The arbiter's doors for others: the control socket and the status socket, in its one loop."""

import select
import time
from math import inf
from typing import TYPE_CHECKING

from prefork_sd import frontdesk, sockets, vitals
from prefork_sd.control import ControlServer
from prefork_sd.listeners import Listener
from prefork_sd.statusdoor import StatusDoor

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter


class Doors:
    """What may be polled and answered at any time. Nothing in here waits."""

    def __init__(self, server: "Arbiter") -> None:
        self._server = server
        self._control: ControlServer | None = None
        self._status: StatusDoor | None = None

    def open_control(self, given: int | None = None) -> None:
        """`given`: a listener of our former image. Raises ConfigError."""
        self._control = sockets.control(self._server.cfg, given)

    def control_fd(self) -> int:
        """The listener of the control socket; -1 where there is none."""
        return self._control.fileno() if self._control else -1

    def open_status(self, listeners: list[Listener]) -> None:
        if listeners:
            self._status = StatusDoor(listeners, vitals.answers(self._server))

    def fds(self) -> dict[int, int]:
        """What to poll now: descriptor to poll events."""
        control = self._control.fds() if self._control else {}
        return control | (self._status.fds() if self._status else {})

    def next_deadline(self) -> float:
        control = self._control.next_deadline() if self._control else inf
        return min(control, self._status.next_deadline() if self._status else inf)

    def answer(self) -> None:
        """Serve whoever waits, as far as that can be done now."""
        poll = select.poll()
        for fd, events in self.fds().items():
            poll.register(fd, events)
        control = self._control.fds() if self._control else {}
        for fd, events in poll.poll(0):
            if fd not in control:
                if self._status:
                    self._status.on_event(fd)
            elif self._control:
                self._on_control(self._control, fd, events)
        now = time.monotonic()
        if self._control:
            self._control.expire(now)
        if self._status:
            self._status.expire(now)

    def _on_control(self, control: ControlServer, fd: int, events: int) -> None:
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            for call in control.on_readable(fd):
                frontdesk.answer(self._server, call)
        if events & select.POLLOUT:
            control.on_writable(fd)

    def close(self) -> None:
        """Close the control socket, and every connection of both."""
        if self._control:
            self._control.close()
            self._control = None
        if self._status:
            self._status.close()

    def close_connections(self) -> None:
        """The listeners stay, and with them the clients who have not been let in yet."""
        if self._control:
            self._control.close_connections()
        if self._status:
            self._status.close()

    def close_in_child(self) -> None:
        """The parent's clients notice nothing."""
        if self._control:
            self._control.close_in_child()
        if self._status:
            self._status.close_in_child()
