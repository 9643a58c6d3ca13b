"""A real server in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from holdfast.api.cli.main import holdfast

WAIT_SECONDS: Final = 60
"""Until a test gives up on a process. Nothing takes this long unless it hangs."""

HOLDFAST: Final = (sys.executable, "-m", "holdfast.api.cli.main")
_READY: Final = re.compile(r"holdfast is ready on https?://(\S+) \(")


def command(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``holdfast`` to its end."""
    return subprocess.run(
        [*HOLDFAST, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


class ServerProcess:
    """A running ``holdfast serve``. ``address`` is its ``host:port``."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self.process = process
        self.data = data
        self.lines: list[str] = []
        """Standard output, up to and with the line that says it is ready."""
        self.address = ""
        self._errors: list[str] = []
        self._collector = threading.Thread(target=self._collect, daemon=True)
        self._collector.start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        guard = threading.Timer(WAIT_SECONDS, self.process.kill)
        guard.start()
        try:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))
                if match := _READY.match(line):
                    self.address = match[1]
                    return
        finally:
            guard.cancel()
        raise AssertionError(f"the server did not start: {self.errors()}")

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def said(self) -> list[str]:
        """What there is of standard error by now, line by line."""
        return list(self._errors)

    def errors(self) -> str:
        """Standard error of the server and its workers; call it when they have ended."""
        self.process.wait(WAIT_SECONDS)
        self._collector.join(WAIT_SECONDS)
        return "".join(self._errors)

    def variables(self) -> dict[str, str]:
        """What ``holdfast env`` exports, run in this process."""
        done = CliRunner().invoke(holdfast, ["env", "--data", str(self.data)])
        assert done.exit_code == 0, done.output
        pairs = (line.removeprefix("export ") for line in done.stdout.splitlines())
        return dict(shlex.split(pair)[0].split("=", 1) for pair in pairs)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def kill_worker(self, pid: int) -> None:
        """End a worker as a crash would, and wait until it is replaced."""
        count = len(self.workers())
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_SECONDS
        while pid in self.workers() or len(self.workers()) < count:
            assert time.monotonic() < deadline, "no worker took its place"
            time.sleep(0.01)

    def kill(self) -> None:
        """End the supervisor as a crash would."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def stop(self) -> int:
        """Stop it as an operator does; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)


@contextmanager
def running(
    data: Path,
    *options: str,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    bare: bool = False,
) -> Iterator[ServerProcess]:
    """A server on a free port of 127.0.0.1 (``--listen`` in ``options`` overrides that).

    A ``bare`` one gets no options but ``options``: something else names ``data`` and the port.
    """
    usual = (f"--data={data}", "--listen=127.0.0.1:0", f"--workers={workers}")
    process = subprocess.Popen(
        [*prefix, *HOLDFAST, "serve", *(() if bare else usual), *options],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = ServerProcess(process, data)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        server.errors()
        process.stdout.close()
        process.stderr.close()
