"""Makes TLS contexts: one certificate for all TCP listeners of the server."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer with a chain and its key, both PEM.

    Raises ValueError, in one line, if a file cannot be read or the two do not match.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without this, OpenSSL asks for a key's passphrase on the terminal.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key} must be a certificate chain and its private key in PEM"
            f" ({error.reason or 'not PEM'})"
        ) from None
    except OSError as error:
        # load_cert_chain does not say which of the two it was.
        unreadable = next((path for path in (certificate, key) if not _readable(path)), certificate)
        raise ValueError(f"{unreadable}: {error.strerror}") from None
    return context


def _no_passphrase() -> str:
    raise ValueError("the private key must not have a passphrase")


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def loopback_context() -> ssl.SSLContext:
    """Return a context for a readiness check of the server on this machine, without verification.

    Nothing secret is sent, and the certificate names other hosts than loopback.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
