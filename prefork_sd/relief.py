"""What is done when memory is short: collect, give back, and replace the largest worker."""

from signal import SIGUSR2
from typing import TYPE_CHECKING

from prefork_sd import journal
from prefork_sd.journal import Event
from prefork_sd.pool import State
from prefork_sd.pressure import resident

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter


def relieve(server: "Arbiter", now: float) -> None:
    """Answer one event of memory pressure, if the last one was long enough ago.

    The arbiter itself collects nothing: that writes to pages which it shares with its workers, and
    each copy may be a wait of seconds where the kernel slows down who is past `MemoryHigh=`.
    """
    if not server.pressure.collect_now(now):
        return
    children = server.pool.children.values()
    serving = {child.pid: resident(child.pid) for child in children if child.state is State.READY}
    for pid in serving:
        server.processes.kill(pid, SIGUSR2)
    text = "memory is short: the workers collect garbage"
    if serving and not server.under_way and server.pressure.recycle_now(now):
        largest = max(serving, key=lambda pid: serving[pid])
        server.WORKERS[largest].condemned = True
        text += f", and worker {largest} ({serving[largest] >> 20} MiB) is replaced"
    server.log.warning("%s", text, extra=journal.fields(Event.MEMORY_PRESSURE))
