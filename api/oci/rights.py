"""Who may do what in a repository: one table, walked by the documentation and by a test.

Kinds of caller, where a name leads, what is asked. Nothing here reads a request or a store.
An absent repository and a private one of strangers are one and the same to whoever has no
access: same status, same bytes.

Whatever is not in the table is the same for everybody: a wrong secret, an expired key and an
invalid token get 401 everywhere, and a token whose scope does not cover an allowed action gets
401 with ``error="insufficient_scope"``, so that its bearer asks for a wider one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from holdfast.engine import Key, Repository

Action = Literal["pull", "push", "delete"]
ACTIONS: Final[tuple[Action, ...]] = ("pull", "push", "delete")

Asker = Literal["anonymous", "read", "full"]
"""Nobody in particular (no credentials, or an anonymous token), or a key by its permission."""

Place = Literal["hidden", "strangers_public", "own_private", "own_public"]
"""Where a name leads, seen by one caller.

``hidden``: no such namespace, or one of strangers where this image is absent or private.
``strangers_public``: an existing public image of a project that the key does not cover.
``own_*``: in a namespace that the key covers; the image need not exist yet.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed (``code`` is None), or the status and OCI code of the refusal."""

    status: int
    code: str | None

    @property
    def allowed(self) -> bool:
        """Whether the action goes on; what it finds then decides the answer."""
        return self.code is None


ALLOWED: Final = Verdict(200, None)
LOGIN: Final = Verdict(401, "UNAUTHORIZED")
UNKNOWN: Final = Verdict(404, "NAME_UNKNOWN")
DENIED: Final = Verdict(403, "DENIED")

TABLE: Final[Mapping[tuple[Asker, Place], Mapping[Action, Verdict]]] = {
    ("anonymous", "hidden"): {"pull": LOGIN, "push": LOGIN, "delete": LOGIN},
    ("anonymous", "strangers_public"): {"pull": ALLOWED, "push": LOGIN, "delete": LOGIN},
    ("read", "hidden"): {"pull": UNKNOWN, "push": UNKNOWN, "delete": UNKNOWN},
    ("read", "strangers_public"): {"pull": ALLOWED, "push": DENIED, "delete": DENIED},
    ("read", "own_private"): {"pull": ALLOWED, "push": DENIED, "delete": DENIED},
    ("read", "own_public"): {"pull": ALLOWED, "push": DENIED, "delete": DENIED},
    ("full", "hidden"): {"pull": UNKNOWN, "push": UNKNOWN, "delete": UNKNOWN},
    ("full", "strangers_public"): {"pull": ALLOWED, "push": DENIED, "delete": DENIED},
    ("full", "own_private"): {"pull": ALLOWED, "push": ALLOWED, "delete": ALLOWED},
    ("full", "own_public"): {"pull": ALLOWED, "push": ALLOWED, "delete": ALLOWED},
}


def asker_of(key: Key | None) -> Asker:
    """The kind of caller that a key (or None) is."""
    return "anonymous" if key is None else key.permission


def place_of(key: Key | None, repository: Repository | None) -> Place:
    """Where a name leads for a key. ``repository`` is None where there is no such namespace."""
    if repository is None:
        return "hidden"
    if key is not None and key.covers(repository.project_id):
        return "own_public" if repository.public else "own_private"
    if repository.image_id is not None and repository.public:
        return "strangers_public"
    return "hidden"


def verdict(key: Key | None, repository: Repository | None, action: Action) -> Verdict:
    """What the table says."""
    return TABLE[asker_of(key), place_of(key, repository)][action]


def grantable(key: Key | None, repository: Repository | None) -> frozenset[Action]:
    """The actions that a token for that repository may be given.

    Of a hidden one a key is granted what its permission allows in its own namespaces: so the grant
    does not tell absent from private, and the push goes on to the answer that says what is missing.
    """
    place = place_of(key, repository)
    if place == "hidden" and key is not None:
        place = "own_private"
    allowed = TABLE[asker_of(key), place]
    return frozenset(action for action in ACTIONS if allowed[action].allowed)
