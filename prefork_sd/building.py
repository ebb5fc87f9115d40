"""From values as somebody wrote them to a `Config`, or to all that is wrong with them at once.

No file is read here; where the values come from is said with them.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from prefork_sd.config import SETTINGS, Config
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.settings import CONTROL, BadValueError
from prefork_sd.values import nearest


def merge(*layers: Mapping[str, object]) -> dict[str, object]:
    """One mapping of settings from many; a later layer wins."""
    return {key: value for layer in layers for key, value in layer.items()}


def build(
    values: Mapping[str, object],
    *,
    file: str = "",
    lines: Mapping[str, int] | None = None,
    need_app: bool = True,
) -> Config:
    """Check all values and make the configuration of them.

    `file` and `lines` (dotted key to line, from 1) say where the values come from. Raises
    ConfigError with every problem there is, in the order of the lines.
    """
    problems: list[Problem] = []

    def problem(text: str, key: str, *, show: bool = True) -> None:
        shown = CONTROL.sub("?", key) if show else ""
        problems.append(Problem(CONTROL.sub("?", text), shown, file, _line(key, lines or {})))

    taken: dict[str, Any] = {}
    for name, value in values.items():
        known = SETTINGS.get(name)
        if known is None:
            problem(f'unknown setting "{name}"{nearest(name, SETTINGS)}', name, show=False)
        elif value is None:
            problem("has no value; leave the line out to get the default", name)
        else:
            try:
                taken[name] = known.kind.read(value, known)
            except BadValueError as error:
                for below, text in error.found:
                    problem(text, f"{name}.{below}" if below else name)
    config = Config(**taken)
    if need_app and not config.app and ("app" in taken or "app" not in values):
        problem('is required, like "app: shop.wsgi:application"', "app")
    for key, text in _disagreements(config):
        problem(text, key)
    if problems:
        raise ConfigError(*sorted(problems, key=lambda each: each.line))
    return config


def salvage(values: Mapping[str, object]) -> Config:
    """The configuration of what can be read in the values, with defaults for the rest.

    Whether its settings agree is not asked.
    """
    taken: dict[str, Any] = {}
    for name, value in values.items():
        known = SETTINGS.get(name)
        if known is not None and value is not None:
            with suppress(BadValueError):
                taken[name] = known.kind.read(value, known)
    return Config(**taken)


def _disagreements(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for settings that cannot be had together."""
    if config.group and not config.user:
        yield "group", "needs a `user` too; without one systemd makes both up"
    if config.max_requests_jitter and not config.max_requests:
        yield "max_requests_jitter", "needs `max_requests` too"
    if config.refork_after:
        yield from _refork_disagreements(config)
    if config.threads > 1 and config.worker_class in ("sync", "asgi"):
        yield "threads", f"must be 1 with `worker_class: {config.worker_class}`; leave one out"
    if config.limit_request_head < max(config.limit_request_line, config.limit_request_field_size):
        yield "limit_request_head", "must not be smaller than the limits of a line and of a field"
    yield from _tls_disagreements(config)


def _refork_disagreements(config: Config) -> Iterator[tuple[str, str]]:
    if not config.preload_app:
        yield "refork_after", "needs `preload_app: yes` too"
    if config.threads > 1 or config.worker_class in ("threads", "asgi"):
        yield "refork_after", "is for `sync` workers: threads do not outlive a fork"
    if 0 < config.max_requests <= config.refork_after:
        yield "refork_after", "must be smaller than `max_requests`"


def _tls_disagreements(config: Config) -> Iterator[tuple[str, str]]:
    for key in ("tls_certificate", "tls_key"):
        if config.tls_bind and not getattr(config, key):
            yield "tls_bind", f"needs `{key}` too"
    for key in ("tls_certificate", "tls_key", "tls_client_ca"):
        if getattr(config, key) and not config.tls_bind:
            yield key, "needs `tls_bind` too"
    if config.tls_client_auth == "optional" and not config.tls_client_ca:
        yield "tls_client_auth", "needs `tls_client_ca` too"
    for address in sorted({*config.bind} & {*config.tls_bind}):
        yield "tls_bind", f"must not name {address}, which is in `bind`"


def _line(key: str, lines: Mapping[str, int]) -> int:
    """The line of a dotted key, or of the nearest key above it; 0 where none is known."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)
