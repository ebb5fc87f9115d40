"""What the control socket can be asked, and what the arbiter does about it."""

import time
from typing import TYPE_CHECKING

from prefork_sd import __version__, journal
from prefork_sd.control import Call
from prefork_sd.pool import State
from prefork_sd.reloading import Reload

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

MOST_WORKERS = 512
LOWEST_PRIORITY = 7  # of syslog(3): debug


def answer(server: "Arbiter", call: Call) -> None:
    """Answer a call of our interfaces, now or (a reload) when there is a verdict."""
    match call.method:
        case "io.prefork.sd.Status":
            call.reply(status(server, time.monotonic()))
        case "io.prefork.sd.Reload":
            if server.stopping:
                reason = "the service is stopping"
                call.error("io.prefork.sd.ReloadFailed", {"reason": reason, "details": ""})
            else:
                server.reload(Reload([call]))
        case "io.prefork.sd.Scale":
            number = call.parameters["workers"]
            if isinstance(number, int) and 1 <= number <= MOST_WORKERS:
                server.set_workers(number)
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


def status(server: "Arbiter", now: float) -> dict[str, object]:
    """Everything that is known, for `prefork-sd status`."""
    pool = server.pool
    return {
        "service": server.app.name,
        "version": __version__,
        "pid": server.pid,
        "state": state(server),
        "status": server.describe(),
        "generation": pool.serving,
        "wanted": pool.want,
        "ready": pool.count(State.READY),
        "listeners": [listener.address for listener in server.sockets],
        "workers": [worker(server, pid, now) for pid in sorted(server.WORKERS)],
    }


def state(server: "Arbiter") -> str:
    """One word for the service as a whole."""
    if server.stopping:
        return "stopping"
    if server.under_way:
        return "reloading"
    return "serving" if server.herald.ready else "booting"


def worker(server: "Arbiter", pid: int, now: float) -> dict[str, object]:
    child, slot = server.pool.children[pid], server.WORKERS[pid].tmp
    requests = slot.in_hand()
    return {
        "pid": pid,
        "age": child.age,
        "generation": child.generation,
        "state": child.state.value,
        "requests": slot.counters[0],
        "errors": slot.counters[1],
        "bytes": slot.counters[2],
        "connections": slot.connections,
        "uptime_usec": int((now - child.born) * 1e6),
        "in_hand": [
            {
                "method": one.method,
                "path": one.path,
                "usec": int((now - one.since) * 1e6),
            }
            for one in requests
        ],
    }
