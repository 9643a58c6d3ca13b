"""The life of an upload session: both tables, and sessions that are driven by them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.engine import (
    REGION,
    Clock,
    Function,
    Place,
    Vanished,
    make_namespace,
    once,
    problems,
    read,
    sha256,
    vanishing,
)

from holdfast.engine import (
    DigestMismatch,
    NotFound,
    OffsetMismatch,
    Repository,
    StorageFull,
    TooLarge,
    Upload,
)
from holdfast.engine.ledger import layout
from holdfast.engine.ledger.interface import Transaction
from holdfast.engine.ledger.records import Session, load
from holdfast.engine.model.states import IllegalEvent, advance
from holdfast.engine.namespaces.open_uploads import session_totals
from holdfast.engine.uploads import publish
from holdfast.engine.uploads.session_states import (
    STEPS,
    TRANSITIONS,
    Ending,
    Event,
    State,
    Step,
    ending_of,
    state_of,
)

REFUSED = {
    *((State.CLOSED, event) for event in Event if event is not Event.BEGIN),
    *((state, Event.BEGIN) for state in State if state is not State.CLOSED),
    # A session without a file needs no mark, and one with a file keeps no bytes in its row.
    *((State.IN_ROW, event) for event in (Event.MARK, Event.UNMARK)),
    *itertools.product((State.IN_FILE, State.WHOLE), (Event.WRITE, Event.MOVE)),
    (State.IN_FILE, Event.UNMARK),
}
WORKING = (Step.APPENDING, Step.KEEPING, Step.FINISHING, Step.PUBLISHING)


@pytest.mark.parametrize(
    ("table", "pair", "legal"),
    [
        *((TRANSITIONS, pair, pair not in REFUSED) for pair in itertools.product(State, Event)),
        *((STEPS, pair, pair[0] in WORKING) for pair in itertools.product(Step, Ending)),
    ],
)
def test_each_pair_is_in_the_table_or_refused(
    table: dict[tuple[Enum, Enum], Enum], pair: tuple[Enum, Enum], legal: bool
) -> None:
    if legal:
        assert advance(table, *pair) in type(pair[0])
    else:
        with pytest.raises(IllegalEvent, match=f"{pair[1]} is not allowed in .*{pair[0]}"):
            advance(table, *pair)


def test_each_state_is_reached_and_each_session_can_end() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {*STEPS.values(), Step.APPENDING, Step.FINISHING} == set(Step)
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Event.END] is State.CLOSED
    for step in WORKING:
        assert STEPS[step, Ending.REFUSED] is Step.ENDED


INLINE, LARGEST = 8, 100
PIECES = st.lists(st.sampled_from([b"", b"few", b"more than a row"]), max_size=3)


@dataclass
class Model:
    """A session, as the tables say that it is."""

    upload: Upload
    state: State
    content: bytes = b""

    def walk(self, event: Event) -> None:
        self.state = advance(TRANSITIONS, self.state, event)
        if self.state is State.CLOSED:
            self.content = b""

    def work(self, step: Step, *endings: Ending) -> Step:
        for ending in endings:
            step = advance(STEPS, step, ending)
        if step in (Step.ENDED, Step.PUBLISHED):
            self.walk(Event.END)
        return step


class SessionMachine(RuleBasedStateMachine):
    """Requests of all kinds on a few sessions, through two stores of one place."""

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.clock = Clock()
        limits = {"inline_bytes": INLINE, "blob_bytes_max": LARGEST, "upload_seconds": 100.0}
        self.place = Place("memory", Path(), self.clock, {**limits, "hold_seconds": 1e8})
        self.full = False
        self.stores = []
        for _ in range(2):
            store, hooks = self.place.gated()
            hooks.before = self.refuse
            self.run(store.start())
            self.stores.append(store)
        self.run(make_namespace(self.stores[0]))
        self.models: list[Model] = []
        self.published: set[bytes] = set()
        self.begin(0, first=b"")

    async def refuse(self, work: Function) -> None:
        if self.full and work is publish.deliver:
            raise StorageFull("ledger")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def where(self, which: int) -> Repository:
        found: Repository = self.run(self.stores[which].locate(REGION, "app/web"))
        return found

    def pick(self, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.models[-3:]), "session")

    @rule(which=st.sampled_from([0, 1]), first=st.sampled_from([b"few", b"more than a row"]))
    def begin(self, which: int, first: bytes) -> None:
        uploads = self.stores[which].uploads
        upload = self.run(uploads.begin(self.where(which)))
        model = Model(upload, advance(TRANSITIONS, State.CLOSED, Event.BEGIN))
        self.models.append(model)
        if first:
            self.run(uploads.append(self.where(which), upload.id, once(first)))
            model.walk(Event.MOVE if len(first) > INLINE else Event.WRITE)
            model.content = first

    def ending(self, work: Coroutine[Any, Any, Any], expected: type[Exception] | None) -> Ending:
        """Do a request; return how its table has to see the error."""
        if expected is None:
            self.run(work)
            return Ending.DONE
        with pytest.raises(expected) as caught:
            self.run(work)
        return ending_of(caught.value)

    @rule(
        data=st.data(),
        which=st.sampled_from([0, 1]),
        pieces=PIECES,
        how=st.sampled_from(["whole", "vanishes", "elsewhere"]),
    )
    def append(self, data: st.DataObject, which: int, pieces: list[bytes], how: str) -> None:
        model, source = self.pick(data), once(*pieces)
        after = model.content + b"".join(pieces)
        offset = len(model.content)
        expected: type[Exception] | None = None
        if model.state is State.CLOSED:
            expected = NotFound
        elif how == "elsewhere":
            offset, expected, after = offset + 1, OffsetMismatch, model.content
        elif len(after) > LARGEST:
            expected = TooLarge
        elif how == "vanishes":
            source, expected = vanishing(*pieces), Vanished
        uploads = self.stores[which].uploads
        request = uploads.append(self.where(which), model.upload.id, source, offset=offset)
        ending = self.ending(request, expected)
        if model.state is State.CLOSED:
            return
        if ending is Ending.REFUSED:
            model.work(Step.APPENDING, ending)
            return
        assert model.work(Step.APPENDING, ending, Ending.DONE) is Step.KEPT
        if model.state is State.IN_ROW and after != model.content:
            model.walk(Event.MOVE if len(after) > INLINE else Event.WRITE)
        elif model.state is State.WHOLE and pieces and how != "elsewhere":
            model.walk(Event.UNMARK)
        model.content = after

    @rule(
        data=st.data(),
        which=st.sampled_from([0, 1]),
        pieces=PIECES,
        # Failures that a session outlives come more often than its end.
        how=st.sampled_from(["vanishes", "full", "vanishes", "full", "whole", "another"]),
    )
    def finish(self, data: st.DataObject, which: int, pieces: list[bytes], how: str) -> None:
        model, source = self.pick(data), once(*pieces)
        after = model.content + b"".join(pieces)
        if model.state is State.CLOSED:
            return
        expected: type[Exception] | None = None
        endings = [Ending.DONE]
        if len(after) > LARGEST:
            expected, endings = TooLarge, []
        elif how == "vanishes":
            source, expected, endings = vanishing(*pieces), Vanished, []
        elif how == "full":
            self.full, expected = True, StorageFull
        elif how == "another":
            expected = DigestMismatch
        uploads = self.stores[which].uploads
        digest = sha256(after + b"!" if how == "another" else after)
        request = uploads.finish(self.where(which), model.upload.id, digest, source)
        step = model.work(Step.FINISHING, *endings, self.ending(request, expected))
        self.full = False
        if step is Step.PUBLISHED:
            self.published.add(after)
            assert self.run(read(self.stores[1 - which], digest)) == after
        elif step in (Step.CUT, Step.UNCERTAIN):
            if pieces and model.state in (State.IN_FILE, State.WHOLE):
                model.walk(Event.MARK)
        else:
            assert step is Step.ENDED

    @rule(
        data=st.data(),
        which=st.sampled_from([0, 1]),
        how=st.sampled_from(["wait", "wait", "wait", "abort", "dismiss", "expire"]),
    )
    def pass_time(self, data: st.DataObject, which: int, how: str) -> None:
        """A while without requests, or one that lets a session end."""
        model, uploads, where = self.pick(data), self.stores[which].uploads, self.where(which)
        expected = NotFound if model.state is State.CLOSED else None
        ended = [model]
        if how == "abort":
            self.ending(uploads.abort(where, model.upload.id), expected)
        elif how == "dismiss":
            self.ending(uploads.dismiss(where.namespace_id, model.upload.id), expected)
        else:
            self.clock.advance(1.0 if how == "wait" else 101.0)
            self.run(self.stores[which].sweeper.run())
            ended = self.models if how == "expire" else []
        for each in ended:
            if each.state is not State.CLOSED:
                each.walk(Event.END)

    @invariant()
    def rows_and_files_are_those_of_the_states(self) -> None:
        for model in self.models:
            assert self.run(self.row_state(model)) is model.state
        files = {each for each in self.published if len(each) > INLINE}
        owned = [each for each in self.models if each.state in (State.IN_FILE, State.WHOLE)]
        assert len(self.place.files()) == len(files) + len(owned)
        for model, which in itertools.product(self.models[-3:], (0, 1)):
            get = self.stores[which].uploads.get(self.where(which), model.upload.id)
            if model.state is State.CLOSED:
                with pytest.raises(NotFound):
                    self.run(get)
            else:
                assert self.run(get).offset == len(model.content)

    async def row_state(self, model: Model) -> State:
        async def find(txn: Transaction) -> Session | None:
            return await load(txn, Session, layout.SESSION + model.upload.id.bytes)

        return state_of(await self.stores[0].core.scratch.read(find))

    def teardown(self) -> None:
        for model in self.models:
            if model.state is not State.CLOSED:
                self.finish_unfinished(model)
        assert self.run(problems(self.stores[0])) == []
        namespace_id = self.where(0).namespace_id.bytes
        left = self.run(self.stores[0].core.scratch.read(session_totals, namespace_id))
        assert (left.uploads, left.bytes) == (0, 0)
        for store in self.stores:
            self.run(store.close())
        self.runner.close()

    def finish_unfinished(self, model: Model) -> None:
        """The bytes that the session told of are those that it has."""
        uploads, digest = self.stores[0].uploads, sha256(model.content)
        self.run(uploads.finish(self.where(0), model.upload.id, digest))


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30)
