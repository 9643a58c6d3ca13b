"""The states of a connection: what the table allows, and that connections keep to it."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from typing import Any, Final, cast

import pytest
from aiohttp import web
from support.fast_path import FILE, Stage, World
from support.wire import HOUSE, Client, connected, request

from holdfast.api.fast import connection as fast_connection
from holdfast.api.http.connection import Connection
from holdfast.api.http.connection_limits import Admission
from holdfast.api.http.connection_states import TRANSITIONS, Event, IllegalEvent, State

PAIRS: Final = list(itertools.product(State, Event))
UPLOADS: Final = "POST /v2/app/web/blobs/uploads/ HTTP/1.1"


class Transport(asyncio.Transport):
    """Counts how often it was aborted."""

    aborted = 0

    def abort(self) -> None:
        self.aborted += 1


async def answer_nothing(_: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError


@pytest.mark.parametrize(("state", "event"), PAIRS)
async def test_each_pair_is_in_the_table_or_refused(
    state: State, event: Event, refused_events: list[Event]
) -> None:
    server = web.Server(cast(Any, answer_nothing))
    connection = Connection(server, admission=Admission(HOUSE), loop=asyncio.get_running_loop())
    transport = connection.transport = Transport()
    connection.state = state
    if (state, event) in TRANSITIONS:
        connection._step(event)
        assert connection.state is TRANSITIONS[state, event]
        assert not transport.aborted
        return
    with pytest.raises(IllegalEvent, match=rf"{event.name} is not legal in state {state.name}"):
        connection._step(event)
    assert connection.state is state
    assert transport.aborted == 1
    assert refused_events == [event]
    refused_events.clear()


def test_each_state_is_reached_and_ends() -> None:
    reached, new = {State.NEW}, {State.NEW}
    while new:
        new = {after for (before, _), after in TRANSITIONS.items() if before in new} - reached
        reached |= new
    assert reached == set(State)
    ended = {before for (before, _), after in TRANSITIONS.items() if after is State.LOST}
    assert ended == set(State) - {State.NEW}
    assert {event for _, event in TRANSITIONS} == set(Event)
    # A connection that has ended stays so, whatever ends after it.
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.LOST} == {
        State.LOST
    }


RARE: Final = frozenset(
    (
        (State.NEW, Event.REFUSED),
        (State.SENDING, Event.LOST),
        (State.CLOSING, Event.ANSWERED),
        (State.LOST, Event.ANSWERED),
        (State.LOST, Event.FILE_CUT),
        (State.PUSHING, Event.PUSH_LAST),
        (State.LOST, Event.PUSH_LAST),
    )
)
"""Transitions that need a full server, its end, a slow disk, or luck with a turn of the loop."""


def actions(world: World) -> list[bytes]:
    """What a client may send, among it requests without their end."""
    push = request(UPLOADS, world.bearer("pusher"), "Content-Length: 0")
    digest = world.items["small"]
    whole = request(
        f"POST /v2/app/web/blobs/uploads/?digest={digest} HTTP/1.1",
        world.bearer("pusher"),
        "Content-Length: 13",
    )
    read = world.get("/v2/app/web/manifests/v1")
    return [
        read,
        read,
        read[:60],
        world.get(f"/v2/app/web/blobs/{world.items['file']}"),
        world.get(f"/v2/app/web/blobs/{world.items['file']}"),
        world.get("/v2/app/web/tags/list"),
        push,
        push + read,
        whole + b"small content",
        whole + b"small",
        whole + b"small content and more",
        request(UPLOADS, world.bearer("pusher"), "Transfer-Encoding: chunked") + b"zz\r\n\r\n",
        b"\x00 no request\r\n\r\n",
    ]


def leave(client: Client, source: random.Random) -> None:
    """Leave in one of three ways."""
    way = source.randrange(3)
    if way == 0:
        # A reset.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif way == 1:
        client.end()


async def visit(port: int, choices: list[bytes], source: random.Random) -> None:
    """Send anything, read some of the answers, and leave."""
    async with connected(port, buffer=source.choice((0, 4096))) as client:
        try:
            for _ in range(source.randrange(1, 7)):
                await client.send(source.choice(choices))
                if source.random() < 0.5:
                    await asyncio.sleep(source.random() / 100)
                if source.random() < 0.3:
                    async with asyncio.timeout(0.02):
                        await client.more()
        except (ConnectionError, TimeoutError):
            pass  # the server has ended the connection, or has nothing to say
        leave(client, source)


@pytest.mark.slow
def test_connections_walk_the_table(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients do: no event is illegal, each connection ends, and the table has no row
    without use."""
    world, uploads = stage.world, stage.world.store.uploads
    walked: set[tuple[State, Event]] = set()
    made: list[Connection] = []
    step, begin = Connection._step, uploads.begin

    def spy(connection: Connection, event: Event) -> None:
        if connection.state is State.NEW:
            made.append(connection)
        walked.add((connection.state, event))
        step(connection, event)

    async def slow(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.005)
        return await begin(*args, **options)

    async def story() -> None:
        choices = actions(world)
        # The file is open from here on.
        async with connected(world.ports[1]) as client:
            await client.send(choices[3])
            assert (await client.answer()).endswith(FILE)
        seed = 0
        while seed < 300 or (not walked >= set(TRANSITIONS) - RARE and seed < 3000):
            sources = [random.Random(seed + at) for at in range(20)]
            await asyncio.gather(*(visit(world.ports[1], choices, source) for source in sources))
            seed += len(sources)
        async with asyncio.timeout(10):
            await asyncio.gather(*(connection.lost() for connection in made))
        assert {connection.state for connection in made} == {State.LOST}

    monkeypatch.setattr(fast_connection, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(Connection, Connection._step.__name__, spy)
    monkeypatch.setattr(uploads, "begin", slow)
    stage.run(story())
    assert walked >= set(TRANSITIONS) - RARE
    assert walked <= set(TRANSITIONS)
