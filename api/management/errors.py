"""The error bodies of the management API, and the table from engine errors to them.

Clients dispatch on ``type`` and fall back to a generic error if a field is missing or has another
type, so each body is a struct with all fields that the official SDKs require. Every error
response has one of these bodies, as ``application/json`` without parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast import engine

Reason = Literal["unknown", "required", "format", "constraint"]
AuthReason = Literal["unknown_reason", "invalid_argument", "not_found", "expired"]
Precondition = Literal["unknown_precondition", "resource_still_in_use", "protected_resource"]

RESOURCES: Final[Mapping[str, str]] = {
    "namespace": "registry_namespace",
    "image": "registry_image",
    "tag": "registry_tag",
    "key": "registry_key",
}
"""Engine kind to the name in Scaleway's permissions; other kinds keep their name."""


class ArgumentDetail(msgspec.Struct):
    """An invalid argument and the reason."""

    argument_name: str
    reason: Reason
    help_message: str


class PermissionDetail(msgspec.Struct):
    """A missing right."""

    resource: str
    action: str


class QuotaDetail(msgspec.Struct):
    """A limit that is reached; both numbers in units of ``resource``."""

    resource: str
    quota: Annotated[int, Meta(ge=0)]
    current: Annotated[int, Meta(ge=0)]


class InvalidArguments(msgspec.Struct, kw_only=True):
    """Arguments are missing, malformed or out of bounds (400; 413 for a body over the limit)."""

    message: str = "invalid argument(s)"
    type: Literal["invalid_arguments"] = "invalid_arguments"
    details: list[ArgumentDetail]


class DeniedAuthentication(msgspec.Struct, kw_only=True):
    """No key, an unknown key, or an expired one."""

    message: str = "authentication is denied"
    type: Literal["denied_authentication"] = "denied_authentication"
    reason: AuthReason
    method: Literal["unknown_method", "jwt", "api_key"] = "api_key"


class PermissionsDenied(msgspec.Struct, kw_only=True):
    """The key may not do this."""

    message: str = "insufficient permissions"
    type: Literal["permissions_denied"] = "permissions_denied"
    details: list[PermissionDetail]


class QuotasExceeded(msgspec.Struct, kw_only=True):
    """A quota is reached."""

    message: str = "quota exceeded"
    type: Literal["quotas_exceeded"] = "quotas_exceeded"
    details: list[QuotaDetail]


class NotFoundBody(msgspec.Struct, kw_only=True):
    """The resource is absent, or private to another project: both bodies are byte-equal."""

    message: str
    type: Literal["not_found"] = "not_found"
    resource: str
    resource_id: str


class AlreadyExistsBody(msgspec.Struct, kw_only=True):
    """The name is taken."""

    message: str = "resource already exists"
    type: Literal["already_exists"] = "already_exists"
    resource: str
    resource_id: str
    help_message: str


class TransientState(msgspec.Struct, kw_only=True):
    """Another operation is changing the object now."""

    message: str = "resource is in a transient state"
    type: Literal["transient_state"] = "transient_state"
    resource: str
    resource_id: str
    current_state: str


class PreconditionFailedBody(msgspec.Struct, kw_only=True):
    """The object's state does not allow the operation."""

    message: str = "precondition is not respected"
    type: Literal["precondition_failed"] = "precondition_failed"
    precondition: Precondition
    help_message: str


class LockedBody(msgspec.Struct, kw_only=True):
    """An operator locked the namespace."""

    message: str = "resource is locked"
    type: Literal["locked"] = "locked"
    resource: str
    resource_id: str


class MethodNotAllowed(msgspec.Struct, kw_only=True):
    """The path does not support the method; ``Allow`` lists the supported ones."""

    message: str = "method not allowed"
    type: Literal["method_not_allowed"] = "method_not_allowed"


class TooManyRequests(msgspec.Struct, kw_only=True):
    """A key or an address sends too many requests; ``Retry-After`` has ``reset_seconds`` too."""

    message: str = "too many requests"
    type: Literal["too_many_requests"] = "too_many_requests"
    help_message: str
    reset_seconds: Annotated[int, Meta(ge=1)]


class InternalError(msgspec.Struct, kw_only=True):
    """The server failed; see its log."""

    message: str = "internal error"
    type: Literal["internal_error"] = "internal_error"


class Unavailable(msgspec.Struct, kw_only=True):
    """The store cannot serve this now: it is closing (503), or no space is left (507)."""

    message: str
    type: Literal["unavailable"] = "unavailable"


Body: TypeAlias = (
    InvalidArguments
    | DeniedAuthentication
    | PermissionsDenied
    | QuotasExceeded
    | NotFoundBody
    | AlreadyExistsBody
    | TransientState
    | PreconditionFailedBody
    | LockedBody
    | TooManyRequests
    | MethodNotAllowed
    | InternalError
    | Unavailable
)

