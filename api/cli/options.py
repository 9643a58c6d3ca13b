"""What options of several commands share; light, since every command imports it."""

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
    """Bytes, such as ``1500``, ``10GiB`` or ``10G``: units are powers of 1024. For ``type=``."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size such as 10GiB")
    return int(found[1]) * UNITS[found[2].lower()]


def data_option(command: F) -> F:
    """``--data DIR``, which every command on a data directory takes."""
    return click.option(
        "--data",
        envvar="HOLDFAST_DATA",
        default=DATA_DEFAULT,
        show_default=True,
        metavar="DIR",
        help="The data directory.",
    )(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def yes_option(command: F) -> F:
    """``--yes``, which stands for the answer to ``confirm``."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.", callback=_ask_whom)(
        command
    )


def _ask_whom(ctx: click.Context, _: click.Parameter, yes: bool) -> bool:
    if not ctx.resilient_parsing:
        refuse_unasked(yes=yes)
    return yes


def refuse_unasked(*, yes: bool) -> None:
    """End the command, before anything is done, where nobody could be asked. Raises UsageError."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: add --yes")


def confirm(question: str, *, yes: bool) -> None:
    """Go on, or end the command with nothing done."""
    if not yes and not click.confirm(question, err=True):
        raise Failure("nothing was done")


def example(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  holdfast {line}" for line in lines)
