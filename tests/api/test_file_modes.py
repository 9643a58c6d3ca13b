"""What a server makes is its owner's alone: files have mode 0600, directories 0700."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.api import basic
from support.operating import SECRET, call, make_namespace, operated, push

pytestmark = pytest.mark.slow

UPLOADS = "/v2/team/app/blobs/uploads/"


def test_files_are_their_owners(tmp_path: Path) -> None:
    """Whatever the umask is; and what was open to others is closed, and told."""
    open_handed = ("sh", "-c", 'umask 0 && exec "$@"', "sh")
    data = tmp_path / "data"
    warned = ""
    for _ in range(2):
        with operated(data, f"--unix={tmp_path / 's'}", prefix=open_handed) as server:
            make_namespace(server, "team")
            push(server, "team/app", os.urandom(200_000))
            begun = call(server, "POST", UPLOADS, b"", Authorization=basic(SECRET))
            place = begun.headers["Location"]
            sent = call(server, "PATCH", place, b"x" * 200_000, Authorization=basic(SECRET))
            assert sent.status == 202
            modes = {
                str(path.relative_to(data)): stat.S_IMODE(path.lstat().st_mode)
                for path in (data, *data.rglob("*"))
            }
            assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
            server.stop()
            warned = server.errors()
        data.chmod(0o755)
        (data / "FORMAT").chmod(0o644)
    assert f"{data} was accessible to other users; its mode is 0o700 now" in warned
    assert f"{data / 'FORMAT'} was accessible to other users" in warned
