"""The life of a file: the table, and the files of two instances that are driven by it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.engine.depot.file_states import TRANSITIONS, Event, State
from holdfast.engine.depot.files import Files, open_blocks
from holdfast.engine.depot.interface import BLOCK_FILES, Writer
from holdfast.engine.depot.memory import MemoryDepot
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.memory import MemoryLedger
from holdfast.engine.ledger.records import put_payload
from holdfast.engine.model.states import IllegalEvent, advance
from holdfast.engine.tasks.threads import Threads

REFUSED = {(state, Event.CREATE) for state in State if state is not State.SETTLED}
"""An id is taken once."""


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_each_event_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if (state, event) in REFUSED:
        with pytest.raises(IllegalEvent, match=f"{event} is not allowed in .*{state}"):
            advance(TRANSITIONS, state, event)
    else:
        assert advance(TRANSITIONS, state, event) in State


def test_each_state_is_reached_and_left() -> None:
    reached = {State.SETTLED}
    for _ in State:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == set(State)
    for state in State:
        assert advance(TRANSITIONS, state, Event.SETTLE) is State.SETTLED


@pytest.mark.parametrize("state", [State.CREATED, State.IN_SESSION, State.DISCARDED])
def test_only_a_row_of_the_ledger_or_the_end_settles_a_file(state: State) -> None:
    """Its block must stay open until then, or recovery would not find it."""
    for event in (Event.TRANSFER, Event.DISCARD):
        assert TRANSITIONS[state, event] in (State.IN_SESSION, State.DISCARDED)


class Instance:
    """The name of one opening; the test says which are dead."""

    def __init__(self, number: int, dead: set[bytes]) -> None:
        self.name = number.to_bytes(8, "big")
        self._dead = dead

    def is_dead(self, name: bytes) -> bool:
        return name in self._dead

    def forget(self, name: bytes) -> None:
        self._dead.remove(name)

    def close(self) -> None:
        self._dead.add(self.name)


class Opening:
    """One instance's files, and the states that they have by the table."""

    def __init__(self, files: Files, instance: Instance) -> None:
        self.files = files
        self.instance = instance
        self.states: dict[int, State] = {}
        self.blocks: set[int] = set()

    def walk(self, file_id: int, event: Event) -> None:
        self.states[file_id] = advance(TRANSITIONS, self.states_of(file_id), event)

    def states_of(self, file_id: int) -> State:
        return self.states.get(file_id, State.SETTLED)

    def having(self, *states: State) -> list[int]:
        return [file_id for file_id, state in self.states.items() if state in states]


