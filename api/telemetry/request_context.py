"""What is known of the request that runs: for log lines, metrics, limits and the audit log.

The server's middleware lays a trail; handlers write on it what they learn, wherever they are,
without knowing who reads it. In an application without it nothing happens.
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
"""The route of what reaches no endpoint."""


class Guard(Protocol):
    """Limits that are looked at where it is known what they are of."""

    def arrive(self) -> int:
        """Count a request of its address; 0, or after how many seconds it may be made."""

    def charge(self, access_key: str) -> int:
        """Count a request of a key; 0, or after how many seconds it may be made."""

    def login_wait(self) -> int:
        """After how many seconds a secret may be looked up; 0 is now."""

    def login_failed(self) -> None:
        """A secret was looked up, and belongs to no key."""


@dataclass(slots=True)
class RequestContext:
    """One request."""

    request_id: str = field(default_factory=lambda: str(uuid4()))
    address: str = ""
    """The client's, as far as proxies may say so; empty on a unix socket."""

    route: str = OTHER
    """An endpoint or a path pattern: one of a fixed set."""

    action: str = ""
    """The operation of the management API, where it is one."""

    actor: str = ""
    """The access key; empty for nobody in particular."""

    kind: str = ""
    """Of the object: namespace, image, tag, key; manifest, blob, upload."""

    id: str = ""
    """The object's id or access key; of content its tag or digest."""

    name: str = ""
    """The object's name; of content its repository."""

    region: str = ""
    guard: Guard | None = None
    bandwidth: Bandwidth | None = None
    flow: Flow | None = None
    """Of the namespace whose content it moves; None where that has no limit."""

    steps: Steps | None = None
    """What it waited for, where somebody wants to know."""


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("holdfast.trail", default=None)


def note_key(key: Key | None) -> int:
    """The request is made with this key. 0, or after how many seconds it may be made."""
    trail = CURRENT.get()
    if trail is None or key is None:
        return 0
    trail.actor = key.access_key
    return trail.guard.charge(key.access_key) if trail.guard is not None else 0


def login_wait() -> int:
    """After how many seconds the secret of this request may be looked up; 0 is now.

    To be asked right before every look-up: there is no other way to a key by its secret.
    """
    trail = CURRENT.get()
    return 0 if trail is None or trail.guard is None else trail.guard.login_wait()


def note_failed_login() -> None:
    """The request came with a secret that belongs to no key."""
    trail = CURRENT.get()
    if trail is not None and trail.guard is not None:
        trail.guard.login_failed()


def note_target(route: str, kind: str, *, action: str = "", name: str = "", id: str = "") -> None:  # noqa: A002 - as the field
    """What the request is about."""
    trail = CURRENT.get()
    if trail is not None:
        trail.route, trail.action = route, action
        trail.kind, trail.name, trail.id = kind, name, id


def note_region(region: str) -> None:
    """The region it belongs to."""
    trail = CURRENT.get()
    if trail is not None:
        trail.region = region


def note_namespace(region: str, name: str) -> None:
    """Whose content it moves."""
    trail = CURRENT.get()
    if trail is not None and trail.bandwidth is not None:
        trail.flow = trail.bandwidth.of(region, name)


def flow() -> Flow | None:
    """What its content has to go through, where bandwidth is limited."""
    trail = CURRENT.get()
    return None if trail is None else trail.flow


def note_object(id: str, name: str) -> None:  # noqa: A002 - as the field
    """The object that it made or changed, which only the answer tells."""
    trail = CURRENT.get()
    if trail is not None:
        trail.id, trail.name = id or trail.id, name or trail.name
