"""A base image for ours, from this machine's own Debian packages.

Images cannot be fetched everywhere, and need not be: the files of an installed Python, with those
of all packages that it needs, are one.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from support.common import require_tool

PACKAGES: Final = ("ca-certificates", "coreutils", "dash", "passwd", "python3-venv")
"""What the Dockerfile calls: ``sh``, ``install``, ``useradd``, ``python`` with venv and pip."""

LEFT_OUT: Final = re.compile(r"/(?:usr/share/(?:doc|info|locale|man)|var)(?:/|$)")
MACHINE: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
"""How this machine reaches its package index; no package has these files."""

MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Links to folders of the same names in ``/usr``."""

ENVIRONMENT: Final = "PATH=/usr/local/bin:/usr/sbin:/usr/bin"

WRITTEN: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*::0:::::\n",
}


def base_image(path: Path) -> None:
    """Write the files of an image that has Python, as ``docker import`` takes them."""
    with tarfile.open(path, "w") as archive:
        for name in MERGED:
            _link(archive, name, f"usr/{name}")
        _link(archive, "usr/local/bin/python", "/usr/bin/python3")
        for name, text in WRITTEN.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name in ("tmp", "var/lib"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        for file in dict.fromkeys((*_files(_closure(PACKAGES)), *MACHINE)):
            if os.path.lexists(file):
                archive.add(file, file[1:], recursive=False)


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def _files(packages: Iterable[str]) -> Iterator[str]:
    """The files of packages, by the names that do not go through a merged folder."""
    for line in _dpkg("--listfiles", *packages).splitlines():
        name = line[1:]
        if not line.startswith("/") or LEFT_OUT.match(line) or name in {".", *WRITTEN, *MERGED}:
            continue
        yield f"/usr{line}" if name.partition("/")[0] in MERGED else line


def _closure(packages: Iterable[str]) -> set[str]:
    """Packages with all that they depend on."""
    depends: dict[str, list[list[str]]] = {}
    providers: dict[str, str] = {}
    form = "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    for line in _dpkg("--show", f"--showformat={form}").splitlines():
        package, needs, provides = line.split("\t")
        depends[package] = [_names(need, "|") for need in needs.split(",") if need.strip()]
        providers |= dict.fromkeys(_names(provides, ","), package)
    found: set[str] = set()
    queue = list(packages)
    while queue:
        package = queue.pop()
        if package not in found:
            found.add(package)
            for either in depends[package]:
                here = (providers.get(one, one) for one in either)
                queue.append(next(one for one in here if one in depends))
    return found


def _names(text: str, separator: str) -> list[str]:
    """Names of packages, without versions and architectures."""
    parts = (part.strip() for part in text.split(separator))
    return [re.split(r"[\s:(]", part)[0] for part in parts if part]


def _dpkg(*arguments: str) -> str:
    done = subprocess.run(
        [require_tool("dpkg-query"), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
