"""Holds the facts of the running request, for log lines, metrics, limits and the audit log.

The server's middleware begins a context; handlers add facts as they learn them, without knowing who
reads them. In an application without the middleware, the functions here do nothing.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4

from holdfast.api.limits.bandwidth import Bandwidth, Flow
from holdfast.engine import Key

from .waits import Steps

OTHER: Final = "other"
"""Route of requests that reach no endpoint."""


class RateLimiter(Protocol):
    """The limits of a request, each charged once its subject is known."""

    def arrive(self) -> int:
        """Count a request of its address. Return 0, or the seconds until it may be made."""

    def charge(self, access_key: str) -> int:
        """Count a request of a key. Return 0, or the seconds until it may be made."""

    def login_wait(self) -> int:
        """Return the seconds until a secret may be looked up; 0 is now."""

    def login_failed(self) -> None:
        """Count a login with a secret that belongs to no key."""


@dataclass(slots=True)
class RequestContext:
    """The facts of one request."""

    request_id: str = field(default_factory=lambda: str(uuid4()))
    address: str = ""
    """Client address behind trusted proxies; empty on a unix socket."""

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
    limiter: RateLimiter | None = None
    bandwidth: Bandwidth | None = None
    flow: Flow | None = None
    """Flow of the namespace whose content it moves; None without a bandwidth limit."""

    steps: Steps | None = None
    """Waits of the request; None unless they are traced."""


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("holdfast.request", default=None)


def note_key(key: Key | None) -> int:
    """Note the key of the request. Return 0, or the seconds until the request may be made."""
    context = CURRENT.get()
    if context is None or key is None:
        return 0
    context.actor = key.access_key
    return context.limiter.charge(key.access_key) if context.limiter is not None else 0


def login_wait() -> int:
    """Return the seconds until the secret of this request may be looked up; 0 is now.

    Call it right before every look-up: there is no other way to a key by its secret.
    """
    context = CURRENT.get()
    return 0 if context is None or context.limiter is None else context.limiter.login_wait()


def note_failed_login() -> None:
    """Note that the secret of the request belongs to no key."""
    context = CURRENT.get()
    if context is not None and context.limiter is not None:
        context.limiter.login_failed()


def note_target(route: str, kind: str, *, action: str = "", name: str = "", id: str = "") -> None:  # noqa: A002 - as the field
    """Note the endpoint and the object of the request."""
    context = CURRENT.get()
    if context is not None:
        context.route, context.action = route, action
        context.kind, context.name, context.id = kind, name, id


def note_region(region: str) -> None:
    """Note the region of the request."""
    context = CURRENT.get()
    if context is not None:
        context.region = region


def note_namespace(region: str, name: str) -> None:
    """Note the namespace whose content the request moves."""
    context = CURRENT.get()
    if context is not None and context.bandwidth is not None:
        context.flow = context.bandwidth.of(region, name)


def flow() -> Flow | None:
    """Return the flow that the request's content must go through; None without a limit."""
    context = CURRENT.get()
    return None if context is None else context.flow


def note_object(id: str, name: str) -> None:  # noqa: A002 - as the field
    """Note the object that the request made or changed, known only from the answer."""
    context = CURRENT.get()
    if context is not None:
        context.id, context.name = id or context.id, name or context.name
