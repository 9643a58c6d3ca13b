"""The rights table of the documentation is the one that decides."""

from __future__ import annotations

from itertools import groupby

from support import ROOT

from holdfast.api.rights import ACTIONS, TABLE, Verdict

PAGE = ROOT / "docs" / "distribution-api.md"
START, END = "<!-- rights -->\n\n", "\n<!-- /rights -->"
HEAD = "| caller | where the name leads | pull | push | delete |\n|---|---|---|---|---|\n"


def cell(verdict: Verdict) -> str:
    return "yes" if verdict.allowed else f"{verdict.status} {verdict.code}"


def table() -> str:
    """The rows for people: own images are the same whether public or private."""
    rows = []
    for (asker, place), verdicts in TABLE.items():
        own = place.startswith("own_")
        cells = [cell(verdicts[action]) for action in ACTIONS]
        rows.append(f"| {asker} | {'own' if own else place} | {' | '.join(cells)} |\n")
    return HEAD + "".join(row for row, _ in groupby(rows))


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text("utf-8")
    assert text.partition(START)[2].partition(END)[0] == table()
