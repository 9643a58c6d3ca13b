"""Settings of ``holdfast serve``: one field an option, parsed and checked once, then immutable.

The fields of ``Settings`` declare the options. The command line, the environment, the file and the
reference in docs/configuration.md follow from them. ``holdfast serve --help`` imports this module,
so it imports late what takes long: the engine, TLS, and what only workers use.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from holdfast.api.http.defaults import (
    JSON_BYTES_DEFAULT,
    REGIONS_DEFAULT,
    TOKEN_SECONDS,
    TOKEN_SECONDS_DEFAULT,
)

from .option import ClientLimit, option, options_of

if TYPE_CHECKING:
    from uuid import UUID

    from holdfast.api.http.app_settings import AppSettings
    from holdfast.api.limits.rates import Rates
    from holdfast.api.telemetry.logs import LogFormat
    from holdfast.engine import StoreConfig

PORT_DEFAULT: Final = 5000
REGIONS_MAX: Final = 64
RATE_MAX: Final = 1_000_000
CONNECTIONS_MAX: Final = 1_000_000

MANIFEST_BYTES_MAX: Final = 4 << 20
"""That of the engine, which takes long to import; a test compares them."""

SOCKET_PATH_BYTES_MAX: Final = 107
"""Limit of Linux, unix(7)."""

UNIX: Final = "unix"
"""Trusted proxy that stands for all clients of the unix socket."""

_REGION: Final = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"


class BadSetting(ValueError):
    """The value of an option or environment variable is not valid. The text is one line."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


class Address(NamedTuple):
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
        elif not re.fullmatch(_HOST, host):
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


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return Path(text)


def _socket_path(text: str) -> Path:
    path = _path(text)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"must not exceed {SOCKET_PATH_BYTES_MAX} bytes")
    return path


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _listen_address(text: str) -> Address:
    address = Address.parse(text)
    return Address(address.host, PORT_DEFAULT if address.port is None else address.port)


def _address_with_port(text: str) -> Address:
    address = Address.parse(text)
    if address.port is None:
        raise ValueError("needs a port")
    return address


def _regions(texts: Iterable[str]) -> tuple[str, ...]:
    regions = tuple(texts) or REGIONS_DEFAULT
    for region in regions:
        if not re.fullmatch(_REGION, region):
            raise ValueError(f"{region!r} is not a region such as fr-par")
    if len(set(regions)) != len(regions):
        raise ValueError("a region is given twice")
    if len(regions) > REGIONS_MAX:
        raise ValueError(f"must be at most {REGIONS_MAX} regions")
    return regions


def _endpoints(texts: Iterable[str]) -> dict[str, Address]:
    endpoints: dict[str, Address] = {}
    for text in texts:
        region, equals, host = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not REGION=HOST[:PORT]")
        if region in endpoints:
            raise ValueError(f"{region} is given twice")
        endpoints[region] = Address.parse(host)
        if endpoints[region].port == 0:
            raise ValueError(f"{region} needs a fixed port")
        # The address of a request decides its region.
        if len(set(endpoints.values())) != len(endpoints):
            raise ValueError(f"{host} is the endpoint of two regions")
    return endpoints


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not http(s)://HOST[:PORT][/PREFIX]")
    Address.parse(parts.netloc)
    return text.rstrip("/")


def _collector(text: str) -> str:
    from holdfast.api.telemetry.tracing import missing

    if missing():
        raise ValueError("needs the packages of holdfast[otel]")
    if "@" in urlsplit(text).netloc:
        raise ValueError("must not hold credentials: set OTEL_EXPORTER_OTLP_HEADERS")
    return _url(text)


