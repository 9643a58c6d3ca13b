"""Markdown pages of the repository, their links and their anchors."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from support.common import ROOT

FOLDERS: Final = ("docs", "deploy", "engine", "api", "bench", "tests", "examples")
"""Folders that may hold pages; a data directory or an environment beside them is not searched."""

_FENCE: Final = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
_SPAN: Final = re.compile(r"`[^`\n]*`")
_INLINE: Final = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_REFERENCE: Final = re.compile(r"^\[[^\]]+\]: *(\S+)", re.MULTILINE)
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def pages(root: Path = ROOT) -> list[Path]:
    """Return all Markdown files: those of the root and of each folder."""
    below = (path for folder in FOLDERS for path in (root / folder).rglob("*.md"))
    return sorted([*root.glob("*.md"), *below])


def links(text: str) -> list[str]:
    """Return the targets of all links in a page that are not addresses of other hosts.

    Code blocks and code spans have no links.
    """
    text = _SPAN.sub("``", _FENCE.sub("", text))
    found = [*_INLINE.findall(text), *_REFERENCE.findall(text)]
    return [target for target in found if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page.

    A heading that occurs again gets ``-1``, ``-2`` and so on.
    """
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def target_of(page: Path, link: str) -> Path:
    """Return the file that a link of a page names; the page itself for ``#anchor``."""
    path, _, _ = link.partition("#")
    return (page.parent / unquote(path)).resolve() if path else page


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """Return the links of a page that name no file of the repository, or no heading of a page."""
    wrong = []
    for link in links(page.read_text("utf-8")):
        target, anchor = target_of(page, link), link.partition("#")[2]
        resolves = target.exists() and target.is_relative_to(root)
        if resolves and anchor and target.suffix == ".md":
            resolves = anchor in anchors(target.read_text("utf-8"))
        if not resolves:
            wrong.append(link)
    return wrong
