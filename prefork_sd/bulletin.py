"""How the service is: in one line for `systemctl status`, and in full for the control socket."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefork_sd import __version__
from prefork_sd.pool import State
from prefork_sd.pressure import proportional, resident

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

MEASURED = 4 << 30  # bytes of memory that the shares of one answer are found out for: 80 ms


def workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def line(server: "Arbiter") -> str:
    """What a person wants to know first."""
    pool = server.pool
    ready, booting = pool.count(State.READY), pool.count(State.BOOTING)
    if server.stopping:
        left = len(pool.children)
        return f"stopping: {workers(left)} still to leave"
    if not server.herald.ready and not pool.up():
        return f"booting: {ready} of {server.num_workers} workers are ready"
    text = f"serving: {ready} of {pool.want} workers ready, generation {pool.serving}"
    if server.winched:
        text = "paused: workers were retired by SIGWINCH; SIGHUP or SIGTTIN brings them back"
    if server.under_way:
        fresh = pool.ready_of(pool.target)
        text += f"; reloading: {fresh} of {pool.want} workers of generation {pool.target}"
    elif booting:
        text += f", {booting} booting"
    if server.tally.busy:
        text += f", {server.tally.busy} busy"
    if server.tally.rate >= 0.05:
        text += f"; {server.tally.rate:.3g} requests/s"
    if server.tally.errors:
        text += f", {server.tally.errors} failed lately"
    return f"{text}; {server.last_reload}" if server.last_reload else text


def state(server: "Arbiter") -> str:
    """One word for the service as a whole."""
    if server.stopping:
        return "stopping"
    if server.under_way:
        return "reloading"
    return "serving" if server.herald.ready else "booting"


def status(server: "Arbiter", now: float) -> dict[str, object]:
    """Everything that is known: the reply to io.prefork.sd.Status (see `varlink`)."""
    pool = server.pool
    pids = sorted(server.WORKERS, key=abs)
    sizes = {pid: resident(pid) if pid > 0 else 0 for pid in pids}
    shares = _shares(sizes)
    return {
        "service": server.app.name,
        "version": __version__,
        "pid": server.pid,
        "state": state(server),
        "status": line(server),
        "generation": pool.serving,
        "wanted": pool.want,
        "ready": pool.count(State.READY),
        "requests": server.served().requests,
        "errors": server.served().errors,
        "listeners": [listener.address for listener in server.sockets],
        "workers": [
            _worker(server, pid, now) | {"rss": sizes[pid], "pss": shares.get(pid)} for pid in pids
        ],
    }


def _shares(sizes: Mapping[int, int]) -> dict[int, int]:
    """The proportional shares of these processes, as far as the arbiter has time for them."""
    shares, left = {}, MEASURED
    for pid, size in sizes.items():
        if 0 < size <= left and (share := proportional(pid)) is not None:
            shares[pid] = share
            left -= size
    return shares


def _worker(server: "Arbiter", pid: int, now: float) -> dict[str, object]:
    child, slot = server.pool.children[pid], server.WORKERS[pid].tmp
    return {
        "pid": pid,
        "age": child.age,
        "generation": child.generation,
        "state": child.state.value,
        "requests": slot.counters[0],
        "errors": slot.counters[1],
        "bytes": slot.counters[2],
        "uptime_usec": int((now - child.born) * 1e6),
        "in_hand": [
            {"method": one.method, "path": one.path, "usec": int((now - one.since) * 1e6)}
            for one in slot.in_hand()
        ],
    }
