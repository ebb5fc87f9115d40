"""TLS: from the settings to what a handshake needs. The only reader of certificates and keys."""

import errno
import os
import re
import ssl
import stat
import time
from base64 import b64decode
from calendar import timegm
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from prefork_sd.config import Config
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.units import MISSING
from prefork_sd.values import CREDENTIAL

MOST_BYTES = 1 << 20  # of one file; a bundle of all the authorities of the web has a quarter
DENIED = (errno.EACCES, errno.EPERM)
FOLDER = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)
PROTOCOLS = ["http/1.1"]  # ALPN: RFC 7301
CERTIFICATE, KEY, CLIENT_CA = "tls_certificate", "tls_key", "tls_client_ca"

_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([^-]+)-----END")
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
# Validity of RFC 5280, 4.1.2.5: two times, each of them short (until 2049) or long
_TIME = rb"(?:\x17\x0d([0-9]{12})Z|\x18\x0f([0-9]{14})Z)"
_VALIDITY = re.compile(rb"\x30[\x1e-\x22]" + _TIME + _TIME)


def context(cfg: Config, warn: Callable[[str], None]) -> ssl.SSLContext | None:
    """What `tls_bind` is served with, from the files as they are now; None without `tls_bind`.

    `warn` gets a sentence for what a client will not like. Raises ConfigError, which names the
    setting and the file.
    """
    if not cfg.tls_bind:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(PROTOCOLS)
    certificate, key = _pair(cfg, warn)
    _load_pair(made, certificate, key)
    for sentence in _wrong_time(certificate, time.time()):
        warn(f"{CERTIFICATE}: {certificate} {sentence}")
    if cfg.tls_client_ca:
        _load_clients_ca(made, _one(cfg, CLIENT_CA))
        needed = cfg.tls_client_auth == "required"
        made.verify_mode = ssl.CERT_REQUIRED if needed else ssl.CERT_OPTIONAL
    return made


# ---- which files


def _pair(cfg: Config, warn: Callable[[str], None]) -> tuple[Path, Path]:
    """Certificate and key, both from their own places or both as systemd has copied them.

    One of each might not belong together when they have just been renewed.
    """
    own = _place(CERTIFICATE, cfg.tls_certificate), _place(KEY, cfg.tls_key)
    copies = _copy(CERTIFICATE, cfg.tls_certificate), _copy(KEY, cfg.tls_key)
    given = [_given(*each) for each in zip((CERTIFICATE, KEY), own, copies, strict=True)]
    if not any(_denied(path) for path in own) or not all(given):
        return own
    with suppress(OSError):
        if _bytes(own[0]) != _bytes(copies[0]):
            warn(
                f"{CERTIFICATE}: {own[0]} is newer than the copy that is served, because the "
                f"service may not read {own[1]}; a restart takes both"
            )
    return copies


def _one(cfg: Config, setting: str) -> Path:
    """The file of a setting, or systemd's copy of it where we may not read it."""
    value = getattr(cfg, setting)
    path, copy = _place(setting, value), _copy(setting, value)
    return copy if _given(setting, path, copy) and _denied(path) else path


def _place(setting: str, value: str) -> Path:
    if not value.startswith(CREDENTIAL):
        return Path(value)
    folder, name = os.environ.get(FOLDER), value.removeprefix(CREDENTIAL)
    if not folder:
        text = f"systemd gave no credentials (${FOLDER} is not set), so there is no {name}"
        raise ConfigError(Problem(text, setting))
    return Path(folder) / name


def _copy(setting: str, value: str) -> Path:
    """What LoadCredential= of the generated unit makes of a path; a credential is its own."""
    if value.startswith(CREDENTIAL):
        return _place(setting, value)
    return Path(os.environ.get(FOLDER, "/nowhere")) / setting


