"""``holdfast debug rows``: rows of a directory as people read them, and no secret among them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.cli import InProcess, add_namespace, data_of, make_directory, push

from holdfast.engine import ROW_KINDS
from holdfast.engine.check.rows import SHAPES

pytestmark = pytest.mark.slow


def rows(quick: InProcess, *options: str) -> list[dict[str, object]]:
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


def test_every_kind_of_row_has_a_name() -> None:
    assert set(ROW_KINDS.values()) == set(SHAPES)


def test_rows_are_shown_with_the_fields_of_their_records(shell: InProcess) -> None:
    [namespace] = rows(shell, "--kind", "namespace")
    assert namespace["value"]["name"] == "alpha"  # type: ignore[index]
    assert str(namespace["value"]["created"]).endswith("Z")  # type: ignore[index]
    [tag] = rows(shell, "--kind", "tag")
    assert tag["value"]["name"] == "v1"  # type: ignore[index]
    assert str(tag["value"]["digest"]).startswith("sha256:")  # type: ignore[index]
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
    assert key["value"]["secret"] == "(hidden)"  # type: ignore[index]
    [secret] = rows(shell, "--kind", "key secret")
    assert (secret["key"], secret["about"]) == ("", "(hidden)")
    for row in rows(shell, "--kind", "setting"):
        assert row["value"] is None or "not shown" in str(row["value"])


def test_a_damaged_row_says_why(shell: InProcess) -> None:
    from support.cli import open_store

    async def damage() -> None:
        async with open_store(data_of(shell)) as store:

            async def spoil(txn: object) -> None:
                [(key, _)] = await txn.scan(b"n", b"o", limit=1)  # type: ignore[attr-defined]
                await txn.put(key, b"spoiled")  # type: ignore[attr-defined]

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
        (("--limit", "0"), 2, "0 is not in the range"),
        (("--data", "/nonexistent"), 1, "there is no such directory"),
    ],
)
def test_bad_input(shell: InProcess, options: tuple[str, ...], code: int, message: str) -> None:
    base = () if "--data" in options else ("--data", str(data_of(shell)))
    assert message in shell.refused(code, "debug", "rows", *base, *options)
