"""Links of all pages resolve, and each page can be reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.common import ROOT
from support.links import broken, links, pages, target_of

README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"


def linked_from(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    return {target_of(page, link) for link in links(page.read_text("utf-8"))}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert broken(page) == []


def test_index_links_to_each_page_in_docs() -> None:
    assert {*INDEX.parent.rglob("*.md")} - {INDEX} <= linked_from(INDEX)


def test_readme_links_to_the_index() -> None:
    assert INDEX in linked_from(README)


def test_each_page_is_reached_from_the_readme() -> None:
    reached, queue = set[Path](), {README}
    while queue:
        page = queue.pop()
        reached.add(page)
        queue |= {each for each in linked_from(page) if each.suffix == ".md"} - reached
    assert {*pages()} == reached


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_text_exist(page: Path) -> None:
    if page.name != "CHANGELOG.md":  # it speaks of the past
        named = re.findall(r"`((?:engine|api|bench|tests)/[\w/]+\.py)`", page.read_text("utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "link", ["absent.md", "there.md#absent", "#absent", "../outside.md", "%2e%2e/outside.md"]
)
def test_a_broken_link_is_found(tmp_path: Path, link: str) -> None:
    (tmp_path / "outside.md").write_text("")
    root = tmp_path / "root"
    root.mkdir()
    (root / "there.md").write_text("# Here\n")
    page = root / "page.md"
    page.write_text(f"# Page\n\n[good](there.md#here) [own](#page) [bad]({link})\n")
    assert broken(page, root) == [link]
