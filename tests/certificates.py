"""Certificates for tests, made by openssl(1) as they are needed."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as the files that they are."""

    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())

    def settings(self) -> dict[str, Any]:
        """For a server; where it listens is the test's affair."""
        return {"tls_certificate": str(self.certificate), "tls_key": str(self.key)}

    def client(self, own: "Pair | None" = None) -> ssl.SSLContext:
        """A client that trusts this one, and shows a certificate of its own if it has one."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if own:
            context.load_cert_chain(own.certificate, own.key)
        return context


def make(
    folder: Path,
    name: str,
    *more: str,
    by: Pair | None = None,
    subject: str = "",
    san: str = "DNS:localhost,IP:127.0.0.1",
) -> Pair:
    """A pair in `folder`, signed by another one or by itself; `more` are options of openssl-req."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    signer = ("-CA", str(by.certificate), "-CAkey", str(by.key)) if by else ()
    command = ["openssl", "req", "-x509", *(more or ("-nodes",)), *NEW_KEY, *signer]
    command += ["-keyout", str(pair.key), "-out", str(pair.certificate), "-days", "30"]
    command += ["-subj", subject or f"/CN={name}", "-utf8", "-addext", f"subjectAltName={san}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return pair
