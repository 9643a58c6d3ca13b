"""Reads the configuration file: one TOML table whose keys are the options of ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from holdfast.api.server.option import Option
from holdfast.api.server.settings import OPTIONS

from .options import parse_size

FILE_BYTES_MAX: Final = 1 << 20

_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "text": ((str,), "a string"),
    "choice": ((str,), "a string"),
    "flag": ((bool,), "true or false"),
    "whole": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "size": ((int, str), 'a size such as 10000 or "10GiB"'),
}
"""The types of TOML that an option of a kind takes, and their description."""


def size(value: str | int) -> int:
    """Parse a size such as ``1500`` or ``10GiB`` into bytes, for ``type=``; keep a number."""
    return value if isinstance(value, int) else parse_size(value)


def read(path: Path) -> dict[str, Any]:
    """Return the file's values by name of the setting. Raises UsageError."""
    import tomllib  # late: most servers have no file

    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise click.UsageError(f"{path}: must not exceed {FILE_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    for key in table:
        if key not in OPTIONS:
            raise click.UsageError(f"{path}: {key!r} is not an option of serve")
    return {OPTIONS[key].name: _typed(path, OPTIONS[key], table[key]) for key in table}


def _typed(path: Path, declared: Option, value: Any) -> object:
    """Return the value if it fits the option. A string never counts as a number, nor vice versa."""
    if declared.kind == "texts":
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
        raise click.UsageError(f"{path}: {declared.key} must be a list of strings")
    types, wanted = _TYPES[declared.kind]
    # bool is a subclass of int: true is no number.
    if isinstance(value, types) and isinstance(value, bool) == (bool in types):
        return value
    raise click.UsageError(f"{path}: {declared.key} must be {wanted}")
