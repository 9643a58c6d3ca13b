"""Maps names of another registry to names of a store, whose first component is a namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.engine.model.errors import Invalid
from holdfast.engine.model.names import check_image_name, check_namespace_name, split_full_name


@dataclass(frozen=True, slots=True)
class Renames:
    """Rules for names. Raises Invalid (``rename``, ``name``) for rules that cannot work."""

    default_namespace: str | None = None
    """Namespace of images whose name has one component, or no valid namespace as its first."""

    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Replacements of whole names, or of prefixes of names that end before a ``/``."""

    def __post_init__(self) -> None:
        """Check the rules."""
        if self.default_namespace is not None:
            check_namespace_name(self.default_namespace)
        for old, new in self.prefixes.items():
            if not old.strip("/") or old.strip("/") != old:
                raise Invalid(
                    "rename", f"{old[:80]!r} must be the start of a name, without / at its ends"
                )
            namespace, slash, image = new.partition("/")
            check_namespace_name(namespace)
            if slash:
                check_image_name(image)

    @classmethod
    def parse(cls, texts: Iterable[str], default_namespace: str | None = None) -> Renames:
        """Parse rules of the form ``OLD=NEW``. Raises Invalid."""
        prefixes: dict[str, str] = {}
        for text in texts:
            old, equals, new = text.partition("=")
            if not equals:
                raise Invalid("rename", f"{text[:80]!r} must have the form OLD=NEW")
            if prefixes.setdefault(old, new) != new:
                raise Invalid("rename", f"{old[:80]!r} has two replacements")
        return cls(default_namespace, prefixes)

    def apply(self, name: str) -> str:
        """Return a name's full name in the store; the longest prefix counts. Raises Invalid."""
        name = self._replaced(name)
        if self.default_namespace is not None:
            try:
                split_full_name(name)
            except Invalid:
                name = f"{self.default_namespace}/{name}"
        split_full_name(name)
        return name

    def _replaced(self, name: str) -> str:
        """Return the name with its longest known prefix replaced."""
        end = len(name)
        while end > 0:
            new = self.prefixes.get(name[:end])
            if new is not None:
                return new + name[end:]
            end = name.rfind("/", 0, end)
        return name
