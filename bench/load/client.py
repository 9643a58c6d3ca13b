"""A client process: takes assignments on standard input, gives outcomes on standard output.

Lines of JSON: an Assignment comes in; a text goes out when all is prepared ('' or what was
wrong); an empty line comes in; an Outcome goes out; an empty line comes in; a text goes out when
some of what was pushed was read back. It ends with its standard input.
"""

from __future__ import annotations

import gc
import sys

import msgspec
import uvloop

from .drive import Assignment, Drive


async def _serve() -> None:
    decoder = msgspec.json.Decoder(Assignment)
    while line := sys.stdin.buffer.readline():
        drive = Drive(decoder.decode(line))
        _say(await drive.prepare())
        if not sys.stdin.buffer.readline():
            return
        gc.collect()
        gc.freeze()
        _say(await drive.run())
        gc.unfreeze()
        if not sys.stdin.buffer.readline():
            return
        _say(await drive.check())


def _say(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
