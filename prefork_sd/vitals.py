"""What monitoring hears: metrics, and whether the service is ready."""

import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefork_sd import __version__, bulletin, metrics
from prefork_sd.listeners import Listener
from prefork_sd.lookout import BOOT_FAILED, HUNG, KILLED, LEFT, OOM, RELOAD_FAILED, RELOADED
from prefork_sd.metrics import Family
from prefork_sd.pool import State
from prefork_sd.pressure import resident
from prefork_sd.scoreboard import BOUNDS
from prefork_sd.statusdoor import Answer, Answers

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

ENDS = {"left": LEFT, "killed": KILLED, "hung": HUNG, "oom": OOM, "boot-failed": BOOT_FAILED}
OUTCOMES = {"done": RELOADED, "failed": RELOAD_FAILED}
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
UNACKED = 24  # of struct tcp_info (tcp(7)): for a listener, what waits to be accepted


def answers(server: "Arbiter") -> Answers:
    """What is at which path of the status socket."""

    def show_metrics(accept: str) -> Answer:
        return "200 OK", *metrics.exposition(families(server), accept)

    def show_health(accept: str) -> Answer:
        ready = server.herald.ready and not server.stopping
        well = ready and server.pool.count(State.READY) > 0
        status = "200 OK" if well else "503 Service Unavailable"
        return status, "text/plain; charset=utf-8", f"{bulletin.line(server)}\n"

    return {"/metrics": show_metrics, "/healthz": show_health}


def families(server: "Arbiter") -> Iterator[Family]:
    """Yield every metric. Counters survive a restart where systemd keeps our memory for us."""
    pool, board, served = server.pool, server.scoreboard, server.served()
    service = {"service": server.app.name, "version": __version__}
    yield Family("build", "info", "the service and the server's version", [("_info", service, 1)])
    by_class = dict(zip(CLASSES, served.classes, strict=True))
    help_text = "requests answered, by class of status"
    yield metrics.counters("http_requests", help_text, "status", by_class)
    yield metrics.histogram(
        "http_request_duration_seconds",
        "from the whole request to the last byte handed to the kernel",
        BOUNDS,
        served.buckets,
        served.seconds,
        "seconds",
    )
    yield metrics.counter("http_response_bytes", "bytes of response bodies", served.sent, "bytes")
    states: dict[str, float] = {state.value: pool.count(state) for state in State}
    yield metrics.gauges("workers", "worker processes, by state", "state", states)
    busy = sum(bool(worker.tmp.in_hand()) for worker in server.WORKERS.values())
    yield metrics.gauge("workers_busy", "worker processes with a request in hand", busy)
    yield metrics.gauge("workers_wanted", "worker processes that are wanted", pool.want)
    yield metrics.gauge("generation", "the generation that serves", pool.serving)
    ends: dict[str, float] = {name: board.ticks(number) for name, number in ENDS.items()}
    yield metrics.counters("worker_exits", "workers that are gone, by reason", "reason", ends)
    outcomes: dict[str, float] = {name: board.ticks(number) for name, number in OUTCOMES.items()}
    yield metrics.counters("reloads", "reloads, by outcome", "outcome", outcomes)
    waiting: dict[str, float] = {
        listener.address: backlog(listener) for listener in server.sockets if not listener.is_unix
    }
    yield metrics.gauges("listen_queue", "connections that wait, by listener", "listener", waiting)
    rss: dict[str, float] = {str(pid): resident(pid) for pid in server.WORKERS if pid > 0}
    help_text = "resident memory of the workers"
    yield metrics.gauges("worker_resident_memory_bytes", help_text, "pid", rss, "bytes")


def backlog(listener: Listener) -> int:
    """How many connections of a TCP listener wait to be accepted."""
    try:
        info = listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    except OSError:
        return 0
    return int(struct.unpack_from("=I", info, UNACKED)[0])