class FilesMachine(RuleBasedStateMachine):
    """Two instances on one depot, of which any may end or die at any time."""

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.threads = Threads(1, "files")
        self.depot, self.ledger, self.scratch = MemoryDepot(), MemoryLedger(), MemoryLedger()
        self.numbers = itertools.count(1)
        self.dead: set[bytes] = set()
        self.writers: dict[int, Writer] = {}
        self.present: set[int] = set()
        self.known: list[int] = []
        self.named: set[int] = set()
        self.sessions: set[int] = set()
        self.opened: dict[bytes, set[int]] = {}
        """Blocks that the ledger should have open."""
        self.openings = [self.opening(), self.opening()]
        for which in (0, 1):
            self.create(which)

    def opening(self) -> Opening:
        instance = Instance(next(self.numbers), self.dead)
        files = Files(self.ledger, self.scratch, self.depot, self.threads, instance)
        return Opening(files, instance)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def read_back(self, opening: Opening, file_id: int) -> bool:
        """Walk a file by its rows, as ``file_states`` says. Return True if none names it."""
        event = Event.DISCARD
        if file_id in self.named:
            event = Event.SETTLE
        elif file_id in self.sessions:
            event = Event.TRANSFER
        opening.walk(file_id, event)
        return event is Event.DISCARD

    def remove(self, opening: Opening, file_id: int) -> None:
        if self.read_back(opening, file_id) and file_id not in self.writers:
            self.present.discard(file_id)
            opening.walk(file_id, Event.SETTLE)

    def finish_blocks(self, opening: Opening) -> set[int]:
        for file_id in (
            *opening.having(State.IN_SESSION),
            *opening.having(State.DISCARDED, State.FOREIGN),
        ):
            self.remove(opening, file_id)
        tracked = set(State) - {State.SETTLED}
        return {file_id // BLOCK_FILES for file_id in opening.having(*tracked)} & opening.blocks

    @rule(which=st.sampled_from([0, 1]))
    def create(self, which: int) -> None:
        opening = self.openings[which]
        if not opening.blocks:
            self.finish_blocks(opening)
        file_id, self.writers[file_id] = self.run(opening.files.create())
        opening.blocks.add(file_id // BLOCK_FILES)
        self.opened.setdefault(opening.instance.name, set()).add(file_id // BLOCK_FILES)
        opening.walk(file_id, Event.CREATE)
        self.present.add(file_id)
        self.known.append(file_id)

    def pick(self, data: st.DataObject) -> int:
        # Few, so that a file gets many events; the older ones stay as they are.
        return data.draw(st.sampled_from(self.known[-3:]), "file")

    @rule(data=st.data(), which=st.sampled_from([0, 1]), told=st.booleans())
    def publish(self, data: st.DataObject, which: int, told: bool) -> None:
        """A transaction names a file, and its caller may have been cancelled before it heard."""
        file_id = self.pick(data)
        if file_id in self.present:
            self.run(self.put(self.ledger, layout.FILE + layout.number(file_id)))
            self.named.add(file_id)
            if told:
                self.openings[which].files.settle(file_id)
                self.openings[which].walk(file_id, Event.SETTLE)

    @rule(data=st.data(), which=st.sampled_from([0, 1]))
    def transfer(self, data: st.DataObject, which: int) -> None:
        file_id = self.pick(data)
        if file_id in self.present - self.named:
            session = layout.SESSION + layout.number(file_id)
            self.run(self.put(self.scratch, session))
            row = layout.SESSION_FILE + layout.number(file_id)
            self.run(self.put(self.scratch, row, layout.number(file_id)))
            self.sessions.add(file_id)
            self.openings[which].files.transfer_to_session(file_id)
            self.openings[which].walk(file_id, Event.TRANSFER)

    @rule(data=st.data())
    def end_session(self, data: st.DataObject) -> None:
        """Another instance ends it, or the machine restarts: no instance hears of it."""
        if self.sessions:
            file_id = data.draw(st.sampled_from(sorted(self.sessions)), "session")
            self.run(self.delete(self.scratch, layout.SESSION + layout.number(file_id)))
            self.sessions.remove(file_id)

    @rule(data=st.data())
    def close_writer(self, data: st.DataObject) -> None:
        file_id = self.pick(data)
        if file_id in self.writers:
            self.writers.pop(file_id).close()

    @rule(data=st.data(), which=st.sampled_from([0, 1]))
    def discard(self, data: st.DataObject, which: int) -> None:
        file_id, opening = self.pick(data), self.openings[which]
        self.run(opening.files.discard(file_id))
        opening.walk(file_id, Event.DISCARD)
        self.remove(opening, file_id)

    @rule(which=st.sampled_from([0, 1]))
    def retry(self, which: int) -> None:
        opening = self.openings[which]
        self.run(opening.files.retry_discards(1000))
        for file_id in opening.having(State.DISCARDED, State.FOREIGN):
            self.remove(opening, file_id)

    @rule(which=st.sampled_from([0, 1]))
    def recover(self, which: int) -> None:
        opening = self.openings[which]
        self.run(opening.files.recover())
        for file_id in opening.having(State.IN_SESSION):
            self.remove(opening, file_id)
        for name in set(self.opened) - {each.instance.name for each in self.openings}:
            for file_id in sorted(self.present):
                if file_id // BLOCK_FILES in self.opened[name]:
                    self.remove(opening, file_id)
            unsettled = {file_id // BLOCK_FILES for file_id in self.present - self.named}
            self.opened[name] &= unsettled

    @rule(which=st.sampled_from([0, 1]), dies=st.booleans())
    def end(self, which: int, dies: bool) -> None:
        opening = self.openings[which]
        if not dies:
            self.run(opening.files.close())
            self.opened[opening.instance.name] = self.finish_blocks(opening)
        # The kernel drops the locks of the writers of a process that dies.
        for file_id in [each for each in self.writers if each in opening.states and dies]:
            self.writers.pop(file_id).close()
        opening.instance.close()
        self.openings[which] = self.opening()

    @invariant()
    def only_what_no_row_names_is_removed(self) -> None:
        blocks = self.run(self.ledger.read(open_blocks))
        assert set(blocks) == {(n, block) for n, found in self.opened.items() for block in found}
        there = {each for block in self.depot.blocks() for each in self.depot.files(block)}
        assert there == self.present

    def teardown(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()
        for which in (0, 1):
            self.end(which, dies=True)
        for file_id in sorted(self.sessions):
            self.run(self.delete(self.scratch, layout.SESSION + layout.number(file_id)))
        self.sessions.clear()
        self.recover(0)
        # Each file that no row names was in an open block, where recovery found it.
        assert self.present <= self.named
        self.only_what_no_row_names_is_removed()
        self.runner.close()
        self.threads.close()

    @staticmethod
    async def put(ledger: MemoryLedger, key: bytes, payload: bytes = b"") -> None:
        async def write(txn: Transaction) -> None:
            await put_payload(txn, key, payload)

        await ledger.transact(write)

    @staticmethod
    async def delete(ledger: MemoryLedger, key: bytes) -> None:
        async def remove(txn: Transaction) -> None:
            await txn.delete(key)

        await ledger.transact(remove)


TestFiles = FilesMachine.TestCase
TestFiles.settings = settings(max_examples=100, stateful_step_count=40)
