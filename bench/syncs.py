"""How often a server syncs to disk, counted with strace, apart from all that is timed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from . import process
from .jobs import ImageSet, PushImages
from .measure import Bench
from .registry import Style
from .targets import Target

IMAGES: Final = 10
_CALLS: Final = "fsync,fdatasync,sync_file_range,msync,syncfs"
_LINE: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+.*?(\w+)$", re.MULTILINE)
_ATTACH_SECONDS: Final = 5.0


def per_image(bench: Bench, target: Target) -> float | None:
    """Sync calls for each pushed image of five small layers, from one client.

    None where strace is missing or not allowed. Raises MeasureFailed, Unreachable.
    """
    strace = shutil.which("strace")
    if strace is None or target.pid is None:
        return None
    pids = [word for pid in process.tree(target.pid) for word in ("-p", str(pid))]
    log = bench.directory / "strace"
    command = (strace, "-f", "-c", "-o", str(log), "-e", f"trace={_CALLS}", *pids)
    tracer = subprocess.Popen(  # noqa: S603 - found on the PATH
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if not _attached(tracer, target.pid):
            return None
        images = ImageSet("syncs", IMAGES, scale=0.001, cap=64 << 10)
        job = PushImages(images, Style.DOCKER)
        bench.job(target, target.reach("syncs"), job, clients=1, seconds=60)
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of the server and writes its table
        tracer.wait()
    return count(log) / IMAGES


def count(log: Path) -> int:
    """The calls in a table of ``strace -c``."""
    rows = _LINE.findall(log.read_text("utf-8", "replace"))
    return sum(int(calls) for calls, name in rows if name in _CALLS.split(","))


def _attached(tracer: subprocess.Popen[bytes], pid: int) -> bool:
    """Wait until the tracer has the process; False where it may not."""
    deadline = time.monotonic() + _ATTACH_SECONDS
    status = Path(f"/proc/{pid}/status")
    while tracer.poll() is None and time.monotonic() < deadline:
        if "TracerPid:\t0\n" not in status.read_text():
            return True
        time.sleep(0.02)
    return False
