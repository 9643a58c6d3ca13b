"""What was measured, as it is kept in a file and compared with another run."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final, Literal

import msgspec

FORMAT: Final = 2

CLIENT_BUSY: Final = 0.9
"""A client process that takes so much of a core has nothing left."""

OTHERS_MAX: Final = 0.3
"""Cores that others may have: more than the kernel's own threads take to write to the disk."""


class BadResults(Exception):
    """A file that is not a report of this bench. The text is one line."""


class Limit(msgspec.Struct, frozen=True):
    """What a row could reach at most, which it is given as a share of.

    ``name`` is one of ``limits.LIMITS``; or ``nginx``, which is nginx's row of the same workload,
    ``nginx:WORKLOAD`` its row of another one; or ``offered`` or ``idle``, which each sample has.
    """

    name: str
    by: Literal["value", "bytes", "requests", "operations"] = "value"
    """What is compared: the row's value, or its bytes (MB), requests or operations a second."""

    times: float = 1.0
    """How many of the limit's units one of these needs at least."""


class Sample(msgspec.Struct, kw_only=True):
    """One measurement of one workload on one target. Times are seconds, sizes are bytes."""

    value: float
    """In the row's unit."""

    seconds: float = 0.0
    operations: int = 0
    requests: int = 0
    sent: int = 0
    received: int = 0
    """Bytes of content moved."""

    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    server_cpu: float | None = None
    client_cpu: float = 0.0
    client_busy: float = 0.0
    """Share of a core that the busiest client process took."""

    others: float | None = None
    """Cores that were neither the server's nor its clients': other programs, the kernel's own
    threads, a host that gave us less. None where the server's process cannot be seen."""

    memory: int | None = None
    """Peak of resident memory of the server's processes together."""

    worker_memory: int | None = None
    """Of that one of them that took most."""

    disk_files: int | None = None
    disk_bytes: int | None = None
    """What the server's directory grew by."""

    disk_reads: int | None = None
    """What the server made the disk read."""

    offered: float | None = None
    """Of an open loop: operations a second that were due."""

    idle: float | None = None
    """What the row's value is without the work, in its unit."""

    note: str = ""
    """What else a reader should know of this measurement."""

    @property
    def size(self) -> int:
        """Bytes of content moved, both ways."""
        return self.sent + self.received

    def rate(self, by: str) -> float:
        """Bytes (in MB), requests or operations a second."""
        amount = {"bytes": self.size / 1e6, "requests": self.requests}.get(by, self.operations)
        return amount / self.seconds if self.seconds else 0.0

    def client_bound(self, workers: int) -> bool:
        """Whether the client was the limit: it had no core left, and the server had one.

        Of a server that cannot be looked at, the client's side decides.
        """
        if self.client_busy < CLIENT_BUSY:
            return False
        if self.server_cpu is None or not self.seconds:
            return True
        return self.server_cpu / self.seconds < CLIENT_BUSY * workers


class Row(msgspec.Struct, kw_only=True):
    """One workload on one target, over all rounds."""

    workload: str
    title: str
    group: str
    unit: str
    higher: bool
    """Whether more is better."""

    target: str
    limit: Limit | None = None
    rounds: int = 1
    """How many were wanted; ``samples`` has those that there are."""

    workers: int = 1
    """Cores that the server can use."""

    scale: int = 0
    """How many things were in the store, in rows that are repeated with more; else 0."""

    samples: list[Sample] = []
    void: str = ""
    """Why the row does not count; '' when it does."""

    @property
    def counted(self) -> list[Sample]:
        """The samples; none of a void row."""
        return [] if self.void else self.samples

    @property
    def values(self) -> list[float]:
        """The measured values; none of a void row."""
        return [sample.value for sample in self.counted]

    @property
    def median(self) -> float | None:
        """Of the rounds."""
        return statistics.median(self.values) if self.values else None

    def cost(self, per: str) -> float | None:
        """Median server CPU seconds per ``"GB"`` or per 1,000 ``"requests"``."""
        costs = []
        for sample in self.counted:
            amount = sample.size / 1e9 if per == "GB" else sample.requests / 1e3
            if sample.server_cpu is not None and amount:
                costs.append(sample.server_cpu / amount)
        return statistics.median(costs) if costs else None

    def middle(self, field: str) -> float | None:
        """Median of a field of the samples, such as ``p99``."""
        values = [getattr(sample, field) for sample in self.counted]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def rate(self, by: str) -> float | None:
        """Median of the value, or of bytes (MB), requests or operations a second."""
        if by == "value":
            return self.median
        rates = [sample.rate(by) for sample in self.counted]
        return statistics.median(rates) if rates else None

    @property
    def client_bound(self) -> bool:
        """Whether the client was the limit in most rounds."""
        bound = sum(sample.client_bound(self.workers) for sample in self.counted)
        return bound * 2 > len(self.counted)

    @property
    def disturbed(self) -> int:
        """Rounds in which others had too much of the machine for the value to mean much."""
        return sum((sample.others or 0.0) > OTHERS_MAX for sample in self.counted)

    @property
    def notes(self) -> list[str]:
        """What the samples have to say, each thing once."""
        return list(dict.fromkeys(sample.note for sample in self.counted if sample.note))

    def overlaps(self, other: Row) -> bool:
        """Whether the ranges of two rows touch: then the difference may be noise."""
        ours, theirs = self.values, other.values
        return min(ours) <= max(theirs) and min(theirs) <= max(ours)


class TargetFacts(msgspec.Struct, kw_only=True):
    """A column."""

    name: str
    version: str = ""
    url: str = ""
    workers: int = 1
    notes: list[str] = []
    syncs_per_image: float | None = None
    """Calls that wait for the disk, for each pushed image of five small layers; None: not known."""


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
        """The value of the row's limit; None where it was not measured."""
        if row.limit is None:
            return None
        name, _, workload = row.limit.name.partition(":")
        match name:
            case "nginx":
                other = self.row(workload or row.workload, "nginx")
                if other is None or row.target == "nginx":
                    return None
                return other.rate(row.limit.by)
            case "offered" | "idle":
                return row.middle(name)
            case _:
                return self.limits.get(name)

    def share(self, row: Row) -> float | None:
        """How much of its limit a row reaches: 1 is all of it, whether more or less is better."""
        limit = self.limit_of(row)
        if not limit or row.limit is None or not (reached := row.rate(row.limit.by)):
            return None
        part = reached * row.limit.times / limit
        return part if row.higher or row.limit.by != "value" else 1 / part

    def growth(self, row: Row) -> float | None:
        """How many times worse a row is than the same with the fewest things in the store."""
        if not row.scale or not row.median:
            return None
        stem = row.workload.rpartition("/")[0]
        for other in self.rows:
            if other.target == row.target and other.workload.rpartition("/")[0] == stem:
                if other.scale == row.scale or not other.median:
                    return None
                return other.median / row.median if row.higher else row.median / other.median
        return None


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
