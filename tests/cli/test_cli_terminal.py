"""What people see on a terminal: bars that move, words that the shell completes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cli import LAYER, add_namespace, environment, make_directory, push
from support.common import require_tool
from support.server import HOLDFAST, WAIT_SECONDS

from holdfast.api.cli.main import holdfast

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """The other end of a terminal."""

    def __init__(self) -> None:
        self.text = ""

    @contextmanager
    def attached(self) -> Iterator[int]:
        """A terminal to write to; what is written is in ``text`` afterwards."""
        master, slave = pty.openpty()

        def read() -> None:
            received = b""
            while True:
                try:
                    received += os.read(master, 65536)
                except OSError:  # EIO: nobody has the other end any more
                    self.text = received.decode()
                    return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield slave
        finally:
            os.close(slave)
            reader.join()
            os.close(master)

    @property
    def frames(self) -> list[str]:
        """What was drawn, one after the other, without the bar's own characters."""
        drawn = re.split(r"[\r\n]+", ESCAPES.sub("", self.text))
        plain = (re.sub(r"[\u2500-\u257f]+.*", "", frame).strip() for frame in drawn)
        return [frame for frame in plain if frame]


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A directory with something of everything to do."""
    data = tmp_path / "data"
    owner = await make_directory(data)
    await add_namespace(data, "team", owner)
    await add_namespace(data, "gone", owner)
    for number in range(3):
        await push(data, f"team/app{number}", "v1", layer=LAYER + bytes([number]))
        await push(data, f"gone/app{number}", "v1", layer=LAYER + b"gone" + bytes([number]))
    return data


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name in ("NO_COLOR", "HOLDFAST_SERVER", "SCW_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("holdfast.api.management.upkeep.WORK_SECONDS", 0.0)
    return Screen()


def on_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a command in this process, with standard error on a terminal."""
    with (
        screen.attached() as slave,
        monkeypatch.context() as patch,
        open(slave, "w", encoding="utf-8", closefd=False) as stderr,
    ):
        patch.setattr(sys, "stderr", stderr)
        holdfast.main(list(arguments), prog_name="holdfast", standalone_mode=False)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("scrubbing", r"scrubbed \d+ blobs, [\d.]+ KiB", ("scrub",)),
        ("sweeping", r"swept \d+, freed 0 B", ("sweep",)),
        ("export", r"1 manifests, 2 blobs, 100.0 KiB", ("export", "team/app0", "{out}")),
        ("snapshot", r"[\d.]+ KiB", ("snapshot", "{out}")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_bar_moves(
    data: Path,
    screen: Screen,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    last: str,
    words: tuple[str, ...],
) -> None:
    arguments = [word.format(out=data.parent / "out") for word in words]
    on_terminal(screen, monkeypatch, *arguments, "--data", str(data))
    assert screen.frames[0] == first
    assert re.fullmatch(last, screen.frames[-1]), screen.frames
    assert "\u2501" in screen.text


def test_the_bar_of_an_import_moves(
    data: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(data.parent / "out")
    for words in (("export", "team/app0", out), ("import", out, "team/copy")):
        on_terminal(screen, monkeypatch, *words, "--data", str(data))
    assert screen.frames[0] == "import"
    assert screen.frames[-1] == "1 manifests, 2 blobs, 100.0 KiB"


def test_the_bar_of_a_scrub_is_full_at_its_end(
    data: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(screen, monkeypatch, "scrub", "--data", str(data))
    lengths = [len(bar) for bar in re.findall("\u2501+", ESCAPES.sub("", screen.text))]
    assert lengths[-1] == max(lengths)
    assert "\u2578" not in screen.text.rpartition("scrubbed")[2]


COMPLETE = """
set -u
eval "$(holdfast completion bash)"
complete -p holdfast >/dev/null
function=$(complete -p holdfast | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
    COMPREPLY=(); "$function" holdfast "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[*]}"
}
complete_words holdfast names
complete_words holdfast sweep --no
"""


@pytest.mark.slow
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "holdfast"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(HOLDFAST)} "$@"\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        [require_tool("bash"), "--norc", "-c", COMPLETE],
        env={**environment(tmp_path), "PATH": f"{wrapper.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["namespace", "--now"]
