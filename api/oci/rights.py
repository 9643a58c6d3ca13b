"""The table of rights: kind of caller, kind of repository and action to a verdict.

The module reads no request and no store. The documentation shows TABLE, and a test walks it.
To a caller without access, an absent repository and a private one of another project look the
same: same status, same bytes.

Bad credentials do not depend on the table: a wrong secret, an expired key and an invalid token
get 401 everywhere. A token whose scope does not cover an allowed action gets 401 with
``error="insufficient_scope"``, so that its bearer requests a wider one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from holdfast.engine import Key, Repository

Action = Literal["pull", "push", "delete"]
ACTIONS: Final[tuple[Action, ...]] = ("pull", "push", "delete")

CallerKind = Literal["anonymous", "read", "full"]
"""Kind of caller: anonymous (no credentials or an anonymous token), or the key's permission."""

RepositoryView = Literal["hidden", "strangers_public", "own_private", "own_public"]
"""Kind of repository, as one caller sees it.

``hidden``: the namespace does not exist, or the key does not cover it and the image is absent or
private there. ``strangers_public``: an existing public image of a project that the key does not
cover. ``own_*``: in a namespace that the key covers; the image need not exist yet.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision on an action: allowed (``code`` is None), or status and OCI code of the error."""

    status: int
    code: str | None

    @property
    def allowed(self) -> bool:
        """True if the action goes on; its own result then decides the response."""
        return self.code is None


ALLOWED: Final = Verdict(200, None)
LOGIN: Final = Verdict(401, "UNAUTHORIZED")
UNKNOWN: Final = Verdict(404, "NAME_UNKNOWN")
DENIED: Final = Verdict(403, "DENIED")

TABLE: Final[Mapping[tuple[CallerKind, RepositoryView], Mapping[Action, Verdict]]] = {
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


def caller_kind(key: Key | None) -> CallerKind:
    """Return the kind of caller of a key, or of None."""
    return "anonymous" if key is None else key.permission


def view_of(key: Key | None, repository: Repository | None) -> RepositoryView:
    """Return the kind of a repository for a key; ``repository`` is None without a namespace."""
    if repository is None:
        return "hidden"
    if key is not None and key.covers(repository.project_id):
        return "own_public" if repository.public else "own_private"
    if repository.image_id is not None and repository.public:
        return "strangers_public"
    return "hidden"


def verdict(key: Key | None, repository: Repository | None, action: Action) -> Verdict:
    """Look up the verdict in the table."""
    return TABLE[caller_kind(key), view_of(key, repository)][action]


def grantable(key: Key | None, repository: Repository | None) -> frozenset[Action]:
    """Return the actions that a token for the repository may contain.

    For a hidden repository a key gets the actions that its permission allows in its own
    namespaces. So the grant does not reveal whether the repository exists, and a push reaches the
    error message that names the missing namespace.
    """
    view = view_of(key, repository)
    if view == "hidden" and key is not None:
        view = "own_private"
    allowed = TABLE[caller_kind(key), view]
    return frozenset(action for action in ACTIONS if allowed[action].allowed)
