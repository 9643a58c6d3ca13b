"""Small requests driven by wrk, where it is installed: it costs a tenth of a client in Python.

wrk is a closed loop; its latencies do not say how long requests would wait in an open one.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from holdfast.bench.load.endpoint import Endpoint
from holdfast.bench.load.jobs import Ask

_SCRIPT: Final = """\
local asks = {
%(asks)s
}
local right = %(status)d
local made, turn = {}, 0
wrong, seen = 0, 0
function init(args)
  for index, ask in ipairs(asks) do
    made[index] = wrk.format(ask[1], ask[2], ask[3])
  end
end
%(request)s
function response(status)
  if status ~= right then
    wrong, seen = wrong + 1, status
  end
end
local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end
function done(summary, latency, requests)
  local all, last = 0, 0
  for _, thread in ipairs(threads) do
    all = all + thread:get("wrong")
    last = math.max(last, thread:get("seen"))
  end
  io.write(string.format(
    '{"micros":%%d,"requests":%%d,"bytes":%%d,"connect":%%d,"read":%%d,"write":%%d,'
    .. '"timeout":%%d,"wrong":%%d,"seen":%%d,"p50":%%d,"p99":%%d,"p999":%%d}\\n',
    summary.duration, summary.requests, summary.bytes, summary.errors.connect,
    summary.errors.read, summary.errors.write, summary.errors.timeout, all, last,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
"""Every status is compared, which costs wrk some 2 µs an answer."""

_PLAIN: Final = "function request() return made[1] end"
_ROUND: Final = "function request() turn = turn % #made + 1; return made[turn] end"
_LINE: Final = re.compile(rb'^\{"micros".*\}$', re.MULTILINE)


class WrkFailed(Exception):
    """wrk could not run. The text is one line."""


class _Summary(msgspec.Struct):
    micros: int
    requests: int
    bytes: int
    connect: int
    read: int
    write: int
    timeout: int
    wrong: int
    seen: int
    p50: int
    p99: int
    p999: int


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What one run of wrk found. Times are in seconds."""

    seconds: float
    requests: int
    size: int
    """Bytes received, heads included."""

    cpu: float
    p50: float
    p99: float
    p999: float
    wrong: tuple[str, ...]


def program() -> str:
    """The path of wrk, or ''."""
    return shutil.which("wrk") or ""


def can(asks: tuple[Ask, ...]) -> bool:
    """Whether wrk can ask these: after HEAD it waits for a body, and it knows one right status."""
    return all(ask.method == "GET" and ask.status == asks[0].status for ask in asks)


def drive(
    binary: str,
    reach: Endpoint,
    asks: tuple[Ask, ...],
    *,
    connections: int,
    seconds: float,
    directory: Path,
) -> WrkResult:
    """Run wrk with one thread, for whole seconds, on asks that it ``can`` do. Raises WrkFailed."""
    script = directory / "wrk.lua"
    script.write_text(_script(reach, asks))
    whole = max(1, round(seconds))
    scheme = "https" if reach.tls else "http"
    command = (
        *(binary, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s"),
        *("-s", str(script), f"{scheme}://{reach.host}:{reach.port}/"),
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(  # noqa: S603 - found on the PATH
            command, capture_output=True, timeout=whole + 60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WrkFailed(f"wrk: {error}") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = _LINE.search(done.stdout)
    if done.returncode != 0 or match is None:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise WrkFailed(f"wrk failed: {text[:300]}")
    summary = msgspec.json.decode(match[0], type=_Summary)
    return WrkResult(
        seconds=summary.micros / 1e6,
        requests=summary.requests,
        size=summary.bytes,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        p50=summary.p50 / 1e6,
        p99=summary.p99 / 1e6,
        p999=summary.p999 / 1e6,
        wrong=_wrong(summary, asks[0].status),
    )


def _wrong(summary: _Summary, right: int) -> tuple[str, ...]:
    kinds = ("connect", "read", "write", "timeout")
    wrong = [f"{count} {kind} errors" for kind in kinds if (count := getattr(summary, kind))]
    if summary.wrong:
        wrong.append(
            f"{summary.wrong} of {summary.requests} answers were not {right} but {summary.seen}"
        )
    if not summary.requests:
        wrong.append("no answer at all")
    return tuple(wrong)


def _script(reach: Endpoint, asks: tuple[Ask, ...]) -> str:
    lines = []
    for ask in asks:
        headers = {"User-Agent": "holdfast-bench"}
        if reach.authorization:
            headers["Authorization"] = reach.authorization
        if ask.accept:
            headers["Accept"] = ask.accept
        if ask.header:
            name, _, value = ask.header.strip().partition(": ")
            headers[name] = value
        pairs = ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in headers.items())
        lines.append(f"  {{{_lua(ask.method)}, {_lua(ask.target)}, {{{pairs}}}}},")
    return _SCRIPT % {
        "asks": "\n".join(lines),
        "status": asks[0].status,
        "request": _ROUND if len(asks) > 1 else _PLAIN,
    }


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "").replace("\r", "")
    return f'"{escaped}"'
