"""Declares an option of ``holdfast serve`` beside the setting that it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = Literal["text", "texts", "choice", "flag", "whole", "number", "size"]
"""Form of a value: a string, a list of strings, one of several strings, true or false, a whole
number, a number, or a number of bytes."""

_OPTION: Final = "option"
_PLACEHOLDERS: Final = {"whole": "N", "number": "N", "size": "SIZE"}
_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

_Number = TypeVar("_Number", int, float)
_P = ParamSpec("_P")


class ClientLimit(NamedTuple, Generic[_Number]):
    """A limit of each client."""

    value: _Number
    """The limit; 0 is none."""

    spare_local: bool
    """True if the limit does not apply to this machine itself."""


class Option(NamedTuple):
    """One option: its names, its form, its bounds and its text."""

    kind: Kind
    default: Any
    """Value if no source has one; None if there is none."""

    help: str
    name: str = ""
    """Name of the setting; empty until all settings are declared."""

    key: str = ""
    """Key in the file; empty if it is the name of the setting, with hyphens."""

    metavar: str = ""
    """Placeholder of the value; empty if it is that of the kind."""

    shown: str = ""
    """Text of the default in the help; empty if it is the default itself."""

    within: tuple[float, float] | None = None
    """Least and largest number."""

    off: bool = False
    """True if 0 is allowed besides: no limit, or never."""

    choices: tuple[str, ...] = ()
    parse: Callable[[Any], Any] | None = None
    """Function from a value to the setting; None keeps the value. Raises ValueError."""

    unset: Callable[[], Any] | None = None
    """Function that returns the value in force if no source has one."""

    unless_local: float | None = None
    """Makes the setting a ``ClientLimit``: its value if no source has one."""

    fixed: bool = False
    """True if a reload keeps the old value until a restart."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"HOLDFAST_{self.key.replace('-', '_').upper()}"

    @property
    def placeholder(self) -> str | None:
        """The placeholder of the value in help; None if the kind needs none."""
        return self.metavar or _PLACEHOLDERS.get(self.kind)

    @property
    def default_text(self) -> str:
        """The default as the help has it; empty if the help leaves it out."""
        if self.shown or self.kind == "texts":
            return self.shown
        if self.unless_local is not None:
            return f"{self.unless_local:g}, and no limit for this machine"
        if self.kind == "flag":
            return "on" if self.default else ""
        if self.kind == "size":
            return _in_units(self.default)
        return "" if self.default is None else str(self.default)

    def setting(self, given: Any) -> Any:
        """Return the setting for a value of this kind. Raises ValueError with the reason."""
        value = self.unset() if given is None and self.unset is not None else given
        if value is not None:
            self._check(value)
            if self.parse is not None:
                value = self.parse(value)
        if self.unless_local is not None:
            # A limit that is set applies to all clients, this machine among them.
            return ClientLimit(self.unless_local if value is None else value, value is None)
        return value

    def _check(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        if self.within is not None and (value or not self.off):
            least, most = self.within
            if not least <= value <= most:
                raise ValueError(f"must be {least:g} to {most:g}")


def _in_units(count: int) -> str:
    """Return a number of bytes in the largest unit that keeps it whole, as options take it."""
    for unit, name in _UNITS:
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def _as_field(declare: Callable[_P, Option]) -> Callable[_P, Any]:
    def declared(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        return field(metadata={_OPTION: declare(*args, **kwargs)})

    return declared


option: Final = _as_field(Option)
"""Declare a field of a dataclass: the setting of an option."""


def options_of(settings: type[DataclassInstance]) -> dict[str, Option]:
    """Return the options that the fields of a dataclass declare, by key."""
    options = {}
    for each in fields(settings):
        declared: Option = each.metadata[_OPTION]
        key = declared.key or each.name.replace("_", "-")
        options[key] = declared._replace(name=each.name, key=key)
    return options
