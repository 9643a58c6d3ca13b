"""What must not grow with the store: calls of the engine, the start of a server, first pages.

For Holdfast alone. Stores of all sizes are filled first (``embedded``), then each row measures all
of them in turns, so that a difference between them is one of size and not of the moment.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from holdfast.bench.load.endpoint import Endpoint
from holdfast.bench.load.jobs import Ask, Requests
from holdfast.bench.report.results import Limit, Row, Sample
from holdfast.bench.targets import servers
from holdfast.bench.targets.servers import CannotStart
from holdfast.bench.targets.targets import Target

from . import embedded
from .embedded import (
    IMAGE,
    NAMESPACE,
    NAMESPACES_MAX,
    PROJECT,
    REGION,
    TAGGED,
    Measured,
    Step,
    Task,
)
from .measure import Bench, MeasureFailed, sample_of

PARTS: Final = ("engine", "start", "manage")
"""The beginnings of the names of all rows."""

PAGE_SECONDS: Final = 0.1
"""One measurement of one order of one list."""

ANSWER_BYTES_MAX: Final = 64 << 20
"""Of one page; a longer one is cut, and then no JSON."""

_BASE: Final = f"/registry/v1/regions/{REGION}"
_GROUP: Final = "cost against the size of the store (Holdfast alone)"
_ORDERS: Final = ("created_at_asc", "created_at_desc", "name_asc", "name_desc")
_MORE_ORDERS: Final = (*_ORDERS, "description_asc", "description_desc")


class Listener(Protocol):
    """Who is told what was measured, as soon as it was."""

    def step(self, text: str) -> None:
        """A step begins."""

    def row(self, row: Row) -> None:
        """A row begins; samples are added to it later."""

    def failed(self, row: Row, text: str) -> None:
        """A row is void."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """Lists of the management API that have one row together: the slowest one counts."""

    name: str
    title: str
    orders: tuple[str, ...]
    paths: tuple[str, ...]
    """With ``{namespace}`` and ``{image}`` to be filled in."""

    total: Callable[[int], int]
    """How many there must be in the first of them, in a store of some size."""


_LISTINGS: Final = (
    _Listing(
        "namespaces",
        "first page of namespaces, slowest order",
        _MORE_ORDERS,
        ("/namespaces?",),
        lambda size: min(size, NAMESPACES_MAX),
    ),
    _Listing(
        "namespaces/filter",
        "the same of one project or one name",
        _MORE_ORDERS,
        (f"/namespaces?project_id={PROJECT}&", f"/namespaces?name={TAGGED}&"),
        lambda size: min(size, NAMESPACES_MAX),
    ),
    _Listing(
        "images",
        "first page of images, slowest order",
        _ORDERS,
        ("/images?",),
        lambda size: size + 1,
    ),
    _Listing(
        "images/filter",
        "the same of one namespace, one project or one name",
        _ORDERS,
        (
            "/images?namespace_id={namespace}&",
            f"/images?project_id={PROJECT}&",
            f"/images?name={embedded.image_name(1)}&",
        ),
        lambda size: size,
    ),
    _Listing(
        "tags",
        "first page of tags, slowest order",
        _ORDERS,
        ("/images/{image}/tags?",),
        lambda size: size,
    ),
    _Listing(
        "tags/filter",
        "the same of one name",
        _ORDERS,
        (f"/images/{{image}}/tags?name={embedded.tag_name(1)}&",),
        lambda size: 1,
    ),
)


def parts(wants: tuple[str, ...]) -> frozenset[str]:
    """Which of PARTS beginnings of names ask for; all of them where there are none."""
    return frozenset(
        part
        for part in PARTS
        if not wants or any(f"{part}/".startswith(want) or want.startswith(part) for want in wants)
    )


class Scale:
    """All rows of one run. Stores are left in ``directory``, which the caller removes."""

    def __init__(
        self, bench: Bench, directory: Path, wants: Callable[[str], bool], listener: Listener
    ) -> None:
        self._bench = bench
        self._directory = directory
        self._wants = wants
        self._listener = listener
        self._sizes = bench.profile.scale_sizes

    def run(self, asked: frozenset[str], seconds: float) -> None:
        """Fill and measure within about so many seconds. Raises EmbeddedFailed."""
        self._directory.mkdir()
        task = Task(
            directory=str(self._directory),
            seed=self._bench.seed,
            sizes=self._sizes,
            fill_only="engine" not in asked,
        )
        for said in embedded.measure(task, seconds):
            match said:
                case Step():
                    self._listener.step(said.text)
                case Measured():
                    self._engine_row(said)
        if "start" in asked:
            self._starts()
        if "manage" in asked:
            self._pages()

    def _engine_row(self, said: Measured) -> None:
        kind = embedded.ROWS[said.name]
        row = Row(
            workload=f"engine/{said.name}/{said.size}",
            title=f"{kind.title}; {said.size:,} in the store",
            group=_GROUP,
            unit=kind.unit,
            higher=kind.higher,
            limit=kind.limit,
            target=said.target,
            rounds=len(said.values),
            scale=said.size,
            samples=[Sample(value=value) for value in said.values],
        )
        if self._wants(row.workload):
            self._listener.row(row)

    def _rows(self, name: str, title: str, unit: str, limit: Limit) -> dict[int, Row]:
        """One for each size."""
        rows = {}
        for size in self._sizes:
            row = rows[size] = Row(
                workload=f"{name}/{size}",
                title=f"{title}; {size:,} in the store",
                group=_GROUP,
                unit=unit,
                higher=False,
                limit=limit,
                target="holdfast",
                rounds=self._bench.profile.scale_rounds,
                scale=size,
            )
            self._listener.row(row)
        return rows

    def _turns(self, rows: dict[int, Row], once: Callable[[int], Sample]) -> None:
        """Measure all sizes in turns, each time beginning with another one."""
        for turn in range(self._bench.profile.scale_rounds):
            shift = turn % len(self._sizes)
            for size in (*self._sizes[shift:], *self._sizes[:shift]):
                row = rows[size]
                if row.void:
                    continue
                self._listener.step(f"{row.workload} · round {turn + 1}")
                try:
                    row.samples.append(once(size))
                except (MeasureFailed, CannotStart) as error:
                    self._listener.failed(row, str(error))

    def _start(self, stack: ExitStack, size: int) -> Target:
        place = embedded.path_of(self._directory, size)
        return servers.start(stack, partial(servers.start_holdfast, place, namespaces=()))

    def _starts(self) -> None:
        """From the start of the process to its first answer; the first start makes the owner."""
        rows = self._rows("start", "start of the server", "s", Limit("python"))
        for size in self._sizes:
            with ExitStack() as stack:
                self._start(stack, size)

        def once(size: int) -> Sample:
            begun = time.monotonic()
            with ExitStack() as stack:
                _get(self._start(stack, size), "/v2/", right=401)
                return Sample(value=time.monotonic() - begun)

        self._turns(rows, once)

    def _pages(self) -> None:
        """First pages through HTTP, from servers that all run at once."""
        with ExitStack() as stack:
            targets = {size: self._start(stack, size) for size in self._sizes}
            for listing in _LISTINGS:
                if self._wants(f"manage/{listing.name}"):
                    self._listing(listing, targets)

    def _listing(self, listing: _Listing, targets: dict[int, Target]) -> None:
        rows = self._rows(f"manage/{listing.name}", listing.title, "µs", Limit("round trip"))
        ready: dict[int, tuple[str, ...]] = {}
        for size, target in targets.items():
            try:
                ready[size] = _filled(listing, target, size)
            except MeasureFailed as error:
                self._listener.failed(rows[size], str(error))

        def once(size: int) -> Sample:
            samples = [
                self._page(targets[size], f"{path}order_by={order}")
                for path in ready[size]
                for order in listing.orders
            ]
            return max(samples, key=lambda sample: sample.value)

        self._turns(rows, once)

    def _page(self, target: Target, path: str) -> Sample:
        header = f"X-Auth-Token: {target.login.password}\r\n"
        parts = urlsplit(target.url)
        assert parts.hostname is not None
        assert parts.port is not None
        reach = Endpoint(parts.hostname, parts.port, False, "", "")
        job = Requests((Ask("GET", f"{_BASE}{path}", 200, header=header),))
        result, meter = self._bench.job(
            target, reach, job, clients=1, seconds=PAGE_SECONDS, processes=1
        )
        sample = sample_of(result, meter, result.seconds / result.operations * 1e6)
        sample.note = f"slowest: {path.rpartition('?')[2]}"
        return sample


def _filled(listing: _Listing, target: Target, size: int) -> tuple[str, ...]:
    """The paths of a listing, after a look at whether it has all that it should have.

    Raises MeasureFailed.
    """
    namespace = _first(target, f"{_BASE}/namespaces?name={TAGGED}", "namespaces")
    image = _first(target, f"{_BASE}/images?namespace_id={namespace}&name={IMAGE}", "images")
    other = _first(target, f"{_BASE}/namespaces?name={NAMESPACE}", "namespaces")
    paths = tuple(path.format(namespace=other, image=image) for path in listing.paths)
    answer = msgspec.json.decode(_get(target, f"{_BASE}{paths[0]}page_size=1"))
    want = listing.total(size)
    if answer["total_count"] != want:
        raise MeasureFailed(f"{answer['total_count']} of {want} are listed")
    return paths


def _first(target: Target, path: str, name: str) -> str:
    answer = msgspec.json.decode(_get(target, path))
    if not answer[name]:
        raise MeasureFailed(f"nothing is found under {path}")
    return str(answer[name][0]["id"])


def _get(target: Target, path: str, *, right: int = 200) -> bytes:
    """The body of an answer with the owner's key. Raises MeasureFailed."""
    request = urllib.request.Request(  # noqa: S310 - our own server
        target.url + path, headers={"X-Auth-Token": target.login.password}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # nosec B310 # noqa: S310
            status, body = answer.status, answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read(ANSWER_BYTES_MAX)
    except OSError as error:
        raise MeasureFailed(f"{target.name} does not answer: {error}") from error
    if status != right:
        raise MeasureFailed(f"GET {path}: {status}, not {right}")
    return bytes(body)