def _networks(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text if text == UNIX else str(ipaddress.ip_network(text)) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of ``holdfast serve``, checked together. Create them with ``parse``.

    Sizes are in bytes, times in seconds.
    """

    data: Path = option("text", "data", "Data directory.", metavar="DIR", parse=_path, fixed=True)

    listen: Address = option(
        "text",
        f"127.0.0.1:{PORT_DEFAULT}",
        "Address to listen on; port 0 picks a free port.",
        metavar="HOST:PORT",
        parse=_listen_address,
        fixed=True,
    )

    workers: int = option(
        "whole",
        None,
        "Number of worker processes.",
        shown="one per core",
        unset=_cores,
        # More workers than cores are of no use; the bound only stops mistakes.
        within=(1, 256),
        fixed=True,
    )

    regions: tuple[str, ...] = option(
        "texts",
        (),
        "Region to serve, repeatable; the first is the default.",
        key="region",
        metavar="REGION",
        shown=" ".join(REGIONS_DEFAULT),
        parse=_regions,
        fixed=True,
    )

    endpoints: Mapping[str, Address] = option(
        "texts",
        (),
        "Address of a region's registry for clients, repeatable; the server also listens on it if "
        "it is a free port of this machine.",
        key="endpoint",
        metavar="REGION=HOST[:PORT]",
        parse=_endpoints,
        fixed=True,
    )
    """Address by region."""

    public_url: str | None = option(
        "text", None, "External URL when behind a proxy.", metavar="URL", parse=_url
    )
    """Without a slash at its end."""

    create_namespaces: bool = option("flag", False, "Create a missing namespace on push.")

    trusted_proxies: tuple[str, ...] = option(
        "texts",
        (),
        "Network (CIDR) of proxies whose X-Forwarded headers are trusted, repeatable; unix trusts "
        "all clients of the unix socket.",
        key="trusted-proxy",
        metavar="NETWORK",
        parse=_networks,
    )

    token_seconds: int = option(
        "whole",
        TOKEN_SECONDS_DEFAULT,
        "Lifetime of a bearer token.",
        metavar="SECONDS",
        within=TOKEN_SECONDS,
    )

    fast_path: bool = option(
        "flag", True, "Serve small reads and pushes without the full HTTP stack."
    )

    compression: Literal["auto", "never"] = option(
        "choice",
        "never",
        "auto compresses suitable blobs with zstd in the background: less disk, slower pulls.",
        choices=("auto", "never"),
    )

    max_connections: int = option(
        "whole",
        10_000,
        "Maximum open connections, over all workers; further clients get 503.",
        within=(1, CONNECTIONS_MAX),
    )

    max_connections_per_address: ClientLimit[int] = option(
        "whole",
        None,
        "Maximum open connections from one address; 0 means no limit.",
        within=(0, CONNECTIONS_MAX),
        # A fifth of all: more than one client has, even an office behind a NAT.
        unless_local=2000,
    )

    max_blob: int = option("size", 1 << 40, "Largest blob accepted.", within=(1, 1 << 50))

    max_manifest: int = option(
        "size",
        MANIFEST_BYTES_MAX,
        "Largest manifest accepted; at most 4 MiB.",
        within=(1, MANIFEST_BYTES_MAX),
    )

    max_json: int = option(
        "size",
        JSON_BYTES_DEFAULT,
        "Largest request body accepted by the management API.",
        within=(4096, 16 << 20),
    )

    max_uploads: int = option(
        "whole", 1000, "Maximum open upload sessions per namespace.", within=(1, 1_000_000)
    )

    bandwidth: int = option(
        "size",
        0,
        "Maximum bytes of content per second, in and out, over all workers, shared fairly by "
        "namespaces; at least 64KiB, 0 means no limit.",
        # With less than the bound, one buffer of a body takes longer than clients wait.
        within=(64 << 10, 1 << 40),
        off=True,
    )

    sparse_indexes: bool = option(
        "flag", False, "Accept an index with missing manifests, as mirrors need."
    )

    watchdog_seconds: float = option(
        "number",
        60.0,
        "Kill a worker without a heartbeat for this long; 0 means never.",
        key="watchdog",
        metavar="SECONDS",
        within=(1, 3600),
        off=True,
    )

    grace_seconds: float = option(
        "number",
        30.0,
        "Time that a stop waits for running requests.",
        key="grace",
        metavar="SECONDS",
        within=(0, 24 * 3600),
    )

    access_log: bool = option("flag", False, "Log each request to standard error.")

    unix: Path | None = option(
        "text",
        None,
        "Also listen on a unix socket (mode 0660, without TLS).",
        metavar="PATH",
        parse=_socket_path,
        fixed=True,
    )

    tls_cert: Path | None = option(
        "text",
        None,
        "Certificate chain in PEM; enables HTTPS.",
        metavar="FILE",
        parse=_path,
    )
    """Used by all TCP listeners except the metrics."""

    tls_key: Path | None = option("text", None, "Private key in PEM.", metavar="FILE", parse=_path)
    """Set if, and only if, ``tls_cert`` is."""

    metrics: Address | None = option(
        "text",
        None,
        "Address that serves /metrics for Prometheus, without TLS or a key.",
        metavar="HOST:PORT",
        parse=_address_with_port,
        fixed=True,
    )

    log_format: LogFormat = option(
        "choice", "plain", "Format of the log on standard error.", choices=("plain", "json")
    )

    log_level: str = option(
        "choice", "info", "Minimum level to log.", choices=("debug", "info", "warning", "error")
    )

    audit_log: str | None = option(
        "text",
        None,
        "File that gets a line of JSON per change; - is standard output.",
        metavar="FILE",
    )

    traces: str | None = option(
        "text",
        None,
        "OpenTelemetry collector that gets a span per request, by OTLP over HTTP, such as "
        "http://127.0.0.1:4318.",
        metavar="URL",
        parse=_collector,
    )
    """Base URL of the collector."""

    rate_address: ClientLimit[float] = option(
        "number",
        None,
        "Maximum requests per second from one address, over all workers; 0 means no limit.",
        within=(0, RATE_MAX),
        # It stops a client in a loop, not a cluster that starts.
        unless_local=5000,
    )

    rate_key: ClientLimit[float] = option(
        "number",
        None,
        "Maximum requests per second with one key, over all workers; 0 means no limit.",
        within=(0, RATE_MAX),
        unless_local=5000,
    )

    login_failures: float = option(
        "number",
        60.0,
        "Maximum failed logins per minute from one address; 0 means no limit.",
        # The default is more than a human or a broken job makes, and far too few to guess secrets
        # of 122 random bits.
        within=(0, RATE_MAX),
    )

    @classmethod
    def parse(cls, **given: Any) -> Settings:
        """Parse and check the values of the options, by name of the setting.

        A value that is not given is the default. Raises BadSetting with the option.
        """
        values = {}
        for each in OPTIONS.values():
            try:
                values[each.name] = each.setting(given.pop(each.name, each.default))
            except ValueError as error:
                raise BadSetting(f"--{each.key}", str(error)) from None
        settings = cls(**values, **given)
        _check_endpoints(settings)
        _check_tls(settings)
        return settings

    @property
    def rates(self) -> Rates:
        """Rate limits of requests and failed logins, over all workers."""
        from holdfast.api.limits.rates import Rates

        return Rates(
            address=self.rate_address.value,
            key=self.rate_key.value,
            login=self.login_failures,
            spare_local_address=self.rate_address.spare_local,
            spare_local_key=self.rate_key.spare_local,
        )

    def reloaded(self, new: Settings) -> tuple[Settings, list[str]]:
        """Return the settings in force after a reload, and the keys of changes it ignores.

        Settings that only a restart changes keep their value. So do the certificate and its key
        if the reload would turn TLS on or off, because the listeners stay.
        """
        tls = (self.tls_cert is None) != (new.tls_cert is None)
        kept = {
            key: each.name
            for key, each in OPTIONS.items()
            if (each.fixed or (tls and key in {"tls-cert", "tls-key"}))
            and getattr(self, each.name) != getattr(new, each.name)
        }
        return replace(new, **{name: getattr(self, name) for name in kept.values()}), list(kept)

    def for_app(self, organization_id: UUID | None, ports: Mapping[str, int]) -> AppSettings:
        """Return the settings of the HTTP application; ``ports`` maps a region to its own port."""
        from holdfast.api.http.app_settings import AppSettings

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
            json_bytes_max=self.max_json,
        )

    def for_store(self, *, background: bool) -> StoreConfig:
        """Return the settings of a store; ``background`` is True in the one worker that sweeps."""
        from holdfast.engine import StoreConfig

        return StoreConfig(
            compression=self.compression,
            background=background,
            blob_bytes_max=self.max_blob,
            manifest_bytes_max=self.max_manifest,
            uploads_per_namespace_max=self.max_uploads,
            sparse_indexes=self.sparse_indexes,
        )


OPTIONS: Final = options_of(Settings)
"""All options, by key."""


def _check_endpoints(settings: Settings) -> None:
    """Raise BadSetting if an endpoint is that of a region that is not served."""
    for region in settings.endpoints:
        if region not in settings.regions:
            known = ", ".join(settings.regions)
            raise BadSetting("--endpoint", f"{region!r} is not one of {known}")


def _check_tls(settings: Settings) -> None:
    """Raise BadSetting if only one of certificate and key is set, or if they are no pair."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None and key is None:
        return
    if certificate is None:
        raise BadSetting("--tls-cert", "is needed with --tls-key")
    if key is None:
        raise BadSetting("--tls-key", "is needed with --tls-cert")
    from holdfast.api.http.tls import server_context

    # Load the files now: a bad pair must fail the start or the reload, not each worker.
    try:
        server_context(certificate, key)
    except ValueError as error:
        raise BadSetting("--tls-cert", str(error)) from None
