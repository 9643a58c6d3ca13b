"""Words that were replaced stay out: the glossary of CONTRIBUTING.md has one word for one thing."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest
from support.common import ROOT

FOLDERS = ("engine", "api", "bench")

NAMES = {
    "Strand", "Touches", "Touch", "Intake", "Incarnations", "LockedIncarnations", "Appending",
    "Roomy", "Prompt", "changes_only", "Lane", "LaneConnection", "LaneSite", "LaneWatch", "Asking",
    "Visitor", "TakenBody", "Roster", "Board", "Trail", "House", "Remembered", "Crew", "Volley",
    "Shot", "neighbourhood", "tell_wait", "note_party", "PARTY", "LENT", "quiet_row",
    "put_back", "reap", "unlink_doomed", "forget_doomed",
}  # fmt: skip
"""Names of the code that others replaced; CONTRIBUTING.md has the words in use."""

INDIRECT = re.compile(r"\b(nobody|whoever|somebody|anybody|anew)\b", re.IGNORECASE)
"""Subjects that name no actor. Say the client, the caller, the sweep."""


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def names_of(source: str) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string.lstrip("_") for token in tokens if token.type == tokenize.NAME}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_uses_the_words_of_the_glossary(path: Path) -> None:
    source = path.read_text("utf-8")
    replaced = names_of(source) & NAMES
    assert not replaced, f"replaced names: {sorted(replaced)}"
    found = [
        f"{path.name}:{number}: {match[0]}"
        for number, line in enumerate(source.splitlines(), 1)
        for match in INDIRECT.finditer(line)
    ]
    assert not found, "name the actor"


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda page: page.name
)
def test_a_page_names_the_actor(page: Path) -> None:
    assert not INDIRECT.findall(page.read_text("utf-8"))


def test_words_are_found() -> None:
    assert names_of("class _Strand: pass") & NAMES
    assert INDIRECT.search("Whoever asks") is not None
