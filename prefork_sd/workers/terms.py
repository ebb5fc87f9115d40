"""What holds for every client of one listener."""

from prefork_sd import http1
from prefork_sd.config import Config
from prefork_sd.wsgi import Environ, Template

PLAIN = 512  # requests that a worker remembers of a listener


class Terms:
    """What holds for every client of one listener: its base environ, the limits, known heads.

    `plain` are requests that came before, and of which the head is all.
    """

    __slots__ = ("_found", "base", "body_buffer", "heads", "limits", "plain", "send_timeout")

    def __init__(
        self, base: Environ, limits: http1.Limits, *, body_buffer: int, send_timeout: float
    ) -> None:
        self.base = base
        self.limits = limits
        self.heads = http1.Heads(limits)
        self.body_buffer = body_buffer  # bytes of a body that stay in memory
        self.send_timeout = send_timeout  # seconds for a client to take something
        self.plain: dict[bytes, Template] = {}
        self._found: tuple[bytes, http1.Head | None] = (b"", None)

    def head(self, data: bytes) -> http1.Head | None:
        """The head that `data` is: see Heads.take. What `template` has found came but once."""
        before, head = self._found
        return head if data is before else self.heads.take(data)

    def template(self, data: bytes) -> Template | None:
        """What `data` makes of an environ; None: it is not, or not only, a plain request."""
        head = self.heads.take(data)
        if head is None:
            return None
        modern = head.version == "HTTP/1.1"
        if not modern or head.length or head.chunked or head.method == "HEAD":
            self._found = data, head
            return None
        template = Template.of(self.base, head)
        if head.kept is template:
            if len(self.plain) >= PLAIN:
                self.plain.clear()
            self.plain[data] = template
        return template


def limits_of(cfg: Config) -> http1.Limits:
    """The limits of the grammar, from the settings."""
    return http1.Limits(
        line=cfg.limit_request_line,
        fields=cfg.limit_request_fields,
        field=cfg.limit_request_field_size,
        head=cfg.limit_request_head,
        body=cfg.limit_request_body,
    )
