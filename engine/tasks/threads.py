"""Threads for calls that block: file reads and writes, syncs, hashing.

A thread that is inside a system call cannot be stopped. So a cancelled caller waits until its
call is over: no file is closed, and no buffer used again, while a thread still works on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from holdfast.engine.model.errors import Closed, EngineError

from .timing import told

P = ParamSpec("P")
T = TypeVar("T")


class Closable(Protocol):
    """Something that has to be closed by whoever gets it."""

    def close(self) -> None:
        """Let go of it."""


C = TypeVar("C", bound=Closable)


class Threads:
    """At most ``count`` threads, made when first needed, and named after ``name``."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)
        self._closed = False

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in a thread and return what it returns, or raise what it raises.

        A caller that is cancelled gets its CancelledError only when ``fn`` is over, however
        often it is cancelled meanwhile, or at once where ``fn`` was not begun (it never is
        then). The result is dropped (see ``acquire``); an error of ``fn`` is the cause of the
        CancelledError. Raises Closed after ``close``.
        """
        future = self._submit(fn, *args, **kwargs)
        try:
            await told("thread", _settle(future), fn)
            return future.result()
        finally:
            # The error in the future has a traceback that leads here: break the circle.
            del future

    async def acquire(self, fn: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """As ``run``, for a call that opens something: a cancelled caller's result is closed."""
        future = self._submit(fn, *args, **kwargs)
        try:
            try:
                await told("thread", _settle(future), fn)
            except asyncio.CancelledError as cancelled:
                if not future.cancelled() and future.exception() is None:
                    try:
                        future.result().close()
                    except EngineError as error:
                        raise cancelled from error
                raise
            return future.result()
        finally:
            del future

    async def finish(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``run``, for a call that lets go of something: it is made in any case.

        Also where the caller is cancelled before it began, and here where the threads have ended.
        """
        if self._closed:
            return fn(*args, **kwargs)
        future = self._submit(fn, *args, **kwargs)
        try:
            await told("thread", _settle(future, begun=True), fn)
            return future.result()
        finally:
            del future

    def begin(self, fn: Callable[[], None]) -> None:
        """Have ``fn``, which raises nothing, called in a thread; the call is made in any case.

        Raises Closed after ``close``, RuntimeError while that begins, or where no thread more can
        be had; then it may be made, by one that is there.
        """
        self._submit(fn)

    def close(self) -> None:
        """Wait for the calls that were submitted, and end the threads. May be called twice."""
        self._closed = True
        self._pool.shutdown(wait=True)

    def _submit(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._closed:
            raise Closed()
        return self._pool.submit(_call, partial(fn, *args, **kwargs))


def _call(fn: Callable[[], T]) -> T:
    try:
        return fn()
    except StopIteration as error:
        # It would end the coroutine that awaits the call, as if that had returned (PEP 479).
        raise RuntimeError("a call in a thread raised StopIteration") from error


async def _settle(future: Future[T], *, begun: bool = False) -> None:
    """Wait until the call is over. Raises CancelledError only, and only then, or where the call
    has not begun (nor counts as ``begun``)."""
    try:
        await _over(future)
    except asyncio.CancelledError as cancelled:
        if not begun and future.cancel():
            raise
        while not future.done():
            try:
                await _over(future)
            except asyncio.CancelledError:
                # The first one is raised below, and the task itself counts how many came.
                continue
        error = future.exception()
        if error is not None:
            raise cancelled from error
        raise


async def _over(future: Future[T]) -> None:
    # A new waiter for each wait, since cancelling a task cancels the waiter that it is at.
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: _wake(loop, waiter))
    await waiter


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    # A closed loop has nobody left who waits.
    if not loop.is_closed():
        loop.call_soon_threadsafe(_finish, waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class File(Protocol):
    """A file of aiofiles."""

    async def close(self) -> None:
        """Let go of it."""


F = TypeVar("F", bound=File)


@asynccontextmanager
async def opened(opening: Awaitable[F]) -> AsyncIterator[F]:
    """A file that aiofiles opens: closed in any case, also where its caller is cancelled
    meanwhile, which aiofiles by itself does not see to."""
    task = asyncio.ensure_future(opening)
    try:
        file = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.exception() is None:
            await _surely(task.result().close())
        raise
    try:
        yield file
    finally:
        await _surely(file.close())


async def _surely(closing: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
