"""Two certificates for localhost, each its own authority, that are valid for a hundred years."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

CERTIFICATES: Final = (
    """\
-----BEGIN CERTIFICATE-----
MIIBYzCCAQqgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIrX4GSwmC7IS5UY
wgoaDfmk9wmK+MLrXBvYKfS1UT+kzXcQHu8NvwEsbxlqZZ0Ft/9Lsp2BBxEX3rnW
wWeIKkmjSzBJMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAMBgNVHRMEBTAD
AQH/MB0GA1UdDgQWBBRgkrZXr1PKJwKGUBzSkjEPTz5nGDAKBggqhkjOPQQDAgNH
ADBEAiByUI4VxEd/2pMhR59dlW+Xxa9dp5JRK5gZmpkTz5zHmwIgfGDCC2MbH6cI
q2oIqvX9bWjQWVhvj+0mAOELXAZ1IPA=
-----END CERTIFICATE-----
""",
    """\
-----BEGIN CERTIFICATE-----
MIIBZDCCAQqgAwIBAgIBAjAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABL5M6nEUiHL8Ih9w
x5YIpIuZ8OMpJlXNwgeFOOqud0qR8fJ92IGwPzUUMEZyXXm1I9ZWgtNvJdC4adMi
+8jWZ/ijSzBJMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAMBgNVHRMEBTAD
AQH/MB0GA1UdDgQWBBTCBrudsSxsLL4Tq3qCH6COAe6/YTAKBggqhkjOPQQDAgNI
ADBFAiADyv9hRKwrDu+64ZnpvnrPM7v3xktW4QJA/ZtbFZCn+wIhAOWEV30Zo2DY
Txvb7tGtiGnAGHuUQIjun7XF5kXi6pZ8
-----END CERTIFICATE-----
""",
)
KEYS: Final = (
    """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgN6j/1XdgpdUqiy0I
EtJk2qTcEapSwjmE43IBNP++0FKhRANCAASK1+BksJguyEuVGMIKGg35pPcJivjC
61wb2Cn0tVE/pM13EB7vDb8BLG8ZamWdBbf/S7KdgQcRF9651sFniCpJ
-----END PRIVATE KEY-----
""",
    """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtuQDO0Zn3wAk6/M7
WbaLUF8I/h0FNwTP3Ej66l5zSn2hRANCAAS+TOpxFIhy/CIfcMeWCKSLmfDjKSZV
zcIHhTjqrndKkfHyfdiBsD81FDBGcl15tSPWVoLTbyXQuGnTIvvI1mf4
-----END PRIVATE KEY-----
""",
)


def install(directory: Path, which: int) -> tuple[Path, Path]:
    """Write a certificate and its key; where they are."""
    paths = directory / "cert.pem", directory / "key.pem"
    for path, text in zip(paths, (CERTIFICATES[which], KEYS[which]), strict=True):
        path.write_text(text)
    return paths


def trusting(which: int) -> ssl.SSLContext:
    """What a client uses that trusts one of them and nothing else."""
    return ssl.create_default_context(cadata=CERTIFICATES[which])


def serving(directory: Path, which: int = 0) -> ssl.SSLContext:
    """What a server uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*install(directory, which))
    return context
