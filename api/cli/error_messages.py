"""Translates errors of the store and of the management API into failures of a command."""

from __future__ import annotations

from holdfast.api.management.errors import (
    AlreadyExistsBody,
    ApiError,
    Body,
    InternalError,
    InvalidArguments,
    NotFoundBody,
    PermissionsDenied,
    PreconditionFailedBody,
    QuotasExceeded,
    TooManyRequests,
)
from holdfast.engine import EngineError, Invalid, NotFound

from .errors import Failure, Missing, Misused


def failure_of_engine(error: EngineError) -> Failure:
    """Return the failure for an error of the store."""
    if isinstance(error, NotFound):
        return Missing(str(error))
    if isinstance(error, Invalid):
        return Misused(str(error))
    return Failure(str(error))


def failure_of_api(error: ApiError) -> Failure:
    """Return the failure for an error response of the management API."""
    message = _message(error.body)
    if isinstance(error.body, NotFoundBody):
        return Missing(message)
    if isinstance(error.body, InvalidArguments) and error.status == 400:
        return Misused(message)
    return Failure(message)


def is_absent(error: Exception) -> bool:
    """Return True if the error means that the named resource does not exist."""
    if isinstance(error, ApiError):
        return isinstance(error.body, NotFoundBody)
    return isinstance(error, NotFound)


def _kind(resource: str) -> str:
    return resource.removeprefix("registry_")


def _message(body: Body) -> str:
    match body:
        case NotFoundBody():
            return f"{_kind(body.resource)} {body.resource_id} was not found"
        case InvalidArguments():
            parts = [f"{item.argument_name}: {item.help_message}" for item in body.details]
            return "; ".join(parts) or body.message
        case PermissionsDenied():
            parts = [f"{item.action} ({_kind(item.resource)})" for item in body.details]
            return f"the key may not {', '.join(parts) or 'do this'}"
        case QuotasExceeded():
            parts = [f"{item.resource}: {item.current} of {item.quota}" for item in body.details]
            return f"{body.message}: {'; '.join(parts)}"
        case AlreadyExistsBody():
            return f"{_kind(body.resource)} {body.resource_id} already exists"
        case PreconditionFailedBody() | TooManyRequests():
            return body.help_message
        case InternalError():
            return "the server failed; see its log"
        case _:
            return body.message
