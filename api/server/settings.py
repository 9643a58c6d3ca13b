"""Settings of ``holdfast serve``: parsed and checked once, then immutable."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from holdfast.api.http.app_settings import TOKEN_SECONDS_DEFAULT, AppSettings
from holdfast.api.http.regions import REGIONS_DEFAULT
from holdfast.api.http.tls import server_context
from holdfast.api.limits.rates import RATE_MAX, Rates
from holdfast.api.limits.sizes import (
    ADDRESS_CONNECTIONS_DEFAULT,
    BANDWIDTH_MAX,
    BANDWIDTH_MIN,
    CONNECTIONS_DEFAULT,
    CONNECTIONS_MAX,
    JSON_BYTES_MAX,
    JSON_BYTES_MIN,
    UPLOADS_MAX,
    Bounds,
)
from holdfast.api.telemetry.logs import LEVELS, LogFormat
from holdfast.api.telemetry.tracing import missing
from holdfast.engine import MANIFEST_BYTES_MAX, StoreConfig

PORT_DEFAULT: Final = 5000
WORKERS_MAX: Final = 256
"""More workers than cores are of no use; this only stops mistakes."""
REGIONS_MAX: Final = 64
GRACE_SECONDS_MAX: Final = 24 * 3600.0
WATCHDOG_SECONDS_MAX: Final = 3600.0

RATE_DEFAULT: Final = 5000.0
"""Requests per second of one address, and of one key. It stops a client in a loop, not a cluster
that starts. This machine itself has no default limit."""

LOGIN_FAILURES_DEFAULT: Final = 60.0
"""Failed logins per minute from one address: more than a human or a broken job makes, and far too
few to guess secrets of 122 random bits."""

SOCKET_PATH_BYTES_MAX: Final = 107
"""Limit of Linux, unix(7)."""

UNIX: Final = "unix"
"""Trusted proxy that stands for all clients of the unix socket."""

NO_LIMITS: Final = Rates()
NO_BOUNDS: Final = Bounds()

_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)

_T = TypeVar("_T")
_Number = TypeVar("_Number", int, float)


class BadSetting(ValueError):
    """The value of an option or environment variable is not valid. The text is one line."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (name or IP address, without brackets) and a TCP port, or None for the default."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``HOST[:PORT]``, IPv6 addresses in brackets. Raises ValueError with the reason."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::([0-9]{1,5}))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT")
        host, port = match[1].strip("[]"), match[2]
        if match[1].startswith("["):
            ipaddress.IPv6Address(host)
        elif not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not a host name")
        if port is not None and int(port) > 65535:
            raise ValueError(f"{port} is not a port: must be at most 65535")
        return cls(host, None if port is None else int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def reachable(self) -> Address:
        """Return the address for a client on this machine: loopback for a wildcard."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # noqa: S104 - read, not bound
        return Address(loopback.get(self.host, self.host), self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of ``holdfast serve``, checked together. Create them with ``parse``."""

    data: Path
    """Data directory."""

    listen: Address
    """Address to listen on; port 0 picks a free port."""

    workers: int
    """Number of worker processes."""

    regions: tuple[str, ...]
    """Names of the regions; the first is the default."""

    endpoints: Mapping[str, Address]
    """Region to the address of its registry for clients."""

    public_url: str | None
    """External base URL when behind a proxy."""

    create_namespaces: bool
    """True if a push creates a missing namespace."""

    trusted_proxies: tuple[str, ...]
    """Networks in CIDR notation whose forwarding headers are trusted, or ``UNIX``."""

    token_seconds: int
    """Lifetime of bearer tokens in seconds."""

    grace_seconds: float
    """Time in seconds that a stop waits for running requests."""

    access_log: bool
    """True if workers log requests to standard error."""

    fast_path: bool = True
    """True if small reads and pushes may bypass aiohttp (``fast``)."""

    bounds: Bounds = NO_BOUNDS
    """Limits of sizes, counts and bandwidth."""

    sparse_indexes: bool = False
    """True if an index may refer to manifests that the image does not have."""

    watchdog_seconds: float = 60.0
    """Seconds without a heartbeat after which a worker is killed; 0 means never."""

    compression: Literal["auto", "never"] = "never"
    """``auto`` compresses suitable blobs with zstd in the background."""

    unix: Path | None = None
    """Path of an additional unix socket."""

    metrics: Address | None = None
    """Address that serves ``/metrics``, or None."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    """Certificate chain and key of all TCP listeners except the metrics: both or none."""

    log_format: LogFormat = "plain"
    log_level: str = "info"
    """One of ``logs.LEVELS``."""

    audit_log: str | None = None
    """Path of the audit log, or ``-`` for standard output."""

    traces: str | None = None
    """Base URL of an OTLP collector that gets a span per request."""

    rates: Rates = NO_LIMITS
    """Rate limits of requests and failed logins, over all workers."""

    @classmethod
    def parse(
        cls,
        *,
        data: str = "data",
        listen: str = f"127.0.0.1:{PORT_DEFAULT}",
        workers: int | None = None,
        regions: Iterable[str] = (),
        endpoints: Iterable[str] = (),
        public_url: str | None = None,
        create_namespaces: bool = False,
        trusted_proxies: Iterable[str] = (),
        token_seconds: int = TOKEN_SECONDS_DEFAULT,
        grace_seconds: float = 30.0,
        access_log: bool = False,
        fast_path: bool = True,
        compression: str = "never",
        max_connections: int = CONNECTIONS_DEFAULT,
        max_connections_per_address: int | None = None,
        max_blob: int = NO_BOUNDS.blob_bytes,
        max_manifest: int = NO_BOUNDS.manifest_bytes,
        max_json: int = NO_BOUNDS.json_bytes,
        max_uploads: int = NO_BOUNDS.uploads,
        bandwidth: int = NO_BOUNDS.bandwidth,
        sparse_indexes: bool = False,
        watchdog_seconds: float = 60.0,
        unix: str | None = None,
        metrics: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        log_format: str = "plain",
        log_level: str = "info",
        audit_log: str | None = None,
        traces: str | None = None,
        rate_address: float | None = None,
        rate_key: float | None = None,
        login_failures: float = LOGIN_FAILURES_DEFAULT,
    ) -> Settings:
        """Parse and check the values of the options. Raises BadSetting with the option."""
        address = _checked("--listen", Address.parse, listen)
        cores = len(os.sched_getaffinity(0))
        names = _regions(regions)
        certificate, key = _tls(tls_cert, tls_key)
        return cls(
            data=_checked("--data", _directory, data),
            listen=Address(address.host, PORT_DEFAULT if address.port is None else address.port),
            workers=_within("--workers", cores if workers is None else workers, 1, WORKERS_MAX),
            regions=names,
            endpoints=_endpoints(endpoints, names),
            public_url=None if public_url is None else _checked("--public-url", _url, public_url),
            create_namespaces=create_namespaces,
            trusted_proxies=tuple(
                _checked("--trusted-proxy", _network, text) for text in trusted_proxies
            ),
            token_seconds=_within("--token-seconds", token_seconds, 60, 86400),
            grace_seconds=_within("--grace", grace_seconds, 0.0, GRACE_SECONDS_MAX),
            access_log=access_log,
            fast_path=fast_path,
            bounds=Bounds(
                blob_bytes=_within("--max-blob", max_blob, 1, 1 << 50),
                manifest_bytes=_within("--max-manifest", max_manifest, 1, MANIFEST_BYTES_MAX),
                json_bytes=_within("--max-json", max_json, JSON_BYTES_MIN, JSON_BYTES_MAX),
                uploads=_within("--max-uploads", max_uploads, 1, UPLOADS_MAX),
                bandwidth=_within("--bandwidth", bandwidth, BANDWIDTH_MIN, BANDWIDTH_MAX)
                if bandwidth
                else 0,
                connections=_within("--max-connections", max_connections, 1, CONNECTIONS_MAX),
                address_connections=_within(
                    "--max-connections-per-address",
                    _or_default(max_connections_per_address, ADDRESS_CONNECTIONS_DEFAULT),
                    0,
                    CONNECTIONS_MAX,
                ),
                spare_local=max_connections_per_address is None,
            ),
            sparse_indexes=sparse_indexes,
            watchdog_seconds=_within("--watchdog", watchdog_seconds, 1.0, WATCHDOG_SECONDS_MAX)
            if watchdog_seconds
            else 0.0,
            compression=_compression(compression),
            unix=None if unix is None else _checked("--unix", _socket_path, unix),
            metrics=None if metrics is None else _checked("--metrics", _address_with_port, metrics),
            tls_cert=certificate,
            tls_key=key,
            log_format=_log_format(log_format),
            log_level=_checked("--log-level", _log_level, log_level),
            audit_log=audit_log,
            traces=None if traces is None else _checked("--traces", _collector, traces),
            rates=Rates(
                address=_within(
                    "--rate-address", _or_default(rate_address, RATE_DEFAULT), 0.0, RATE_MAX
                ),
                key=_within("--rate-key", _or_default(rate_key, RATE_DEFAULT), 0.0, RATE_MAX),
                spare_local_address=rate_address is None,
                spare_local_key=rate_key is None,
                login=_within("--login-failures", login_failures, 0.0, RATE_MAX),
            ),
        )

    def for_app(self, organization_id: UUID | None, ports: Mapping[str, int]) -> AppSettings:
        """Return the settings of the HTTP application; ``ports`` maps a region to its own port."""
        return AppSettings(
            regions=self.regions,
            endpoints={region: str(address) for region, address in self.endpoints.items()},
            default_endpoint=urlsplit(self.public_url).netloc if self.public_url else None,
            ports=dict(ports),
            public_url=self.public_url,
            create_namespaces=self.create_namespaces,
            trusted_proxies=tuple(
                ipaddress.ip_network(text) for text in self.trusted_proxies if text != UNIX
            ),
            trust_unix=UNIX in self.trusted_proxies,
            organization_id=organization_id,
            token_seconds=self.token_seconds,
            json_bytes_max=self.bounds.json_bytes,
        )

    def for_store(self, *, background: bool) -> StoreConfig:
        """Return the settings of a store; ``background`` is True in the one worker that sweeps."""
        return StoreConfig(
            compression=self.compression,
            background=background,
            blob_bytes_max=self.bounds.blob_bytes,
            manifest_bytes_max=self.bounds.manifest_bytes,
            uploads_per_namespace_max=self.bounds.uploads,
            sparse_indexes=self.sparse_indexes,
        )


def _or_default(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value


def _checked(option: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise BadSetting(option, str(error)) from None


def _within(option: str, value: _Number, least: _Number, most: _Number) -> _Number:
    if not least <= value <= most:
        raise BadSetting(option, f"must be {least:g} to {most:g}")
    return value


def _directory(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return Path(text)


def _regions(texts: Iterable[str]) -> tuple[str, ...]:
    regions = tuple(texts) or REGIONS_DEFAULT
    for region in regions:
        if not _REGION.fullmatch(region):
            raise BadSetting("--region", f"{region!r} is not a region such as fr-par")
    if len(set(regions)) != len(regions):
        raise BadSetting("--region", "a region is given twice")
    if len(regions) > REGIONS_MAX:
        raise BadSetting("--region", f"must be at most {REGIONS_MAX} regions")
    return regions


def _endpoints(texts: Iterable[str], regions: tuple[str, ...]) -> dict[str, Address]:
    endpoints: dict[str, Address] = {}
    for text in texts:
        region, equals, host = text.partition("=")
        if not equals:
            raise BadSetting("--endpoint", f"{text!r} is not REGION=HOST[:PORT]")
        if region not in regions:
            raise BadSetting("--endpoint", f"{region!r} is not one of {', '.join(regions)}")
        if region in endpoints:
            raise BadSetting("--endpoint", f"{region} is given twice")
        endpoints[region] = _checked("--endpoint", Address.parse, host)
        if endpoints[region].port == 0:
            raise BadSetting("--endpoint", f"{region} needs a fixed port")
        # The address of a request decides its region.
        if len(set(endpoints.values())) != len(endpoints):
            raise BadSetting("--endpoint", f"{host} is the endpoint of two regions")
    return endpoints


def _address_with_port(text: str) -> Address:
    address = Address.parse(text)
    if address.port is None:
        raise ValueError("needs a port")
    return address


def _socket_path(text: str) -> Path:
    path = _directory(text)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"must not exceed {SOCKET_PATH_BYTES_MAX} bytes")
    return path


def _tls(certificate: str | None, key: str | None) -> tuple[Path, Path] | tuple[None, None]:
    if certificate is None and key is None:
        return None, None
    if certificate is None:
        raise BadSetting("--tls-cert", "is needed with --tls-key")
    if key is None:
        raise BadSetting("--tls-key", "is needed with --tls-cert")
    paths = _checked("--tls-cert", _directory, certificate), _checked("--tls-key", _directory, key)
    # Load the files now: a bad pair must fail the start or the reload, not each worker.
    try:
        server_context(*paths)
    except ValueError as error:
        raise BadSetting("--tls-cert", str(error)) from None
    return paths


def _log_format(text: str) -> LogFormat:
    if text == "plain":
        return "plain"
    if text == "json":
        return "json"
    raise BadSetting("--log-format", "must be plain or json")


def _compression(text: str) -> Literal["auto", "never"]:
    if text == "auto":
        return "auto"
    if text == "never":
        return "never"
    raise BadSetting("--compression", "must be auto or never")


def _log_level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text


def _network(text: str) -> str:
    if text == UNIX:
        return text
    return str(ipaddress.ip_network(text))


def _collector(text: str) -> str:
    if missing():
        raise ValueError("needs the packages of holdfast[otel]")
    if "@" in urlsplit(text).netloc:
        raise ValueError("must not hold credentials: set OTEL_EXPORTER_OTLP_HEADERS")
    return _url(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not http(s)://HOST[:PORT][/PREFIX]")
    Address.parse(parts.netloc)
    return text.rstrip("/")
