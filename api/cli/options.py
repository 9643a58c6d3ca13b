"""Options that several commands share. Every command imports this module, so it imports little."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from .errors import Failure

DATA_DEFAULT: Final = "data"
UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
_SIZE: Final = re.compile(r"([0-9]{1,18})([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)

F = TypeVar("F", bound=Callable[..., Any])


def parse_size(text: str) -> int:
    """Parse a size such as ``1500``, ``10GiB`` or ``10G`` into bytes, for ``type=``.

    Units are powers of 1024. Raises BadParameter.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size such as 10GiB")
    return int(found[1]) * UNITS[found[2].lower()]


def data_option(command: F) -> F:
    """Add ``--data DIR``, the option of every command on a data directory."""
    return click.option(
        "--data",
        envvar="HOLDFAST_DATA",
        default=DATA_DEFAULT,
        show_default=True,
        metavar="DIR",
        help="Data directory.",
    )(command)


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def yes_option(command: F) -> F:
    """Add ``--yes``, which answers ``confirm``."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.", callback=_check_yes)(
        command
    )


def _check_yes(ctx: click.Context, _: click.Parameter, yes: bool) -> bool:
    if not ctx.resilient_parsing:
        require_terminal(yes=yes)
    return yes


def require_terminal(*, yes: bool) -> None:
    """Raise UsageError, before any work, if a question is needed and there is no terminal."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("cannot ask without a terminal: add --yes")


def confirm(question: str, *, yes: bool) -> None:
    """Ask the question unless ``yes``. Raises Failure if the answer is no."""
    if not yes and not click.confirm(question, err=True):
        raise Failure("nothing was done")


def example(*lines: str) -> str:
    """Return the epilog of a command's help with its examples."""
    return "\b\nExample:\n" + "\n".join(f"  holdfast {line}" for line in lines)
