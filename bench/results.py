"""What was measured, as it is kept in a file and compared with another run."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final

import msgspec

FORMAT: Final = 1


class BadResults(Exception):
    """A file that is not a report of this bench. The text is one line."""


class Sample(msgspec.Struct, kw_only=True):
    """One measurement of one workload on one target. Times are seconds, sizes are bytes."""

    value: float
    """In the row's unit."""

    seconds: float = 0.0
    operations: int = 0
    requests: int = 0
    size: int = 0
    """Bytes of content moved."""

    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    server_cpu: float | None = None
    client_cpu: float = 0.0
    client_busy: float = 0.0
    """Share of a core that the busiest client process took."""

    memory: int | None = None
    """Peak of resident memory of the server's processes."""

    disk_files: int | None = None
    disk_bytes: int | None = None
    """What the server's directory grew by."""

    wrong: list[str] = []

    @property
    def client_bound(self) -> bool:
        """Whether the client was the limit: it had no core left, and the server had."""
        if self.client_busy < 0.9 or self.server_cpu is None or not self.seconds:
            return False
        return self.server_cpu / self.seconds < 0.9


class Row(msgspec.Struct, kw_only=True):
    """One workload on one target, over all rounds."""

    workload: str
    title: str
    group: str
    unit: str
    higher: bool
    """Whether more is better."""

    target: str
    limit: str = ""
    """Name of the limit that it is given as a share of."""

    samples: list[Sample] = []
    void: str = ""
    """Why the row does not count; '' when it does."""

    @property
    def _counted(self) -> list[Sample]:
        return [] if self.void else self.samples

    @property
    def values(self) -> list[float]:
        """The measured values; none of a void row."""
        return [sample.value for sample in self._counted]

    @property
    def median(self) -> float | None:
        """Of the rounds."""
        return statistics.median(self.values) if self.values else None

    def cost(self, per: str) -> float | None:
        """Median server CPU seconds per ``"GB"`` or per 1,000 ``"requests"``."""
        costs = []
        for sample in self._counted:
            amount = sample.size / 1e9 if per == "GB" else sample.requests / 1e3
            if sample.server_cpu is not None and amount:
                costs.append(sample.server_cpu / amount)
        return statistics.median(costs) if costs else None

    def middle(self, field: str) -> float | None:
        """Median of a field of the samples, such as ``p99``."""
        values = [getattr(sample, field) for sample in self._counted]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    @property
    def client_bound(self) -> bool:
        """Whether the client was the limit in most rounds."""
        bound = sum(sample.client_bound for sample in self.samples)
        return bound * 2 > len(self.samples)


class TargetFacts(msgspec.Struct, kw_only=True):
    """A column."""

    name: str
    version: str = ""
    url: str = ""
    notes: list[str] = []
    fsyncs_per_image: float | None = None
    """Calls of fsync and its kin while images of five small layers are pushed; None: not known."""


class Results(msgspec.Struct, kw_only=True):
    """One run."""

    format: int = FORMAT
    command: str = ""
    profile: str = ""
    seed: str = ""
    started: str = ""
    """ISO 8601, UTC."""

    seconds: float = 0.0
    machine: dict[str, str] = {}
    complete: bool = False
    """False for a run that was interrupted or ran out of time."""

    remarks: list[str] = []
    limits: dict[str, float] = {}
    targets: list[TargetFacts] = []
    rows: list[Row] = []

    def row(self, workload: str, target: str) -> Row | None:
        """That row, where it was measured."""
        for row in self.rows:
            if row.workload == workload and row.target == target:
                return row
        return None

    def workloads(self) -> list[str]:
        """Names in the order of measurement."""
        return list(dict.fromkeys(row.workload for row in self.rows))

    def limit_of(self, row: Row) -> float | None:
        """The value of the row's limit, in its unit; None where it was not measured.

        ``nginx`` stands for nginx's own row of the same workload.
        """
        if row.limit == "nginx":
            other = self.row(row.workload, "nginx")
            return None if other is None or row.target == "nginx" else other.median
        return self.limits.get(row.limit)


def save(results: Results, path: Path) -> None:
    """Write the JSON file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path) -> Results:
    """Read the JSON file of a run. Raises BadResults."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise BadResults(f"{path}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise BadResults(f"{path}: no report of this bench: {error}") from error
    if results.format != FORMAT:
        raise BadResults(f"{path}: format {results.format}, this bench reads {FORMAT}")
    return results
