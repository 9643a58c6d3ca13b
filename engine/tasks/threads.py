"""A thread pool for blocking calls: file reads and writes, syncs, hashing.

A thread inside a system call cannot be stopped. So a cancelled caller waits until its call is
over: no file is closed and no buffer is reused while a thread still works on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from holdfast.engine.model.errors import Closed, EngineError

from .timing import timed

P = ParamSpec("P")
T = TypeVar("T")


class Closable(Protocol):
    """A resource that its receiver must close."""

    def close(self) -> None:
        """Release the resource."""


C = TypeVar("C", bound=Closable)


class Threads:
    """A pool of at most ``count`` threads, started on demand and named after ``name``."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)
        self._closed = False

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in a thread; return its result or raise its error.

        A cancelled caller gets its CancelledError only when ``fn`` is over, however often it is
        cancelled meanwhile. If ``fn`` had not begun, it never does, and the caller gets the error
        at once. The result is dropped (see ``acquire``); an error of ``fn`` becomes the cause of
        the CancelledError. Raises Closed after ``close``.
        """
        future = self._submit(fn, *args, **kwargs)
        try:
            await timed("thread", _settle(future), fn)
            return future.result()
        finally:
            # The traceback of the future's error refers to this frame: break the cycle.
            del future

    async def acquire(self, fn: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> C:
        """Call ``fn``, which opens a resource, as ``run`` does; close the result if the caller
        is cancelled."""
        future = self._submit(fn, *args, **kwargs)
        try:
            try:
                await timed("thread", _settle(future), fn)
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
        """Call ``fn``, which releases a resource, as ``run`` does, but in any case.

        A caller that is cancelled before ``fn`` began does not prevent the call. After ``close``,
        ``fn`` runs in the calling thread.
        """
        if self._closed:
            return fn(*args, **kwargs)
        future = self._submit(fn, *args, **kwargs)
        try:
            await timed("thread", _settle(future, begun=True), fn)
            return future.result()
        finally:
            del future

    def begin(self, fn: Callable[[], None]) -> None:
        """Call ``fn``, which must not raise, in a thread, without waiting for it.

        Raises Closed after ``close``, and RuntimeError while ``close`` begins or if the system
        starts no more threads. After a RuntimeError an existing thread may still call ``fn``.
        """
        self._submit(fn)

    def close(self) -> None:
        """Wait for submitted calls, then end the threads. Idempotent."""
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
        # StopIteration would end the awaiting coroutine as if it had returned (PEP 479).
        raise RuntimeError("a call in a thread raised StopIteration") from error


async def _settle(future: Future[T], *, begun: bool = False) -> None:
    """Wait until the call is over; errors of the call stay in the future.

    Raises CancelledError, once the call is over, or at once if it has not begun and ``begun`` is
    False (then the call is cancelled too).
    """
    try:
        await _wait_once(future)
    except asyncio.CancelledError as cancelled:
        # Succeeds only before a thread has taken the call.
        if not begun and future.cancel():
            raise
        while not future.done():
            try:
                await _wait_once(future)
            except asyncio.CancelledError:
                # The first one is raised below; the task itself counts the cancellations.
                continue
        error = future.exception()
        if error is not None:
            raise cancelled from error
        raise


async def _wait_once(future: Future[T]) -> None:
    # Each wait needs a new waiter, since cancelling a task cancels the waiter it awaits.
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: wake(waiter))
    await waiter


def wake(waiter: asyncio.Future[None]) -> None:
    """Let the task that awaits ``waiter`` go on. Call it from any thread."""
    # A closed loop raises this; then no task waits any more.
    with suppress(RuntimeError):
        waiter.get_loop().call_soon_threadsafe(_finish, waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class File(Protocol):
    """A file opened by aiofiles."""

    async def close(self) -> None:
        """Close the file."""


F = TypeVar("F", bound=File)


@asynccontextmanager
async def opened(opening: Awaitable[F]) -> AsyncIterator[F]:
    """Open a file by aiofiles, and close it even if the caller is cancelled meanwhile.

    aiofiles by itself leaks a file if its caller is cancelled while it opens.
    """
    task = asyncio.ensure_future(opening)
    try:
        file = await asyncio.shield(task)
    except asyncio.CancelledError:
        # The thread still opens the file: wait for it, else its descriptor leaks.
        await asyncio.wait([task])
        if task.exception() is None:
            await _close_shielded(task.result().close())
        raise
    try:
        yield file
    finally:
        await _close_shielded(file.close())


async def _close_shielded(closing: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
