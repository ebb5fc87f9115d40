"""One client behind TLS: the same protocol, with a layer between its bytes and the descriptor.

The layer works in memory: what the kernel gives goes in, what is to be sent comes out, and it waits
for nothing. So the loop waits for a readable or writable descriptor and no more, as without TLS.
"""

import os
import ssl
from contextlib import suppress
from typing import Any

from prefork_sd import http1
from prefork_sd.workers.connection import (
    RECEIVE,
    SLICE,
    WRITE_TOO,
    READ,
    Connection,
    bytes_of,
    taken,
)
from prefork_sd.wsgi import Environ, FileSlice

AT_ONCE = 65536  # bytes of a response that are encrypted before the kernel gets them
MOST_UNASKED = 65536  # bytes that the layer may answer on its own to a client that does not read
PLAIN = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")  # OpenSSL's names for a client without TLS

# of a name (RFC 4514, 3), where ssl has the long forms
SHORT = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
