"""The strict grammar of HTTP/1.1 (RFC 9110, RFC 9112): heads, bodies, responses. No socket."""

from prefork_sd.http1.body import ChunkedBody, FixedBody, body_reader
from prefork_sd.http1.head import Head, HeadReader, Heads
from prefork_sd.http1.response import (
    LAST_CHUNK,
    check_headers,
    check_status,
    chunk,
    encode_head,
    error_response,
)
from prefork_sd.http1.words import BadRequest, Limits

__all__ = [
    "LAST_CHUNK",
    "BadRequest",
    "ChunkedBody",
    "FixedBody",
    "Head",
    "HeadReader",
    "Heads",
    "Limits",
    "body_reader",
    "check_headers",
    "check_status",
    "chunk",
    "encode_head",
    "error_response",
]
