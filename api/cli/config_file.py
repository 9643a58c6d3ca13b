"""Reads the configuration file: one TOML table whose keys are the options of ``serve``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from .options import parse_size

FILE_BYTES_MAX: Final = 1 << 20

_COMMAND_LINE_ONLY: Final = frozenset(("config", "help"))
"""Options that a file cannot set."""


def size(value: str | int) -> int:
    """Parse a size such as ``1500`` or ``10GiB`` into bytes, for ``type=``; keep a number."""
    return value if isinstance(value, int) else parse_size(value)


class BadFile(Exception):
    """The configuration file is not valid. The text is one line."""


def key_of(option: click.Option) -> str:
    """Return the option's key in the file: its name without the leading hyphens."""
    return option.opts[0].removeprefix("--")


def options_of(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Return the options that a file may set, by key."""
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    keyed = {key_of(option): option for option in options}
    return {key: option for key, option in keyed.items() if key not in _COMMAND_LINE_ONLY}


def read(path: Path, parameters: Iterable[click.Parameter]) -> dict[str, Any]:
    """Return the file's values by parameter name. Raises BadFile."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise BadFile(f"{path}: must not exceed {FILE_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: {str(error).splitlines()[0]}") from None
    options = options_of(parameters)
    unknown = [key for key in table if key not in options]
    if unknown:
        raise BadFile(f"{path}: {unknown[0]!r} is not an option of serve")
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = options[key]
        assert option.name is not None
        values[option.name] = _typed(path, key, option, value)
    return values


def _is_size(kind: object) -> bool:
    return isinstance(kind, click.types.FuncParamType) and kind.func is size


def _typed(path: Path, key: str, option: click.Option, value: object) -> object:
    """Return the value in the option's type. A string never counts as a number, nor vice versa."""
    if option.multiple:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
        wanted = "a list of strings"
    elif option.is_flag:
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif _is_size(option.type):
        # bool is a subclass of int: exclude it here and below.
        if isinstance(value, int | str) and not isinstance(value, bool):
            return value
        wanted = 'a size such as 10000 or "10GiB"'
    elif option.type in (click.INT, click.FLOAT):
        whole = option.type is click.INT
        if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
            return value
        wanted = "a whole number" if whole else "a number"
    else:
        if isinstance(value, str):
            return value
        wanted = "a string"
    raise BadFile(f"{path}: {key} must be {wanted}")
