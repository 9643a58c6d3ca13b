"""``Operation``, a row of the management API's table, and ``Call``, the input of its handler.

``operation`` declares a handler as one. Routes and OpenAPI document are generated from Operations:
one added to the ``OPERATIONS`` of a module is in both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, get_args, get_type_hints
from uuid import UUID

import msgspec

from holdfast.api.http.app_settings import AppSettings
from holdfast.api.http.regions import endpoint_of
from holdfast.engine import Key, Store

from .errors import Body

SCALEWAY: Final = "/registry/v1/regions/{region}"
"""Path prefix of Scaleway's operations."""

HOLDFAST: Final = "/holdfast/v1"
"""Path prefix of the operations that Scaleway does not have."""

HOLDFAST_REGION: Final = HOLDFAST + "/regions/{region}"

Method = Literal["GET", "POST", "PATCH", "DELETE"]


class Nothing(msgspec.Struct):
    """Query or body of an operation that has none."""


Q = TypeVar("Q", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)
A_co = TypeVar("A_co", bound=msgspec.Struct, covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """An authenticated and parsed request: ``query`` and ``body`` as the operation declares."""

    store: Store
    settings: AppSettings
    key: Key
    organization_id: UUID
    """The only organization of the installation."""
    scheme: str
    host: str
    """Host of the request, from which the endpoints of regions follow (``regions``)."""
    region: str
    """Region of the path, which exists; empty if the path has none."""
    ids: Mapping[str, UUID]
    names: Mapping[str, str]
    """Path parameters that are not UUIDs, by name."""
    query: Q
    body: B

    @property
    def project_id(self) -> UUID | None:
        """Project that listings are limited to; None for a key of all projects."""
        return self.key.project_id

    def endpoint(self, region: str) -> str:
        """Return the registry host of a region for `docker push`, without a scheme."""
        return endpoint_of(region, self.host, self.scheme, self.settings)

    def lists(self, project_id: UUID | None, organization_id: UUID | None) -> bool:
        """Return False if the key covers nothing that these filters select."""
        if organization_id not in (None, self.organization_id):
            return False
        return project_id is None or self.key.covers(project_id)


@dataclass(frozen=True, slots=True)
class Operation(Generic[A_co]):
    """A method of a path, with its handler and its types.

    ``id`` is the OpenAPI operationId. An operation with ``writes`` needs a key with permission
    ``full``, one with ``owner`` a key of all projects. ``errors`` lists only errors that do not
    follow from the other fields (authentication, region, arguments, ids of the path).
    """

    id: str
    method: Method
    path: str
    summary: str
    handler: Callable[[Call[Any, Any]], Awaitable[A_co]]
    answer: type[A_co]
    query: type[msgspec.Struct]
    body: type[msgspec.Struct]
    writes: bool
    owner: bool
    only_reads: bool
    """True if the operation changes nothing although it is not a GET."""
    errors: tuple[type[Body], ...]

    @property
    def ends_with_client(self) -> bool:
        """True if the operation is cancelled when its client disconnects."""
        return self.method == "GET" or self.only_reads


AnyOperation: TypeAlias = Operation[msgspec.Struct]
"""Operation with any type of answer."""


def operation(
    method: Method,
    path: str,
    summary: str,
    *,
    writes: bool = False,
    owner: bool = False,
    only_reads: bool = False,
    errors: tuple[type[Body], ...] = (),
) -> Callable[[Callable[[Call[Q, B]], Awaitable[A_co]]], Operation[A_co]]:
    """Declare the decorated handler as an operation; see ``Operation``.

    The handler's name makes the id (``get_image``: GetImage), and its annotations are the types
    of the query, the body and the answer.
    """

    def declare(handler: Callable[[Call[Q, B]], Awaitable[A_co]]) -> Operation[A_co]:
        hints = get_type_hints(handler)
        query, body = get_args(hints["call"])
        return Operation(
            id=handler.__name__.title().replace("_", ""),
            method=method,
            path=path,
            summary=summary,
            handler=handler,
            answer=hints["return"],
            query=query,
            body=body,
            writes=writes,
            owner=owner,
            only_reads=only_reads,
            errors=errors,
        )

    return declare
