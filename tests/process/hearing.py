"""What systemd hears of a service: notifications, descriptors to keep, and records of its log.

Every wait has a cause (a notification, a record, a knock at the gate, the end of a process) and a
bound.
"""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.process.gate import Gate, Visitor

T = TypeVar("T")
Record = dict[str, Any]

BOUND = 10.0  # seconds for anything that is to happen


class HasFileno(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram on the notify socket, and when it was read (monotonic seconds)."""

    fields: dict[str, str]
    at: float

    def __contains__(self, assignment: str) -> bool:
        """Whether it has that "NAME=beginning of the value"."""
        name, _, value = assignment.partition("=")
        return name in self.fields and self.fields[name].startswith(value)


class Hearing:
    """All that was heard of one service, in its order.

    `noise` is what was on its standard error but is no record; `store` are descriptors that it
    gave to keep, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.messages: list[Message] = []
        self.records: list[Record] = []
        self.noise: list[str] = []
        self.store: list[tuple[str, int]] = []
        self.gate = Gate(folder / "gate")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.bind(str(folder / "notify"))
        self._log = -1  # standard error of the service
        self._rest = b""
        self._silent = False  # nobody is left to say anything
        self._heard = 0  # messages that `expect` has passed
        self._taken: set[int] = set()  # records that `record` has returned

    def attend(self, log: int) -> None:
        """Listen to a service that has just been started, too."""
        self._log, self._silent = log, False

    def wait(
        self,
        happened: Callable[[], T | None],
        what: str,
        within: float = BOUND,
        *fds: HasFileno | int,
    ) -> T:
        """Listen until something has happened. `fds` tell, too, that it is time to look again."""
        deadline = time.monotonic() + within
        while not (found := happened()):
            left = deadline - time.monotonic()
            over = self._silent and not fds
            if left <= 0 or over:
                raise AssertionError(f"waited {within} s for {what}\n{self.story()}")
            self.hear(left, *fds)
        return found

    def hear(self, timeout: float, *fds: HasFileno | int) -> bool:
        """Take messages and records as they come; False: nothing came within `timeout` seconds."""
        poll = select.poll()
        for one in (self._notify, self._log, *fds):
            if one != -1:
                poll.register(one, select.POLLIN)
        events = poll.poll(max(0.0, timeout) * 1000)
        self._take_records()
        self._take_messages()
        return bool(events)

    def _take_messages(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while received := socket.recv_fds(self._notify, 65536, 8):
                data, fds, _, _ = received
                lines = (line.partition("=") for line in data.decode().splitlines())
                fields = {name: value for name, _, value in lines}
                self.messages.append(Message(fields, time.monotonic()))
                if "FDSTORE" in fields:
                    self._keep(fields["FDNAME"], *fds)

    def _keep(self, name: str, fd: int) -> None:
        """The file descriptor store."""
        os.set_inheritable(fd, False)
        self.store.append((name, fd))

    def _take_records(self) -> None:
        if self._log == -1:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._log, 65536):
                self._rest += data
            os.close(self._log)
            self._log, self._silent = -1, True
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            try:
                self.records.append(json.loads(line))
            except ValueError:
                self.noise.append(line.decode())

    def expect(self, *assignments: str, within: float = BOUND) -> Message:
        """The next message that has each "NAME=beginning of the value"; earlier ones are passed."""

        def found() -> Message | None:
            while self._heard < len(self.messages):
                message = self.messages[self._heard]
                self._heard += 1
                if all(assignment in message for assignment in assignments):
                    return message
            return None

        return self.wait(found, f"a message with {assignments}", within)

    def listen_for(self, seconds: float) -> None:
        """Listen for that long: for what must not come."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.hear(left)

    def said(self, assignment: str) -> list[Message]:
        """All messages so far that have it."""
        self.hear(0.0)
        return [message for message in self.messages if assignment in message]

    def record(
        self, event: str = "", text: str = "", within: float = BOUND, **fields: object
    ) -> Record:
        """The next record of that event with that text in it; each is returned once."""

        def found() -> Record | None:
            for number, record in enumerate(self.records):
                if number not in self._taken and _fits(record, event, text, fields):
                    self._taken.add(number)
                    return record
            return None

        return self.wait(found, f"a record of {event} {text!r} {fields}", within)

    def all_records(self, event: str = "", text: str = "", **fields: object) -> list[Record]:
        """All records so far."""
        self.hear(0.0)
        return [record for record in self.records if _fits(record, event, text, fields)]

    def knock(self, what: str = "", within: float = BOUND) -> Visitor:
        """The next process at the gate."""
        visitor = self.wait(self.gate.admit, f"a knock for {what!r}", within, self.gate)
        assert what in visitor.what
        return visitor

    def gone(self, pid: int, within: float = BOUND) -> None:
        """Wait for the end of a process, whosever child it is."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                self.wait(lambda: readable(fd), f"the end of {pid}", within, fd)
            finally:
                os.close(fd)

    def story(self) -> str:
        """All that was heard, for the report of a failed test."""
        self.hear(0.0)
        told = [f"  {message.fields}" for message in self.messages]
        logged = [f"  {record['level']}: {record['message']}" for record in self.records]
        return "\n".join(["notified:", *told, "logged:", *logged, *self.noise])

    def close(self) -> None:
        """Hear no more; whoever waits at the gate may go."""
        self.gate.open()
        self._notify.close()
        for _, fd in self.store:
            os.close(fd)


def readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _fits(record: Record, event: str, text: str, fields: dict[str, object]) -> bool:
    return (
        (not event or record.get("PREFORK_SD_EVENT") == event)
        and text in record["message"]
        and all(record.get(name) == value for name, value in fields.items())
    )
