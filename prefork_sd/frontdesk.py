"""What the control socket can be asked, and what the arbiter does about it."""

import time
from typing import TYPE_CHECKING

from prefork_sd import bulletin, journal
from prefork_sd.config import MOST_WORKERS
from prefork_sd.control import Call
from prefork_sd.reloading import Reload

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

LOWEST_PRIORITY = 7  # of syslog(3): debug


def answer(server: "Arbiter", call: Call) -> None:
    """Answer a call of our interfaces, now or (a reload) when there is a verdict."""
    match call.method:
        case "io.prefork.sd.Status":
            call.reply(bulletin.status(server, time.monotonic()))
        case "io.prefork.sd.Reload":
            if server.stopping:
                reason = "the service is stopping"
                call.error("io.prefork.sd.ReloadFailed", {"reason": reason, "details": ""})
            else:
                server.reload(Reload([call]))
        case "io.prefork.sd.Scale":
            number = call.parameters["workers"]
            if isinstance(number, int) and 1 <= number <= MOST_WORKERS:
                server.scale(number)
                call.reply({"workers": number})
            else:
                call.error("org.varlink.service.InvalidParameter", {"parameter": "workers"})
        case "io.systemd.service.SetLogLevel":
            level = call.parameters["level"]
            if isinstance(level, int) and 0 <= level <= LOWEST_PRIORITY:
                journal.set_level(journal.level_of(level))
                call.reply()
            else:
                call.error("org.varlink.service.InvalidParameter", {"parameter": "level"})
        case _:
            call.error("org.varlink.service.MethodNotImplemented", {"method": call.method})
