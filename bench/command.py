"""``holdfast bench`` and ``python -m holdfast.bench``."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from .load import trace
from .load.endpoint import Login
from .load.interrupts import terminable
from .load.profile import PROFILES
from .report import compare, page, results, table
from .run import CannotRun, Plan, Run, workspace
from .targets.servers import Peer, installed
from .targets.targets import Target

PASSWORD_VARIABLE = "HOLDFAST_BENCH_PASSWORD"  # nosec B105 # noqa: S105 - a variable
TRACE_LIMIT = 20_000

WIDTH = 170
"""Characters of a line where there is no terminal."""


class _Shown:
    """Progress on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bars.add_task("starting", total=None)

    def __enter__(self) -> _Shown:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Nothing more is shown."""
        self._bars.stop()

    def begin(self, steps: int) -> None:
        """So many steps are ahead."""
        self._bars.update(self._task, total=steps)

    def step(self, text: str) -> None:
        """A step begins."""
        self._bars.update(self._task, description=text, advance=1)

    def show(self, text: str) -> None:
        """What is done now."""
        self._bars.update(self._task, description=text)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, highlight=False, markup=False)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value


@click.command("bench", epilog="\b\nExample:\n  holdfast bench --quick")
@click.option("--quick", is_flag=True, help="The same as --profile quick: one or two minutes.")
@click.option(
    "--profile",
    "profile_name",
    type=click.Choice(list(PROFILES)),
    default="default",
    show_default=True,
    help="How much is done.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Workloads that begin so, repeatable.")
@click.option("--rounds", type=click.IntRange(1, 99), help="Rounds, instead of the profile's.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="[NAME=]URL",
    help="Measure this registry instead of what is installed here, repeatable.",
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    default=("bench-one", "bench-two"),
    show_default=True,
    help="For --url: where to push. The second one is for pushes of what the first one has.",
)
@click.option("--user", default="", help=f"For --url; the password is in {PASSWORD_VARIABLE}.")
@click.option("--pid", type=int, help="For --url: the server's process here, for CPU and memory.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=COMMAND",
    help="Also start this registry. {config}, {port}, {address}, {data} are filled in.",
)
@click.option(
    "--peer-config",
    "peer_configs",
    multiple=True,
    metavar="NAME=FILE",
    help="Its config file, filled in the same way.",
)
@click.option(
    "--scale/--no-scale",
    default=True,
    help="Measure what must not grow with the store, too: engine, start, management API.",
)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Replay this recorded trace (JSON of the IBM registry traces).",
)
@click.option("--trace-speed", type=click.FloatRange(0.01, 10_000), default=1.0, show_default=True)
@click.option("--trace-scale", type=click.FloatRange(1e-6, 1), default=0.1, show_default=True)
@click.option("--seed", default="holdfast", show_default=True, help="Makes all content.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where servers keep their data during the run.  [default: the temporary directory]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench/results"),
    show_default=True,
    help="Where the report goes: report.json and report.html.",
)
@click.option(
    "--compare",
    "old_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also compare with the JSON file of another run.",
)
def bench(**options: object) -> None:
    """Compare registries: Holdfast, its peers that are installed here, and the machine's limits.

    Without --url it starts everything itself on loopback, and stops it at the end.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    try:
        _bench(console, **options)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        click.echo("holdfast: interrupted; what was measured is kept", err=True)
        raise
    except (CannotRun, trace.BadTrace, results.BadResults, OSError) as error:
        raise click.ClickException(str(error)) from error


def _bench(
    console: Console,
    *,
    quick: bool,
    profile_name: str,
    only: tuple[str, ...],
    rounds: int | None,
    urls: tuple[str, ...],
    namespaces: tuple[str, ...],
    user: str,
    pid: int | None,
    peers: tuple[str, ...],
    peer_configs: tuple[str, ...],
    scale: bool,
    trace_file: Path | None,
    trace_speed: float,
    trace_scale: float,
    seed: str,
    directory: Path | None,
    out: Path,
    old_file: Path | None,
) -> None:
    profile = PROFILES["quick" if quick else profile_name]
    if rounds is not None:
        profile = replace(profile, rounds=rounds)
    old = results.load(old_file) if old_file else None
    operations = (
        trace.read(trace_file, limit=TRACE_LIMIT, speed=trace_speed, scale=trace_scale)
        if trace_file
        else []
    )
    out.mkdir(parents=True, exist_ok=True)
    with workspace(directory) as place, _Shown(console) as shown:
        plan = Plan(
            profile=profile,
            seed=seed,
            starters=() if urls else tuple(installed(place, _peers(peers, peer_configs))),
            targets=tuple(_target(text, namespaces, user, pid) for text in urls),
            only=only,
            scale=scale and not urls,
            trace=tuple(operations),
        )
        run = Run(plan, place, shown)
        run.results.command = _command_line()
        try:
            with terminable():
                run.go()
        finally:
            shown.end()
            _report(run.results, old, out, console)
    if all(row.void for row in run.results.rows):
        raise click.ClickException("nothing was measured")


def _report(
    found: results.Results, old: results.Results | None, out: Path, console: Console
) -> None:
    """Keep and show what there is, also of a run that was interrupted.

    A run that measured nothing leaves the report of the one before alone.
    """
    if not found.rows:
        console.print("no report is written", highlight=False)
        return
    results.save(found, out / "report.json")
    (out / "report.html").write_text(page.render(found))
    table.show(found, console)
    if old is not None:
        compare.show(old, found, console)
    console.print(f"report: {out / 'report.html'} and {out / 'report.json'}", highlight=False)


def _command_line() -> str:
    words = sys.argv[1:]
    return shlex.join(["holdfast", "bench", *(words[1:] if words[:1] == ["bench"] else words)])


def _peers(commands: tuple[str, ...], configs: tuple[str, ...]) -> tuple[Peer, ...]:
    files = dict(_pair(text, "--peer-config") for text in configs)
    named = [_pair(text, "--peer") for text in commands]
    unknown = files.keys() - {name for name, _ in named}
    if unknown:
        raise click.UsageError(f"--peer-config for {min(unknown)}, but no such --peer")
    return tuple(
        Peer(name, command, Path(files[name]) if name in files else None) for name, command in named
    )


def _target(text: str, namespaces: tuple[str, ...], user: str, pid: int | None) -> Target:
    name, equals, url = text.partition("=")
    if not equals or "/" in name:
        url, name = text, ""
    if "//" not in url:
        url = f"http://{url}"
    password = os.environ.get(PASSWORD_VARIABLE, "")
    return Target(
        name=name or urlsplit(url).netloc or url,
        url=url,
        prefixes=(namespaces[0], namespaces[-1]),
        login=Login(user, password),
        pid=pid,
    )


def main() -> None:
    """Run it. What went wrong is one line on standard error."""
    try:
        code = bench.main(prog_name="python -m holdfast.bench", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"holdfast: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
