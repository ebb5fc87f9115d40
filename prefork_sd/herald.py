"""What systemd hears of us, and when: READY, STATUS, RELOADING, WATCHDOG, STOPPING."""

import errno
from collections.abc import Mapping
from math import inf

from prefork_sd import notify

HEALTHY = 60.0  # seconds of service after which a crash is the first one again


class Herald:
    """Says each thing once, in an order that every systemd understands. Never waits."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._notifier = notify.Notifier(environ)
        # 254 and later; before that nobody tells us whether there is a store
        self.keeps = environ.get("FDSTORE", "0").strip("0") != ""
        period = notify.watchdog_period(environ, pid)
        self._interval = period / 2 if period else inf
        self._status = ""
        self._extended = -inf
        self.ready = False
        self.stopping = False
        self.next_ping = inf
        self.next_reset = inf
        self._reset = not self._notifier.enabled

    def status(self, text: str) -> None:
        """Tell when it changed."""
        if text != self._status:
            self._status = text
            self._notifier.send(notify.status(text))

    def say_ready(self, text: str, now: float) -> None:
        """READY=1: the first time, and always at the end of a reload; not after STOPPING=1."""
        if self.stopping:
            return
        self.ready, self._status = True, text
        self._notifier.send(notify.ready(text))
        if not self._reset and self.next_reset == inf:
            self.next_reset = now + HEALTHY
        self.ping(now)

    def reloading(self, text: str, now: float) -> None:
        if not self.ready:  # the start goes on
            self.status(text)
            return
        self._status, self._extended = text, -inf  # another of systemd's timeouts runs
        self._notifier.send(notify.reloading(now, text))

    def reloaded(self, text: str, now: float, *, failed: bool) -> None:
        """The READY=1 that must follow each RELOADING=1; without it systemctl hangs for ever."""
        self._notifier.send(notify.errno(errno.EINVAL if failed else 0))
        if self.ready:
            self.say_ready(text, now)

    def failed(self, text: str) -> None:
        """Why we are about to exit: it stays in `systemctl status`."""
        self._status = text
        self._notifier.send(notify.status(text) | notify.errno(errno.EINVAL))

    def extend(self, seconds: float, now: float) -> None:
        """Ask for time, as there is progress; at most once a second."""
        if now - self._extended >= 1.0:
            self._extended = now
            self._notifier.send(notify.extend(seconds))

    def stop(self, text: str) -> None:
        """STOPPING=1, exactly once."""
        if not self.stopping:
            self.stopping, self._status, self._extended = True, text, -inf
            self._notifier.send(notify.stopping(text))

    def keep(self, name: str, fd: int) -> None:
        """Have systemd keep a file for our next life: FDSTORE=1 of sd_notify(3)."""
        self._notifier.send({"FDSTORE": "1", "FDNAME": name, "FDPOLL": "0"}, fds=(fd,))

    def forget(self, name: str) -> None:
        """Have systemd let go of what it keeps under that name."""
        self._notifier.send({"FDSTOREREMOVE": "1", "FDNAME": name})

    def ping(self, now: float) -> None:
        """WATCHDOG=1: from READY on, twice in each period."""
        if self.ready and self._interval < inf:
            self._notifier.send(notify.watchdog())
            self.next_ping = now + self._interval

    def prosper(self, now: float, *, well: bool) -> None:
        """RESTART_RESET=1, once, after a minute at whose end the service is well."""
        if now < self.next_reset:
            return
        self.next_reset = now + HEALTHY
        if well:
            self._reset, self.next_reset = True, inf
            self._notifier.send(notify.restart_reset())

    def close(self) -> None:
        """In a child: say nothing any more."""
        self._notifier.close()
