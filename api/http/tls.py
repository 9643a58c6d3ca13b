"""TLS of the server: one certificate for all TCP listeners."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer with a chain and its key, both PEM.

    Raises ValueError, in one line, where the files cannot be read or do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without this, a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key} are no chain and key in PEM that belong together"
            f" ({error.reason or 'no PEM'})"
        ) from None
    except OSError as error:
        # load_cert_chain does not say which of the two it was.
        unreadable = next((path for path in (certificate, key) if not _readable(path)), certificate)
        raise ValueError(f"{unreadable}: {error.strerror}") from None
    return context


def _no_passphrase() -> str:
    raise ValueError("a key with a passphrase cannot be used")


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def loopback_context() -> ssl.SSLContext:
    """For asking the server of this machine whether it is ready: nothing secret is sent, and the
    certificate names other hosts than the one that is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
