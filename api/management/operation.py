"""One row of the management API's table, and what its handler is given.

An Operation is everything that the routes and the OpenAPI document need to know; adding one to a
noun's ``OPERATIONS`` adds it to both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar
from uuid import UUID

import msgspec

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.regions import endpoint_of
from holdfast.engine import Key, Store

from .errors import Body

SCALEWAY: Final = "/registry/v1/regions/{region}"
"""Where Scaleway's own operations are."""

BEYOND: Final = "/holdfast/v1"
"""Where the operations are that Scaleway does not have."""

BEYOND_REGION: Final = BEYOND + "/regions/{region}"

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class Nothing(msgspec.Struct):
    """Of an operation without query parameters, or without a body."""


Q = TypeVar("Q", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, authenticated and parsed: ``query`` and ``body`` as the operation declares."""

    store: Store
    settings: AppSettings
    key: Key
    organization_id: UUID
    """The installation's organization, the only one that exists here."""
    scheme: str
    host: str
    """Where the client reached us, from which the endpoints of regions follow (``regions``)."""
    region: str
    """The region of the path, known to exist; empty where the path has none."""
    ids: Mapping[str, UUID]
    names: Mapping[str, str]
    """The path's parameters that are no UUIDs, by name."""
    query: Q
    body: B

    @property
    def project_id(self) -> UUID | None:
        """The project that listings are limited to; None for a key of all projects."""
        return self.key.project_id

    def endpoint(self, region: str) -> str:
        """What `docker push` takes for that region, without a scheme."""
        return endpoint_of(region, self.host, self.scheme, self.settings)

    def lists(self, project_id: UUID | None, organization_id: UUID | None) -> bool:
        """Whether a listing with these filters can hold anything that the key covers."""
        if organization_id not in (None, self.organization_id):
            return False
        return project_id is None or self.key.covers(project_id)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    ``id`` is the OpenAPI operationId. ``writes`` operations need a key with permission ``full``,
    ``owner`` ones a key of all projects. ``errors`` are those beyond the ones that follow from the
    rest (authentication, region, arguments, ids of the path).
    """

    id: str
    method: Method
    path: str
    summary: str
    handler: Callable[[Call[Any, Any]], Awaitable[msgspec.Struct]]
    answer: type[msgspec.Struct]
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] = Nothing
    writes: bool = False
    owner: bool = False
    only_reads: bool = False
    """Whether it changes nothing, though it is no GET."""
    errors: tuple[type[Body], ...] = ()
    description: str = ""

    @property
    def ends_with_client(self) -> bool:
        """Whether it is for nothing where its client does not wait for the answer."""
        return self.method == "GET" or self.only_reads
