"""The check: silent on good stores, however they were used."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.check import found, furnish
from support.engine import Clock, Place
from support.history import History

from holdfast.engine import Closed, Store, StoreConfig
from holdfast.engine.maintenance import sweep as sweep_module
from holdfast.engine.maintenance.recompress import Recompressor


@pytest.mark.parametrize("deep", [False, True])
async def test_nothing_is_wrong_with_a_store_full_of_everything(place: Place, deep: bool) -> None:
    async with place.store() as store:
        assert await found(store, deep=deep) == []
        await furnish(store)
        assert await found(store, deep=deep) == []
        assert (await Recompressor(store.core).run()).swapped > 0
        assert await found(store, deep=deep) == []
    async with place.store() as store:
        assert await found(store, deep=deep) == []
        await store.sweeper.run(early=True)
        assert await found(store, deep=deep) == []


@pytest.mark.slow
async def test_nothing_is_wrong_at_any_step_of_a_purge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "ENTRIES_PER_TXN", 1)
    clock = Clock()
    async with Place("memory", tmp_path, clock).store() as store:
        furnished = await furnish(store)
        await store.images.delete(furnished.image)
        await store.namespaces.delete(furnished.app)
        steps = 0
        while (done := await store.sweeper.step(early=True)).entries or done.files:
            assert await found(store) == []
            steps += 1
            clock.advance(1)
        assert steps > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_wrong_after_a_long_history(
    seed: int, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "ENTRIES_PER_TXN", 5)
    history = History(store, clock, seed)
    for step in range(150):
        await history.step()
        if step % 10 == 0:
            assert await found(store) == []
    assert await found(store, deep=True) == []
    assert history.done > history.refused / 2


async def test_a_closed_store_is_not_checked(tmp_path: Path) -> None:
    store = Store.memory(StoreConfig(background=False))
    with pytest.raises(Closed):
        store.check()
