"""What goes wrong in a command: one line on standard error, and a telling exit code."""

from __future__ import annotations

from typing import Final

import click

from holdfast.engine import EngineError, Invalid, NotFound

from .management_errors import (
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

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
PROBLEMS: Final = 4
INTERRUPTED: Final = 130

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    failed: refused, in conflict, unreachable, no space
  2    an option or an argument is wrong, or --yes is missing
  3    what was named does not exist
  4    check, scrub, snapshot or restore found damage; import left something out
  130  interrupted
"""
"""For the help of the whole command."""


class Failure(click.ClickException):
    """Ends the command with one line, which nobody else's text can turn into several."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Misused(Failure):
    """An option, an argument, a variable or the profile is wrong."""

    exit_code = USAGE


class Missing(Failure):
    """What was named does not exist."""

    exit_code = NOT_FOUND


class Damaged(Failure):
    """The command did its work, and found damage."""

    exit_code = PROBLEMS


def printable(text: str) -> str:
    """Text that cannot steer a terminal: what others wrote may hold escape sequences."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def not_found(kind: str, name: str) -> Missing:
    """Nothing of that kind has that name."""
    return Missing(f"{kind} {name} was not found")


def failure_of_engine(error: EngineError) -> Failure:
    """The failure that an error of the store means."""
    if isinstance(error, NotFound):
        return Missing(str(error))
    if isinstance(error, Invalid):
        return Misused(str(error))
    return Failure(str(error))


def failure_of_api(error: ApiError) -> Failure:
    """The failure that a refusal of the management API means."""
    message = _message(error.body)
    if isinstance(error.body, NotFoundBody):
        return Missing(message)
    if isinstance(error.body, InvalidArguments) and error.status == 400:
        return Misused(message)
    return Failure(message)


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
            return "the server failed; its log says why"
        case _:
            return body.message