STATUS: Final[Mapping[type[Body], int]] = {
    InvalidArguments: 400,
    DeniedAuthentication: 401,
    PermissionsDenied: 403,
    QuotasExceeded: 403,
    NotFoundBody: 404,
    MethodNotAllowed: 405,
    AlreadyExistsBody: 409,
    TransientState: 409,
    PreconditionFailedBody: 412,
    LockedBody: 423,
    TooManyRequests: 429,
    InternalError: 500,
    Unavailable: 503,
}


STORAGE_FULL: Final = 507
"""Status Insufficient Storage (RFC 4918)."""


class ApiError(Exception):
    """An error response; handlers raise it, and the dispatcher sends it."""

    def __init__(self, body: Body, status: int | None = None) -> None:
        super().__init__(body.message)
        self.body = body
        self.status = STATUS[type(body)] if status is None else status


def invalid(argument: str, reason: Reason, help_message: str, status: int = 400) -> ApiError:
    """Return a 400, or another status, for one argument."""
    detail = ArgumentDetail(argument, reason, help_message)
    return ApiError(InvalidArguments(details=[detail]), status)


def denied(resource: str, action: str) -> ApiError:
    """Return a 403: the key lacks the right to do ``action`` on this kind of resource."""
    detail = PermissionDetail(_resource(resource), action)
    return ApiError(PermissionsDenied(details=[detail]))


def not_found(kind: str, name: str | UUID) -> ApiError:
    """Return a 404 in the form that all clients understand; ``name`` is the requested id."""
    message = f"{kind.capitalize()} was not found"
    return ApiError(NotFoundBody(message=message, resource=_resource(kind), resource_id=str(name)))


def precondition_failed(precondition: Precondition, help_message: str) -> ApiError:
    """Return a 412: the state of the object does not allow the operation."""
    return ApiError(PreconditionFailedBody(precondition=precondition, help_message=help_message))


def too_many(wait: int, help_message: str) -> ApiError:
    """Return a 429: the client must wait for ``wait`` seconds."""
    return ApiError(TooManyRequests(help_message=help_message, reset_seconds=wait))


def _resource(kind: str) -> str:
    return RESOURCES.get(kind, kind)


def too_large(limit: int) -> ApiError:
    """Return a 413 for a request body over ``limit`` bytes."""
    return invalid("body", "constraint", f"over the limit of {limit} bytes", 413)


def too_slow(limit: float) -> ApiError:
    """Return a 408 for a request body that took longer than ``limit`` seconds."""
    return invalid("body", "constraint", f"did not arrive within {limit:g} seconds", 408)


def _quota(error: engine.QuotaExceeded) -> ApiError:
    detail = QuotaDetail(error.resource, error.quota, error.current)
    return ApiError(QuotasExceeded(details=[detail]))


def _already_exists(error: engine.AlreadyExists) -> ApiError:
    # Do not reveal the id of the existing object: it may belong to another project.
    return ApiError(
        AlreadyExistsBody(
            resource=_resource(error.kind),
            resource_id=error.name,
            help_message=f"the {error.kind}'s name is taken",
        )
    )


def _busy(error: engine.Busy) -> ApiError:
    return ApiError(
        TransientState(resource=_resource(error.kind), resource_id=error.name, current_state="busy")
    )


def _locked(error: engine.Locked) -> ApiError:
    return ApiError(
        LockedBody(message=str(error), resource=_resource(error.kind), resource_id=str(error.id))
    )


def _unmet(precondition: Precondition) -> Callable[[engine.EngineError], ApiError]:
    """Return a row that sends the text of an error as a 412."""
    return lambda error: precondition_failed(precondition, str(error))


# One row per class; a class without a row uses the row of its nearest base.
_TABLE: Final[Mapping[type[engine.EngineError], Callable[[Any], ApiError]]] = {
    engine.NotFound: lambda error: not_found(error.kind, error.name),
    engine.AlreadyExists: _already_exists,
    engine.Invalid: lambda error: invalid(error.argument, "constraint", error.reason),
    engine.MissingContent: _unmet("unknown_precondition"),
    engine.OffsetMismatch: _unmet("unknown_precondition"),
    engine.Conflict: _unmet("unknown_precondition"),
    engine.Busy: _busy,
    engine.Locked: _locked,
    engine.InUse: _unmet("resource_still_in_use"),
    engine.Immutable: _unmet("protected_resource"),
    engine.Unverified: _unmet("protected_resource"),
    engine.QuotaExceeded: _quota,
    # Like the distribution API: clients would retry a 503 at once (RFC 4918 11.5).
    engine.StorageFull: lambda error: ApiError(Unavailable(message=str(error)), STORAGE_FULL),
    engine.Closed: lambda error: ApiError(Unavailable(message=str(error))),
    engine.EngineError: lambda _: ApiError(InternalError()),
}


def error_of(error: engine.EngineError) -> ApiError:
    """Return the response to an engine error, by its class or the nearest base in the table."""
    make = next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)
    return make(error)


def raise_invalid(details: Sequence[ArgumentDetail]) -> NoReturn:
    """Raise a 400 for several arguments."""
    raise ApiError(InvalidArguments(details=list(details)))
