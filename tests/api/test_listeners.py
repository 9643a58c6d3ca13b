"""Ports: shared by the workers of one server, and by nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from holdfast.api.server.listeners import CannotListen, Listeners
from holdfast.api.server.settings import Address


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    listeners = Listeners(workers=3)
    yield listeners
    listeners.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_every_worker_gets_connections(listeners: Listeners) -> None:
    address = listeners.listen(Address("127.0.0.1", 0))
    assert address.port
    clients = [socket.create_connection(("127.0.0.1", address.port)) for _ in range(90)]
    try:
        for worker in range(3):
            (listener,) = listeners.of_worker(worker)
            listener.settimeout(5)
            # 90 connections all missing one of three has a chance of less than 1e-15
            accepted, _ = listener.accept()
            accepted.close()
    finally:
        for client in clients:
            client.close()


def test_a_port_of_another_program_is_refused(listeners: Listeners) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotListen, match="in use"):
            listeners.listen(Address("127.0.0.1", other.getsockname()[1]))


@pytest.mark.parametrize("host", ["192.0.2.1", "does-not-exist.invalid"])
def test_a_host_that_is_not_here_is_refused(listeners: Listeners, host: str) -> None:
    with pytest.raises(CannotListen, match=host):
        listeners.listen(Address(host, 0))


def test_a_port_can_be_used_again_at_once(listeners: Listeners) -> None:
    address = listeners.listen(Address("127.0.0.1", 0))
    assert address.port
    with socket.create_connection(("127.0.0.1", address.port)):
        listeners.close()  # the connection stays behind in TIME_WAIT or like it
    assert listeners.listen(address) == address


def test_endpoints_of_other_regions(listeners: Listeners) -> None:
    main = listeners.listen(Address("127.0.0.1", 0))
    port = free_port()
    assert listeners.listen_too(Address("127.0.0.1", port))
    assert listeners.ports() == {main.port, port}
    socket.create_connection(("127.0.0.1", port)).close()


def test_endpoints_that_are_not_listened_on(listeners: Listeners) -> None:
    main = listeners.listen(Address("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for endpoint in (
            Address("rg.example.invalid"),
            Address("does-not-exist.invalid", 5001),
            Address("192.0.2.1", 5001),
            Address("localhost", main.port),
            Address("127.0.0.1", proxy.getsockname()[1]),
        ):
            assert not listeners.listen_too(endpoint)
    assert listeners.ports() == {main.port}


def test_a_wildcard_server_listens_everywhere_for_its_endpoints(listeners: Listeners) -> None:
    listeners.listen(Address("0.0.0.0", 0))
    port = free_port()
    assert listeners.listen_too(Address("localhost", port))
    assert not listeners.listen_too(Address("192.0.2.1", free_port()))
    socket.create_connection(("127.0.0.1", port)).close()
    assert listeners.of_worker(0)[-1].getsockname()[0] == "0.0.0.0"
