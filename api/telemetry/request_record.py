"""Holds the facts of a request, for log lines, metrics, limits, traces and the audit log.

On the plain path the middleware begins a record, and handlers add facts as they learn them, without
knowing who reads them. In an application without the middleware, the functions here do nothing. The
fast path makes the record of a request at its end.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter
from typing import Final
from uuid import uuid4

import msgspec

from holdfast.api.limits.bandwidth import Bandwidth, Flow
from holdfast.api.limits.rates import Kind, Limits
from holdfast.engine import Key

from .counters import Slot
from .waits import Steps

OTHER: Final = "other"
"""Route of requests that reach no endpoint."""


class RequestLimiter:
    """The limits of one request, each charged once its subject is known. It counts refusals."""

    __slots__ = ("_limits", "_prefix", "_slot")

    def __init__(self, limits: Limits, slot: Slot | None, prefix: str) -> None:
        self._limits = limits
        self._slot = slot
        self._prefix = prefix

    def arrive(self) -> int:
        """Count a request of its address. Return 0, or the seconds until it may be made."""
        return self._count_refusal("address", self._limits.arrive(self._prefix))

    def charge(self, access_key: str) -> int:
        """Count a request of a key. Return 0, or the seconds until it may be made."""
        return self._count_refusal("key", self._limits.charge(self._prefix, access_key))

    def login_wait(self) -> int:
        """Return the seconds until a secret may be looked up; 0 is now."""
        return self._count_refusal("login", self._limits.wait("login", self._prefix))

    def login_failed(self) -> None:
        """Count a login with a secret that belongs to no key."""
        self._limits.take("login", self._prefix)
        if self._slot is not None:
            self._slot.add("failed_logins")

    def _count_refusal(self, kind: Kind, wait: int) -> int:
        if wait and self._slot is not None:
            self._slot.add(f"limited_{kind}")
        return wait


class RequestRecord(msgspec.Struct, eq=False):
    """The facts of one request. (A dataclass takes three times as long to make.)"""

    request_id: str = msgspec.field(default_factory=lambda: str(uuid4()))
    address: str = ""
    """Client address behind trusted proxies; empty on a unix socket."""

    method: str = ""
    path: str = ""
    """Path as sent, without the query."""

    query: str = ""
    """Query as sent; never logged."""

    version: str = "1.1"
    """Version of HTTP."""

    scheme: str = "http"
    agent: str = ""
    """User-Agent header; empty without one."""

    parent: str = ""
    """Header ``traceparent``; empty without one, or with more than one."""

    state: str = ""
    """Header ``tracestate``."""

    route: str = OTHER
    """Endpoint or path pattern: one of a fixed set."""

    action: str = ""
    """Operation of the management API; else empty."""

    actor: str = ""
    """Access key; empty without one."""

    kind: str = ""
    """Kind of the object: namespace, image, tag, key; manifest, blob, upload."""

    id: str = ""
    """Id or access key of the object; tag or digest of content."""

    name: str = ""
    """Name of the object; repository of content."""

    region: str = ""
    started: float = msgspec.field(default_factory=perf_counter)
    """Start, in seconds of ``time.perf_counter``."""

    seconds: float = 0.0
    """Time from the start to the end."""

    status: int = 0
    """Status of the answer; 0 without one."""

    gone: bool = False
    """True if the client left before its answer."""

    received: int = 0
    """Body bytes of the request."""

    content: int = 0
    """Body bytes of the answer."""

    size: int | None = None
    """Bytes of the answer that were sent, with its head; None as long as they are not known."""

    limiter: RequestLimiter | None = None
    bandwidth: Bandwidth | None = None
    flow: Flow | None = None
    """Flow of the namespace whose content it moves; None without a bandwidth limit."""

    steps: Steps | None = None
    """Waits of the request; None unless they are traced."""


CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("holdfast.request", default=None)


def note_key(key: Key | None) -> int:
    """Note the key of the request. Return 0, or the seconds until the request may be made."""
    record = CURRENT.get()
    if record is None or key is None:
        return 0
    record.actor = key.access_key
    return record.limiter.charge(key.access_key) if record.limiter is not None else 0


def login_wait() -> int:
    """Return the seconds until the secret of this request may be looked up; 0 is now.

    Call it right before every look-up: there is no other way to a key by its secret.
    """
    record = CURRENT.get()
    return 0 if record is None or record.limiter is None else record.limiter.login_wait()


def note_failed_login() -> None:
    """Note that the secret of the request belongs to no key."""
    record = CURRENT.get()
    if record is not None and record.limiter is not None:
        record.limiter.login_failed()


def note_target(route: str, kind: str, *, action: str = "", name: str = "", id: str = "") -> None:  # noqa: A002 - as the field
    """Note the endpoint and the object of the request."""
    record = CURRENT.get()
    if record is not None:
        record.route, record.action = route, action
        record.kind, record.name, record.id = kind, name, id


def note_region(region: str) -> None:
    """Note the region of the request."""
    record = CURRENT.get()
    if record is not None:
        record.region = region


def note_namespace(region: str, name: str) -> None:
    """Note the namespace whose content the request moves."""
    record = CURRENT.get()
    if record is not None and record.bandwidth is not None:
        record.flow = record.bandwidth.of(region, name)


def flow() -> Flow | None:
    """Return the flow that the request's content must go through; None without a limit."""
    record = CURRENT.get()
    return None if record is None else record.flow


def note_object(id: str, name: str) -> None:  # noqa: A002 - as the field
    """Note the object that the request made or changed, known only from the answer."""
    record = CURRENT.get()
    if record is not None:
        record.id, record.name = id or record.id, name or record.name
