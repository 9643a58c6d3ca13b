"""A systemd in namespaces of its own, which runs the unit of deploy/ as it stands.

It has this machine's files with ours above them (overlays in memory), its own processes and
control groups, and the network of this machine.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.common import ROOT, require_tool, unavailable
from support.operating import eventually
from support.server import WAIT_SECONDS

SYSTEMD: Final = Path("/lib/systemd/systemd")
OUTPUT: Final = "/run/holdfast.out"
"""Where the unit's output goes: no journal runs."""

BOOT: Final = """
set -eu
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t tmpfs tmpfs "$SCRATCH"
for place in etc usr/local opt var; do
    above=$SCRATCH/$place
    mkdir -p "$above/up" "$above/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$above/up,workdir=$above/work" overlay "/$place"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/units/holdfast.service.d /opt/python /opt/site /opt/packages/holdfast
# The unit hides /root, /home and /tmp, where our interpreter and the sources may lie.
mount --bind "$PYTHON" /opt/python
mount --bind "$SITE" /opt/site
for folder in engine api; do
    mkdir "/opt/packages/holdfast/$folder"
    mount --bind "$ROOT/$folder" "/opt/packages/holdfast/$folder"
done
cat > /usr/local/bin/holdfast <<EOF
#!/bin/sh
export PYTHONPATH=/opt/packages:/opt/site LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/python3 -m holdfast.api.cli.main "\\$@"
EOF
chmod 755 /usr/local/bin/holdfast
sed 's/^\\(listen\\|metrics\\) = "127.0.0.1:.*"/\\1 = "127.0.0.1:0"/' \
    "$ROOT/deploy/holdfast.toml" > /etc/holdfast.toml
: > "$OUTPUT"
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
cp "$ROOT/deploy/holdfast.service" /run/units
printf '[Service]\\nStandardOutput=append:%s\\nStandardError=inherit\\n' "$OUTPUT" \
    > /run/units/holdfast.service.d/output.conf
for target in sysinit basic shutdown network-online; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > "/run/units/$target.target"
done
printf '[Unit]\\nDefaultDependencies=no\\nWants=holdfast.service\\n' > /run/units/trial.target
exec env --ignore-environment container=other PATH="$PATH" SYSTEMD_UNIT_PATH=/run/units \
    SYSTEMD_PROC_CMDLINE='systemd.unified_cgroup_hierarchy=1 systemd.unit=trial.target' \
    "$SYSTEMD" --system --unit=trial.target --log-target=null --show-status=no
"""


class Systemd:
    """A running one."""

    def __init__(self, pid: int) -> None:
        self._inside = (require_tool("nsenter"), f"--target={pid}", "-m", "-p", "-u", "-i", "-C")

    def run(self, *command: str) -> str:
        """What a command among its processes prints."""
        done = subprocess.run(
            [*self._inside, *command],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr, self._said())
        return done.stdout

    def show(self, key: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", f"--property={key}", "holdfast").strip()

    def said(self) -> str:
        """All output of the unit so far."""
        return self.run("cat", OUTPUT)

    def _said(self) -> str:
        command = [*self._inside, "cat", OUTPUT]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def workers(self) -> set[str]:
        """Process ids of the workers, as they are called inside."""
        main = self.show("MainPID")
        return set(self.run("cat", f"/proc/{main}/task/{main}/children").split())


@contextmanager
def booted(scratch: Path) -> Iterator[Systemd]:
    """A systemd that starts the unit; all of it ends with the context."""
    groups = Path("/sys/fs/cgroup")
    if (groups / "unified").is_dir():
        groups /= "unified"
    if os.geteuid() or not SYSTEMD.exists() or not (groups / "cgroup.procs").exists():
        unavailable("no systemd can be booted here")
    group = groups / f"holdfast-{os.getpid()}"
    group.mkdir()
    places = {
        "SCRATCH": str(scratch),
        "PYTHON": sysconfig.get_config_var("installed_base"),
        "SITE": sysconfig.get_path("purelib"),
        "ROOT": str(ROOT),
        "OUTPUT": OUTPUT,
        "SYSTEMD": str(SYSTEMD),
    }
    namespaces = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--propagation=private")
    process = subprocess.Popen(
        [
            *("sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"),
            *(require_tool("unshare"), *namespaces, "--fork", "--kill-child=KILL"),
            *("sh", "-c", BOOT),
        ],
        env={**os.environ, **places},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: bool(children.read_text().split()))
        (init,) = children.read_text().split()
        # The shell has become systemd once the manager answers.
        eventually(lambda: Path(f"/proc/{init}/comm").read_text() == "systemd\n")
        eventually(lambda: Path(f"/proc/{init}/root/run/systemd/private").exists())
        yield Systemd(int(init))
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
        eventually(lambda: not any(path.read_text() for path in group.rglob("cgroup.procs")))
        for path in sorted(group.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        group.rmdir()
