"""The owner key and the store: what happens when one of the two was changed by somebody."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from holdfast.api.server.owner_key import (
    Owner,
    OwnerError,
    ensure_owner,
    is_revoked,
    load_owner,
    read_environment,
)
from holdfast.engine import Store

ENVIRONMENT = {
    "HOLDFAST_ACCESS_KEY": "SCW0123456789ABCDEFG",
    "HOLDFAST_SECRET_KEY": "11111111-2222-4333-8444-555555555555",
}


@pytest.mark.promise("SECURITY.md", "the owner key, and other keys of all projects")
async def test_it_has_all_rights_on_all_projects(tmp_path: Path) -> None:
    async with Store.memory() as store:
        owner = await ensure_owner(store, tmp_path, read_environment(ENVIRONMENT))
        key = await store.keys.authenticate(owner.secret_key)
        assert key is not None
        assert key.access_key == ENVIRONMENT["HOLDFAST_ACCESS_KEY"]
        assert (key.project_id, key.permission, key.expires_at) == (None, "full", None)
        assert key.default_project_id == key.organization_id == UUID(owner.project_id)
        assert load_owner(tmp_path) == owner


async def test_a_lost_file_comes_back_with_the_same_values(tmp_path: Path) -> None:
    environment = {
        **ENVIRONMENT,
        "HOLDFAST_PROJECT_ID": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    }
    async with Store.memory() as store:
        first = await ensure_owner(store, tmp_path, read_environment(environment))
        (tmp_path / "owner.json").unlink()
        assert await ensure_owner(store, tmp_path, read_environment(environment)) == first
        assert (await store.keys.list()).total == 1


@pytest.mark.parametrize(
    "other",
    [
        {"HOLDFAST_ACCESS_KEY": "SCWZZZZZZZZZZZZZZZZZ"},
        {"HOLDFAST_SECRET_KEY": "11111111-2222-4333-8444-000000000000"},
    ],
)
async def test_half_a_key_of_the_store_is_refused(tmp_path: Path, other: dict[str, str]) -> None:
    async with Store.memory() as store:
        await ensure_owner(store, tmp_path, read_environment(ENVIRONMENT))
        (tmp_path / "owner.json").unlink()
        with pytest.raises(OwnerError, match="other"):
            await ensure_owner(store, tmp_path, read_environment({**ENVIRONMENT, **other}))
        assert (await store.keys.list()).total == 1


async def test_a_revoked_owner_key_stays_revoked(tmp_path: Path) -> None:
    async with Store.memory() as store:
        owner = await ensure_owner(store, tmp_path, {})
        assert not await is_revoked(store, owner)
        await store.keys.revoke(owner.access_key)
        assert await ensure_owner(store, tmp_path, {}) == owner
        assert await is_revoked(store, owner)
        assert await store.keys.authenticate(owner.secret_key) is None


async def test_generated_keys_differ(tmp_path: Path) -> None:
    owners = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        async with Store.memory() as store:
            owners.append(await ensure_owner(store, tmp_path / name, {}))
    one, two = owners
    assert one.access_key != two.access_key
    assert one.secret_key != two.secret_key
    assert one.project_id != two.project_id
    assert UUID(one.secret_key).version == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"access_key": "SCW"}',
        json.dumps(
            {
                "access_key": "SCW0123456789ABCDEFG",
                "secret_key": "no UUID",
                "project_id": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
                "organization_id": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            }
        ),
    ],
)
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "owner.json").write_text(content)
    with pytest.raises(OwnerError, match="damaged"):
        load_owner(tmp_path)


def test_its_text_has_no_secret() -> None:
    secret = "11111111-2222-4333-8444-555555555555"
    owner = Owner(access_key="SCW", secret_key=secret, project_id="p", organization_id="o")
    assert secret not in f"{owner} {owner!r}"
