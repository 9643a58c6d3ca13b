"""``holdfast debug rows``: rows of a directory as people read them, and no secret among them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.cli import InProcess, add_namespace, data_of, make_directory, open_store, push
from support.common import ROOT

from holdfast.engine import ROW_KINDS
from holdfast.engine.check.rows import SHAPES
from holdfast.engine.ledger.interface import Transaction

pytestmark = pytest.mark.slow


def rows(quick: InProcess, *options: str) -> list[dict[str, Any]]:
    out = quick.ok("debug", "rows", "--data", str(data_of(quick)), "--json", *options)
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def shell(tmp_path: Path) -> InProcess:
    """Commands on a directory with an owner key, and one image with a tag."""

    async def fill() -> None:
        owner = await make_directory(tmp_path / "data")
        await add_namespace(tmp_path / "data", "alpha", owner)
        await push(tmp_path / "data", "alpha/web", "v1")

    asyncio.run(fill())
    return InProcess(tmp_path, {})


def test_every_kind_of_row_has_a_name_of_its_own() -> None:
    assert set(ROW_KINDS.values()) == set(SHAPES)


def test_kinds_have_the_names_of_the_page() -> None:
    """The page has the rows of the scratch ledger too."""
    page = (ROOT / "docs" / "data-format.md").read_text("utf-8")
    named = dict(re.findall(r"^\| `(.)` \| ([a-z ]+) \|", page, re.MULTILINE))
    assert {mark.decode(): name for name, mark in ROW_KINDS.items()}.items() <= named.items()


def test_rows_are_shown_with_the_fields_of_their_records(shell: InProcess) -> None:
    [namespace] = rows(shell, "--kind", "namespace")
    assert namespace["value"]["name"] == "alpha"
    assert str(namespace["value"]["created"]).endswith("Z")
    [tag] = rows(shell, "--kind", "tag")
    assert tag["value"]["name"] == "v1"
    assert str(tag["value"]["digest"]).startswith("sha256:")
    plain = shell.ok("debug", "rows", "--data", str(data_of(shell)), "--kind", "tag")
    assert "tag" in plain
    assert "name=v1" in plain


def test_rows_behind_a_blob_are_found_by_their_kind(shell: InProcess) -> None:
    everything = rows(shell)
    for kind in ("claim", "reference", "blob"):
        found = rows(shell, "--kind", kind)
        assert found
        assert found == [row for row in everything if row["kind"] == kind]


def test_a_listing_goes_on_after_a_key(shell: InProcess) -> None:
    everything = rows(shell)
    first = rows(shell, "--limit", "3")
    assert first == everything[:3]
    after = str(first[-1]["key"])
    assert rows(shell, "--after", after) == everything[3:]


def test_no_secret_is_shown(shell: InProcess) -> None:
    owner = json.loads((data_of(shell) / "owner.json").read_text())
    for options in ((), ("--json",)):
        out = shell.ok(
            "debug", "rows", "--data", str(data_of(shell)), "--limit", "100000", *options
        )
        assert owner["secret_key"] not in out
    [key] = rows(shell, "--kind", "key")
    assert key["value"]["secret"] == "(hidden)"
    [secret] = rows(shell, "--kind", "key secret")
    assert (secret["key"], secret["about"]) == ("", "(hidden)")
    for row in rows(shell, "--kind", "setting"):
        assert row["value"] is None or "not shown" in str(row["value"])


def test_a_damaged_row_says_why(shell: InProcess) -> None:
    async def damage() -> None:
        async with open_store(data_of(shell)) as store:

            async def spoil(txn: Transaction) -> None:
                [(key, _)] = await txn.scan(b"n", b"o", limit=1)
                await txn.put(key, b"spoiled")

            await store.core.ledger.transact(spoil)

    asyncio.run(damage())
    [row] = rows(shell, "--kind", "namespace")
    assert (row["value"], row["damage"]) == (None, "its row has a wrong version or checksum")
    plain = shell.ok("debug", "rows", "--data", str(data_of(shell)), "--kind", "namespace")
    assert "DAMAGED: its row has a wrong version or checksum" in plain


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--kind", "nothing"), 2, "'nothing' is not one of"),
        (("--after", "xyz"), 2, "must be the key of a row, in hexadecimal digits"),
        (("--after", "61" * 501), 2, "must be the key of a row: at most 500 bytes"),
        (("--limit", "0"), 2, "must be 1 to 1000000"),
        (("--limit", "1000001"), 2, "must be 1 to 1000000"),
        (("--data", "/nonexistent"), 1, "there is no such directory"),
    ],
)
def test_bad_input(shell: InProcess, options: tuple[str, ...], code: int, message: str) -> None:
    base = () if "--data" in options else ("--data", str(data_of(shell)))
    assert message in shell.refused(code, "debug", "rows", *base, *options)
