"""What is measured: a registry at some URL, or a directory of static files behind nginx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.bench.load.endpoint import ANONYMOUS, Endpoint, Login, look, reach


@dataclass(frozen=True, slots=True)
class Target:
    """One column of the report."""

    name: str
    url: str
    prefixes: tuple[str, str]
    """Two namespaces (first parts of repository names) that can be pushed to."""

    login: Login = ANONYMOUS
    pid: int | None = None
    """The server's process, where it can be looked at: without it there are no CPU numbers."""

    data: Path | None = None
    """Where it keeps its data, where that can be looked at."""

    files: Path | None = None
    """Set for a server of static files: objects are laid down here instead of pushed."""

    metrics: str = ""
    """URL of its metrics, of a Holdfast that the bench started."""

    variant: str = ""
    """Set for a Holdfast with other options: it gets only the rows that are about these."""

    workers: int = 1
    """Cores it can use."""

    version: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is a Holdfast that the bench started."""
        return bool(self.metrics)

    @property
    def registry(self) -> bool:
        """Whether it can be pushed to."""
        return self.files is None

    def reach(self, name: str, *, second: bool = False) -> Endpoint:
        """The way to a repository in the first or second namespace. Raises Unreachable."""
        repository = f"{self.prefixes[1 if second else 0]}/{name}"
        if self.files is not None:
            parts = urlsplit(self.url)
            assert parts.hostname is not None
            return Endpoint(parts.hostname, parts.port or 80, False, repository, "")
        return reach(self.url, repository, self.login)

    def probe(self) -> None:
        """Whether it can be measured. Raises Unreachable."""
        found = self.reach("probe")
        if self.registry:
            look(self.url, found, self.login)
