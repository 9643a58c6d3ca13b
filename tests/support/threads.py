"""Calls of threads that tests let begin and end, and who is told of waits for them."""

from __future__ import annotations

import asyncio
import threading


class Gate:
    """A call that says when it has begun, and ends when it may."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = False
        self.error = error

    def __call__(self) -> str:
        self.pass_through()
        return "done"

    def pass_through(self) -> None:
        """The call, for whoever wants no result."""
        self.begun.set()
        assert self.may_end.wait(10)
        self.ended = True
        if self.error is not None:
            raise self.error


class Told:
    """Who is told of waits."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def waited(self, what: str, begun: float, ended: float) -> None:
        """See ``timing.Waits``."""
        assert begun <= ended
        self.names.append(what)


async def turns(count: int = 20) -> None:
    """Let everything run that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


async def begun(gate: Gate) -> None:
    """Wait until a thread is in it."""
    assert await asyncio.get_running_loop().run_in_executor(None, gate.begun.wait, 10)
