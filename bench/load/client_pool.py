"""The client processes: started once, given assignments together, ended together."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

import msgspec

from .drive import Assignment, Job, Outcome
from .endpoint import Endpoint
from .latencies import Latencies

_T = TypeVar("_T")


class ClientsFailed(Exception):
    """A client process ended on its own, which is a fault of the bench."""


@dataclass(slots=True)
class Result:
    """What all clients did together."""

    seconds: float = 0.0
    """From the first that began to the last that ended."""

    operations: int = 0
    requests: int = 0
    sent: int = 0
    received: int = 0
    offered: int = 0
    cut: int = 0
    """See Outcome."""

    cpu: float = 0.0
    """CPU seconds of all client processes."""

    busiest: float = 0.0
    """The largest share of a core that one client process took."""

    latencies: Latencies = field(default_factory=Latencies)
    wrong: list[str] = field(default_factory=list)


class ClientPool:
    """``count`` client processes. Enter it to start them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._parts = 0

    def __enter__(self) -> Self:
        command = (sys.executable, "-m", "holdfast.bench.load.client")
        for _ in range(self._count):
            # A session of its own: an interrupt from the terminal is ours to handle.
            process = subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # the client is gone; what was not sent is lost
                process.stdin.close()
            process.stdout.close()
        self._processes.clear()

    def prepare(
        self,
        reach: Endpoint,
        job: Job,
        *,
        seed: str,
        clients: int,
        seconds: float,
        processes: int | None = None,
    ) -> list[str]:
        """Hand a job out and wait until all are ready; what was wrong, if anything.

        ``processes`` takes fewer than there are. Where something was wrong, ``restart`` must
        follow instead of ``run``.
        """
        parts = self._parts = min(processes or self._count, self._count, clients)
        for part, process in enumerate(self._processes[:parts]):
            assignment = Assignment(
                host=reach.host,
                port=reach.port,
                tls=reach.tls,
                authorization=reach.authorization,
                repository=reach.repository,
                seed=seed,
                job=job,
                seconds=seconds,
                clients=clients,
                part=part,
                parts=parts,
            )
            self._send(process, msgspec.json.encode(assignment))
        said = [self._receive(process, str) for process in self._processes[:parts]]
        return [text for text in said if text]

    def run(self) -> Result:
        """Do what was prepared. ``check`` must follow."""
        busy = self._processes[: self._parts]
        for process in busy:
            self._send(process, b"")
        outcomes = [self._receive(process, Outcome) for process in busy]
        return _together(outcomes)

    def check(self) -> list[str]:
        """Read back some of what was pushed; what was wrong, if anything. ``run`` comes before."""
        busy = self._processes[: self._parts]
        for process in busy:
            self._send(process, b"")
        said = [self._receive(process, str) for process in busy]
        return [text for text in said if text]

    def restart(self) -> None:
        """Begin with new processes: after something went wrong in between."""
        self.__exit__()
        self.__enter__()

    def _send(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise ClientsFailed("a client process ended early") from error

    def _receive(self, process: subprocess.Popen[bytes], kind: type[_T]) -> _T:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ClientsFailed("a client process ended early")
        return msgspec.json.decode(line, type=kind)


def _together(outcomes: list[Outcome]) -> Result:
    result = Result()
    result.seconds = max(one.ended for one in outcomes) - min(one.begun for one in outcomes)
    for one in outcomes:
        result.operations += one.operations
        result.requests += one.requests
        result.sent += one.sent
        result.received += one.received
        result.offered += one.offered
        result.cut += one.cut
        result.cpu += one.cpu
        result.busiest = max(result.busiest, one.cpu / max(one.ended - one.begun, 1e-9))
        result.latencies.merge(Latencies(one.latencies))
        result.wrong += one.wrong
    return result