def _given(setting: str, path: Path, copy: Path) -> bool:
    """Whether systemd made a copy. Raises ConfigError if there was nothing to be copied."""
    if not copy.is_file():
        return False
    if _denied(path) and copy.read_bytes() == MISSING.encode():
        raise ConfigError(Problem(f"there is no {path}", setting))
    return True


def _denied(path: Path) -> bool:
    try:
        os.close(_open(path))
    except OSError as error:
        return error.errno in DENIED
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us up


def _bytes(path: Path) -> bytes:
    """What is in it, a little more than `MOST_BYTES` at most. Raises OSError."""
    with open(_open(path), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(MOST_BYTES + 1)


# ---- what is in them


def _read(setting: str, path: Path, pem: re.Pattern[bytes], what: str) -> bytes:
    """A file's bytes, if it has what it should have. Raises ConfigError."""

    def problem(text: str) -> ConfigError:
        return ConfigError(Problem(f"{path} {text}", setting))

    try:
        data = _bytes(path)
    except OSError as error:
        raise problem(f"cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise problem(f"has more than {MOST_BYTES} bytes")
    if not pem.search(data):
        raise problem(f"has no {what} in the PEM format")
    return data


def _load_pair(made: ssl.SSLContext, certificate: Path, key: Path) -> None:
    chain = _read(CERTIFICATE, certificate, _CERTIFICATE, "certificate")
    _read(KEY, key, _PRIVATE_KEY, "private key")

    def passphrase() -> str:
        raise ConfigError(Problem(f"{key} has a passphrase, which nobody is there to type", KEY))

    try:
        made.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key} does not belong to the certificate in {certificate}"
            raise ConfigError(Problem(text, KEY)) from None
        if "KEY_TOO_SMALL" in (error.reason or ""):
            text = f"{certificate} has a key that is too short to be safe"
            raise ConfigError(Problem(text, CERTIFICATE)) from None
        setting, path = (KEY, key) if _is_certificate(chain) else (CERTIFICATE, certificate)
        text = f"{path} is damaged or of a kind that is not known: {said(error)}"
        raise ConfigError(Problem(text, setting)) from None
    except OSError as error:
        text = f"{certificate} or {key} cannot be read: {error.strerror}"
        raise ConfigError(Problem(text, CERTIFICATE)) from None


def _load_clients_ca(made: ssl.SSLContext, path: Path) -> None:
    _read(CLIENT_CA, path, _CERTIFICATE, "certificate")
    try:
        made.load_verify_locations(path)
    except OSError as error:
        text = f"{path} is damaged: {said(error)}"
        raise ConfigError(Problem(text, CLIENT_CA)) from None


def _is_certificate(chain: bytes) -> bool:
    """Whether OpenSSL can read all the certificates in it."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(
            cadata=chain.decode("ascii", "ignore")
        )
    except ssl.SSLError:
        return False
    return True


def said(error: OSError) -> str:
    """What OpenSSL says of an error, in its words."""
    reason = getattr(error, "reason", None) or error.strerror or "unknown"
    return str(reason).replace("_", " ").lower()


def _wrong_time(certificate: Path, now: float) -> Iterator[str]:
    """Yield a sentence if the certificate is not valid now (seconds since the epoch)."""
    first_of_chain = _CERTIFICATE.search(certificate.read_bytes())
    found = first_of_chain and _VALIDITY.search(b64decode(first_of_chain[1]))
    if not found:
        return
    first, last = (_seconds(found[n] or found[n + 1]) for n in (1, 3))
    if now > last:
        yield f"has expired, on {time.strftime('%Y-%m-%d', time.gmtime(last))}"
    elif now < first:
        yield f"is not valid before {time.strftime('%Y-%m-%d', time.gmtime(first))}"


def _seconds(digits: bytes) -> float:
    form = "%y%m%d%H%M%S" if len(digits) == 12 else "%Y%m%d%H%M%S"
    return timegm(datetime.strptime(digits.decode(), form).timetuple())
