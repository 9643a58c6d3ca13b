"""Keys: made once, found by their secret, revoked at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from support.engine import ORGANIZATION, OTHER_PROJECT, PROJECT, Clock, Place, raised

from holdfast.engine import AlreadyExists, Invalid, Key, NotFound, Page, SigningKey, Store, TooLarge
from holdfast.engine.namespaces.keys import SIGNING_KEYS_MAX

ACCESS_KEY = "SCW" + "A" * 17


async def make(store: Store, **more: Any) -> tuple[Key, str]:
    given = {"project_id": PROJECT, "default_project_id": PROJECT, "organization_id": ORGANIZATION}
    return await store.keys.create(**{**given, **more})


@pytest.mark.promise("SECURITY.md", "a key's secret, at rest")
async def test_a_key_is_found_by_its_secret(store: Store, clock: Clock) -> None:
    key, secret = await make(store, description="for ci")
    assert (key.project_id, key.permission, key.description) == (PROJECT, "full", "for ci")
    assert key.created_at.timestamp() == pytest.approx(clock.now)
    assert key.expires_at is None
    assert await store.keys.authenticate(secret) == key
    assert await store.keys.get(key.access_key) == key
    for wrong in ("", secret[:-1], secret + "x", "x" * 1000, key.access_key, "\udc80" * 20):
        assert await store.keys.authenticate(wrong) is None


async def test_what_a_key_covers(store: Store) -> None:
    one, _ = await make(store)
    every, _ = await make(store, project_id=None)
    assert (one.covers(PROJECT), one.covers(OTHER_PROJECT)) == (True, False)
    assert (every.covers(PROJECT), every.covers(OTHER_PROJECT)) == (True, True)


@pytest.mark.promise("SECURITY.md", "the machine")
async def test_expired_keys_are_found_and_say_so(store: Store) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    key, secret = await make(store, expires_at=past, permission="read")
    found = await store.keys.authenticate(secret)
    assert found == key
    assert found.expires_at == past
    assert found.permission == "read"


async def test_a_key_of_ones_own_choice(store: Store) -> None:
    secret = "s" * 16
    key, given = await make(store, access_key=ACCESS_KEY, secret=secret)
    assert (key.access_key, given) == (ACCESS_KEY, secret)
    for again in ({"access_key": ACCESS_KEY}, {"secret": secret}):
        with raised(AlreadyExists, kind="key"):
            await make(store, **again)
    assert (await store.keys.list()).total == 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("access_key", "SCW"),
        ("access_key", "scw" + "A" * 17),
        ("secret", "short"),
        ("secret", "x" * 257),
        ("permission", "all"),
        ("description", "x" * 201),
        ("expires_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - what is refused
    ],
)
async def test_arguments_that_are_wrong(store: Store, argument: str, value: object) -> None:
    with raised(Invalid, argument=argument):
        await make(store, **{argument: value})
    assert (await store.keys.list()).items == []


async def test_listing(store: Store) -> None:
    keys = [
        (await make(store, project_id=project))[0] for project in (PROJECT, OTHER_PROJECT, None)
    ]
    ordered = sorted(keys, key=lambda key: key.access_key)
    assert await store.keys.list() == Page(ordered, 3)
    assert await store.keys.list(page=2, page_size=2) == Page(ordered[2:], 3)
    assert await store.keys.list(page=9) == Page([], 3)
    assert await store.keys.list(project_id=OTHER_PROJECT, page_size=1) == Page([keys[1]], 1)
    assert await store.keys.list(project_id=uuid4()) == Page([], 0)
    for page, page_size in ((0, 10), (1, 0), (1, 1001)):
        with pytest.raises(Invalid):
            await store.keys.list(page=page, page_size=page_size)


async def test_a_key_gets_another_end(store: Store) -> None:
    key, secret = await make(store, description="ci")
    past = datetime.now(UTC) - timedelta(days=1)
    ended = await store.keys.update(key.access_key, expires_at=past)
    assert ended == replace(key, expires_at=past)
    assert await store.keys.authenticate(secret) == ended
    told = await store.keys.update(key.access_key, description="the cluster")
    assert told == replace(ended, description="the cluster")
    again = await store.keys.update(key.access_key, expires_at=None)
    assert again == replace(told, expires_at=None)
    assert await store.keys.get(key.access_key) == again
    with pytest.raises(NotFound):
        await store.keys.update("SCW" + "B" * 17, description="")


@pytest.mark.parametrize(
    "when",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
)
async def test_an_end_that_no_clock_can_tell(store: Store, when: datetime) -> None:
    key, _ = await make(store)
    for call in (make(store, expires_at=when), store.keys.update(key.access_key, expires_at=when)):
        with raised(Invalid, argument="expires_at"):
            await call
    last = datetime.max.replace(tzinfo=UTC)
    assert (await make(store, expires_at=last))[0].expires_at == last


async def test_revoke(store: Store) -> None:
    key, secret = await make(store)
    await store.keys.revoke(key.access_key)
    assert await store.keys.authenticate(secret) is None
    for wrong in (key.access_key, "nonsense", ""):
        for call in (store.keys.get(wrong), store.keys.revoke(wrong)):
            with raised(NotFound, kind="key"):
                await call
    await make(store, access_key=key.access_key, secret=secret)


async def test_keys_and_the_signing_key_outlive_the_opening(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        key, secret = await make(one)
        signing = await one.keys.signing_key()
        assert len(signing) == 32
        assert await other.keys.signing_key() == signing
        await other.keys.revoke(key.access_key)
        assert await one.keys.authenticate(secret) is None
    async with place.store() as store:
        assert await store.keys.signing_key() == signing


@pytest.mark.promise("SECURITY.md", "tokens")
async def test_another_signing_key(place: Place) -> None:
    async with place.store() as one:
        signing = await one.keys.signing_key()
        await one.keys.renew_signing_key()
        renewed = await one.keys.signing_key()
        assert len(renewed) == 32
        assert renewed != signing
    async with place.store() as store:
        assert await store.keys.signing_key() == renewed


async def test_every_opening_sees_another_signing_key_at_once(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        assert await other.keys.signing_keys() == ()
        signing = await one.keys.signing_key()
        assert await other.keys.signing_keys() == (SigningKey(signing),)
        await one.keys.renew_signing_key()
        (found,) = await other.keys.signing_keys()
        assert found.secret == await one.keys.signing_key() != signing


async def test_signing_keys_overlap_for_as_long_as_is_asked_for(place: Place) -> None:
    async with place.store() as one, place.store() as other:
        first = await one.keys.signing_key()
        await other.keys.renew_signing_key(overlap_seconds=1000)
        second = await one.keys.signing_key()
        await one.keys.renew_signing_key(overlap_seconds=10)
        keys = await other.keys.signing_keys()
        assert [key.secret for key in keys[1:]] == [second, first]
        now = keys[1].until - 10_000_000
        assert abs(keys[2].until - now - 1000_000_000) < 60_000_000
        assert keys[0].until > keys[2].until
        await other.keys.renew_signing_key()
        assert len(await one.keys.signing_keys()) == 1


async def test_signing_keys_that_overlap_are_bounded(store: Store) -> None:
    await store.keys.signing_key()
    with pytest.raises(Invalid):
        await store.keys.renew_signing_key(overlap_seconds=-1)
    for _ in range(SIGNING_KEYS_MAX - 1):
        await store.keys.renew_signing_key(overlap_seconds=1000)
    before = await store.keys.signing_keys()
    assert len(before) == SIGNING_KEYS_MAX
    with pytest.raises(TooLarge):
        await store.keys.renew_signing_key(overlap_seconds=1000)
    assert await store.keys.signing_keys() == before
    await store.keys.renew_signing_key()
    assert len(await store.keys.signing_keys()) == 1
